"""What ``predict`` does: a student on pictures and folders of them, through mmseg's and mmdet's own functions."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from statistics import median
from typing import Any, cast

import cv2
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from rich.progress import track

from mmdistill_dense.apps.export.picture_graph import picture_pipeline
from mmdistill_dense.apps.export.write_student import load_student
from mmdistill_dense.apps.inspect.drawing import draw, write_picture
from mmdistill_dense.apps.inspect.inference import predict_items
from mmdistill_dense.apps.project import BOXES, DRAWN, LABELS, MARK, STUDENT, SUITE, walk_data
from mmdistill_dense.apps.recipes.named import is_name, read_config
from mmdistill_dense.unlabelled.pictures import EXTENSIONS
from mmdistill_dense.utils.colours import palette_of
from mmdistill_dense.utils.files import printable, read_json, write_json, write_text
from mmdistill_dense.utils.process import device_of, quiet
from mmdistill_dense.utils.runner_internals import Network, parameters_in_use
from mmdistill_dense.utils.validate import size_text, some
from mmdistill_dense.utils.version import removed

SECONDS = 30  # between two writings of the boxes so far
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v')


def predict_command(args: argparse.Namespace) -> None:
    config, checkpoint = find_student(Path(args.student), args.checkpoint, args.method)
    files, other_files = find_inputs(args.pictures)
    device = device_of(args.device)
    with quiet():
        student = Student.load(read_config(str(config)), checkpoint, device, args.threshold, args.out)
    student.open_results()
    print(f'student  {checkpoint}, {parameters_in_use(student.network) / 1e6:.2f} M parameters')
    skipped = defaultdict[str, list[Path]](list)
    start = time.perf_counter()
    try:
        for file in track(files, 'pictures', transient=True, disable=not sys.stdout.isatty()):
            try:
                student.predict(file)
            except Unreadable as error:
                if file in map(Path, args.pictures) or (file == files[-1] and not student.times):
                    raise
                skipped[error.reason].append(file)
    finally:
        student.write()  # after SIGTERM too
    print('\n'.join(student.summary(time.perf_counter() - start)))
    for reason, unread in skipped.items():
        print(f'skipped  {len(unread)} {reason}: {some(printable(str(file)) for file in unread)}')
    if other_files:
        endings = sorted({file.suffix.lower() or file.name for file in other_files})
        print(f'skipped {len(other_files)} files that are not images: {some(map(printable, endings))}')


def find_student(path: Path, checkpoint: str | None = None, method: str | None = None) -> tuple[Path, Path]:
    """Return the config and the weights of a project's student, of an exported student, or of a config's run."""
    weights = path.suffix in ('.pth', '.safetensors')
    if checkpoint is not None and (path.is_dir() or weights):
        raise ValueError(f'--checkpoint {checkpoint}: gives a config its weights; {path} has its own: leave it out.')
    if method is not None and not path.is_dir():
        raise ValueError(f'--method {method}: names a student of a project, and {path} is no folder: leave it out.')
    if path.is_dir():
        if not (path / SUITE).is_file():
            raise FileNotFoundError(f'{path}: no {SUITE} in it. Give a folder that `mmdistill new` wrote, or weights.')
        file = path / (f'student_{method}.pth' if method else STUDENT)
        exports = [] if method else sorted(path.glob('student_*.pth'))
        if not file.is_file() and len(exports) == 1:  # the only student of an older project
            file = exports[0]
        if not file.is_file():
            command = f'mmdistill run {quote(str(path))}{f" --export {method}" if method else ""}'
            raise FileNotFoundError(f'{path}: no {file.name} in it. `{command}` trains what is missing and exports it.')
        path, weights = file, True
    is_named = is_name(str(path)) and not path.is_file()
    if not (is_named or path.is_file()):
        raise FileNotFoundError(f'{path}: no such file (working folder {Path.cwd()}).')
    if not weights and checkpoint is None:
        raise FileNotFoundError(f'{path}: a config needs its weights: --checkpoint FILE.')
    config, file = (path.with_suffix('.py'), path) if weights else (path, Path(str(checkpoint)))
    if not (is_named or config.is_file()):
        raise FileNotFoundError(f'{path}: its config {config.name} is not beside it: give one, and --checkpoint.')
    return config, file


def find_inputs(arguments: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Return pictures, each once, and other files of the folders; results of ``predict`` are left out."""
    files = dict[str, Path]()
    for name in arguments:
        path = Path(name)
        if not path.exists():
            raise FileNotFoundError(f'{name}: no such file or folder (working folder {Path.cwd()}).')
        folders = walk_data(path) if path.is_dir() else [(path.parent, [path.name])]
        inside = sorted(folder / file for folder, names in folders for file in names)
        endings = {file.suffix.lower() for file in inside}
        if not endings & {*EXTENSIONS}:
            advice = removed('predict VIDEO') if endings & {*VIDEOS} else f'Known endings: {", ".join(EXTENSIONS)}.'
            raise ValueError(f'{name}: no picture. {advice}')
        for file in inside:
            files.setdefault(os.path.realpath(file), file)
    other_files = [file for file in files.values() if file.suffix.lower() not in EXTENSIONS]
    return [file for file in files.values() if file.suffix.lower() in EXTENSIONS], other_files


class Unreadable(ValueError):
    """A file that is no picture, whatever its name says, or another one that cannot be predicted."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass
class Student:
    """A network with what its predictions need to be drawn and written."""

    network: Network
    classes: Sequence[str]
    threshold: float  # boxes with a lower score are left out
    out: Path  # the folder of the results
    load_file: Callable[[dict[str, Any]], Any]
    prepare: Callable[[dict[str, Any]], Any]
    times: list[tuple[float, float]] = field(default_factory=list)  # of each, ms in the network; with the labels too
    boxes: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = field(default_factory=dict)  # by name, as of COCO
    written: set[str] = field(default_factory=set)  # names of pictures
    owners: dict[Path, dict[str, str]] = field(default_factory=dict)  # by folder, the file of each stem
    next_write: float = field(default_factory=lambda: time.monotonic() + SECONDS)  # when boxes are written again

    @classmethod
    def load(cls, config: Config, checkpoint: Path, device: str, threshold: float | None, out: Path) -> Student:
        plain, loaded, _, meta = load_student(config, checkpoint)
        network = cast(Network, loaded)
        data = meta.get('dataset_meta') or {}
        classes = data.get('classes')
        if not classes:
            raise ValueError(f'{checkpoint}: its meta holds no class names (dataset_meta), so nothing can be named.')
        palette = [tuple(map(int, colour)) for colour in palette_of(data.get('palette'), len(classes))]
        network.dataset_meta = {'classes': tuple(classes), 'palette': palette}
        steps = picture_pipeline(plain)
        student = cls(network.to(device).eval(), tuple(classes), 0.3 if threshold is None else threshold, out, *steps)
        if student.segments and threshold is not None:
            raise ValueError(f'--threshold {threshold}: is for boxes, and {checkpoint} labels pixels: leave it out.')
        return student

    @property
    def segments(self) -> bool:
        """Tell whether it labels pixels; otherwise it finds boxes."""
        return hasattr(self.network, 'decode_head')

    @property
    def categories(self) -> list[dict[str, Any]]:
        return [{'id': number, 'name': name} for number, name in enumerate(self.classes, 1)]

    def open_results(self) -> None:
        """Read the boxes of earlier calls, which stay, and mark the folders. Files of the user are refused."""
        out, marks = self.out, {DRAWN: DRAWN, LABELS: LABELS} if self.segments else {DRAWN: DRAWN, BOXES: DRAWN}
        names = [name for name, folder in marks.items() if (out / name).exists() and not (out / folder / MARK).exists()]
        if names:
            problem = f'it holds {", ".join(names)}, which would be replaced, and not the file {MARK} of predict'
            raise FileExistsError(f'--out {out}: {problem}. Give a folder that is new or empty.')
        if not self.segments and (before := read_json(out / BOXES)) is not None:
            if before['categories'] != self.categories:
                problem = f'has other classes ({some(kind["name"] for kind in before["categories"])}) than the student'
                raise ValueError(f'--out {out}: its {BOXES} {problem}. Give another.')
            boxes = defaultdict[int, list](list)
            for annotation in before['annotations']:
                boxes[annotation['image_id']].append(annotation)
            self.boxes = {image['file_name']: (image, boxes[image['id']]) for image in before['images']}
        text = 'Results of `mmdistill predict`, which may replace them and add to them.\n'
        for folder in dict.fromkeys(marks.values()):
            mark = out / folder / MARK
            mark_text = f'{text}Classes: {", ".join(self.classes)}\n' if folder == LABELS else text
            old_text = mark.read_text(encoding='utf-8') if mark.exists() else text
            if old_text not in (mark_text, text) and any(mark.parent.rglob('*.png')):
                was = some(old_text.partition('Classes: ')[2].rstrip().split(', '))
                raise ValueError(f'--out {out}: its {folder} are of other classes ({was}). Give another.')
            write_text(mark, mark_text)

    def predict(self, file: Path) -> None:
        """Write and draw what the network finds in a picture."""
        picture, data = self.read(file)
        start = time.perf_counter()
        (sample,), seconds = predict_items(self.network, [data])
        sample = sample.cpu()  # ends when the device has
        self.times.append((1000 * seconds, 1000 * (time.perf_counter() - start)))
        path = Path(os.path.abspath(file))  # without `..`, which would lead out of the folder of results
        name = str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else Path(*path.parts[1:]))
        self.save(sample, name, str(Path(name).with_suffix('.png')) if self.has_stem(file) else f'{name}.png')
        drawn = draw(picture, sample, self.network.dataset_meta, 'pred', self.threshold)
        write_picture(mmcv.rgb2bgr(drawn), self.out / DRAWN / name)

    def read(self, file: Path) -> tuple[np.ndarray, Any]:
        """Return a picture (RGB, uint8) as the student's own pipeline loads it (EXIF, depth), and prepared by it."""
        data: Any = {'img_id': 0, 'img_path': str(file)}
        picture: Any = None
        # the libraries read None, and fail at the next step
        with suppress(cv2.error, AssertionError, AttributeError, OSError, TypeError, ValueError):
            data = self.load_file(data)
            picture = data['img']
        if picture is None or np.prod(picture.shape[:2]) < 2:
            reason = 'that cannot be read' if picture is None else 'of a single pixel'
            raise Unreadable(f'{file}: cannot be read as a picture of two pixels or more.', reason)
        if picture.dtype == np.uint16:
            picture = picture // 257
        picture = np.atleast_3d(picture).clip(0, 255).astype(np.uint8)
        picture = np.repeat(picture, 3, 2) if picture.shape[2] == 1 else mmcv.bgr2rgb(picture[..., :3])
        try:
            return picture, self.prepare(data)
        except cv2.error as error:  # so thin that a side would have no pixel
            problem = f'its {size_text(picture.shape[:2])} pixels cannot be brought to the student: {error.err}'
            raise Unreadable(f'{file}: {problem}', 'too thin for the student') from error

    def has_stem(self, file: Path) -> bool:
        """Tell whether a label image is named without the ending of its picture: for the first picture of each stem."""
        if file.parent not in self.owners:  # a stem that is a file's name (a.png.jpg) has no owner
            names = [name for name in os.listdir(file.parent) if name.lower().endswith(EXTENSIONS)]
            owners = {Path(name).stem: name for name in sorted(names, reverse=True)}
            self.owners[file.parent] = owners | dict.fromkeys(names, '')
        return self.owners[file.parent].get(file.stem, file.name) == file.name

    def save(self, sample: Any, name: str, label: str) -> None:
        """Write a picture's labels, or note its boxes."""
        self.written.add(name)
        if self.segments:
            labels = sample.pred_sem_seg.data[0].numpy()
            write_picture(labels.astype(np.uint8 if len(self.classes) <= 256 else np.uint16), self.out / LABELS / label)
            return
        instances, boxes = sample.pred_instances[sample.pred_instances.scores >= self.threshold], []
        values = (instances.bboxes.tolist(), instances.scores.tolist(), instances.labels.tolist())
        for number, (corners, score, kind) in enumerate(zip(*values, strict=True)):
            x, y, right, low = (round(corner, 2) for corner in corners)
            size = round(right - x, 2), round(low - y, 2)
            box = {'id': 0, 'image_id': 0, 'category_id': int(kind) + 1, 'bbox': [x, y, *size]}  # numbered at last
            box |= {'area': round((right - x) * (low - y), 2), 'score': round(score, 4), 'iscrowd': 0}
            if 'masks' in instances:
                from pycocotools.mask import area, encode, toBbox

                code = encode(np.asfortranarray(np.asarray(instances.masks[number], np.uint8)))
                box['segmentation'] = {'size': code['size'], 'counts': code['counts'].decode()}
                box['area'] = int(area(code))
                if not instances.bboxes.any():  # SOLO finds none
                    box['bbox'] = toBbox(code).tolist()
            boxes.append(box)
        height, width = (int(side) for side in sample.ori_shape)
        self.boxes[name] = {'id': 0, 'file_name': name, 'height': height, 'width': width}, boxes
        if time.monotonic() > self.next_write:
            self.write()
            self.next_write = time.monotonic() + SECONDS

    def write(self) -> None:
        """Write the boxes that were found so far, and earlier ones."""
        images, boxes = list[dict[str, Any]](), list[dict[str, Any]]()
        for number, (image, image_boxes) in enumerate(self.boxes.values(), 1):
            images.append({**image, 'id': number})
            boxes += [{**box, 'id': index, 'image_id': number} for index, box in enumerate(image_boxes, len(boxes) + 1)]
        if images:
            write_json(self.out / BOXES, {'images': images, 'annotations': boxes, 'categories': self.categories})

    def summary(self, seconds: float) -> Iterator[str]:
        """Yield what was written, and the time of a picture; ``seconds`` of all, with reading and writing."""
        out, pictures = self.out, len(self.written)
        yield f'written  {out / DRAWN}'
        if self.segments:
            numbers = some((f'{number} {name}' for number, name in enumerate(self.classes)), 6)
            yield f'         {out / LABELS}: {pictures} PNG; a value is the number of a class: {numbers}'
            colours = ('#' + bytes(colour).hex() for colour in self.network.dataset_meta['palette'])
            yield f'colours  {some(map("{} {}".format, self.classes, colours), 6)}, half and half with the picture'
        else:
            count, earlier = sum(len(self.boxes[name][1]) for name in self.written), len(self.boxes) - pictures
            more = f'; boxes in {earlier} earlier ones are kept' if earlier else ''
            yield f'         {out / BOXES}: {count} boxes of {self.threshold} or more, in {pictures} pictures{more}'
        passes, prepared = zip(*(self.times[1:] or self.times), strict=True)  # the first is slower
        device: Any = next(self.network.parameters()).device
        device = f'{device}, {torch.get_num_threads()} threads' if device.type == 'cpu' else device
        yield f'time     {median(passes):.1f} ms a picture in the network (median of {len(passes)}), on {device}'
        labels, whole = ' and labels' if self.segments else '', 1000 * seconds / len(self.times)
        yield f'         {median(prepared):.1f} ms with normalisation{labels}, {whole:.1f} ms with reading and writing'
