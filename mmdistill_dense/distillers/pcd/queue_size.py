"""The length of PCD's queues: what ``queue_size='auto'`` chooses for a data set, and a warning for one that is long."""

from __future__ import annotations

from mmdistill_dense.utils.validate import check_count

AUTO = 'auto'
ROWS = 1024  # memory of each queue with 'auto'
FEWEST_KEYS, MOST_KEYS = 4, 64  # of a picture
LEAST_PICTURES = 4
LEAST_TRAINING = 3 * LEAST_PICTURES
STEPS = 4  # the queue holds the keys of at most so many steps


def check_queue_size(size: int | str, keys_per_image: int) -> int:
    """Return the rows of memory that the options ask for.

    Raises:
        ValueError: For a size that is neither a count nor ``'auto'``, and for ``keys_per_image`` beside ``'auto'``.
    """
    if isinstance(size, str) and size != AUTO:
        raise ValueError(f"queue_size must be a whole number >= 1 or 'auto', got {size!r}.")
    if size != AUTO:
        check_count('queue_size', size, 1)
        return int(size)
    if keys_per_image != 1:
        raise ValueError(
            f"queue_size='auto' chooses keys_per_image too, but keys_per_image={keys_per_image} is given: leave it out "
            'or name queue_size as well.'
        )
    return ROWS


def choose_size(images: int, per_step: int, key: str) -> tuple[int, int]:
    """Return the rows of a queue and the keys that each picture adds to it.

    The queue holds the keys of a third of the pictures, or of four steps if that is less, so that a picture's own keys
    are gone when it comes again::

        pictures = min(images // 3, 4 * per_step)
        keys     = 1024 // pictures, at least 4 and at most 64
        rows     = min(1024, keys * pictures)

    Args:
        images: Pictures of the training set.
        per_step: Pictures of a step, of all processes.
        key: The distiller's config key, for the error.

    Raises:
        ValueError: For fewer than 12 pictures.
    """
    if images < LEAST_TRAINING:
        raise ValueError(
            f"{key}.queue_size='auto' needs {LEAST_TRAINING} training pictures or more, found {images}. The queue "
            'may hold the keys of a third of the pictures, and these would be too few negatives. Use another method, '
            "e.g. type='CWD', or more pictures."
        )
    pictures = min(images // 3, STEPS * per_step)
    keys = min(max(ROWS // pictures, FEWEST_KEYS), MOST_KEYS)
    return min(ROWS, keys * pictures), keys


def note_of_rise(filled: int, size: int, key: str) -> str:
    """Return how the loss moves while the queue fills, an empty string for a full one."""
    if filled >= size:
        return ''
    return (
        f'{key}: the queue holds {filled} of {size} keys; loss_pcd '
        f'{"goes on rising" if filled else "starts near 0 and rises"} with the logarithm of their number until the '
        'queue is full, and falls after that.'
    )


def warning(size: int, images: int, keys: int, key: str) -> str:
    """Return a warning for a queue that holds the keys of more than half of the pictures, else an empty string."""
    if size <= keys * images / 2:
        return ''
    return (
        f'{key}.queue_size={size} is large for {images} training pictures with '
        f"{keys} keys each: a picture's own keys are still negatives when it comes again. Use at most about "
        f"a third of all keys, {max(keys * images // 3, 1)}, or queue_size='auto'."
    )
