"""What readers of labels take and return, and how labels are mended, so that training and metric read them alike."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from pycocotools import mask as coco

from mmdistill_dense.apps.project import picture_files
from mmdistill_dense.apps.project.picture_files import Size, file_errors
from mmdistill_dense.apps.project.splits import Names, split_of
from mmdistill_dense.datasets import label_files
from mmdistill_dense.utils.validate import size_text, some
from mmdistill_dense.utils.version import removed

Point = tuple[float, float]
Object = dict[str, Any]  # an annotation of COCO with the ``name`` of its class in place of numbers


@dataclass(frozen=True)
class Request:
    """A folder, and what the command line says of it."""

    root: Path
    pictures: Sequence[Path]
    classes: Sequence[str] = ()
    exif: str | None = None
    has_split: bool = False  # whether the command line says which part each picture belongs to
    task: str = 'det'  # or ``'seg'``: objects become label images

    def part_of(self, *files: Path) -> str | None:
        """Return the part (train, val, test) that a folder above the first file names, else above the next one."""
        return next(filter(None, (split_of(file.relative_to(self.root).parts[:-1]) for file in files)), None)

    def index(self, words: Iterable[str]) -> Names:
        """Return the pictures that words may name; in a folder of label images, if none has the name of another one."""
        # labelme writes others beside its files
        stems = {PureWindowsPath(word).stem for word in words}
        candidates = [picture for picture in self.pictures if picture.stem in stems]
        outside = picture_files.outside_labels(self.root, candidates)
        inside, outside_stems = {*candidates} - {*outside}, {picture.stem for picture in outside}
        labels = {picture.parent for picture in inside if picture.stem in outside_stems}
        return Names(self.root, [picture for picture in candidates if picture.parent not in labels], self.pictures)


@dataclass
class Labelled:
    picture: Path
    size: Size | None  # as its labels say; ``None``: not told
    objects: list[Object]
    part: str | None = None  # where the labels tell it; '' for none of the parts that they tell
    image: Mapping[str, Any] = field(default_factory=dict)  # its entry in a file of COCO

    def name(self, folder: Path) -> str:
        """Return its path below the folder of its part, or however a file of COCO names it."""
        return self.image.get('file_name') or self.picture.relative_to(folder).as_posix()


@dataclass
class Entry:
    """A picture as a label file describes it, for :meth:`Reading.add`."""

    file: Path
    words: Sequence[str]  # that may name the picture
    size: Mapping[str, Any]  # ``height`` and ``width`` as they are written; nothing or 0 where the tool tells none
    objects: Callable[[Labelled], Iterable[Object]]  # of the picture, whose size is told


@dataclass
class Reading:
    """What a reader found in a folder."""

    form: str  # the name of the format
    source: Path  # a label file, or the folder that holds all of them
    pictures: list[Labelled] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)  # as the format orders them; others follow by name
    files: list[Path] = field(default_factory=list)  # that were read
    skipped_files: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))  # by reason
    dropped: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # annotations, by reason
    notes: list[str] = field(default_factory=list)
    kinds: dict[str | None, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))  # of these, by part
    # Of COCO, by part: the file, the folder of its pictures and its categories; what was changed
    origins: dict[str | None, tuple[Path, Path, Sequence[str]]] = field(default_factory=dict)
    changes: dict[str | None, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    mask_errors: dict[str | None, str] = field(default_factory=dict)  # by part, a mask of another size than its picture

    def file_of(self, part: str | None) -> Path:
        return self.origins[part][0] if part in self.origins else self.source

    def add(self, request: Request, noun: str, entries: Sequence[Entry]) -> None:
        """Take pictures and their objects."""
        index = request.index(word for entry in entries for word in (entry.file.name, *entry.words))
        pictures = [index.find(entry.words, entry.file.parent) for entry in entries]
        if bare := [entry for entry, picture in zip(entries, pictures, strict=True) if picture is None]:
            text = f'{len(bare)} of {len(entries)} {noun} have no picture: {some([entry.file for entry in bare], 3)}'
            unread = picture_files.other_endings(request.root, [word for entry in bare for word in entry.words])
            raise FileNotFoundError(f'--data: {text}.{unread} Add the pictures, or take these out.')
        for entry, picture in zip(entries, filter(None, pictures), strict=True):
            sample = Labelled(picture, None, [], request.part_of(entry.file, picture))
            with file_errors(entry.file):
                if all(side and str(side).strip('0') for side in entry.size.values()):
                    height, width = (int(number(f'{entry.file}: {key}', side)) for key, side in entry.size.items())
                    sample.size = height, width
                sample.objects += entry.objects(sample)
            self.pictures.append(sample)

    def add_names(self, root: Path, files: Sequence[str]) -> list[str]:
        """Take the classes from the first of some files that is in the folder, one a line, and return them."""
        for path in [root / name for name in files if (root / name).is_file()][:1]:
            self.classes = picture_files.lines_of(path)
            self.files.append(path)
            if duplicates := picture_files.repeated(self.classes):
                raise ValueError(f'--data: {path} lists {some(duplicates)} twice. Each class has its own name.')
        return self.classes

    def drop(self, reason: str, where: str, name: str, part: str | None = None) -> None:
        self.dropped[reason].append(where)
        self.kinds[part][name] += 1

    def content(self, root: Path, pictures: Sequence[Labelled]) -> dict[str, Any]:
        """Return some of the pictures in COCO's form; file names are relative to ``root``."""
        numbers = {name: number for number, name in enumerate(self.names, 1)}
        images, boxes = list[dict[str, Any]](), list[dict[str, Any]]()
        for number, sample in enumerate(pictures, 1):
            size = dict(zip(('height', 'width'), sample.size or (), strict=False))
            images.append({'file_name': sample.name(root), **sample.image, 'id': number, **size})
            for label in sample.objects:
                base = {key: value for key, value in label.items() if key != 'name'}
                boxes.append({**base, 'id': len(boxes) + 1, 'image_id': number, 'category_id': numbers[label['name']]})
        categories = [{'id': number, 'name': name} for name, number in numbers.items()]
        return {'images': images, 'annotations': boxes, 'categories': categories}

    @property
    def names(self) -> list[str]:
        used_names = {instance['name'] for sample in self.pictures for instance in sample.objects}
        return [*self.classes, *sorted(used_names.union(*self.kinds.values()).difference(self.classes))]


def class_name(where: str, label: Any) -> str:
    """Return the name of a class as a json file writes it; of ``true`` and ``1e3`` the reader keeps no text."""
    if label is not None and type(label) not in (str, int):
        raise ValueError(f'--data: {where}: the name of its class is {label!r:.40}, and no text. Write it in quotes.')
    return '' if label is None else str(label).strip()


def refuse_turned(where: str, degrees: Any) -> None:
    """Refuse a box that was turned: CVAT exports its sides as they were before."""
    if re.fullmatch(r'-?\d+(\.\d+)?', str(degrees)) and float(degrees) % 360:
        raise ValueError(f'--data: {where} is turned by {degrees} degrees. {removed("rotation of boxes")}')


def number(where: str, text: Any) -> float:
    with suppress(TypeError, ValueError, OverflowError):
        if abs(value := float(text)) <= label_files.FAR:
            return value
    raise ValueError(f'--data: {where} is {text!r:.60}, no number of a picture. Correct it, or export again.')


def points_of(where: str, pairs: Any, size: Size | None) -> list[Point]:
    """Return points in or near a picture of this size."""
    with suppress(TypeError, ValueError, OverflowError):
        points = [(float(x), float(y)) for x, y in pairs]
        if not label_files.outline_fault(
            [[value for point in points for value in point]], max(size or (label_files.FAR,))
        ):
            return points
    raise ValueError(f'--data: {where}: its points are {pairs!r:.60}, no pairs of numbers near its picture.')


def from_points(points: Sequence[Point]) -> Object:
    """Return box, area and polygon of some corners."""
    pairs = zip(points, [*points[1:], points[0]], strict=True)
    area = abs(sum(x * below - right * y for (x, y), (right, below) in pairs)) / 2
    return from_rings([[value for point in points for value in point]], area)


def from_rings(rings: Sequence[Sequence[float]], area: float) -> Object:
    """Return the box, the area and the polygons; a polygon lists x and y of each corner."""
    xs, ys = ([value for ring in rings for value in ring[start::2]] for start in (0, 1))
    return {**from_box(min(xs), min(ys), max(xs), max(ys)), 'area': area, 'segmentation': rings}


def from_box(left: float, top: float, right: float, bottom: float) -> Object:
    return {'bbox': [left, top, right - left, bottom - top], 'area': (right - left) * (bottom - top), 'iscrowd': 0}


def shape_run_lengths(shape: Any, size: Size) -> Any:
    """Return polygons or a mask of a picture as the run lengths of pycocotools, which does not check them."""
    if isinstance(shape, dict) and isinstance(shape['counts'], str):
        return shape
    lengths = coco.frPyObjects(shape, *size)
    return coco.merge(lengths) if isinstance(lengths, list) else lengths


def from_mask(where: str, inside: np.ndarray, left: int, top: int, size: Size) -> Object:
    """Return box, area and run lengths of a mask that fills a box of a picture."""
    height, width = inside.shape
    if left < 0 or top < 0 or top + height > size[0] or left + width > size[1]:
        raise ValueError(f'--data: {where} is a mask that reaches beyond its picture. Draw it again.')
    whole = np.zeros(size, np.uint8, order='F')
    whole[top : top + height, left : left + width] = inside
    lengths = coco.encode(whole)
    x, y, w, h = coco.toBbox(lengths).tolist()
    counts = {'size': list(size), 'counts': lengths['counts'].decode()}
    return {**from_box(x, y, x + w, y + h), 'area': float(coco.area(lengths)), 'segmentation': counts}


def mend(reading: Reading, stored: bool, drawn: bool) -> None:
    """Mend what is wrong in pictures, ``stored`` or turned by EXIF, and note it; ``drawn``: into label images."""
    for part in dict.fromkeys(sample.part for sample in reading.pictures):
        with file_errors(reading.file_of(part)):
            _mend_part(reading, part, stored, drawn)
        for change, count in reading.changes[part].items():
            warning = 'WARNING: ' if 'left out' in change else ''
            reading.notes.append(f'{warning}{reading.file_of(part).name}: {count} {change}')


def _mend_part(reading: Reading, part: str | None, stored: bool, drawn: bool) -> None:
    pictures = [sample for sample in reading.pictures if sample.part == part]
    changes, outlined, misfits, reasons = reading.changes[part], 0, list[str](), Counter[str]()
    for sample in pictures:
        size = picture_files.stored_size(sample.picture, stored)
        if sample.size is None and reading.origins:
            changes['pictures had no width or height, and get those of their files'] += 1
        if sample.size and sample.size != size:
            text = f'says that {sample.picture.name} has {size_text(sample.size)} pixels (height x width); it has'
            raise ValueError(f'it {text} {size_text(size)}, so the boxes do not fit. Correct the label file.')
        sample.size = size
    label_files.check_shapes([(instance, sample.size or ()) for sample in pictures for instance in sample.objects])
    for sample in pictures:
        size, instances, shapes = sample.size or (0, 0), list[Object](), dict[Any, Any]()
        for instance in sample.objects:
            if not (reason := label_files.left_out(instance, size)):
                _fill_missing(instance, changes)
                key, shape = (instance['name'], *instance['bbox']), instance.get('segmentation')
                reason = 'have class, box and outline of another one' if shapes.get(key, ...) == shape else ''
                shapes.setdefault(key, shape)
            if not reason and label_files.has_mask(instance):
                shape = instance['segmentation']
                if isinstance(shape, dict) and tuple(shape['size']) != size:
                    text = f'{sample.picture} has {size_text(size)} pixels, a mask of it {size_text(shape["size"])}'
                    if drawn:
                        raise ValueError(f'--data: {text}. Draw it again.')
                    reading.mask_errors.setdefault(part, text)
                else:
                    packing = shape_run_lengths(shape, size) if drawn or isinstance(shape, dict) else None
                    if drawn and not coco.area(packing):
                        reason = 'have an outline without a pixel'
                    elif not _boxes_agree(instance['bbox'], shape, packing):
                        misfits.append(sample.picture.name)
                    outlined += not reason
            if reason:
                reasons[reason] += 1
                reading.drop(reason, str(sample.picture), instance['name'], part)
            else:
                instances.append(instance)
        sample.objects = instances
    all_instances = [instance for sample in pictures for instance in sample.objects]
    if reasons and not all_instances:
        raise ValueError(f'all {reasons.total()} annotations {next(iter(reasons))}.')
    if misfits:
        text = f'{len(misfits)} of {outlined} outlines and their bbox overlap by less than half ({some(misfits, 3)})'
        if len(misfits) > outlined / 2:
            how = 'both are in pixels of the picture, a bbox is [left, top, width, height], run lengths go down columns'
            raise ValueError(f'{text}, so one of both is wrong: {how}. Correct them, or take out the wrong ones.')
        reading.notes.append(f'WARNING: {reading.file_of(part).name}: {text}: one of both is wrong')
    if reading.origins and label_files.wrong_ids(all_instances):
        changes['annotations are numbered from 1: an id was 0, missing, or there twice'] += len(all_instances)


def _fill_missing(instance: Object, changes: Counter[str]) -> None:
    """Fill in what an object lacks; mmdet leaves out the objects with the mark ``ignore``."""
    shape = instance.get('segmentation')
    if not label_files.has_area(instance):
        changes['annotations had no area, and get width times height of their box'] += 1
        instance['area'] = instance['bbox'][2] * instance['bbox'][3]
    if isinstance(shape, list) and label_files.has_mask(instance) and any(map(label_files.is_line, shape)):
        changes['outlines had parts of fewer than three points: left out'] += 1
        instance['segmentation'] = [ring for ring in shape if not label_files.is_line(ring)]
    if instance.get('ignore'):
        changes['annotations had the mark ignore, and get iscrowd, which training and metric both read'] += 1
        instance.update(iscrowd=1, ignore=0)
    elif instance.get('iscrowd') is None:
        changes['annotations had no iscrowd, and get 0'] += 1
        instance['iscrowd'] = 0


def _boxes_agree(bbox: Sequence[float], shape: Any, packing: Any) -> bool:
    extent = coco.toBbox(packing).tolist() if isinstance(shape, dict) else from_rings(shape, 0)['bbox']
    edges = ((x, y, x + w, y + h) for x, y, w, h in (bbox, extent))
    is_near = all(abs(a - b) <= 2 for a, b in zip(*edges, strict=True))  # pixels, however small the object is
    return is_near or coco.iou([bbox], [extent], [0])[0, 0] >= 0.5 - 1e-6  # it divides: a half may come out below
