"""Pair pictures with their label images by their names."""

from __future__ import annotations

import os
import shlex
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmdistill_dense.apps.project.picture_folders import Folder
from mmdistill_dense.utils.evenly import evenly
from mmdistill_dense.utils.validate import some

_NO_CLASSES = ('object', 'instance', 'color', 'colour')  # label images for the eye, or that number objects
_LOOKED = 20  # pictures, and label images, whose partners are looked for


@dataclass(frozen=True)
class Endings:
    """What follows the common name of a picture and of its label image."""

    pictures: tuple[str, ...]  # ``('.jpg', '.png')``; of two pictures of one name, that of the first ending counts
    label: str  # ``'_mask.png'``

    @property
    def word(self) -> str:
        """What the endings of pictures share before the dot: ``'_leftImg8bit'``, or nothing."""
        return os.path.splitext(self.pictures[0])[0] if self.pictures[0].startswith('_') else ''

    def by_name(self, files: Iterable[str]) -> dict[str, str]:
        """Return pictures by their names without the ending."""
        found: dict[str, str] = {}
        listed = list(files)
        for ending in self.pictures:
            for file in listed:
                if file.endswith(ending):
                    found.setdefault(file.removesuffix(ending), file)
        return found

    def picture(self, folder: Path, name: str) -> Path:
        """Return the picture of a name that a data set of mmseg reads."""
        files = [folder / f'{name}{ending}' for ending in self.pictures]
        return next((file for file in files if file.is_file()), files[0])

    def labelled(self, labels: Folder) -> set[str]:
        return {file.removesuffix(self.label) for file in labels.files if file.endswith(self.label)}


def find_endings(folders: Sequence[tuple[Folder, Folder]]) -> Endings:
    """Return the endings; the first split tells the usual one."""
    usual, label = _usual(*folders[0])
    found = Endings((usual,), label)
    for pictures, labels in folders:
        known = found.labelled(labels)
        for suffix in dict.fromkeys(os.path.splitext(file)[1] for file in pictures.files):
            ending, paired = f'{found.word}{suffix}', found.by_name(pictures.files)
            own = Endings((ending,), label).by_name(pictures.files)
            if any(name in known and name not in paired for name in own):
                found = Endings((*found.pictures, ending), label)
        _check_partners(pictures, labels, found)
    return found


def _check_partners(pictures: Folder, labels: Folder, endings: Endings) -> None:
    """Refuse a picture with several label images that may hold its classes, or with one of another ending."""
    names = {_bare(file, endings): file for file in pictures.files}
    partners: dict[str, list[str]] = defaultdict(list)
    for file in labels.files:  # A_1_mask.png belongs to the picture A_1, and only without it to A
        if name := next((name for name in reversed(_beginnings(file)) if name in names), ''):
            partners[name].append(file)
    for name, files in partners.items():
        own = name + endings.label
        alike = [file for file in files if _rank(file[len(name) :])[:3] >= _rank(endings.label)[:3]]
        others = [file for file in files if not of_no_classes(file[len(name) :])]
        if own in files and len(alike) > 1:
            raise ValueError(
                f'--data: {pictures.path / names[name]} has {len(alike)} label images in {labels.path}, '
                f'{some(alike, 3)}. Join them into one, or keep only the one that holds its classes.'
            )
        if own not in files and others:
            raise ValueError(
                f'--data: {pictures.path / names[name]} has the label image {labels.path / others[0]}, and most label '
                f'images are X{endings.label}. Give all of them one ending.'
            )


def _usual(pictures: Folder, labels: Folder) -> tuple[str, str]:
    """Return two file endings: the usual one of a picture, and the usual one of its label image."""
    found: Counter[tuple[str, str]] = Counter()
    for file in _looked(pictures, labels):
        stem, suffix = os.path.splitext(file)
        for cut in _cuts(stem):
            name = stem.removesuffix(cut)
            ends = [one[len(name) :] for one in labels.files if one.startswith(name)]
            found.update((f'{cut}{suffix}', end) for end in ends if not end[:1].isalnum())
    if found:
        return max(found, key=lambda pair: (found[pair], *_rank(pair[1]), -len(pair[0])))
    raise FileNotFoundError(
        f'--data: the picture {pictures.files[0]} in {pictures.path} has no label image; {labels.path} holds '
        f'{some(labels.files, 3)}. {_difference(pictures, labels)}'
    )


def _difference(pictures: Folder, labels: Folder) -> str:
    """Say why no label image has the name of its picture."""
    own, known = ([os.path.splitext(file)[0] for file in one.files] for one in (pictures, labels))
    alike = [{unicodedata.normalize('NFC', name) for name in names} for names in (own, known)]
    if not alike[0].isdisjoint(alike[1]):
        return (
            'The names look alike, but their letters are composed in two ways (é as one character, or as e and an '
            'accent). Give both one form, e.g. by `convmv -f utf8 -t utf8 --nfc -r --notest FOLDER`.'
        )
    bare = Counter(name for file in known for name in {Path(file).name})
    if bare.keys() & {Path(file).name for file in own}:
        folders = sorted({str(Path(file).parent) for file in known})
        if max(bare.values()) > 1:
            return f'Label images of one name lie in several folders ({some(folders)}): leave one of them.'
        return (
            f'The names fit, but not the folders ({some(sorted({str(Path(file).parent) for file in own}), 2)} and '
            f'{some(folders, 2)}). Folders that both share come last: '
            'images/train/CITY/X.jpg and labels/train/CITY/X.png.'
        )
    return 'A label image has the name of its picture, perhaps with a word after it, as X.jpg and X_mask.png.'


def _looked(pictures: Folder, labels: Folder) -> list[str]:
    """Return some pictures, among them some that have a label image: few pictures may have one."""
    by_name: dict[str, str] = {}
    for file in pictures.files:
        stem = os.path.splitext(file)[0]
        for cut in _cuts(stem):
            by_name.setdefault(stem.removesuffix(cut), file)
    found = list(evenly(pictures.files, _LOOKED))
    for label in evenly(labels.files, _LOOKED):
        found += [by_name[name] for name in _beginnings(label) if name in by_name]
    return list(dict.fromkeys(found))


def _cuts(stem: str) -> list[str]:
    """Return the ends of a picture's name that its label image may lack: nothing, and the last word."""
    return ['', *(f'_{word}' for word in Path(stem).name.split('_')[1:][-1:])]


def _beginnings(name: str) -> list[str]:
    """Return the beginnings of a name after which no letter or digit follows."""
    return [name[:place] for place, letter in enumerate(name) if not letter.isalnum()]


def _rank(ending: str) -> tuple[bool, bool, bool, int]:
    """Rank an ending of label images: the higher, the more likely they hold classes. Cityscapes has four endings."""
    return not of_no_classes(ending), 'trainid' in ending.lower(), ending.rfind('.') == 0, -len(ending)


def of_no_classes(name: str) -> bool:
    """Tell whether label images of this name hold no classes: they are for the eye, or number objects."""
    return any(word in name.lower() for word in _NO_CLASSES)


def labelled_names(pictures: Folder, labels: Folder, endings: Endings, least: int, notes: list[str]) -> list[str]:
    """Return the names of the pictures that have a label image."""
    own, known = endings.by_name(pictures.files), endings.labelled(labels)
    labelled = [name for name in own if name in known]
    missing = [file for file in pictures.files if _bare(file, endings) not in known]
    if missing:
        said = (
            f'{len(missing)} of {len(pictures.files)} pictures in {pictures.path} have no label image '
            f'X{endings.label} in {labels.path}: {some(missing, 3)}'
        )
        _check_rest(said, labelled, sorted(known.difference(own)), least)
        place = shlex.quote(str(pictures.path))
        notes.append(f'WARNING: {said}. They are in no split; --unlabelled {place} teaches on them')
    return labelled


def _bare(file: str, endings: Endings) -> str:
    """Return the name of a picture, also of one that has the name of another one but not its ending."""
    return os.path.splitext(file)[0].removesuffix(endings.word)


def _check_rest(said: str, labelled: Sequence[str], alone: Sequence[str], least: int) -> None:
    """Refuse pictures without labels where the names seem to differ, or too few pictures have a label."""
    known = set(labelled)
    # A second label image of a labelled picture, as X_color.png beside X.png, belongs to it.
    strange = [name for name in alone if known.isdisjoint(_beginnings(name))]
    if strange:
        raise FileNotFoundError(
            f'--data: {said}. And {len(strange)} label images have no picture: {some(strange, 3)}. So names may '
            'differ: give a picture and its label image one name, or remove what has no partner.'
        )
    if len(known) < least:
        left = f'{len(known)} with a label are left, and {least} are needed'
        raise FileNotFoundError(f'--data: {said}. {left}. Add label images.')
