"""Open the user's pictures and label images, and name the one that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from PIL import Image

from mmdistill_dense.utils.evenly import evenly

Size = tuple[int, int]  # height and width
SAMPLED = 50  # pictures that are read whole
_ORIENTATION, _LYING = 0x0112, (5, 6, 7, 8)  # the tag of a photograph that viewers, and mmcv, turn by 90 degrees


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture."""
    try:
        with Image.open(path) as picture:
            yield picture
    except (OSError, Image.DecompressionBombError) as error:
        what = str(error).replace(f' {str(path)!r}', '')
        raise ValueError(
            f'--data: {path} cannot be read as a picture ({what}). Replace it, or remove it with its label.'
        ) from error


def orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation from 1, as stored, to 8. The pixels are not read."""
    if 'exif' not in picture.info and picture.format != 'TIFF':
        return 1
    try:
        found = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged tags, which mmcv passes over
        return 1
    return found if found in range(1, 9) else 1


def size_of(picture: Image.Image, stored: bool = False) -> Size:
    """Return height and width as a training reads them, or as they are stored."""
    width, height = picture.size
    return (width, height) if not stored and orientation(picture) in _LYING else (height, width)


def stored_size(path: Path) -> Size:
    """Return the height and width of a file, as label images are read."""
    with opened(path) as picture:
        return size_of(picture, stored=True)


def size_text(size: Size) -> str:
    """Return a size for a message."""
    return f'{size[0]}x{size[1]}'


def usual_size(paths: Sequence[Path], stored: bool) -> Size:
    """Return the median height and width of pictures as a training reads them; some are read whole."""
    sizes = []
    for path in evenly(paths, SAMPLED):
        with opened(path) as picture:
            picture.load()
            sizes.append(size_of(picture, stored))
    return int(median(height for height, _ in sizes)), int(median(width for _, width in sizes))
