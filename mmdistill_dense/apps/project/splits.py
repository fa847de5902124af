"""Which pictures train, validate and test, by lists, folders or chance, and which have no labels.

Neighbours of one source, a video or a scene, are nearly equal. Where some train and others validate, the scores
flatter what memorises. So a drawn split keeps them together, as far as their names tell the source.
"""

import csv
import os
import random
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from mmdistill_dense.apps.project.picture_files import files_below, is_label, lines_of
from mmdistill_dense.unlabelled.pictures import EXTENSIONS, same_pictures
from mmdistill_dense.utils.files import expand_user, walk
from mmdistill_dense.utils.literals import Template
from mmdistill_dense.utils.validate import some

T = TypeVar('T')
P = TypeVar('P', str, tuple[Path, Path])
Reasons = Mapping[str, Sequence[object]]  # names of the pictures or labels that are left out, by reason
# What is counted, how many are used, why the others are left out (a warning each), or as the user or the labels say
Count = tuple[str, int, Reasons, Reasons]
SPLITS: Mapping[str, Sequence[str]] = {
    'train': ('train', 'training'),
    'val': ('val', 'valid', 'validation', 'dev'),
    'test': ('test', 'testing'),
}
Lists = tuple[dict[str, Path], dict[str, list[Path]]]  # by part
UNLABELLED_LIST = 'unlabelled.txt'
_TRAINVAL = 'trainval'  # VOC's name for train and val together
_LISTS = {name: part for part, names in SPLITS.items() for name in names} | {_TRAINVAL: _TRAINVAL}
_TASKS = {'seg': 'segmentation', 'det': 'main'}  # VOC's folders of lists
_ENTRY_ENDINGS = (*EXTENSIONS, '.xml', '.txt', '.json')  # endings that an entry of a list may have


def split_of(parts: Iterable[str]) -> str | None:
    """Return the split that the parts of a path name, whole names first, then inner ones; ``train2017`` is train."""
    lists = [re.findall('[a-z]+', part.lower()) for part in reversed(list(parts))]
    words = [names[0] for names in lists if len(names) == 1 and names != ['dev']] + list(chain(*lists))
    return next((split for word in words for split, names in SPLITS.items() if word in names), None)


def assign_rest_to_train(parts: dict[str | None, T]) -> None:
    """Pictures of no part train, where other pictures have one: those of `trainval` beside `test`."""
    if len(parts) > 1 and None in parts and 'train' not in parts:
        parts['train'] = parts.pop(None)


@dataclass(frozen=True)
class SplitRule:
    """``--split``: a folder of lists, a share of the pictures that validates, or nothing."""

    lists: Path | None = None
    share: float | None = None

    @classmethod
    def read(cls, text: str | None) -> 'SplitRule':
        folder = expand_user(text or '')
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


def read_lists(root: Path, task: str, rule: SplitRule, pictures: Sequence[Path], labelled: Container[Path]) -> Lists:
    """Return the list of each part and its pictures, of ``--split`` or below the data; often there are none."""
    by_folder: dict[Path, dict[str, Path]] = defaultdict(dict)
    for path in files_below(rule.lists or root, ('.txt', '.lst', '.csv')) if rule.share is None else ():
        part = _LISTS.get(path.stem.lower())
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
        entries = [[line, line.split()[0]] for line in lines]  # the name may end after the first word
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
    """Finds pictures by how lists and label files name them: ``a``, ``a.jpg``, ``train/a.jpg``, a whole path."""

    def __init__(self, root: Path, pictures: Sequence[Path], extra: Sequence[Path] = ()) -> None:
        self._root, self._folders = root, set[str]()
        self._by_name: dict[str, list[tuple[Path, tuple[str, ...]]]] = defaultdict(list)  # and their folders
        self._by_path = {str(picture): picture for picture in (*extra, *pictures)}  # extra ones by nothing else
        for picture in pictures:
            parts = picture.relative_to(root).with_suffix('').parts
            self._folders.update(parts[:-1])
            for start in range(len(parts)):
                self._by_name['/'.join(parts[start:])].append((picture, parts[:-1]))

    def find(self, words: Sequence[str], folder: Path | None = None) -> Path | None:
        """Return the picture that the first fitting word names, for a label file in this ``folder`` or its part."""
        above = folder.relative_to(self._root).parts if folder else ()
        same_part = (None, part) if (part := split_of(above)) else (None, *SPLITS)
        advice = 'Put the label file beside its picture.' if folder else 'Name the folder of the picture too.'
        for word in words:
            if whole := self._by_path.get(os.path.normpath((folder or self._root) / word)):
                return whole
            path = PurePosixPath(word.replace('\\', '/'))
            cut = path.with_suffix('') if path.suffix.lower() in _ENTRY_ENDINGS else path
            parts = [*above, *(part for part in cut.parts if part not in ('/', '..'))]
            for start in range(len(parts)):
                above_it = self._folders.intersection(parts[:start])  # of this part, and not foreign
                entries = self._by_name.get('/'.join(parts[start:]), ())
                inside = [(file, folders) for file, folders in entries if above_it <= {*folders}]
                if matches := [file for file, folders in inside if split_of(folders) in same_part]:
                    exact = [file for file in matches if file.name == path.name] if len(matches) > 1 else matches
                    if len(exact) != 1:
                        raise ValueError(f'--data: {word!r} may be {some(exact or matches, 3)}. {advice}')
                    return exact[0]
        return None


VAL_SHARE = 0.2  # of the pictures, where the data have no split of their own
_VIDEO = 'video|vid|(?:day|night)?clip|seq|sequence|drive|movie|mvi|rec|segment'
FORMS = {  # names of frames and tiles by an example, whole; the first group is the source
    'park_frame_0001': r'(.+?)(?:[-_. /]+|(?<=\d))(?:frame|frm)[-_. ]?\d+',
    'clip3_0001': rf'((?:.*[-_. /])?(?:{_VIDEO})[-_ ]?\d[^/]*?)[-_. /]+(?:f|img|image)?\d+',
    'walk_mp4-12': r'(.+?[-_.](?:mp4|mov|avi|mkv|webm))[-_. /]?\d+',
    'scene1_tile_12': r'(.*\d.*?)(?:[-_. /]+(?:tile|patch|slice)[-_. ]?\d+)+',
    'scan_x512_y0': r'(.+?)(?:[-_. /]+(?:[xyrc]|row|col)[-_. ]?\d+){2}',
    'ortho_3_7': r'((?:.*[-_. /])?(?:ortho|mosaic|tile|patch)\w*?)(?:[-_](?:0|[1-9]\d{0,2})){2}',
    'P0001__1__32___64': r'(.+?)__\d[\d.]*__-?\d+___-?\d+',  # tools of DOTA
    'bonn_000001_000019': r'([a-z]+_00\d{4})_0\d{5}',  # Cityscapes
    'Seq05VD_f00030': r'(\d{4}(?:tp|r0|e5)|seq05vd)_f?\d{5,6}',  # CamVid
    'MOT17-02-DPM/000001': r'(mot\d\d-\d\d)[^/]*/\d+',
    'uav0000013_00000_v/0000001': r'(uav\d{7}_\d{5}_\w)[-_/]\d{7}',  # VisDrone
    '0000013_02999_d_0000005': r'(\d{7})_\d{5}_d_\d{7}',
    'TCGA_CS_4941_19960909_12': r'(tcga[-_]\w\w[-_]\w{4}[-_].+)[-_]\d+',
}
_RULES = [re.compile(form, re.IGNORECASE) for form in FORMS.values()]
_KINDS = re.compile(r'(?<![a-z])(class|cls|type|kind|category|defect|grade|stage|level|label)[-_ ]?\d', re.IGNORECASE)
_FOLDERS = re.compile(  # that name no video
    r'imgs?\d*|images?(_\d+)?|jpegimages|data|rgb|frames|(left|right)_frames|train(ing)?|val(id(ation)?)?|test(ing)?',
    re.IGNORECASE,
)
_STEPS = (16, 50)  # pixels: places of tiles in their scene are mostly multiples of one of them


def _name_of(picture: str) -> str:
    """Return the name that was given to a picture before tools wrote theirs; of a mere number with its folder."""
    path = Path(picture)
    name, copies, _ = path.name.partition('.rf.')  # of Roboflow, that of Label Studio begins with 8 digits
    stem = re.sub('(?i)[_.](jpe?g|png|bmp|tiff?|webp)$', '', name) if copies else path.stem
    stem = re.sub('^[0-9a-f]{8}-(?=.*[a-z])|(?i:[-_](leftImg8bit|rgb|rgb_anon|endo|left|right))$', '', stem)
    above = next((folder.name for folder in path.parents if not _FOLDERS.fullmatch(folder.name)), '')
    return f'{above}/{stem}' if re.fullmatch(r'(?i:frame|frm|f|img|image|slice|tile)?[-_. ]?\d+', stem) else stem


def _scenes(names: Collection[str]) -> dict[str, str]:
    """Return the scenes of names that end in two or four places of tiles: ``scene_512_0``, ``scene_0_0_512_512``."""
    for count in (4, 2):
        matches = {name: match for name in names if (match := re.fullmatch(rf'(.+?)((?:[-_]+\d+){{{count}}})', name))}
        offsets = [int(number) for match in matches.values() for number in re.findall(r'[1-9]\d*', match[2])]
        round_offsets = [offset for offset in offsets if any(offset % step == 0 for step in _STEPS)]
        if len(matches) > 3 and 2 * len(round_offsets) > len(offsets):
            return {name: match[1] for name, match in matches.items()}
    return {}


def find_sources(pictures: Iterable[str]) -> dict[str, str]:
    """Return the source of each picture whose name tells it by a word, places of tiles, or the form of a known set."""
    # cat-0001, defect1_001, IMG_0001 and 000000000139 tell none: these are kinds, cameras and numbers
    names = {picture: _name_of(picture) for picture in pictures}
    scenes, sources = _scenes({*names.values()}), dict[str, str]()
    for picture, name in names.items():
        match = next(filter(None, (rule.fullmatch(name) for rule in _RULES)), None)
        source = scenes.get(name) or (match[1] if match else '')
        if source and not _KINDS.search(source):
            sources[picture] = source
    return sources


def _draw(groups: Mapping[str, str], share: float, bare: Collection[str]) -> set[str]:
    """Draw about this share of the pictures, never all. A group stays together; bare groups are drawn apart."""
    val, full = set[str](), {group for picture, group in groups.items() if picture not in bare}
    for labelled in (True, False):
        members = defaultdict[str, list[str]](list)
        for picture, group in groups.items():
            if (group in full) is labelled:
                members[group].append(picture)
        shuffled, part = [*members.values()], list[str]()
        random.Random(0).shuffle(shuffled)
        size = sum(map(len, shuffled))
        count = max(1, round(share * size))
        for pictures in shuffled[:-1]:
            if len(part) < count and len(part) + len(pictures) <= max(min(2 * count - 1, (count + size) // 2), count):
                part += pictures
        if labelled and not part and len(shuffled) > 1:
            part = min(shuffled, key=len)
        val.update(part)
    return val


def draw_split(
    names: Sequence[P],
    root: Path,
    share: float | None = None,
    classes: Callable[[P], Collection[object]] = lambda _: (),
    bare: Collection[str] = (),
) -> tuple[list[P], list[P]]:
    """Divide pictures into training and validation, always in the same way; ``bare`` ones, without an object, alike."""
    paths: dict[str, P] = {name if isinstance(name, str) else str(name[0]): name for name in sorted(names)}
    copies = {path: path.partition('.rf.')[0] for path in paths}  # as Roboflow writes them: they stay together
    full = {group for path, group in copies.items() if path not in bare}
    labelled = {path for path, group in copies.items() if group in full}
    if len(labelled) < 2:
        problem = f'{root} holds {len(labelled)} labelled picture'
        raise ValueError(f'--data: {problem}; train and val need one each. Add some.')
    if len(full) == 1:
        copies |= {path: path for path in labelled}
    sources, share = find_sources(paths), share or VAL_SHARE
    val, by_source = _draw(copies, share, paths.keys() - labelled), _draw({**copies, **sources}, share, bare)
    # a source stays in one part, unless too few or too many would validate, or training would lack classes
    count, scored = share * len(labelled), len(by_source & labelled)
    if sources and count / 2 <= scored <= min(2 * count, (count + len(labelled)) / 2):
        classes_of = {path: set(classes(paths[path])) for path in labelled}
        random_train, source_train = ([classes_of[path] for path in labelled - part] for part in (val, by_source))
        val = by_source if set().union(*random_train) <= set().union(*source_train) else val
    return [paths[path] for path in paths if path not in val], [paths[path] for path in paths if path in val]


def siblings(pictures: Collection[str], parts: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the pictures of a source that validates or tests, and does not train."""
    sources = find_sources([*pictures, *(picture for members in parts.values() for picture in members)])
    of_parts = {part: {sources[path] for path in members if path in sources} for part, members in parts.items()}
    scored = set().union(*of_parts.values()) - of_parts.get('train', set())
    return {picture for picture in pictures if sources.get(picture) in scored}


def check_disjoint(parts: Mapping[str, Iterable[Path]], source: str) -> None:
    owner: dict[Path, str] = {}
    pairs = ((part, path) for part, paths in parts.items() for path in paths)
    if shared := [f'{path} ({owner[path]} and {part})' for part, path in pairs if owner.setdefault(path, part) != part]:
        problem = f'{len(shared)} pictures are in two parts of {source}: {some(shared, 3)}'
        raise ValueError(f'--data: {problem}. Each belongs to one; `--split 0.2` draws another split.')


def source_note(train: Sequence[str], val: Sequence[str]) -> list[str]:
    """Return a note about the sources of two parts that were drawn: how many each has, or that both have the same."""
    sources = find_sources([*train, *val])
    of_train, of_val = ({sources[picture] for picture in part if picture in sources} for part in (train, val))
    if shared := sorted(of_train & of_val):
        remark = f'Of {some(shared, 3)} some train and some validate, so the scores may be too high'
        advice = 'Divide them by --split FOLDER, with train.txt and val.txt in it'
        return [f'WARNING: by their names, pictures may be frames of a video or tiles of a scene. {remark}. {advice}']
    names = sorted(of_train | of_val)
    summary = f'sources, each in one part: {len(of_train)} train, {len(of_val)} val ({some(names, 3)})'
    return [f'names tell {summary}'] if len(sources) > len(names) else []


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
    folder = expand_user(option).resolve()
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


def count_lines(name: str, counts: Iterable[Count]) -> list[str]:
    """Return a line of all counts, and a warning for each reason why something is left out."""
    summaries, warnings = list[str](), list[str]()
    for noun, used, left_out, unused in counts:
        total = used + sum(map(len, (*left_out.values(), *unused.values())))
        reasons = [f'{len(names)} {reason} ({some(names, 3)})' for reason, names in unused.items() if names]
        summaries.append(', '.join([f'{total} {noun}', *([] if used == total else [f'{used} used']), *reasons]))
        for reason, names in left_out.items():
            remark = f'{noun} {reason}; they are left out ({some(names, 3)})'
            warnings += [f'WARNING: {len(names)} of {total} {remark}'] if names else []
    return [f'{name}: {"; ".join(summaries)}', *warnings]
