"""Open the user's pictures and label images, and name the one that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from PIL import Image

from mmdistill_dense.utils.evenly import evenly

SAMPLED = 50  # pictures that are read whole
_ORIENTATION, _LYING = 0x0112, (5, 6, 7, 8)  # the tag of a photograph that viewers, and mmcv, turn by 90 degrees


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture.

    Raises:
        ValueError: If it is damaged or no picture.
    """
    try:
        with Image.open(path) as picture:
            yield picture
    except (OSError, Image.DecompressionBombError) as error:
        what = str(error).replace(f' {str(path)!r}', '')
        raise ValueError(
            f'--data: {path} cannot be read as a picture ({what}). Replace it, or remove it with its label.'
        ) from error


def size_of(picture: Image.Image) -> tuple[int, int]:
    """Return height and width as a training reads them."""
    width, height = picture.size
    return (width, height) if picture.getexif().get(_ORIENTATION) in _LYING else (height, width)


def size_text(size: tuple[int, int]) -> str:
    """Return a size for a message."""
    return f'{size[0]}x{size[1]}'


def usual_size(paths: Sequence[Path]) -> tuple[int, int]:
    """Return the median height and width of pictures; some are read whole.

    Raises:
        ValueError: For one that cannot be read.
    """
    sizes = []
    for path in evenly(paths, SAMPLED):
        with opened(path) as picture:
            picture.load()
            sizes.append(size_of(picture))
    return int(median(height for height, _ in sizes)), int(median(width for _, width in sizes))
