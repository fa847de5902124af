"""The user's pictures: in which folders they lie, how they are opened and turned, and what trainings cannot read."""

import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from mmdistill_dense.apps.project import SUITE, walk_data
from mmdistill_dense.unlabelled.pictures import EXTENSIONS
from mmdistill_dense.utils.sampling import evenly
from mmdistill_dense.utils.validate import some

T = TypeVar('T')
Size = tuple[int, int]  # height and width
SAMPLED = 50  # pictures that are read whole
_ORIENTATION, _SWAPPED = 0x0112, (5, 6, 7, 8)  # the tag of a photograph that viewers, and mmcv, turn by 90 degrees
ARCHIVES = ('.zip', '.tar', '.gz', '.tgz', '.rar', '.7z')
OTHERS = ('.gif', '.heic', '.heif', '.avif', '.jp2', '.jxl', '.dng', '.cr2', '.nef', '.arw', '.ppm', '.tga', '.dcm')
_LABELS = r'(label(?!l?ed(?![a-z]))|mask(?!ed)|annot|gt(?!av?\d?(?![a-z]))|seg(?!ment\W?_?\d)).*|.*(annot|labels|masks)'
MODES = {'apply': 'as EXIF turns them', 'ignore': 'as they are stored'}


def pictures_below(root: Path) -> list[Path]:
    """Return the pictures in a folder and below it; hidden files and projects are left out."""
    if not root.is_dir():
        text = f'no such folder (looked in {Path.cwd()}).'
        if root.is_file():
            zipped = root.name.lower().endswith(ARCHIVES)
            text = 'an archive. Unpack it, and give the folder.' if zipped else 'a file. Give the folder that holds it.'
        raise FileNotFoundError(f'--data {root}: {text}')
    if not (pictures := files_below(root, EXTENSIONS)):
        problem = f'no picture in it or below it ({", ".join(EXTENSIONS)}; results of `predict` are left out)'
        content = (some(sorted(entry.name for entry in root.iterdir())) or 'nothing') + f'.{other_endings(root)}'
        raise FileNotFoundError(f'--data {root}: {problem}. It holds {content}')
    return pictures


def other_endings(root: Path, names: Iterable[str] | None = None) -> str:
    """Return a sentence about files with endings of pictures that are not read: all, or of names that are ``names``."""
    stems = None if names is None else {*map(_stem, names)}
    files = [path for path in files_below(root, OTHERS) if stems is None or _stem(path.name) in stems]
    ends = f'end in {some(sorted({path.suffix.lower() for path in files}))} ({some(files, 2)})'
    return f' {len(files)} files {ends}, which is not read as a picture: write .png or .jpg.' if files else ''


def _stem(path: str) -> str:
    return re.sub(r'(?<=.)[-_][^\W\d_]+$', '', PurePosixPath(path).stem)  # of a.jpg and a_mask.png the same


def files_below(root: Path, endings: tuple[str, ...]) -> list[Path]:
    """Return the files with one of these endings, in any case; hidden files and projects are left out."""
    files, projects = list[Path](), list[Path]()
    for folder, names in walk_data(root):
        if folder != root and {SUITE, 'data.py'} <= {*names}:
            projects.append(folder)
        if not any(folder.is_relative_to(project) for project in projects):
            files += [folder / name for name in names if name.lower().endswith(endings)]
    return files


def lines_of(path: Path) -> list[str]:
    """Return the lines of a text file that hold something, without the blanks at their ends."""
    try:
        text = path.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(f'--data: {path} is not written in UTF-8 ({error}). Save it as UTF-8.') from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def repeated(names: Iterable[T]) -> list[T]:
    """Return the names that are there more than once."""
    return [name for name, count in Counter(names).items() if count > 1]


def is_label(parts: Sequence[str]) -> bool:
    """Tell whether the parts of a path name a folder of label images."""
    return any(re.fullmatch(_LABELS, part.lower()) for part in parts)


def outside_labels(root: Path, pictures: Iterable[Path]) -> list[Path]:
    """Return the pictures that lie in no folder of label images."""
    return [picture for picture in pictures if not is_label(picture.relative_to(root).parts[:-1])]


@contextmanager
def file_errors(where: object, advice: str = 'Repair it, or take it out') -> Iterator[None]:
    """Turn any error of reading, here or in a library, into one line that names the file."""
    try:
        yield
    except Exception as error:
        text = ' '.join(str(error).split())
        if text.startswith('--'):
            error.args = (text,)
            raise
        reason = f' cannot be read ({type(error).__name__}: {text:.200}). {advice}.'
        raise ValueError(f'--data: {where}{f": {text}" if type(error) is ValueError and text else reason}') from error


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as picture:
            yield picture
    except Exception as error:  # Pillow raises many kinds
        if str(error).startswith('--'):  # a refusal of what the picture holds
            raise
        raise UnreadablePictures([f'{path} ({str(error).replace(f" {str(path)!r}", "")})']) from error


class UnreadablePictures(ValueError):
    """Files that are no pictures, with the reasons, whatever their names say."""

    def __init__(self, files: Sequence[str]) -> None:
        count = f'{len(files)} files' if len(files) > 1 else 'a file'
        super().__init__(f'--data: {count} cannot be read as pictures: {some(files, 20)}. Replace or remove them.')
        self.files = files


def open_images(pictures: Sequence[Path], labels: Iterable[Path] = ()) -> Iterator[tuple[Path, Image.Image]]:
    """Yield pictures and label images, opened; at the end refuse all of those that cannot be read."""
    sample, broken = {*evenly(pictures, SAMPLED)}, list[str]()  # a sample is read whole
    for path in chain(pictures, labels):
        try:
            with open_picture(path) as picture:
                yield path, picture
                with open(path, 'rb') as file:
                    file.seek(-min(32, path.stat().st_size), os.SEEK_END)
                    whole = {'JPEG': b'\xff\xd9', 'PNG': b'IEND'}.get(str(picture.format), b'') in file.read()
                if path in sample or not whole:
                    picture.load()
        except UnreadablePictures as error:
            broken += error.files
    if broken:
        raise UnreadablePictures(broken)


def orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation from 1, as stored, to 8. The pixels are not read."""
    with suppress(Exception):  # damaged tags, which mmcv passes over
        tag: Any = picture.getexif().get(_ORIENTATION) if 'exif' in picture.info or picture.format == 'TIFF' else 1
        return tag if tag in range(1, 9) else 1
    return 1


def size_of(picture: Image.Image, stored: bool = False) -> Size:
    """Return height and width as a training reads them, or as they are stored."""
    width, height = picture.size
    return (width, height) if not stored and orientation(picture) in _SWAPPED else (height, width)


def stored_size(path: Path, stored: bool = True) -> Size:
    """Return the height and width of a file, as label images are read, or not as they are ``stored``."""
    with open_picture(path) as picture:
        return size_of(picture, stored)


def usual_size(sizes: Sequence[Size]) -> Size:
    """Return the height and width of the picture of median area."""
    return sorted(sizes, key=math.prod)[len(sizes) // 2]


def check_pictures(labels: Mapping[Path, Path | Size], exif: str | None, notes: list[str], least: int) -> bool:
    """Return whether pictures must be read as they are stored, not as EXIF turns them; refuse those that cannot be."""
    turned, deep, one_pixel, partly_read = list[Path](), list[Path](), list[Path](), defaultdict[str, list[Path]](list)
    label_images = dict.fromkeys(label for label in labels.values() if isinstance(label, Path))
    fitting: dict[str, list[Path]] = {mode: [] for mode in MODES}
    for path, picture in open_images([*labels], label_images):
        pages = 1
        with suppress(Exception):  # a damaged file is refused at the end
            pages = getattr(picture, 'n_frames', 1)
        if path in label_images:
            partly_read['label images the first page is read alone'] += [path] if pages > 1 else []
            continue
        one_pixel += [path] if min(picture.size) < least else []
        if picture.mode == 'F' or (picture.mode == 'I' and picture.format == 'TIFF'):
            raise ValueError(f'--data: {path} has 32 bits a channel, which trainings cannot read. Write it with 8.')
        if picture.mode.startswith('I') or ';16' in str(getattr(picture, 'tile', '')):
            deep.append(path)
        if (pages > 1 and picture.format == 'TIFF') or (len(picture.getbands()) > 3 and picture.mode != 'CMYK'):
            partly_read['pictures trainings read three channels of one page'].append(path)
        if orientation(picture) != 1:
            if picture.format == 'TIFF':
                mode = 'is a TIFF with an orientation, which one library follows and another does not'
                raise ValueError(f'--data: {path} {mode}. Take it out (exiftool -Orientation= FILE), or write a PNG.')
            turned.append(path)
            label_size = stored_size(label) if isinstance(label := labels[path], Path) else label
            matches = [mode for mode in MODES if size_of(picture, stored=mode == 'ignore') == label_size]
            if len(matches) == 1:
                fitting[matches[0]].append(path)
    if one_pixel:
        raise ValueError(f'--data: mmseg cannot read labels of a side of one pixel: take out {some(one_pixel)}.')
    if deep:
        highest = 0
        for path in evenly(deep, SAMPLED):
            with open_picture(path) as picture:  # of colours, Pillow itself reads the upper 8
                highest = max(highest, int(np.asarray(picture).max()) // (256 if picture.mode.startswith('I') else 1))
        remark = f'at most {highest + 1} levels are left. If these are few, stretch them'
        notes.append(f'WARNING: of pictures of 16 bits trainings read the upper 8: {remark}')
    notes += [f'WARNING: of {len(paths)} {text} ({some(paths, 3)})' for text, paths in partly_read.items() if paths]
    if not turned:
        return False
    text = f'{len(turned)} of {len(labels)} pictures have an EXIF orientation that turns or mirrors them'
    text = f'{text} ({some(turned, 3)})'
    modes = [mode for mode in MODES if fitting[mode]]
    if len(modes) == 2:
        stored_labels = f'those of {len(fitting["ignore"])} that of the stored one ({some(fitting["ignore"], 3)})'
        fit = f'The labels of {len(fitting["apply"])} of them have the size of the turned picture, {stored_labels}'
        raise ValueError(f'--data: {text}. {fit}. Take it out of the latter (exiftool -Orientation= FILE).')
    if modes and exif not in (None, *modes):
        labels_of = f'The sizes of {len(fitting[modes[0]])} labels'
        raise ValueError(f'--exif {exif}: {text}. {labels_of} fit --exif {modes[0]} alone.')
    if not modes and exif is None:
        advice = 'Write --exif apply if labels fit pictures as viewers show them, --exif ignore if the stored pixels'
        raise ValueError(f'--data: {text}, and sizes do not tell whether their labels are turned too. {advice}.')
    mode = exif or modes[0]
    notes.append(f'WARNING: {text}. They are read {MODES[mode]}, {"as --exif says" if exif else "as their labels are"}')
    return mode == 'ignore'
