"""Find out what a folder of pictures and label images holds."""

import os
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmdistill_dense.apps.project import drawn_labels as drawn
from mmdistill_dense.apps.project import label_pairs, label_values, picture_files, splits
from mmdistill_dense.apps.project.box_labels import BoxData, NoLabels, find_box_data
from mmdistill_dense.apps.project.label_pairs import LABEL_ENDINGS, Files, Pairing, Patterns
from mmdistill_dense.apps.project.label_values import Pair, Parts
from mmdistill_dense.apps.project.picture_files import SAMPLED, check_pictures, stored_size, usual_size
from mmdistill_dense.apps.project.splits import SPLITS, Split, SplitRule
from mmdistill_dense.unlabelled.pictures import EXTENSIONS
from mmdistill_dense.utils.files import expand_user
from mmdistill_dense.utils.literals import Template
from mmdistill_dense.utils.sampling import evenly
from mmdistill_dense.utils.validate import some

Form = tuple[dict[str, Split], tuple[str, ...], str]  # splits, and endings of pictures and label images
_MIN_LABELLED = 3  # labelled pictures: two for train, one for val


@dataclass(frozen=True)
class SegData:
    root: Path
    splits: dict[str, Split]
    img_suffix: tuple[str, ...]
    seg_map_suffix: str
    classes: tuple[str, ...]
    values: tuple[int, ...]  # the label value of each class, where these are not 0, 1, 2, …
    size: tuple[int, int]  # usual height and width of a picture
    pairs: Mapping[str, Sequence[Pair]] = field(default_factory=dict)  # by part: pictures, and the labels they have
    label_images: frozenset[str] = frozenset()  # the whole paths of all label images, also of those without a picture
    notes: list[str] = field(default_factory=list)  # what was decided, for the user
    stored: bool = False  # whether pictures are read as they are stored, whatever their EXIF orientation
    drawing: drawn.Drawing | None = None  # the label images to write into the folder of the project

    @property
    def pictures(self) -> dict[str, list[str]]:
        return {part: [str(picture) for picture, _ in pairs] for part, pairs in self.pairs.items()}


def find_seg_data(
    root: Path,
    class_names: Sequence[str] = (),
    exif: str | None = None,
    rule: SplitRule | None = None,
    background: str = 'class',
    patterns: Patterns | None = None,
) -> SegData:
    """Find out what a folder, or a json file of COCO, holds: label images of numbers or colours, or outlined objects.

    ``background``: of pixels without an object, ``'class'`` or ``'ignore'``; ``exif``: ``'apply'`` or ``'ignore'``, if
    sizes of labels do not tell it; ``patterns``: ``None`` tries the known trees.
    """
    root, rule, notes = expand_user(root).resolve(), rule or SplitRule(), list[str]()
    paths, paired = list[str](), None
    if patterns or root.suffix != '.json' or not root.is_file():
        picture_files.pictures_below(root)  # raises without any
        paths = sorted(path.relative_to(root).as_posix() for path in picture_files.files_below(root, LABEL_ENDINGS))
        paired = label_pairs.pair_by_patterns(Files(paths), patterns) if patterns else label_pairs.find_tree(paths)
    if paired is None:
        try:
            return _draw_objects(find_box_data(root, class_names, exif, rule, 'seg'), background)
        except NoLabels as error:
            raise ValueError(_unknown(root, paths, 'no known tree of label images, and no label file')) from error
    if not paired.labels:
        count = len(paired.bare)
        mismatch = f'match {count} pictures, and no label image of them' if count else 'match nothing'
        raise ValueError(_unknown(root, paths, f'{paired.patterns} {mismatch}'))
    parts = _divide(root, paired, rule, notes)
    if paired.patterns.labels.endswith('_gtfine_labelids.*'):
        text = 'the numbers of all 34 kinds, of which 19 are classes of Cityscapes: createTrainIdLabelImgs.py of'
        notes.append(f'WARNING: label images of labelIds are {text} cityscapesscripts writes labelTrainIds beside them')
    partner = {picture: label for pairs in parts.values() for picture, label in pairs}
    stored = check_pictures(partner, exif, notes, least=2)
    size = usual_size([stored_size(picture, stored) for picture, _ in evenly(parts['train'], SAMPLED)])
    values: tuple[int, ...] = ()
    if drawn.are_coloured(root, [*partner.values()], class_names):
        form, targets = _form(root, parts)
        classes, drawing = drawn.colours_drawing(root, parts, targets, class_names, notes)
    else:
        classes, values, in_one_channel = label_values.name_values(root, parts, class_names, stored, notes)
        form, targets = _form(root, parts, paths if in_one_channel else ())
        drawing = drawn.drawing_of(root, targets, drawn.copied, 'numbers')
    if 'val' not in parts:
        parts['val'], form[0]['val'] = parts['test'], form[0]['test']
    all_labels = (*paired.labels.values(), *paired.orphans, *paired.extras)
    label_images = frozenset(os.path.realpath(root / label) for label in all_labels)
    return SegData(root, *form, classes, values, size, parts, label_images, notes, stored, drawing if targets else None)


def _unknown(root: Path, paths: Sequence[str], problem: str) -> str:
    """Return a refusal that shows the folders, and patterns that read them if there are some."""
    images = 'A label image is a picture of class numbers or colours: name its folder by --labels'
    general = f' {images}. Outlines are read from json, xml and txt files, .npy files are not read.'
    hint = label_pairs.many_masks(paths) or (paths and label_pairs.proposal(root, paths)) or general
    folders = defaultdict[str, list[str]](list)
    for path in paths:
        folders[os.path.dirname(path) or '.'].append(os.path.basename(path))
    tree = some((f'{folder}/ ({len(names)}, as {names[0]})' for folder, names in sorted(folders.items())), 6)
    content = f'It holds {tree}.{picture_files.other_endings(root)}{hint}'
    return f'--data {root}: {problem}. {content} docs/your_labels.md shows the known trees.'


def _values(pair: Pair) -> set[object]:
    """Return the numbers or colours in the label image of a pair; none of a broken one, which is refused later."""
    with suppress(ValueError), picture_files.open_picture(pair[1]) as image:
        return {value for _, value in image.getcolors(image.width * image.height) or ()}
    return set()


def _divide(root: Path, paired: Pairing, rule: SplitRule, notes: list[str]) -> dict[str, list[Pair]]:
    """Divide the pairs as lists, ``--split`` or folders say, or by chance; note what was counted."""
    pairs = {root / picture: (root / picture, root / label) for picture, label in paired.labels.items()}
    lists, members = splits.read_lists(root, 'seg', rule, [root / picture for picture in paired.parts], pairs)
    kind, reason = ('list', 'are in no list') if lists else ('folder', 'are in no folder of a part')
    if not lists:
        by_folder = rule.share is None and any(paired.parts[picture] for picture in paired.labels)
        bare = None if 'train' in paired.parts.values() else 'train'  # of no part, as trainval beside test
        part_of = {root / path: paired.parts[path] or bare if by_folder else 'train' for path in paired.labels}
        members = {part: [picture for picture in pairs if part_of[picture] == part] for part in SPLITS}
    parts = {part: [pairs[path] for path in pictures] for part, pictures in members.items() if pictures}
    used = {picture for part_pairs in parts.values() for picture, _ in part_pairs}
    unused = [pair for picture, pair in pairs.items() if picture not in used]
    pictures = {'have no label image': paired.bare, reason: [picture for picture, _ in unused]}
    labels: dict[str, Sequence[object]] = {'have no picture': paired.orphans}
    labels |= {'are not the first of their picture': paired.extras, reason: [label for _, label in unused]}
    name = f'the tree {paired.patterns.name}' if paired.patterns.name else str(paired.patterns)
    notes += splits.count_lines(name, [('pictures', len(used), pictures, {}), ('label images', len(used), labels, {})])
    unread = picture_files.other_endings(root, [*paired.orphans, *paired.bare]) if paired.orphans else ''
    notes += [f'WARNING:{unread}'] if unread else []
    total = len(paired.parts)
    if paired.bare and paired.orphans:
        without = f'{len(paired.bare)} of {total} pictures have no label image ({some(paired.bare, 3)})'
        orphans = f'{len(paired.orphans)} label images have no picture ({some(paired.orphans, 3)})'
        advice = 'So names may differ: give both one name, take out what is alone, or choose by --images and --labels'
        raise FileNotFoundError(f'--data {root}: {without}, and {orphans}.{unread} {advice}.')
    if len(pairs) < _MIN_LABELLED:
        counted = f'{len(pairs)} of {total} pictures have a label image, and {_MIN_LABELLED} are needed'
        raise FileNotFoundError(f'--data {root}: {counted}.{unread} Add label images.')
    if len(parts.get('train', ())) < 2:
        summary = f'labelled pictures for {", ".join(f"{part} ({len(parts[part])})" for part in parts)}'
        raise ValueError(f'--data {root}: {summary}; two for train are needed. --split 0.2 draws another split.')
    if set(parts) == {'train'}:
        parts['train'], parts['val'] = train, val = splits.draw_split(parts['train'], root, rule.share, _values)
        notes.append(f'no {kind} for val: {len(train)} pictures train, {len(val)} validate')
        notes += splits.source_note(*([str(picture) for picture, _ in split] for split in (train, val)))
    if 'val' not in parts:
        notes.append(f'no {kind} for val: that for test validates')
    if paired.bare:
        folder = shlex.quote(os.path.commonpath([(root / picture).parent for picture in paired.bare]))
        notes.append(f'--unlabelled {folder} teaches on pictures without a label image')
    return parts


def _form(root: Path, parts: Parts, paths: Sequence[str] = ()) -> tuple[Form, list[tuple[str, Path]]]:
    """Return the form of the data, and the label images to write, each with its path in the project's folder."""
    # none with the ``paths`` of all files, if all label images have the names of their pictures, below two folders
    by_part, stems, targets = dict[str, Split](), dict[str, Path](), list[tuple[str, Path]]()
    ends = set[str]() if paths else {'.png'}
    for part, pairs in parts.items():
        above, other = (Path(os.path.commonpath([path.parent for path in side])) for side in zip(*pairs, strict=True))
        names = list[str]()
        for picture, label in pairs:
            relative = picture.relative_to(above).as_posix()
            name = os.path.splitext(relative)[0]
            if paths:
                label_name = label.relative_to(other).as_posix()
                name = os.path.commonprefix([name, os.path.splitext(label_name)[0]])  # noqa: RUF071
                name = name[:-1] if name.endswith(('_', '-')) and not relative.startswith('.', len(name)) else name
                ends.add(label_name[len(name) :])
            names.append(name)
            stems[f'{above}/{name}'] = picture
            targets.append((f'{drawn.FOLDER}/{part}/{name}.png', label))
        labels = str(other.relative_to(root)) if paths else Template(f'{{{{ fileDirname }}}}/{drawn.FOLDER}/{part}')
        by_part[part] = Split(os.path.relpath(above, root), labels, len(names), tuple(names))
    endings = dict.fromkeys(str(picture)[len(stem) :] for stem, picture in stems.items())
    suffixes = tuple(endings if paths else sorted(endings))
    if paths and (len(ends) > 1 or len(suffixes) > len(EXTENSIONS) or any(stem.endswith('/') for stem in stems)):
        return _form(root, parts)
    for stem, picture in stems.items():  # mmseg names pictures without their endings
        if (read := next(filter(os.path.isfile, (stem + end for end in suffixes)))) != str(picture):
            problem = f'{picture} is listed, but mmseg names pictures without their endings, and would read {read}'
            raise ValueError(f'--data: {problem}. Give this one another name, or take it out.')
    for part, split in by_part.items() if paths else ():
        folder = f'{split.pictures}/'
        inside = [path.removeprefix(folder) for path in paths if path.startswith(folder)]
        if {path.removesuffix(end) for path in inside for end in suffixes if path.endswith(end)} == {*split.names}:
            by_part[part] = replace(split, names=())
    return (by_part, suffixes, ends.pop()), [] if paths else targets


def _draw_objects(data: BoxData, background: str) -> SegData:
    """Return a data set of objects as one of label images, which are drawn from their outlines."""
    parts = dict[str, list[Pair]]()
    for part, names in data.pictures.items():  # names may have .. in them, or be whole
        parts[part] = [(Path(os.path.realpath(path.parent), path.name), path) for path in map(Path, names)]
    form, targets = _form(data.root, parts)
    classes, drawing = drawn.objects_drawing(data, [target for target, _ in targets], background)
    handling = 'are ignored' if background == 'ignore' else f'are the class {classes[0]}'
    data.notes.append(f'label images are drawn from the outlines; pixels outside all of them {handling}')
    return SegData(data.root, *form, classes, (), data.size, parts, frozenset(), data.notes, data.stored, drawing)
