"""Find the pictures, labels and classes of a data set of boxes and polygons."""

import json
import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from mmdistill_dense.apps.project import picture_files, splits
from mmdistill_dense.apps.project.formats import annotations, yolo
from mmdistill_dense.apps.project.formats.objects import Labelled, Reading, Request, mend
from mmdistill_dense.apps.project.label_values import hint_of_void
from mmdistill_dense.apps.project.splits import SPLITS, Count, Split, SplitRule
from mmdistill_dense.datasets.label_files import has_mask
from mmdistill_dense.unlabelled.pictures import EXTENSIONS
from mmdistill_dense.utils.files import expand_user
from mmdistill_dense.utils.literals import Template
from mmdistill_dense.utils.validate import close_or_all, some

Parts = dict[str, list[Labelled]]
_UNUSED = 'are in pictures of no part or list'
_STEP = 8  # pixels; a teacher of cells of 6.5 pixels had 10.6 AP on val, of 12.4 pixels 31.3 (FoveaBox)


@dataclass(frozen=True)
class BoxData:
    root: Path
    splits: dict[str, Split]
    classes: tuple[str, ...]
    masks: bool  # whether every object has one
    size: tuple[int, int]  # usual height and width of a picture
    notes: list[str] = field(default_factory=list)  # what was decided, for the user
    stored: bool = False  # whether pictures are read as they are stored, whatever their EXIF orientation
    parts: Parts = field(default_factory=dict)  # what the files of the splits hold
    label_images: frozenset[str] = frozenset()  # there are none

    @property
    def pictures(self) -> dict[str, list[str]]:
        return {part: [str(sample.picture) for sample in samples] for part, samples in self.parts.items()}

    def small_boxes(self, tested: tuple[int, int]) -> list[str]:
        """Return a warning if most boxes for training are too small in a usual picture of the size ``tested``."""
        scale = math.sqrt(math.prod(tested) / math.prod(self.size))
        boxes = [box['bbox'] for sample in self.parts['train'] for box in sample.objects]
        side = scale * median(math.sqrt(box[2] * box[3]) for box in boxes)
        problem = f'half of the boxes are below {side:.0f} x {side:.0f} pixels at this size, and few of those are found'
        reason = f'the finest map of most detectors has a step of {_STEP}'
        advice = 'Give larger pictures (--size H W), or cut them into tiles'
        return [f'WARNING: {problem}: {reason}. {advice}'] if side < _STEP else []


class NoLabels(FileNotFoundError):
    """A folder without a label file of a known format."""


def find_box_data(
    path: Path, classes: Sequence[str] = (), exif: str | None = None, rule: SplitRule | None = None, task: str = 'det'
) -> BoxData:
    """Find out what the folder or the json file of ``--data`` holds, of the categories of ``--classes``."""
    root = path = expand_user(path).resolve()
    rule = rule or SplitRule()
    with picture_files.file_errors(path):
        if path.suffix == '.json' and path.is_file():  # `annotations` holds no pictures
            root = path.parent if picture_files.files_below(path.parent, EXTENSIONS) else path.parent.parent
        all_pictures = picture_files.pictures_below(root)
        reading = _read(Request(root, all_pictures, classes, exif, rule != SplitRule(), task), path)
        notes, sizes = reading.notes, {sample.picture: sample.size or (0, 0) for sample in reading.pictures}
        stored = picture_files.check_pictures(sizes, exif, notes, least=2 if task == 'seg' else 1)
        skipped_names = [file.name for files in reading.skipped_files.values() for file in files]
        if unread := picture_files.other_endings(root, skipped_names):
            notes.append(f'WARNING:{unread}')
        mend(reading, stored, task == 'seg')
        parts = _parts_of_labels(reading, rule)
        names = _classes(reading, parts.get('train') or next(iter(parts.values())), classes)
        notes += hint_of_void(names, more=('background',) if task == 'det' else ())
        outside = picture_files.outside_labels(root, all_pictures)
        if pictures := parts.get(''):
            _check_boxes(reading, parts, names)
            paths = dict.fromkeys(sample.picture for sample in pictures)
            lists, members = splits.read_lists(root, task, rule, list({**paths, **dict.fromkeys(outside)}), paths)
            reading.files += lists.values()
            parts = _divide(pictures, names, members, rule, reading.source)
            shares = ', '.join(f'{len(samples)} {part}' for part, samples in parts.items())
            notes.append(f'split {f"of {some(map(str, lists.values()))}" if lists else "that is drawn"}: {shares}')
            if len(members) < 2:
                train, val = ([str(sample.picture) for sample in parts[part]] for part in ('train', 'val'))
                notes += splits.source_note(train, val)
        _check_boxes(reading, parts, names)
        of_train = {box['name'] for sample in parts['train'] for box in sample.objects if not box['iscrowd']}
        if unseen := [name for name in names if name not in of_train]:
            notes.append(f'WARNING: no box in training but those of iscrowd=1, so nobody can learn it: {some(unseen)}')
        samples = [sample for members in parts.values() for sample in members]
        flat = [sample.picture.name for sample in samples for box in sample.objects if not has_mask(box)]
        count, reasons = sum(len(sample.objects) for sample in samples), [*reading.mask_errors.values()]
        if 0 < len(flat) < count:
            reasons.append(f'{len(flat)} of {count} boxes have no polygon or mask ({some(flat, 3)})')
        notes += [f'WARNING: {reason}. So the data have no masks for networks that predict them' for reason in reasons]
        by_part = {part: _split(part, parts[part], reading, root, names) for part in SPLITS if part in parts}
        if task == 'det' and (written := [f'{part}.json' for part, split in by_part.items() if split.content]):
            notes.append(f'written for training and metric: {", ".join(written)}')
        if 'val' not in by_part:
            notes.append('no label file for val: that for test validates')
            by_part['val'], parts['val'] = by_part['test'], parts['test']
        counts = _count(root, reading, outside, samples, names)
        notes[:0] = splits.count_lines(f'{reading.form} ({reading.source})', counts)
        size = picture_files.usual_size([sample.size for sample in parts['train'] if sample.size])
        return BoxData(root, by_part, names, not (flat or reasons), size, notes, stored, parts)


def _read(request: Request, path: Path) -> Reading:
    """Read the first format that the folder, or the file, holds."""
    files = [path] if path.is_file() else sorted(picture_files.files_below(request.root, ('.json',)))
    coco, shapes = annotations.read_coco(request, files, predictions=path.is_file())
    if coco.pictures:
        return coco
    if len(yolo.find_yolo(request)) > len(shapes):  # the form of most pictures: both may be there
        reading = yolo.read_yolo(request)
    elif shapes:
        reading = annotations.read_labelme(request, shapes)
    else:
        reading = annotations.read_xml(request) or annotations.read_coco(request, files, predictions=True)[0]
    if not reading.pictures:
        raise NoLabels(f'--data {request.root}: {_describe_folder(request, files)} {annotations.FORMATS}')
    if reading.form == 'COCO':
        return reading
    reading.skipped_files |= coco.skipped_files
    if duplicates := picture_files.repeated(sample.picture for sample in reading.pictures):
        problem = f'{len(duplicates)} pictures have labels twice in {reading.source}: {some(duplicates, 3)}'
        raise ValueError(f'--data: {problem}. Keep one.')
    return reading


def _describe_folder(request: Request, files: Sequence[Path]) -> str:
    """Return a sentence about what the folder holds, for a folder without label files."""
    if files:
        return f'no label file. {" ".join(annotations.lacks(path, annotations.load_json(path)) for path in files[:2])}'
    hints, stems = ['no label file.'], {picture.stem for picture in request.pictures}
    if zipped := [path.name for path in picture_files.files_below(request.root, picture_files.ARCHIVES)]:
        hints.append(f'{some(zipped, 2)}: unpack it first.')
    if any('label' in path.name or 'mask' in path.name for path in request.root.iterdir()):
        hints.append('Label images are for networks of mmseg::.')
    near = (path for path in picture_files.files_below(request.root, ('.txt', '.xml')) if path.stem in stems)
    if file := next(near, None):
        row = file.read_text(encoding='utf-8', errors='replace').strip().partition('\n')[0]
        hints.append(f'{file} begins with {row[:40]!r}: that is no row of YOLO, and no xml of VOC.')
    return ' '.join(hints)


def _parts_of_labels(reading: Reading, rule: SplitRule) -> Parts:
    """Return the pictures of the parts that the labels or the folders tell, or all under ``''``."""
    parts: dict[str | None, list[Labelled]] = {}
    pictures = [sample for sample in reading.pictures if sample.part != '']
    for sample in pictures:
        parts.setdefault(sample.part, []).append(sample)
    splits.assign_rest_to_train(parts)
    if reading.origins and len(parts) > 1:
        names = ', '.join(map(str, parts))
        if rule != SplitRule():
            raise ValueError(f'--split: the files for {names} are a split. Leave the option out.')
        if 'train' not in parts:
            raise ValueError(f'--data {reading.source}: label files for {names}, none for train. {annotations.FORMATS}')
    elif rule != SplitRule() or 'train' not in parts or len(parts.keys() - {None}) < 2:
        return {'': pictures}
    reading.dropped[_UNUSED] = [str(sample.picture) for sample in parts.pop(None, ()) for _ in sample.objects]
    return {part: samples for part, samples in parts.items() if part}


def _divide(
    pictures: Sequence[Labelled], names: Sequence[str], lists: dict[str, list[Path]], rule: SplitRule, source: Path
) -> Parts:
    chosen = {part: {*paths} for part, paths in lists.items()}
    if len(lists) < 2:
        pool = [sample for sample in pictures if not lists or sample.picture in chosen['train']]
        learned = {
            str(sample.picture): {box['name'] for box in sample.objects if box['name'] in names and not box['iscrowd']}
            for sample in pool
        }
        bare = {path for path, classes in learned.items() if not classes}
        split = splits.draw_split([*learned], source, rule.share, learned.__getitem__, bare)
        chosen = {part: {*map(Path, paths)} for part, paths in zip(('train', 'val'), split, strict=True)}
    return {part: [sample for sample in pictures if sample.picture in paths] for part, paths in chosen.items()}


def _split(part: str, pictures: Sequence[Labelled], reading: Reading, root: Path, names: Sequence[str]) -> Split:
    """Return a part with its label file: the one that is there if it needs no change, or a new one."""
    origin = pictures[0].part
    common_folder = Path(os.path.commonpath([sample.picture.parent for sample in pictures]))
    file, folder, kinds = reading.origins.get(origin, (reading.source, common_folder, ()))
    prefix = '' if folder == root else f'{os.path.relpath(folder, root)}/'
    files = tuple(sample.name(folder) for sample in pictures)
    is_whole = pictures == [sample for sample in reading.pictures if sample.part == origin]
    is_sound = not reading.changes[origin] and origin not in reading.kinds
    if is_whole and is_sound and [kind for kind in kinds if kind in names] == [*names]:
        return Split(prefix, str(file.relative_to(root)), len(files), files)
    content = json.dumps(reading.content(folder, pictures))
    return Split(prefix, Template(f'{{{{ fileDirname }}}}/{part}.json'), len(files), files, content)


def _check_boxes(reading: Reading, parts: Parts, names: Sequence[str]) -> None:
    """Refuse a part without a box of the classes. Those of test sets whose labels are kept secret have none."""
    for part, pictures in parts.items():
        boxes = [instance for sample in pictures for instance in sample.objects if instance['name'] in names]
        if all(instance['iscrowd'] for instance in boxes):
            boxes_text = f'all boxes of {some(names)} have iscrowd=1' if boxes else f'no box of {some(names)}'
            problem = f'{boxes_text}{f" for {part}" if part else ""}, so it measures nothing'
            is_split = len(reading.origins) > 1
            advice = ', or take this part out' if is_split else ', take this part out, or divide anew (--split)'
            if boxes and reading.form == 'COCO':  # CVAT's brush
                advice += '. CVAT marks what its brush drew so: set iscrowd to 0 in the file'
            raise ValueError(f'--data: {reading.file_of(pictures[0].part)}: {problem}. Add boxes{advice}.')


def _classes(reading: Reading, pictures: Sequence[Labelled], class_names: Sequence[str]) -> tuple[str, ...]:
    """Return the names with boxes in training, in the order of the labels, or those of them that are given."""
    names, used = reading.names, {instance['name'] for sample in pictures for instance in sample.objects}
    if damaged := [name for name in names if '\0' in name]:  # a file in UTF-16 or a damaged one may hold it
        raise ValueError(f'--data: the class {damaged[0]!r:.60} holds a zero byte: its file is damaged. Export again.')
    if unknown := [name for name in class_names if name not in names]:
        choices = close_or_all(unknown[0], names)
        raise ValueError(f'--classes {some(unknown)}: no category of {reading.source}. {choices}')
    chosen = tuple(name for name in names if name in used and (not class_names or name in class_names))
    if not chosen:
        reasons = ''.join(f'; {len(boxes)} annotations {why}' for why, boxes in reading.dropped.items() if boxes)
        problem = f'no box of {some(class_names or names)}' if class_names or names else 'no box'
        file = reading.file_of(pictures[0].part)
        raise ValueError(f'--data: {file} has {problem}: there is nothing to train with{reasons}.')
    if empty := [name for name in names if name not in used]:
        count = sum(instance['name'] in empty for sample in reading.pictures for instance in sample.objects)
        count += sum(kinds[name] for kinds in reading.kinds.values() for name in empty)
        more = f' ({count} annotations are in other parts or left out)' if count else ''
        reading.notes.append(f'{"WARNING: " if count else ""}left out, no box in training: {some(empty)}{more}')
    return chosen


def _count(
    root: Path, reading: Reading, outside: Sequence[Path], samples: Sequence[Labelled], names: Sequence[str]
) -> list[Count]:
    """Return what became of all files, pictures and annotations."""
    files = [file for file in picture_files.files_below(root, ('',)) if not file.name.lower().endswith(EXTENSIONS)]
    used_files = {*reading.files}.union(*reading.skipped_files.values())
    stems, remaining = {picture.stem for picture in outside}, list[Path]()
    for file in [file for file in files if file not in used_files]:
        if file.stem in stems and (file.suffix.lower() in ('.json', '.xml') or yolo.starts_with_row(file)):
            reading.skipped_files['have the name of a picture, and are no files of this form'].append(file)
        else:
            remaining.append(file.relative_to(root))
    read = len(files) - len(remaining) - sum(map(len, reading.skipped_files.values()))
    all_paths = {os.path.realpath(sample.picture) for sample in reading.pictures}
    used_paths = {os.path.realpath(sample.picture) for sample in samples}
    if free := [path for path in map(os.path.realpath, outside) if path not in all_paths]:
        folder = shlex.quote(os.path.commonpath([os.path.dirname(path) for path in free]))
        reading.notes.append(f'--unlabelled {folder} teaches on pictures without labels')
    if bare := [sample.picture.name for sample in samples if not sample.objects]:
        reading.notes.append(f'{len(bare)} pictures show no object: background alone ({some(bare, 3)})')
    picture_reasons = {'have no labels in any file': free, 'are in no part or list': sorted(all_paths - used_paths)}
    objects = [(sample.picture.name, instance) for sample in samples for instance in sample.objects]
    crowds = [picture for picture, instance in objects if instance['name'] in names and instance['iscrowd']]
    other_classes = [picture for picture, instance in objects if instance['name'] not in names]
    label_reasons = {'of iscrowd=1, neither learned nor scored': crowds, 'of no class that is used': other_classes}
    used = {sample.picture for sample in samples}
    unused = [str(sample.picture) for sample in reading.pictures if sample.picture not in used for _ in sample.objects]
    reading.dropped[_UNUSED] = unused
    return [
        ('files', read, reading.skipped_files, {'not read': remaining}),
        ('pictures', len(used_paths), picture_reasons, {}),
        ('annotations', len(objects) - len(crowds) - len(other_classes), reading.dropped, label_reasons),
    ]
