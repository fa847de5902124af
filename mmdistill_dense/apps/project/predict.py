"""What ``predict`` does: a student on pictures, folders and videos, through mmseg's and mmdet's own functions."""

from __future__ import annotations

import argparse
import copy
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, cast

import cv2
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import TRANSFORMS
from rich.progress import track

from mmdistill_dense.apps.export.without_package import read_files, without_labels
from mmdistill_dense.apps.export.write_student import load_student
from mmdistill_dense.apps.inspect.drawing import draw
from mmdistill_dense.apps.project import BOXES, DRAWN, LABELS, MARK, SUITE, walk_data
from mmdistill_dense.apps.project.contact_sheet import write_picture
from mmdistill_dense.apps.recipes.named import read_config
from mmdistill_dense.apps.suite.pool import interruptible
from mmdistill_dense.config.values import chain, tested_set
from mmdistill_dense.unlabelled.pictures import EXTENSIONS
from mmdistill_dense.utils.colours import palette_of
from mmdistill_dense.utils.devices import device_of
from mmdistill_dense.utils.files import printable, read_json, write_json, write_text
from mmdistill_dense.utils.process import quiet
from mmdistill_dense.utils.runner_internals import Network, parameters_in_use
from mmdistill_dense.utils.validate import size_text, some

SECONDS, SHARE = 30, 0.05  # how often the boxes so far are written, and the share of the time that this may take
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v')


def predict_command(args: argparse.Namespace) -> None:
    config, checkpoint = find_student(Path(args.student), args.checkpoint, args.method)
    files, others = find_inputs(args.pictures)
    device = device_of(args.device)
    with quiet():
        student = Student.load(read_config(str(config)), checkpoint, device, args.threshold)
    student.take_up(args.out)
    print(f'student  {checkpoint}, {parameters_in_use(student.network) / 1e6:.2f} M parameters')
    unreadable, named = list[Path](), {Path(name) for name in args.pictures}
    try:
        with interruptible():  # what SIGTERM stops is written too
            for file in files:
                try:
                    (predict_video if file.suffix.lower() in VIDEOS else predict_picture)(student, file, args.out)
                except Unreadable:
                    if file in named or len(unreadable) + 1 == len(files):
                        raise
                    unreadable.append(file)
    finally:
        student.write(args.out)
    for line in student.told(args.out):
        print(line)
    if unreadable:
        print(f'skipped  {len(unreadable)} that cannot be read: {some(printable(str(one)) for one in unreadable)}')
    if others:
        endings = sorted({file.suffix.lower() or file.name for file in others})
        print(f'left out {len(others)} files with endings of no picture or video: {some(map(printable, endings))}')


def find_student(given: Path, checkpoint: str | None = None, method: str | None = None) -> tuple[Path, Path]:
    """Return the config and the weights of a project's student, of an exported student, or of a config's run."""
    weights = given.suffix in ('.pth', '.safetensors')
    if checkpoint is not None and (given.is_dir() or weights):
        raise ValueError(f'--checkpoint {checkpoint}: gives a config its weights; {given} has its own: leave it out.')
    if method is not None and not given.is_dir():
        raise ValueError(f'--method {method}: names a student of a project, and {given} is no folder: leave it out.')
    if given.is_dir():
        if not (given / SUITE).is_file():
            raise FileNotFoundError(f'{given}: no {SUITE} in it. Give a folder that `mmdistill new` wrote, or weights.')
        found = {path.stem.removeprefix('student_'): path for path in sorted(given.glob('student_*.pth'))}
        if not found:
            raise FileNotFoundError(f'{given}: no student_*.pth in it. `mmdistill run {given}` trains and exports it.')
        name = next(iter(found)) if method is None and len(found) == 1 else method
        if name not in found:
            wrong = f'--method {method}: ' if method else ''
            raise ValueError(f'{wrong}{given} has the students {", ".join(found)}; name one of them by --method.')
        given, weights = found[name], True
    if not given.is_file():
        raise FileNotFoundError(f'{given}: no such file (working folder {Path.cwd()}).')
    if not weights and checkpoint is None:
        raise FileNotFoundError(f'{given}: a config needs its weights: --checkpoint FILE.')
    config, file = (given.with_suffix('.py'), given) if weights else (given, Path(str(checkpoint)))
    if not config.is_file():
        raise FileNotFoundError(f'{given}: its config {config.name} is not beside it: give one, and --checkpoint.')
    return config, file


def find_inputs(given: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Return pictures and videos, each once, and other files of the folders; results of ``predict`` are left out."""
    known, found = EXTENSIONS + VIDEOS, dict[str, Path]()
    for name in given:
        path = Path(name)
        if not path.exists():
            raise FileNotFoundError(f'{name}: no such file or folder (working folder {Path.cwd()}).')
        inside = sorted(one / own for one, names in walk_data(path) for own in names) if path.is_dir() else [path]
        if not any(one.suffix.lower() in known for one in inside):
            raise ValueError(f'{name}: no picture and no video. Known endings: {", ".join(known)}.')
        for one in inside:
            found.setdefault(os.path.realpath(one), one)
    others = [one for one in found.values() if one.suffix.lower() not in known]
    return [one for one in found.values() if one.suffix.lower() in known], others


class Unreadable(ValueError):
    """A file that is no picture or video, whatever its name says."""


@dataclass
class Student:
    """A network with what its predictions need to be drawn and written."""

    network: Network
    classes: Sequence[str]
    threshold: float  # boxes with a lower score are left out
    milliseconds: list[float] = field(default_factory=list)  # of each picture, in the network alone
    boxes: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = field(default_factory=dict)  # by name, as of COCO
    written: set[Path] = field(default_factory=set)  # label images, or pictures whose boxes were found
    videos: set[Path] = field(default_factory=set)  # their places, without endings
    due: float = field(default_factory=lambda: time.monotonic() + SECONDS)  # when the boxes so far are written next

    @classmethod
    def load(cls, config: Config, checkpoint: Path, device: str, threshold: float | None) -> Student:
        plain, loaded, _, meta = load_student(config, checkpoint)
        network = cast(Network, loaded)
        data = meta.get('dataset_meta') or {}
        classes = data.get('classes') or data.get('CLASSES')
        if not classes:
            raise ValueError(f'{checkpoint}: its meta holds no class names (dataset_meta), so nothing can be named.')
        palette = [tuple(map(int, one)) for one in palette_of(data.get('palette'), len(classes))]
        network.dataset_meta = {'classes': tuple(classes), 'palette': palette}
        dataset = {**chain(tested_set(plain))[0]}
        dataset['pipeline'] = without_labels(dataset['pipeline'])
        read_files(dataset)
        network.cfg = Config(dict(test_pipeline=dataset['pipeline'], test_dataloader=dict(dataset=dataset)))
        student = cls(network.to(device).eval(), tuple(classes), 0.3 if threshold is None else threshold)
        if student.segments and threshold is not None:
            raise ValueError(f'--threshold {threshold}: is for boxes, and {checkpoint} labels pixels: leave it out.')
        times = student.milliseconds
        network.register_forward_pre_hook(lambda *_: times.append(_now()))
        network.register_forward_hook(lambda *_: times.append(_now() - times.pop()))
        return student

    @property
    def categories(self) -> list[dict[str, Any]]:
        return [{'id': number, 'name': name} for number, name in enumerate(self.classes, 1)]

    def take_up(self, out: Path) -> None:
        """Read the boxes of earlier calls, which stay, and mark the folders. Files of the user are refused."""
        marks = {DRAWN: DRAWN, LABELS: LABELS} if self.segments else {DRAWN: DRAWN, BOXES: DRAWN}
        taken = [name for name, folder in marks.items() if (out / name).exists() and not (out / folder / MARK).exists()]
        if taken:
            told = f'it holds {", ".join(taken)}, which would be replaced, and not the file {MARK} of predict'
            raise FileExistsError(f'--out {out}: {told}. Give a folder that is new or empty.')
        if not self.segments and (before := read_json(out / BOXES)) is not None:
            if before['categories'] != self.categories:
                told = f'has other classes ({some(one["name"] for one in before["categories"])}) than the student'
                raise ValueError(f'--out {out}: its {BOXES} {told}. Give another.')
            boxes = defaultdict[int, list](list)
            for one in before['annotations']:
                boxes[one['image_id']].append(one)
            self.boxes = {one['file_name']: (one, boxes[one['id']]) for one in before['images']}
        for folder in set(marks.values()):
            write_text(out / folder / MARK, 'Results of `mmdistill predict`, which may replace them and add to them.\n')

    @property
    def segments(self) -> bool:
        """Tell whether it labels pixels; otherwise it finds boxes."""
        return hasattr(self.network, 'decode_head')

    def __call__(self, picture: str | np.ndarray) -> Any:
        """Return the prediction on a picture's file or a frame (BGR), as mmseg or mmdet gives it."""
        if self.segments:
            from mmseg.apis import inference_model as predict
        else:
            from mmdet.apis import inference_detector as predict
        kept, self.network.cfg = self.network.cfg, copy.deepcopy(self.network.cfg)  # both change it for a frame
        found = predict(self.network, picture)
        self.network.cfg = kept
        return found

    def read(self, file: Path) -> np.ndarray:
        """Return a picture as the student's own pipeline loads it (EXIF, depth), in RGB uint8 to be drawn on."""
        step = TRANSFORMS.build(self.network.cfg.test_pipeline[0])
        try:
            picture = step({'img_path': str(file)})['img']
        except (cv2.error, AssertionError, AttributeError, OSError, TypeError, ValueError):
            picture = None  # the libraries read None, and fail at the next step
        if picture is None or np.prod(picture.shape[:2]) < 2:  # mmseg and matplotlib draw on no single pixel
            raise Unreadable(f'{file}: cannot be read as a picture of two pixels or more.')
        if picture.dtype == np.uint16:
            picture = picture // 257
        picture = np.atleast_3d(picture).clip(0, 255).astype(np.uint8)
        return np.repeat(picture, 3, 2) if picture.shape[2] == 1 else picture[..., 2::-1]

    def draw(self, picture: np.ndarray, found: Any) -> np.ndarray:
        options = {} if self.segments else {'pred_score_thr': self.threshold}
        return draw(picture, found.cpu(), self.network.dataset_meta, self.segments, draw_gt=False, **options)

    def keep(self, found: Any, name: str, out: Path) -> None:
        """Write a picture's labels, or note its boxes."""
        if self.segments:
            labels = found.pred_sem_seg.data[0].cpu().numpy()
            file = (out / LABELS / name).with_suffix('.png')
            if file in self.written:  # of a picture with another ending
                file = out / LABELS / f'{name}.png'
            self.written.add(file)
            write_picture(labels.astype(np.uint8 if len(self.classes) <= 256 else np.uint16), file)
            return
        instances, boxes = found.pred_instances[found.pred_instances.scores >= self.threshold].cpu(), []
        values = (instances.bboxes.tolist(), instances.scores.tolist(), instances.labels.tolist())
        for number, (corners, score, kind) in enumerate(zip(*values, strict=True)):
            x, y, right, low = (round(one, 2) for one in corners)
            size = round(right - x, 2), round(low - y, 2)
            box = {'id': 0, 'image_id': 0, 'category_id': int(kind) + 1, 'bbox': [x, y, *size]}  # numbered at last
            box |= {'area': round((right - x) * (low - y), 2), 'score': round(score, 4), 'iscrowd': 0}
            if 'masks' in instances:
                from pycocotools.mask import area, encode

                code = encode(np.asfortranarray(np.asarray(instances.masks[number], np.uint8)))
                box['segmentation'] = {'size': code['size'], 'counts': code['counts'].decode()}
                box['area'] = int(area(code))
            boxes.append(box)
        height, width = (int(side) for side in found.ori_shape)
        self.boxes[name] = {'id': 0, 'file_name': name, 'height': height, 'width': width}, boxes
        self.written.add(Path(name))
        if time.monotonic() > self.due:
            start = time.monotonic()
            self.write(out)
            self.due = time.monotonic() + max(SECONDS, (time.monotonic() - start) / SHARE)

    def write(self, out: Path) -> None:
        """Write the boxes that were found so far, and earlier ones."""
        images, boxes = list[dict[str, Any]](), list[dict[str, Any]]()
        for number, (image, own) in enumerate(self.boxes.values(), 1):
            images.append({**image, 'id': number})
            boxes += [{**box, 'id': len(boxes) + place, 'image_id': number} for place, box in enumerate(own, 1)]
        if images:
            write_json(out / BOXES, {'images': images, 'annotations': boxes, 'categories': self.categories})

    def told(self, out: Path) -> Iterator[str]:
        """Yield what was written, and the time of a picture."""
        yield f'written  {out / DRAWN}'
        if self.segments:
            numbers = some((f'{number} {name}' for number, name in enumerate(self.classes)), 6)
            yield f'         {out / LABELS}: {len(self.written)} PNG; a value is the number of a class: {numbers}'
            colours = ('#' + bytes(one).hex() for one in self.network.dataset_meta['palette'])
            drawn = (f'{name} {colour}' for name, colour in zip(self.classes, colours, strict=True))
            yield f'colours  {some(drawn, 6)}, half and half with the picture'
        else:
            count = sum(len(self.boxes[str(name)][1]) for name in self.written)
            earlier = len(self.boxes) - len(self.written)
            more = f'; boxes in {earlier} earlier ones are kept' if earlier else ''
            yield f'         {out / BOXES}: {count} boxes of {self.threshold} or more, in {len(self.written)}{more}'
        device = next(self.network.parameters()).device
        times = self.milliseconds[1:] or self.milliseconds  # the first one is slower
        threads = f', {torch.get_num_threads()} threads' if device.type == 'cpu' else ''
        yield f'time     {median(times):.1f} ms a picture in the network (median of {len(times)}), on {device}{threads}'


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1000 * time.perf_counter()


def predict_picture(student: Student, file: Path, out: Path) -> None:
    picture = student.read(file)
    try:
        found = student(str(file))
    except cv2.error as error:  # so thin that a side would have no pixel
        sides = size_text(picture.shape[:2])
        raise Unreadable(f'{file}: its {sides} pixels cannot be brought to the student: {error.err}') from error
    name = place_of(file)
    student.keep(found, name, out)
    write_picture(student.draw(picture, found)[..., ::-1], out / DRAWN / name)


def predict_video(student: Student, file: Path, out: Path) -> None:
    """Write a video with the predictions drawn, and the prediction on each frame."""
    place = Path(place_of(file))
    stem = place if place.with_suffix('') in student.videos else place.with_suffix('')  # of one with another ending
    drawn = out / DRAWN / f'{stem}.mp4'
    if printable(str(drawn)) != str(drawn):  # OpenCV would end the process
        raise Unreadable(f'{str(file)!r}: the path of a video and of --out must be UTF-8: rename it.')
    frames = mmcv.VideoReader(str(file))
    if not frames.opened:
        raise Unreadable(f'{file}: cannot be read as a video.')
    if drawn.is_dir():
        raise IsADirectoryError(f'{drawn}: a folder is where the drawn video belongs. Remove it, or give another --out')
    student.videos.add(stem)
    drawn.parent.mkdir(parents=True, exist_ok=True)
    fps = frames.fps if 0 < frames.fps < 1000 else 25  # more is a clock's rate, which mp4 refuses
    unfinished, size, count = drawn.with_name(f'.{drawn.name}'), (frames.width, frames.height), 0
    writer = cv2.VideoWriter(str(unfinished), cv2.VideoWriter.fourcc(*'mp4v'), fps, size)
    if not writer.isOpened():
        raise OSError(f'{drawn}: OpenCV cannot write it: it has no encoder for mp4v, or no right to the folder.')
    # as a generator: of a video without a duration `len` is negative
    shown = track((frame for frame in frames), str(file), max(0, frames.frame_cnt) or None, transient=True)
    try:
        for count, frame in enumerate(shown, 1):
            found = student(frame)
            student.keep(found, f'{stem}/{count - 1:06d}.jpg', out)
            writer.write(student.draw(frame[..., ::-1], found)[..., ::-1])
        writer.release()
        if not count:
            raise Unreadable(f'{file}: cannot be read as a video.')
        held = max(0, int(cv2.VideoCapture(str(unfinished)).get(cv2.CAP_PROP_FRAME_COUNT)))  # OpenCV tells no error
        if held < count:
            told = f'{size_text(size[::-1])} pixels, {held} of {count} frames could be'
            raise OSError(f'{drawn}: {told} written. Look for space on the disk.')
        unfinished.replace(drawn)
    finally:
        writer.release()
        unfinished.unlink(missing_ok=True)


def place_of(file: Path) -> str:
    """Return where a file's results stand below the folder of results: its own path below the working folder."""
    path = Path(os.path.abspath(file))  # without `..`, which would lead out of that folder
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else Path(*path.parts[1:]))
