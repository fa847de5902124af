"""The user's pictures: their folders, their split, how they are turned; how many are used, left out, and why."""

from __future__ import annotations

import csv
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from mmdistill_dense.apps.project import SUITE, walk_data
from mmdistill_dense.apps.project.picture_sources import check_disjoint, siblings
from mmdistill_dense.unlabelled.pictures import EXTENSIONS, same_pictures
from mmdistill_dense.utils.files import walk
from mmdistill_dense.utils.literals import Template
from mmdistill_dense.utils.sampling import evenly
from mmdistill_dense.utils.validate import some

T = TypeVar('T')
SPLITS: Mapping[str, Sequence[str]] = {
    'train': ('train', 'training'),
    'val': ('val', 'valid', 'validation', 'dev'),
    'test': ('test', 'testing'),
}
ARCHIVES = ('.zip', '.tar', '.gz', '.tgz', '.rar', '.7z')
OTHERS = ('.gif', '.heic', '.heif', '.avif', '.jp2', '.jxl', '.dng', '.cr2', '.nef', '.arw', '.ppm', '.tga', '.dcm')
_LABELS = r'(label(?!l?ed(?![a-z]))|mask(?!ed)|annot|gt(?!av?\d?(?![a-z]))|seg(?!ment\W?_?\d)).*|.*(annot|labels|masks)'
_PROJECT_FILES = {SUITE, 'data.py'}
UNLABELLED_LIST = 'unlabelled.txt'


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
        if folder != root and set(names) >= _PROJECT_FILES:
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


def split_of(parts: Iterable[str]) -> str | None:
    """Return the split that the parts of a path name, whole names first, then inner ones; ``train2017`` is train."""
    lists = [re.findall('[a-z]+', part.lower()) for part in reversed(list(parts))]
    words = [names[0] for names in lists if len(names) == 1 and names != ['dev']] + list(chain(*lists))
    return next((split for word in words for split, names in SPLITS.items() if word in names), None)


def assign_rest_to_train(parts: dict[str | None, T]) -> None:
    """Pictures of no part train, where other pictures have one: those of `trainval` beside `test`."""
    if len(parts) > 1 and None in parts and 'train' not in parts:
        parts['train'] = parts.pop(None)


Size = tuple[int, int]  # height and width
SAMPLED = 50  # pictures that are read whole
_ORIENTATION, _SWAPPED = 0x0112, (5, 6, 7, 8)  # the tag of a photograph that viewers, and mmcv, turn by 90 degrees


@contextmanager
def file_errors(where: object, advice: str = 'Repair it, or take it out') -> Iterator[None]:
    """Turn any error of reading, here or in a library, into one line that names the file."""
    try:
        yield
    except Exception as error:
        text = ' '.join(str(error).split())
        if text.startswith('--'):
            if text == str(error):
                raise
            raise type(error)(text) from error
        if type(error) is ValueError and text:
            raise ValueError(f'--data: {where}: {text}') from error
        raise ValueError(f'--data: {where} cannot be read ({type(error).__name__}: {text:.200}). {advice}.') from error


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
    """Yield pictures and label images, opened; at the end refuse all of those that cannot be read.

    Some are read whole, and all that do not end as whole files do.
    """
    sample, broken = {*evenly(pictures, SAMPLED)}, list[str]()
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
        if 'exif' in picture.info or picture.format == 'TIFF':
            tag: Any = picture.getexif().get(_ORIENTATION)
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


MODES = {'apply': 'as EXIF turns them', 'ignore': 'as they are stored'}


def check_pictures(
    pictures: Sequence[Path],
    label_size: Callable[[Path], Size],
    exif: str | None,
    notes: list[str],
    labels: Sequence[Path] = (),
    least: int = 1,
) -> bool:
    """Return whether pictures must be read as they are stored, not as EXIF turns them: sizes of labels tell it.

    Refuse files that cannot be read, ``labels`` too, 32 bits a channel, and sides below ``least``; warn of what
    trainings leave out.
    """
    turned, more, deep, multi_page, one_pixel = (list[Path]() for _ in range(5))
    label_images = {*labels}
    fitting: dict[str, list[Path]] = {mode: [] for mode in MODES}
    for path, picture in open_images(pictures, labels):
        if path in label_images:
            with suppress(Exception):  # a damaged file is refused at the end
                multi_page += [path] if getattr(picture, 'n_frames', 1) > 1 else []
            continue
        one_pixel += [path] if min(picture.size) < least else []
        if picture.mode == 'F' or (picture.mode == 'I' and picture.format == 'TIFF'):
            raise ValueError(f'--data: {path} has 32 bits a channel, which trainings cannot read. Write it with 8.')
        if picture.mode.startswith('I') or ';16' in str(getattr(picture, 'tile', '')):
            deep.append(path)
        pages = getattr(picture, 'n_frames', 1) if picture.format == 'TIFF' else 1
        if pages > 1 or (len(picture.getbands()) > 3 and picture.mode != 'CMYK'):
            more.append(path)
        if orientation(picture) != 1:
            if picture.format == 'TIFF':
                mode = 'is a TIFF with an orientation, which one library follows and another does not'
                raise ValueError(f'--data: {path} {mode}. Take it out (exiftool -Orientation= FILE), or write a PNG.')
            turned.append(path)
            sizes = {'apply': size_of(picture), 'ignore': size_of(picture, stored=True)}
            matches = [mode for mode in MODES if sizes[mode] == label_size(path)]
            if len(matches) == 1:
                fitting[matches[0]].append(path)
    if one_pixel:
        raise ValueError(f'--data: mmseg cannot read labels of a side of one pixel: take out {some(one_pixel)}.')
    if multi_page:
        notes.append(f'WARNING: of {len(multi_page)} label images the first page is read alone ({some(multi_page, 3)})')
    if deep:
        highest = 0
        for path in evenly(deep, SAMPLED):
            with open_picture(path) as picture:  # of colours, Pillow itself reads the upper 8
                highest = max(highest, int(np.asarray(picture).max()) // (256 if picture.mode.startswith('I') else 1))
        remark = f'at most {highest + 1} levels are left. If these are few, stretch them'
        notes.append(f'WARNING: of pictures of 16 bits trainings read the upper 8: {remark}')
    if more:
        notes.append(f'WARNING: of {len(more)} pictures trainings read three channels of one page ({some(more, 3)})')
    if not turned:
        return False
    text = f'{len(turned)} of {len(pictures)} pictures have an EXIF orientation that turns or mirrors them'
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


# The split


_TRAINVAL = 'trainval'  # VOC's name for train and val together
_TASKS = {'seg': 'segmentation', 'det': 'main'}  # VOC's folders of lists
_ENTRY_ENDINGS = (*EXTENSIONS, '.xml', '.txt', '.json')  # endings that an entry of a list may have


@dataclass(frozen=True)
class SplitRule:
    """``--split``: a folder of lists, a share of the pictures that validates, or nothing."""

    lists: Path | None = None
    share: float | None = None

    @classmethod
    def read(cls, text: str | None) -> SplitRule:
        folder = Path(text or '').expanduser()
        if text is None or folder.is_dir():
            return cls(folder if text else None)
        try:
            share = float(text)
        except ValueError:
            advice = 'Give one with train.txt and val.txt, or the share that validates, such as 0.2'
            raise FileNotFoundError(f'--split {text}: no such folder (looked in {Path.cwd()}). {advice}.') from None
        if not 0 < share < 1:
            raise ValueError(f'--split {text}: a share lies between 0 and 1, such as 0.2.')
        return cls(share=share)


def read_lists(
    root: Path, task: str, rule: SplitRule, pictures: Sequence[Path], labelled: Container[Path]
) -> tuple[dict[str, Path], dict[str, list[Path]]]:
    """Return the list of each part and its pictures; often there are none.

    Lists are those of ``--split``, or lie below the data. They name a picture a line, which may end after its first
    word, or a row of a table.
    """
    by_folder: dict[Path, dict[str, Path]] = defaultdict(dict)  # by folder
    for path in files_below(rule.lists or root, ('.txt', '.lst', '.csv')) if rule.share is None else ():
        stem = path.stem.lower()
        part = next((part for part, names in SPLITS.items() if stem in names), _TRAINVAL if stem == _TRAINVAL else None)
        # not the label file of a picture called `test`, as YOLO has them
        beside = [path, Path(*('images' if name == 'labels' else name for name in path.parts))]
        if part and not any(candidate.with_suffix(ending).is_file() for candidate in beside for ending in EXTENSIONS):
            by_folder[path.parent][part] = path
    for folder, lists in by_folder.items():
        trainval = lists.pop(_TRAINVAL, None)
        if trainval and not {'train', 'val'} & set(lists):
            by_folder[folder] = {'train': trainval, **lists}
    if rule.lists and not by_folder:
        raise FileNotFoundError(f'--split {rule.lists}: no list in it. A list is train.txt, val.txt or test.txt.')
    task_folders = [folder for folder in by_folder if folder.name.lower() == _TASKS[task]]
    folders = task_folders or [folder for folder in by_folder if folder.parent.name != 'ImageSets'] or list(by_folder)
    if len({repr(sorted((part, path.read_bytes()) for part, path in by_folder[key].items())) for key in folders}) > 1:
        folder_names = some(sorted(map(str, folders)))
        raise ValueError(f'--data {root}: lists of a split lie in {folder_names}. Choose one folder by --split FOLDER.')
    lists, parts = by_folder[folders[0]] if folders else {}, dict[str, list[Path]]()
    index, source = Names(root, pictures), some(map(str, lists.values()))
    for part, path in lists.items():
        lines = lines_of(path)
        entries = [[line, line.split()[0]] for line in lines]
        if path.suffix.lower() == '.csv':
            rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
            rows = rows[1:] if rows and index.find(rows[0]) is None else rows  # a row of titles names no picture
            entries = [[cell for cell in row if cell.lower().endswith(EXTENSIONS)] or row for row in rows]
        if not entries:
            raise ValueError(f'--data: {path} names no picture. Fill it in, or remove it.')
        matches = [index.find(words) for words in entries]
        if missing := [words[0] for words, picture in zip(entries, matches, strict=True) if picture is None]:
            problem = f'{len(missing)} of {len(entries)} pictures that are not below {root}: {some(missing, 3)}'
            raise FileNotFoundError(f'--data: {path} names {problem}. Add them, or take their lines out.')
        parts[part] = members = [picture for picture in dict.fromkeys(matches) if picture is not None]
        if bare := [picture for picture in members if picture not in labelled]:
            problem = f'{len(bare)} of the {len(members)} pictures in {path} have no labels: {some(bare, 3)}'
            raise FileNotFoundError(f'--data: {problem}. Add them, or take the lines out.')
    check_disjoint(parts, source)
    if lists and 'train' not in parts:
        raise ValueError(f'--data: {source}: there is no train.txt beside. Add it.')
    pairs = [(part, picture) for part, members in parts.items() for picture in members]
    folder_parts = {picture: split_of(picture.parent.relative_to(root).parts) for _, picture in pairs}
    wrong = [f'{picture} is listed for {part}' for part, picture in pairs if folder_parts[picture] not in (None, part)]
    if wrong and not rule.lists and len({*folder_parts.values()} - {None}) > 1:  # darknet's obj_train_data holds all
        problem = f'the lists ({source}) and the folders tell two splits: {some(wrong, 2)}'
        raise ValueError(f'--data {root}: {problem}. Remove the lists, or choose them by --split FOLDER.')
    return lists, {part: parts[part] for part in SPLITS if part in parts}


class Names:
    """Finds pictures by how lists and label files name them: ``a``, ``a.jpg``, ``train/a.jpg``, a whole path.

    ``others`` are found by their whole paths alone.
    """

    def __init__(self, root: Path, pictures: Sequence[Path], extra: Sequence[Path] = ()) -> None:
        self._root, self._folders = root, set[str]()
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._by_path = {str(picture): picture for picture in (*extra, *pictures)}
        for picture in pictures:
            parts = picture.relative_to(root).with_suffix('').parts
            self._folders.update(parts[:-1])
            for start in range(len(parts)):
                self._by_name['/'.join(parts[start:])].append(picture)

    def find(self, words: Sequence[str], folder: Path | None = None) -> Path | None:
        """Return the picture that the first fitting word names; ``None`` without any.

        ``folder``: of the label file that holds the words. Its picture lies there, or in a folder of the same part.
        """
        above = folder.relative_to(self._root).parts if folder else ()
        advice = 'Put the label file beside its picture.' if folder else 'Name the folder of the picture too.'
        for word in words:
            if whole := self._by_path.get(os.path.normpath((folder or self._root) / word)):
                return whole
            path = PurePosixPath(word.replace('\\', '/'))
            cut = path.with_suffix('') if path.suffix.lower() in _ENTRY_ENDINGS else path
            parts = [*above, *(part for part in cut.parts if part not in ('/', '..'))]
            for start in range(len(parts)):
                paths = self._by_name.get('/'.join(parts[start:]), ())
                if matches := [file for file in paths if self._fits(file, parts[:start], split_of(above))]:
                    exact = [file for file in matches if file.name == path.name] if len(matches) > 1 else matches
                    if len(exact) != 1:
                        which = some(exact or matches, 3)
                        raise ValueError(f'--data: {word!r} may be {which}. {advice}')
                    return exact[0]
        return None

    def _fits(self, picture: Path, dropped: Sequence[str], part: str | None) -> bool:
        """Tell whether a picture is of this part, and in all dropped folders that the data have: others are foreign."""
        folders = picture.relative_to(self._root).parts[:-1]
        return self._folders.intersection(dropped) <= set(folders) and (not part or split_of(folders) in (None, part))


Reasons = Mapping[str, Sequence[object]]  # names of what is left out, by reason


@dataclass(frozen=True)
class Count:
    noun: str  # ``'pictures'``
    total: int
    used: int
    left_out: Reasons  # a warning each
    unused: Reasons = field(default_factory=dict)  # because the user or the labels say so

    def __post_init__(self) -> None:
        skipped = sum(map(len, [*self.left_out.values(), *self.unused.values()]))
        if self.used + skipped != self.total:
            raise AssertionError(f'{self.total} {self.noun} found, {self.used} used and {skipped} left out')

    def __str__(self) -> str:
        unused = [f'{len(names)} {reason} ({some(names, 3)})' for reason, names in self.unused.items() if names]
        used = [] if self.used == self.total else [f'{self.used} used']
        return ', '.join([f'{self.total} {self.noun}', *used, *unused])

    @property
    def warnings(self) -> list[str]:
        """A warning for each reason."""
        reasons = ((reason, names) for reason, names in self.left_out.items() if names)
        return [f'WARNING: {len(names)} of {self.total} {self.noun} {reason}; they are left out ({some(names, 3)})'
                for reason, names in reasons]  # fmt: skip


def table(name: str, counts: Sequence[Count]) -> list[str]:
    """Return a line of all counts, and the warnings."""
    return [f'{name}: {"; ".join(map(str, counts))}', *(line for count in counts for line in count.warnings)]


# Pictures of a part, and those without labels


@dataclass(frozen=True)
class Split:
    """Where a training finds the pictures and labels of a part: two places, whole or below the root."""

    pictures: str
    labels: str
    count: int
    names: tuple[str, ...] = ()  # of the pictures; of label images without endings, if not all files are of this part
    content: str = ''  # of a label file that is new


@dataclass(frozen=True)
class FreePictures:
    folder: Path  # they lie in it or below it
    count: int
    names: tuple[str, ...]  # their paths below the folder, where it holds other pictures too
    left_out: str  # those others, for the user

    @property
    def option(self) -> dict[str, Any]:
        """The option ``unlabelled`` of a config in the folder of the project."""
        names_file = {'ann_file': Template(f'{{{{ fileDirname }}}}/{UNLABELLED_LIST}')} if self.names else {}
        return {'data_root': str(self.folder), **names_file, 'ratio': 1}


def free_pictures(option: str, parts: Mapping[str, Sequence[str]], masks: Container[str], batch: int) -> FreePictures:
    """Return the pictures of a folder that are not among the data: in no part, and no label image (``masks``)."""
    folder = Path(option).expanduser().resolve()
    pictures = sorted(files_below(folder, EXTENSIONS))
    count = sum(name.lower().endswith(EXTENSIONS) for _, names in walk(folder) for name in names)
    # in folders of label images; folders above all of the pictures do not count
    starts = folder, Path(os.path.commonpath([path.parent for path in pictures] or [folder]))
    below, inside = ({path for path in pictures if is_label(path.parent.relative_to(start).parts)} for start in starts)
    labels = inside if inside and len(below) == len(pictures) else below
    excluded = {'label images': labels | {path for path in pictures if os.path.realpath(path) in masks}}
    for part in [part for part in ('val', 'test', 'train') if part in parts]:  # the same counts once
        bare = {os.path.splitext(os.path.realpath(path))[0] for path in parts[part]}  # X.png beside X.jpg is the same
        shared = (path for path in pictures if os.path.splitext(os.path.realpath(path))[0] in bare)
        excluded[f'of {part}'] = {*map(Path, same_pictures([*map(str, pictures)], parts[part])), *shared}
    excluded['of videos or scenes that validate or test'] = {*map(Path, siblings([*map(str, pictures)], parts))}
    free, counts = pictures, {'of projects and of `predict`': count - len(pictures)}
    for reason, paths in excluded.items():
        remaining = [path for path in free if path not in paths]
        free, counts[reason] = remaining, len(free) - len(remaining)
    left_out = ', '.join(f'{count} {reason}' for reason, count in counts.items() if count)
    if len(free) < batch:
        of_which = f', of which {left_out} cannot be taught on: {len(free)} are left' if left_out else ''
        summary = f'{count} pictures in it or below it (files that end in {", ".join(EXTENSIONS)}){of_which}'
        raise ValueError(f'--unlabelled {option}: {summary}; a step takes {batch}. Add pictures, or leave it out.')
    names = tuple(path.relative_to(folder).as_posix() for path in free) if left_out else ()
    return FreePictures(folder, len(free), names, left_out)
