"""What ``predict`` does: a student on pictures, folders and videos, through mmseg's and mmdet's own functions."""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import time
from collections.abc import Collection, Iterator, Sequence
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
from mmdistill_dense.apps.project import BOXES, DRAWN, LABELS, SUITE
from mmdistill_dense.apps.project.contact_sheet import draw
from mmdistill_dense.apps.recipes.named import read_config
from mmdistill_dense.config.values import chain, tested_set
from mmdistill_dense.unlabelled.pictures import EXTENSIONS
from mmdistill_dense.utils.colours import palette_of
from mmdistill_dense.utils.files import walk, write_json
from mmdistill_dense.utils.process import quiet
from mmdistill_dense.utils.runner_internals import Network, parameters_in_use
from mmdistill_dense.utils.validate import size_text, some

VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v')
Where = str | np.ndarray  # a picture's file, or a frame of a video (BGR)


def predict_command(args: argparse.Namespace) -> None:
    config, checkpoint = find_student(Path(args.student), args.checkpoint, args.method)
    files = list(find_inputs(args.pictures, args.out))
    device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    with quiet():
        student = Student.load(read_config(str(config)), checkpoint, device, args.threshold)
    print(f'student  {checkpoint}, {parameters_in_use(student.network) / 1e6:.2f} M parameters')
    try:
        unreadable = predict_files(student, files, args.out, named={Path(name) for name in args.pictures})
    finally:
        student.write(args.out)
    for line in student.told(args.out):
        print(line)
    if unreadable:
        print(f'skipped  {len(unreadable)} that cannot be read: {some(map(str, unreadable))}')


def find_student(given: Path, checkpoint: str | None = None, method: str | None = None) -> tuple[Path, Path]:
    """Return the config and the weights of a project's student, of an exported student, or of a config's run."""
    if given.is_dir():
        if not (given / SUITE).is_file():
            raise FileNotFoundError(f'{given}: no {SUITE} in it. Give a folder that `mmdistill new` wrote, or weights.')
        found = {path.stem.removeprefix('student_'): path for path in sorted(given.glob('student_*.pth'))}
        if not found:
            raise FileNotFoundError(f'{given}: no student_*.pth in it. `mmdistill run {given}` trains and exports it.')
        if (method is None and len(found) > 1) or (method is not None and method not in found):
            raise ValueError(f'--method {method}: {given} has the students {", ".join(found)}; name one of them.')
        given = found[method or next(iter(found))]
    if not given.is_file():
        raise FileNotFoundError(f'{given}: no such file (working folder {Path.cwd()}).')
    if given.suffix in ('.pth', '.safetensors'):
        config = given.with_suffix('.py')
        if not config.is_file():
            raise FileNotFoundError(f'{given}: its config {config.name} is not beside it: give one, and --checkpoint.')
        return config, given
    if checkpoint is None:
        raise FileNotFoundError(f'{given}: a config needs its weights: --checkpoint FILE.')
    return given, Path(checkpoint)


def find_inputs(given: Sequence[str], out: Path) -> Iterator[Path]:
    """Yield pictures and videos: the given files, and those in the given folders but for earlier results in ``out``."""
    known, results = (*EXTENSIONS, *VIDEOS), [(out / name).resolve() for name in (DRAWN, LABELS)]
    for name in given:
        path = Path(name)
        if not path.exists():
            raise FileNotFoundError(f'{name}: no such file or folder (working folder {Path.cwd()}).')
        inside = sorted(_files_in(path, results)) if path.is_dir() else [path]
        inside = [one for one in inside if one.suffix.lower() in known]
        if not inside:
            raise ValueError(f'{name}: no picture and no video. Known endings: {", ".join(known)}.')
        yield from inside


def _files_in(root: Path, left_out: Sequence[Path]) -> Iterator[Path]:
    for folder, names in walk(root):
        if not any(folder.resolve().is_relative_to(one) for one in left_out):
            yield from (folder / name for name in names)


class Unreadable(ValueError):
    """A file that is no picture or video, whatever its name says."""


@dataclass
class Student:
    """A network with what its predictions need to be drawn and written."""

    network: Network
    classes: Sequence[str]
    threshold: float  # boxes with a lower score are left out
    milliseconds: list[float] = field(default_factory=list)  # of each picture, in the network alone
    images: list[dict[str, Any]] = field(default_factory=list)  # of COCO's format
    boxes: list[dict[str, Any]] = field(default_factory=list)
    written: set[Path] = field(default_factory=set)  # label images
    videos: set[Path] = field(default_factory=set)  # their places, without endings

    @classmethod
    def load(cls, config: Config, checkpoint: Path, device: str, threshold: float) -> Student:
        plain, loaded, _, meta = load_student(config, checkpoint)
        network = cast(Network, loaded)
        data = meta.get('dataset_meta') or {}
        classes = data.get('classes') or data.get('CLASSES')
        if not classes:
            raise ValueError(f'{checkpoint}: its meta holds no class names (dataset_meta), so nothing can be named.')
        colours = palette_of(data.get('palette'), len(classes))
        palette = [tuple(map(int, one)) for one in colours]
        network.dataset_meta = {'classes': tuple(classes), 'palette': palette}
        dataset = {**chain(tested_set(plain))[0]}
        dataset['pipeline'] = without_labels(dataset['pipeline'])
        read_files(dataset)
        network.cfg = Config(dict(test_pipeline=dataset['pipeline'], test_dataloader=dict(dataset=dataset)))
        student = cls(network.to(device).eval(), tuple(classes), threshold)
        network.register_forward_pre_hook(lambda *_: student.milliseconds.append(-student._now()))
        network.register_forward_hook(lambda *_: student._ended())
        return student

    @property
    def segments(self) -> bool:
        """Tell whether it labels pixels; otherwise it finds boxes."""
        return hasattr(self.network, 'decode_head')

    def __call__(self, picture: Where) -> Any:
        """Return the prediction on a picture, as mmseg or mmdet gives it."""
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
        if picture is None or not picture.size:
            raise Unreadable(f'{file}: cannot be read as a picture.')
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
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), labels.astype(np.uint8 if len(self.classes) <= 256 else np.uint16))
            return
        number = len(self.images) + 1
        height, width = (int(side) for side in found.ori_shape)
        self.images.append({'id': number, 'file_name': name, 'height': height, 'width': width})
        self.boxes += list(self._coco(found.pred_instances, number))

    def _coco(self, instances: Any, image: int) -> Iterator[dict[str, Any]]:
        instances = instances[instances.scores >= self.threshold].cpu()
        for number in range(len(instances)):
            x, y, right, low = (round(float(value), 2) for value in instances.bboxes[number])
            box: dict[str, Any] = {
                'id': len(self.boxes) + number + 1,
                'image_id': image,
                'category_id': int(instances.labels[number]) + 1,
                'bbox': [x, y, round(right - x, 2), round(low - y, 2)],
                'area': round((right - x) * (low - y), 2),
                'score': round(float(instances.scores[number]), 4),
                'iscrowd': 0,
            }
            if 'masks' in instances:
                from pycocotools.mask import area, encode

                code = encode(np.asfortranarray(np.asarray(instances.masks[number], np.uint8)))
                box['segmentation'] = {'size': code['size'], 'counts': code['counts'].decode()}
                box['area'] = int(area(code))
            yield box

    def write(self, out: Path) -> None:
        """Write the boxes that were found so far."""
        if self.images:
            names = [{'id': number, 'name': name} for number, name in enumerate(self.classes, 1)]
            write_json(out / BOXES, {'images': self.images, 'annotations': self.boxes, 'categories': names})

    def told(self, out: Path) -> Iterator[str]:
        """Yield what was written, and the time of a picture."""
        yield f'written  {out / DRAWN}'
        if self.segments:
            numbers = some((f'{number} {name}' for number, name in enumerate(self.classes)), 6)
            yield f'         {out / LABELS}: {len(self.written)} PNG; a value is the number of a class: {numbers}'
        else:
            yield f'         {out / BOXES}: {len(self.boxes)} boxes of {self.threshold} or more, in {len(self.images)}'
        device = next(self.network.parameters()).device
        times = self.milliseconds[1:] or self.milliseconds  # the first one is slower
        threads = f', {torch.get_num_threads()} threads' if device.type == 'cpu' else ''
        yield f'time     {median(times):.1f} ms a picture in the network (median of {len(times)}), on {device}{threads}'

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return 1000 * time.perf_counter()

    def _ended(self) -> None:
        self.milliseconds[-1] += self._now()


def predict_files(student: Student, files: Sequence[Path], out: Path, named: Collection[Path]) -> list[Path]:
    """Predict pictures and videos; return those that cannot be read. One that was ``named`` itself is refused."""
    unreadable: list[Path] = []
    for file in files:
        try:
            (predict_video if file.suffix.lower() in VIDEOS else predict_picture)(student, file, out)
        except Unreadable:
            if file in named or len(unreadable) + 1 == len(files):
                raise
            unreadable.append(file)
    return unreadable


def predict_picture(student: Student, file: Path, out: Path) -> None:
    picture = student.read(file)
    try:
        found = student(str(file))
    except cv2.error as error:  # so thin that a side would have no pixel
        sides = size_text(picture.shape[:2])
        raise Unreadable(f'{file}: its {sides} pixels cannot be brought to the student: {error.err}') from error
    name = place_of(file)
    student.keep(found, name, out)
    mmcv.imwrite(student.draw(picture, found)[..., ::-1], str(out / DRAWN / name))


def predict_video(student: Student, file: Path, out: Path) -> None:
    """Write a video with the predictions drawn, and the prediction on each frame."""
    frames = mmcv.VideoReader(str(file))
    if not frames.opened or not len(frames):
        raise Unreadable(f'{file}: cannot be read as a video.')
    place = Path(place_of(file))
    stem = place if place.with_suffix('') in student.videos else place.with_suffix('')  # of one with another ending
    student.videos.add(stem)
    drawn = out / DRAWN / f'{stem}.mp4'
    drawn.parent.mkdir(parents=True, exist_ok=True)
    size = (frames.width, frames.height)
    writer = cv2.VideoWriter(str(drawn), cv2.VideoWriter.fourcc(*'mp4v'), frames.fps or 25, size)
    readable = itertools.takewhile(lambda frame: frame is not None, frames)  # containers often promise one too many
    try:
        for number, frame in enumerate(track(readable, str(file), len(frames), transient=True)):
            found = student(frame)
            student.keep(found, f'{stem}/{number:06d}.jpg', out)
            writer.write(student.draw(frame[..., ::-1], found)[..., ::-1])
    finally:
        writer.release()


def place_of(file: Path) -> str:
    """Return where a file's results stand below the folder of results: its own path below the working folder."""
    path = Path(os.path.abspath(file))  # without `..`, which would lead out of that folder
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else Path(*path.parts[1:]))
