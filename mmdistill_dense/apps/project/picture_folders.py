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
from mmdistill_dense.utils.evenly import evenly
from mmdistill_dense.utils.files import walk
from mmdistill_dense.utils.literals import Template
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
_OF_PROJECTS = {SUITE, 'data.py'}
UNLABELLED_LIST = 'unlabelled.txt'


def pictures_below(root: Path) -> list[Path]:
    """Return the pictures in a folder and below it; hidden files and projects are left out."""
    if not root.is_dir():
        what = f'no such folder (looked in {Path.cwd()}).'
        if root.is_file():
            zipped = root.name.lower().endswith(ARCHIVES)
            what = 'an archive. Unpack it, and give the folder.' if zipped else 'a file. Give the folder that holds it.'
        raise FileNotFoundError(f'--data {root}: {what}')
    if not (found := files_below(root, EXTENSIONS)):
        told = f'no picture in it or below it ({", ".join(EXTENSIONS)}; results of `predict` are left out)'
        held = (some(sorted(entry.name for entry in root.iterdir())) or 'nothing') + f'.{other_endings(root)}'
        raise FileNotFoundError(f'--data {root}: {told}. It holds {held}')
    return found


def other_endings(root: Path, alone: Iterable[str] | None = None) -> str:
    """Return a sentence about files with endings of pictures that are not read: all, or of names that are ``alone``."""
    stems = None if alone is None else {*map(_stem, alone)}
    files = [path for path in files_below(root, OTHERS) if stems is None or _stem(path.name) in stems]
    ends = f'end in {some(sorted({path.suffix.lower() for path in files}))} ({some(files, 2)})'
    return f' {len(files)} files {ends}, which is not read as a picture: write .png or .jpg.' if files else ''


def _stem(path: str) -> str:
    return re.sub(r'(?<=.)[-_][^\W\d_]+$', '', PurePosixPath(path).stem)  # of a.jpg and a_mask.png the same


def files_below(root: Path, endings: tuple[str, ...]) -> list[Path]:
    """Return the files with one of these endings, in any case; hidden files and projects are left out."""
    found, projects = list[Path](), list[Path]()
    for folder, names in walk_data(root):
        if folder != root and set(names) >= _OF_PROJECTS:
            projects.append(folder)
        if not any(folder.is_relative_to(one) for one in projects):
            found += [folder / name for name in names if name.lower().endswith(endings)]
    return found


def lines_of(path: Path) -> list[str]:
    """Return the lines of a text file that hold something, without the blanks at their ends."""
    try:
        text = path.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(f'--data: {path} is not written in UTF-8 ({error}). Save it as UTF-8.') from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def repeated(names: Iterable[T]) -> list[T]:
    """Return the names that are there more than once."""
    return [one for one, count in Counter(names).items() if count > 1]


def is_label(parts: Sequence[str]) -> bool:
    """Tell whether the parts of a path name a folder of label images."""
    return any(re.fullmatch(_LABELS, part.lower()) for part in parts)


def outside_labels(root: Path, pictures: Iterable[Path]) -> list[Path]:
    """Return the pictures that lie in no folder of label images."""
    return [one for one in pictures if not is_label(one.relative_to(root).parts[:-1])]


def split_of(parts: Iterable[str]) -> str | None:
    """Return the split that the parts of a path name, whole names first, then inner ones; ``train2017`` is train."""
    found = [re.findall('[a-z]+', part.lower()) for part in reversed(list(parts))]
    words = [one[0] for one in found if len(one) == 1 and one != ['dev']] + [word for one in found for word in one]
    return next((split for word in words for split, names in SPLITS.items() if word in names), None)


def assign_rest_to_train(parts: dict[str | None, T]) -> None:
    """Pictures of no part train, where other pictures have one: those of `trainval` beside `test`."""
    if len(parts) > 1 and None in parts and 'train' not in parts:
        parts['train'] = parts.pop(None)


Size = tuple[int, int]  # height and width
SAMPLED = 50  # pictures that are read whole
_ORIENTATION, _LYING = 0x0112, (5, 6, 7, 8)  # the tag of a photograph that viewers, and mmcv, turn by 90 degrees


@contextmanager
def named(where: object, advice: str = 'Repair it, or take it out') -> Iterator[None]:
    """Turn whatever reading raises, here or in a library, into one line that names the place."""
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
def opened(path: Path) -> Iterator[Image.Image]:
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


def each_opened(pictures: Sequence[Path], labels: Iterable[Path] = ()) -> Iterator[tuple[Path, Image.Image]]:
    """Yield pictures and label images, opened; at the end refuse all of those that cannot be read.

    Some are read whole, and all that do not end as whole files do.
    """
    sampled, broken = {*evenly(pictures, SAMPLED)}, list[str]()
    for path in chain(pictures, labels):
        try:
            with opened(path) as picture:
                yield path, picture
                with open(path, 'rb') as file:
                    file.seek(-min(32, path.stat().st_size), os.SEEK_END)
                    whole = {'JPEG': b'\xff\xd9', 'PNG': b'IEND'}.get(str(picture.format), b'') in file.read()
                if path in sampled or not whole:
                    picture.load()
        except UnreadablePictures as error:
            broken += error.files
    if broken:
        raise UnreadablePictures(broken)


def orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation from 1, as stored, to 8. The pixels are not read."""
    with suppress(Exception):  # damaged tags, which mmcv passes over
        if 'exif' in picture.info or picture.format == 'TIFF':
            found: Any = picture.getexif().get(_ORIENTATION)
            return found if found in range(1, 9) else 1
    return 1


def size_of(picture: Image.Image, stored: bool = False) -> Size:
    """Return height and width as a training reads them, or as they are stored."""
    width, height = picture.size
    return (width, height) if not stored and orientation(picture) in _LYING else (height, width)


def stored_size(path: Path, stored: bool = True) -> Size:
    """Return the height and width of a file, as label images are read, or not as they are ``stored``."""
    with opened(path) as picture:
        return size_of(picture, stored)


def usual_size(sizes: Sequence[Size]) -> Size:
    """Return the height and width of the picture of median area."""
    return sorted(sizes, key=math.prod)[len(sizes) // 2]


MODES = {'apply': 'as EXIF turns them', 'ignore': 'as they are stored'}


def look_at(
    pictures: Sequence[Path],
    drawn: Callable[[Path], Size],
    given: str | None,
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
    fitting: dict[str, list[Path]] = {way: [] for way in MODES}
    for path, picture in each_opened(pictures, labels):
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
                way = 'is a TIFF with an orientation, which one library follows and another does not'
                raise ValueError(f'--data: {path} {way}. Take it out (exiftool -Orientation= FILE), or write a PNG.')
            turned.append(path)
            sizes = {'apply': size_of(picture), 'ignore': size_of(picture, stored=True)}
            fits = [way for way in MODES if sizes[way] == drawn(path)]
            if len(fits) == 1:
                fitting[fits[0]].append(path)
    if one_pixel:
        raise ValueError(f'--data: mmseg cannot read labels of a side of one pixel: take out {some(one_pixel)}.')
    if multi_page:
        notes.append(f'WARNING: of {len(multi_page)} label images the first page is read alone ({some(multi_page, 3)})')
    if deep:
        highest = 0
        for path in evenly(deep, SAMPLED):
            with opened(path) as picture:  # of colours, Pillow itself reads the upper 8
                highest = max(highest, int(np.asarray(picture).max()) // (256 if picture.mode.startswith('I') else 1))
        left = f'at most {highest + 1} levels are left. If these are few, stretch them'
        notes.append(f'WARNING: of pictures of 16 bits trainings read the upper 8: {left}')
    if more:
        notes.append(f'WARNING: of {len(more)} pictures trainings read three channels of one page ({some(more, 3)})')
    if not turned:
        return False
    said = f'{len(turned)} of {len(pictures)} pictures have an EXIF orientation that turns or mirrors them'
    said = f'{said} ({some(turned, 3)})'
    told = [way for way in MODES if fitting[way]]
    if len(told) == 2:
        rest = f'those of {len(fitting["ignore"])} that of the stored one ({some(fitting["ignore"], 3)})'
        fit = f'The labels of {len(fitting["apply"])} of them have the size of the turned picture, {rest}'
        raise ValueError(f'--data: {said}. {fit}. Take it out of the latter (exiftool -Orientation= FILE).')
    if told and given not in (None, *told):
        labels_of = f'The sizes of {len(fitting[told[0]])} labels'
        raise ValueError(f'--exif {given}: {said}. {labels_of} fit --exif {told[0]} alone.')
    if not told and given is None:
        advice = 'Write --exif apply if labels fit pictures as viewers show them, --exif ignore if the stored pixels'
        raise ValueError(f'--data: {said}, and sizes do not tell whether their labels are turned too. {advice}.')
    way = given or told[0]
    notes.append(f'WARNING: {said}. They are read {MODES[way]}, {"as --exif says" if given else "as their labels are"}')
    return way == 'ignore'


# The split


_BOTH = 'trainval'  # VOC's name for train and val together
_TASKS = {'seg': 'segmentation', 'det': 'main'}  # VOC's folders of lists
_CUT = (*EXTENSIONS, '.xml', '.txt', '.json')  # endings that an entry of a list may have


@dataclass(frozen=True)
class Wish:
    """``--split``: a folder of lists, a share of the pictures that validates, or nothing."""

    lists: Path | None = None
    share: float | None = None

    @classmethod
    def read(cls, given: str | None) -> Wish:
        folder = Path(given or '').expanduser()
        if given is None or folder.is_dir():
            return cls(folder if given else None)
        try:
            share = float(given)
        except ValueError:
            advice = 'Give one with train.txt and val.txt, or the share that validates, such as 0.2'
            raise FileNotFoundError(f'--split {given}: no such folder (looked in {Path.cwd()}). {advice}.') from None
        if not 0 < share < 1:
            raise ValueError(f'--split {given}: a share lies between 0 and 1, such as 0.2.')
        return cls(share=share)


def read_lists(
    root: Path, task: str, wish: Wish, pictures: Sequence[Path], labelled: Container[Path]
) -> tuple[dict[str, Path], dict[str, list[Path]]]:
    """Return the list of each part and its pictures; often there are none.

    Lists are those of ``--split``, or lie below the data. They name a picture a line, which may end after its first
    word, or a row of a table.
    """
    found: dict[Path, dict[str, Path]] = defaultdict(dict)  # by folder
    for path in files_below(wish.lists or root, ('.txt', '.lst', '.csv')) if wish.share is None else ():
        stem = path.stem.lower()
        part = next((part for part, names in SPLITS.items() if stem in names), _BOTH if stem == _BOTH else None)
        # not the label file of a picture called `test`, as YOLO has them
        beside = [path, Path(*('images' if one == 'labels' else one for one in path.parts))]
        if part and not any(place.with_suffix(ending).is_file() for place in beside for ending in EXTENSIONS):
            found[path.parent][part] = path
    for folder, lists in found.items():
        both = lists.pop(_BOTH, None)
        if both and not {'train', 'val'} & set(lists):
            found[folder] = {'train': both, **lists}
    if wish.lists and not found:
        raise FileNotFoundError(f'--split {wish.lists}: no list in it. A list is train.txt, val.txt or test.txt.')
    wanted = [folder for folder in found if folder.name.lower() == _TASKS[task]]
    folders = wanted or [folder for folder in found if folder.parent.name != 'ImageSets'] or list(found)
    if len({repr(sorted((part, path.read_bytes()) for part, path in found[one].items())) for one in folders}) > 1:
        places = some(sorted(map(str, folders)))
        raise ValueError(f'--data {root}: lists of a split lie in {places}. Choose one folder by --split FOLDER.')
    lists, parts = found[folders[0]] if folders else {}, dict[str, list[Path]]()
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
        named = [index.find(words) for words in entries]
        if missing := [words[0] for words, picture in zip(entries, named, strict=True) if picture is None]:
            told = f'{len(missing)} of {len(entries)} pictures that are not below {root}: {some(missing, 3)}'
            raise FileNotFoundError(f'--data: {path} names {told}. Add them, or take their lines out.')
        parts[part] = own = [picture for picture in dict.fromkeys(named) if picture is not None]
        if bare := [picture for picture in own if picture not in labelled]:
            told = f'{len(bare)} of the {len(own)} pictures in {path} have no labels: {some(bare, 3)}'
            raise FileNotFoundError(f'--data: {told}. Add them, or take the lines out.')
    check_disjoint(parts, source)
    if lists and 'train' not in parts:
        raise ValueError(f'--data: {source}: there is no train.txt beside. Add it.')
    told_by = {one: split_of(one.parent.relative_to(root).parts) for own in parts.values() for one in own}
    wrong = [f'{one} is listed for {part}' for part, own in parts.items() for one in own
             if told_by[one] not in (None, part)]  # fmt: skip
    if wrong and not wish.lists and len({*told_by.values()} - {None}) > 1:  # darknet's obj_train_data holds all
        what = f'the lists ({source}) and the folders tell two splits: {some(wrong, 2)}'
        raise ValueError(f'--data {root}: {what}. Remove the lists, or choose them by --split FOLDER.')
    return lists, parts


class Names:
    """Finds pictures by how lists and label files name them: ``a``, ``a.jpg``, ``train/a.jpg``, a whole path.

    ``others`` are found by their whole paths alone.
    """

    def __init__(self, root: Path, pictures: Sequence[Path], others: Sequence[Path] = ()) -> None:
        self._root, self._folders = root, set[str]()
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._by_path = {str(picture): picture for picture in (*others, *pictures)}
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
            cut = path.with_suffix('') if path.suffix.lower() in _CUT else path
            parts = [*above, *(part for part in cut.parts if part not in ('/', '..'))]
            for start in range(len(parts)):
                known = self._by_name.get('/'.join(parts[start:]), ())
                if found := [one for one in known if self._fits(one, parts[:start], split_of(above))]:
                    exact = [one for one in found if one.name == path.name] if len(found) > 1 else found
                    if len(exact) != 1:
                        which = some(exact or found, 3)
                        raise ValueError(f'--data: {word!r} may be {which}. {advice}')
                    return exact[0]
        return None

    def _fits(self, picture: Path, dropped: Sequence[str], part: str | None) -> bool:
        """Tell whether a picture is of this part, and in all dropped folders that the data have: others are foreign."""
        own = picture.relative_to(self._root).parts[:-1]
        return self._folders.intersection(dropped) <= set(own) and (not part or split_of(own) in (None, part))


Reasons = Mapping[str, Sequence[object]]  # names of what is left out, by reason


@dataclass(frozen=True)
class Count:
    what: str  # ``'pictures'``
    found: int
    used: int
    left_out: Reasons  # a warning each
    unused: Reasons = field(default_factory=dict)  # because the user or the labels say so

    def __post_init__(self) -> None:
        left = sum(map(len, [*self.left_out.values(), *self.unused.values()]))
        if self.used + left != self.found:
            raise AssertionError(f'{self.found} {self.what} found, {self.used} used and {left} left out')

    def __str__(self) -> str:
        unused = [f'{len(own)} {reason} ({some(own, 3)})' for reason, own in self.unused.items() if own]
        used = [] if self.used == self.found else [f'{self.used} used']
        return ', '.join([f'{self.found} {self.what}', *used, *unused])

    @property
    def left(self) -> list[str]:
        """A warning for each reason."""
        left = ((reason, names) for reason, names in self.left_out.items() if names)
        return [f'WARNING: {len(names)} of {self.found} {self.what} {reason}; they are left out ({some(names, 3)})'
                for reason, names in left]  # fmt: skip


def table(name: str, counts: Sequence[Count]) -> list[str]:
    """Return a line of all counts, and the warnings."""
    return [f'{name}: {"; ".join(map(str, counts))}', *(line for count in counts for line in count.left)]


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
        listed = {'ann_file': Template(f'{{{{ fileDirname }}}}/{UNLABELLED_LIST}')} if self.names else {}
        return {'data_root': str(self.folder), **listed, 'ratio': 1}


def free_pictures(given: str, parts: Mapping[str, Sequence[str]], drawn: Container[str], batch: int) -> FreePictures:
    """Return the pictures of a folder that are not among the data: in no part, and no label image (``drawn``)."""
    folder = Path(given).expanduser().resolve()
    pictures = sorted(files_below(folder, EXTENSIONS))
    count = sum(name.lower().endswith(EXTENSIONS) for _, names in walk(folder) for name in names)
    # in folders of label images; folders above all of the pictures do not count
    starts = folder, Path(os.path.commonpath([path.parent for path in pictures] or [folder]))
    below, inside = ({path for path in pictures if is_label(path.parent.relative_to(one).parts)} for one in starts)
    labels = inside if inside and len(below) == len(pictures) else below
    taken = {'label images': labels | {path for path in pictures if os.path.realpath(path) in drawn}}
    for part in [part for part in ('val', 'test', 'train') if part in parts]:  # the same counts once
        bare = {os.path.splitext(os.path.realpath(path))[0] for path in parts[part]}  # X.png beside X.jpg is the same
        same = map(Path, same_pictures([str(path) for path in pictures], parts[part]))
        taken[f'of {part}'] = {*same, *(one for one in pictures if os.path.splitext(os.path.realpath(one))[0] in bare)}
    taken['of videos or scenes that validate or test'] = {*map(Path, siblings([*map(str, pictures)], parts))}
    free, counts = pictures, {'of projects and of `predict`': count - len(pictures)}
    for what, others in taken.items():
        left = [path for path in free if path not in others]
        free, counts[what] = left, len(free) - len(left)
    left_out = ', '.join(f'{count} {what}' for what, count in counts.items() if count)
    if len(free) < batch:
        of_which = f', of which {left_out} cannot be taught on: {len(free)} are left' if left_out else ''
        there = f'{count} pictures in it or below it (files that end in {", ".join(EXTENSIONS)}){of_which}'
        raise ValueError(f'--unlabelled {given}: {there}; a step takes {batch}. Add pictures, or leave it out.')
    names = tuple(path.relative_to(folder).as_posix() for path in free) if left_out else ()
    return FreePictures(folder, len(free), names, left_out)
