"""The split that the user's data bring, as lists of names, or the one that ``--split`` gives."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mmdistill_dense.apps.project.picture_folders import SPLITS, VAL_SHARE, files_below, lines_of, split_of
from mmdistill_dense.unlabelled.pictures import EXTENSIONS
from mmdistill_dense.utils.messages import some

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
        if given is None:
            return cls()
        try:
            share = float(given)
        except ValueError:
            folder = Path(given).expanduser()
            if not folder.is_dir():
                raise FileNotFoundError(
                    f'--split {given}: no such folder (looked in {Path.cwd()}). Give a folder with train.txt and '
                    'val.txt, or the share of the pictures that validates, such as 0.2.'
                ) from None
            return cls(lists=folder)
        if not 0 < share < 1:
            raise ValueError(f'--split {given}: a share lies between 0 and 1, such as 0.2.')
        return cls(share=share)

    @property
    def part(self) -> float:
        """The share that validates where a split is drawn."""
        return VAL_SHARE if self.share is None else self.share


def find_lists(root: Path, task: str, wish: Wish) -> dict[str, Path]:
    """Return the list of each part: those of ``--split``, or those that lie below the data; often there are none."""
    if wish.share is not None:
        return {}
    groups: dict[Path, dict[str, Path]] = defaultdict(dict)
    for path in files_below(wish.lists or root, ('.txt', '.csv')):
        if part := _part(path.stem.lower()):
            groups[path.parent][part] = path
    found = [_known(group) for group in groups.values()]
    if wish.lists and not found:
        raise FileNotFoundError(f'--split {wish.lists}: no list in it. A list is train.txt, val.txt or test.txt.')
    wanted = [group for group in found if next(iter(group.values())).parent.name.lower() == _TASKS[task]]
    rest = [group for group in found if next(iter(group.values())).parent.parent.name != 'ImageSets']
    found = wanted or rest or found
    if len({tuple(sorted((part, path.read_bytes()) for part, path in group.items())) for group in found}) > 1:
        places = some(sorted(str(next(iter(group.values())).parent) for group in found))
        raise ValueError(f'--data {root}: lists of a split lie in {places}. Choose one folder by --split FOLDER.')
    return found[0] if found else {}


def _part(stem: str) -> str | None:
    return next((part for part, names in SPLITS.items() if stem in names), _BOTH if stem == _BOTH else None)


def _known(group: Mapping[str, Path]) -> dict[str, Path]:
    """Return the lists of train, val and test; that of train and val together only where neither is there."""
    found = {part: path for part, path in group.items() if part != _BOTH}
    return {'train': group[_BOTH], **found} if _BOTH in group and not {'train', 'val'} & set(found) else found


def read_lists(lists: Mapping[str, Path], root: Path, pictures: Sequence[Path]) -> dict[str, list[Path]]:
    index = Names(root, pictures)
    found: dict[str, list[Path]] = {}
    for part, path in lists.items():
        entries = [(entry, index.find(entry)) for entry in _entries(path, index)]
        missing = [words[0] for words, picture in entries if picture is None]
        if missing:
            raise FileNotFoundError(
                f'--data: {path} names {len(missing)} of {len(entries)} pictures that are not below {root}: '
                f'{some(missing, 3)}. Add them, or take their lines out.'
            )
        if not entries:
            raise ValueError(f'--data: {path} names no picture. Fill it in, or remove it.')
        found[part] = list(dict.fromkeys(picture for _, picture in entries if picture is not None))
    check_apart(found, ', '.join(str(path) for path in lists.values()))
    if 'train' not in found:
        raise ValueError(f'--data: {some(map(str, lists.values()))}: there is no train.txt beside. Add it.')
    return found


def check_apart(parts: Mapping[str, Iterable[Path]], source: str) -> None:
    first: dict[Path, str] = {}
    twice = [
        f'{one} ({first[one]} and {part})'
        for part, own in parts.items()
        for one in own
        if first.setdefault(one, part) != part
    ]
    if twice:
        raise ValueError(
            f'--data: {len(twice)} pictures are in two parts of {source}: {some(twice, 3)}. Each picture belongs to '
            'one part; `--split 0.2` draws another split.'
        )


def check_folders(found: Mapping[str, Sequence[Path]], root: Path, lists: Mapping[str, Path]) -> None:
    """Refuse a picture whose folder is of another part than its list."""
    told = {one: split_of(one.parent.relative_to(root).parts) for own in found.values() for one in own}
    wrong = [
        f'{one} is listed for {part}' for part, own in found.items() for one in own if told[one] not in (None, part)
    ]
    if len({*told.values()} - {None}) < 2:  # darknet's obj_train_data holds all
        return
    if wrong:
        raise ValueError(
            f'--data {root}: the lists ({some(map(str, lists.values()))}) and the folders tell two splits: '
            f'{some(wrong, 2)}. Remove the lists, or choose them by --split FOLDER.'
        )


def _entries(path: Path, index: Names) -> list[list[str]]:
    """Return what may name a picture in each line of a list: the line and its first word, or the cells of a row."""
    lines = lines_of(path)
    if path.suffix.lower() != '.csv':
        return [[line, line.split()[0]] for line in lines]
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
    return rows[1:] if rows and index.find(rows[0]) is None else rows  # a row of titles names no picture


class Names:
    """Finds pictures by how lists and label files name them: ``a``, ``a.jpg``, ``train/a.jpg``, a whole path."""

    def __init__(self, root: Path, pictures: Sequence[Path]) -> None:
        self._known: dict[str, list[Path]] = defaultdict(list)
        self._whole = {str(picture): picture for picture in pictures}
        for picture in pictures:
            parts = picture.relative_to(root).with_suffix('').parts
            for start in range(len(parts)):
                self._known['/'.join(parts[start:])].append(picture)

    def find(self, words: Sequence[str]) -> Path | None:
        """Return the picture that the first fitting word names; ``None`` without any."""
        for word in words:
            if word in self._whole:
                return self._whole[word]
            path = PurePosixPath(word.replace('\\', '/'))
            cut = path.with_suffix('') if path.suffix.lower() in _CUT else path
            parts = [part for part in cut.parts if part not in ('/', '..')]
            for start in range(len(parts)):
                if found := self._known.get('/'.join(parts[start:])):
                    exact = [one for one in found if one.name == path.name] if len(found) > 1 else found
                    if len(exact) != 1:
                        raise ValueError(
                            f'--data: {word!r} may be {some(exact or found, 3)}. Name the folder of the picture too.'
                        )
                    return exact[0]
        return None
