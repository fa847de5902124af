"""What ``predict`` does: a student on pictures, folders and videos, through mmseg's and mmdet's own functions."""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from shlex import quote
from statistics import median
from typing import Any, TypeVar, cast

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
from mmdistill_dense.utils.process import device_of, interruptible, quiet
from mmdistill_dense.utils.runner_internals import Network, parameters_in_use
from mmdistill_dense.utils.validate import size_text, some

T = TypeVar('T')
READERS, AHEAD = 2, 16  # threads, and pictures or results on their way beside the network
BATCH, PIXELS = 8, 2**21  # pictures of one size at a time, of no more pixels together
SECONDS, SHARE = 30, 0.05  # how often the boxes so far are written, and the share of the time that this may take
SHORT = 0.9  # of the frames that a video tells
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v')


def predict_command(args: argparse.Namespace) -> None:
    config, checkpoint = find_student(Path(args.student), args.checkpoint, args.method)
    files, other_files = find_inputs(args.pictures)
    device = device_of(args.device)
    with quiet():
        student = Student.load(read_config(str(config)), checkpoint, device, args.threshold)
    student.open_results(args.out)
    print(f'student  {checkpoint}, {parameters_in_use(student.network) / 1e6:.2f} M parameters')
    skipped, inputs = defaultdict[str, list[Path]](list), {Path(name) for name in args.pictures}

    @contextmanager
    def skipping(file: Path) -> Iterator[None]:
        try:
            yield
        except Unreadable as error:
            if file in inputs or sum(map(len, skipped.values())) + 1 == len(files):
                raise
            skipped[error.reason].append(file)

    start = time.perf_counter()
    try:
        with interruptible():  # what SIGTERM stops is written too
            for videos, group in groupby(files, lambda file: file.suffix.lower() in VIDEOS):
                if videos:
                    for file in group:
                        with skipping(file):
                            predict_video(student, file, args.out)
                else:
                    predict_pictures(student, list(group), args.out, skipping)
    finally:
        student.write(args.out)
    print('\n'.join(student.summary(args.out, time.perf_counter() - start)))
    for reason, unread in skipped.items():
        print(f'skipped  {len(unread)} {reason}: {some(printable(str(file)) for file in unread)}')
    if other_files:
        endings = sorted({file.suffix.lower() or file.name for file in other_files})
        print(f'skipped {len(other_files)} files that are not images or videos: {some(map(printable, endings))}')


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
        exports = sorted(path.glob('student_*.pth'))
        if not file.is_file() and method is None and len(exports) == 1:
            file = exports[0]  # the only student of an older project
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
    """Return pictures and videos, each once, and other files of the folders; results of ``predict`` are left out."""
    endings, files = EXTENSIONS + VIDEOS, dict[str, Path]()
    for name in arguments:
        path = Path(name)
        if not path.exists():
            raise FileNotFoundError(f'{name}: no such file or folder (working folder {Path.cwd()}).')
        folders = walk_data(path) if path.is_dir() else [(path.parent, [path.name])]
        inside = sorted(folder / file for folder, names in folders for file in names)
        if not any(file.suffix.lower() in endings for file in inside):
            raise ValueError(f'{name}: no picture and no video. Known endings: {", ".join(endings)}.')
        for file in inside:
            files.setdefault(os.path.realpath(file), file)
    other_files = [file for file in files.values() if file.suffix.lower() not in endings]
    return [file for file in files.values() if file.suffix.lower() in endings], other_files


class Unreadable(ValueError):
    """A file that is no picture or video, whatever its name says, or another one that cannot be predicted."""

    def __init__(self, message: str, reason: str = 'that cannot be read') -> None:
        super().__init__(message)
        self.reason = reason


@dataclass
class Shot:
    """A picture or a frame on its way."""

    name: str  # where its results stand
    picture: np.ndarray  # (H, W, 3), RGB, uint8, to be drawn on
    data: dict[str, Any]  # as the network takes it
    label: str  # the name of its label image

    @property
    def pixels(self) -> int:
        return max(self.picture[..., 0].size, self.data['inputs'][0].numel())


@dataclass
class Student:
    """A network with what its predictions need to be drawn and written."""

    network: Network
    classes: Sequence[str]
    threshold: float  # boxes with a lower score are left out
    load_file: Callable[[dict[str, Any]], Any]
    load_frame: Callable[[dict[str, Any]], Any]
    prepare: Callable[[dict[str, Any]], Any]
    times: list[tuple[float, float]] = field(default_factory=list)  # of each, ms in the network; with the labels too
    boxes: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = field(default_factory=dict)  # by name, as of COCO
    written: set[Path] = field(default_factory=set)  # label images, or pictures whose boxes were found
    firsts: dict[Any, dict[str, str]] = field(default_factory=dict)  # by folder and endings, the file of each stem
    next_write: float = field(default_factory=lambda: time.monotonic() + SECONDS)  # when boxes are written again

    @classmethod
    def load(cls, config: Config, checkpoint: Path, device: str, threshold: float | None) -> Student:
        plain, loaded, _, meta = load_student(config, checkpoint)
        network = cast(Network, loaded)
        data = meta.get('dataset_meta') or {}
        classes = data.get('classes')
        if not classes:
            raise ValueError(f'{checkpoint}: its meta holds no class names (dataset_meta), so nothing can be named.')
        palette = [tuple(map(int, colour)) for colour in palette_of(data.get('palette'), len(classes))]
        network.dataset_meta = {'classes': tuple(classes), 'palette': palette}
        loaders = picture_pipeline(network, plain)
        student = cls(network.to(device).eval(), tuple(classes), 0.3 if threshold is None else threshold, *loaders)
        if student.segments and threshold is not None:
            raise ValueError(f'--threshold {threshold}: is for boxes, and {checkpoint} labels pixels: leave it out.')
        return student

    @property
    def categories(self) -> list[dict[str, Any]]:
        return [{'id': number, 'name': name} for number, name in enumerate(self.classes, 1)]

    def open_results(self, out: Path) -> None:
        """Read the boxes of earlier calls, which stay, and mark the folders. Files of the user are refused."""
        marks = {DRAWN: DRAWN, LABELS: LABELS} if self.segments else {DRAWN: DRAWN, BOXES: DRAWN}
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
        for folder in set(marks.values()):
            mark = out / folder / MARK
            mark_text = f'{text}Classes: {", ".join(self.classes)}\n' if folder == LABELS else text
            old_text = mark.read_text(encoding='utf-8') if mark.exists() else text
            if old_text not in (mark_text, text) and any(mark.parent.rglob('*.png')):
                was = some(old_text.partition('Classes: ')[2].rstrip().split(', '))
                raise ValueError(f'--out {out}: its {folder} are of other classes ({was}). Give another.')
            write_text(mark, mark_text)

    @property
    def segments(self) -> bool:
        """Tell whether it labels pixels; otherwise it finds boxes."""
        return hasattr(self.network, 'decode_head')

    def read(self, source: Path | np.ndarray, name: str) -> Shot:
        """Return a picture's file or a frame (BGR) as the student's own pipeline loads it (EXIF, depth)."""
        framed = isinstance(source, np.ndarray)
        text = name if framed else source
        data: Any = {'img_id': 0, **({'img': source} if framed else {'img_path': str(source)})}
        try:
            data = (self.load_frame if framed else self.load_file)(data)
            picture = data['img']
        except (cv2.error, AssertionError, AttributeError, OSError, TypeError, ValueError):
            picture = None  # the libraries read None, and fail at the next step
        if picture is None or np.prod(picture.shape[:2]) < 2:
            reason = 'that cannot be read' if picture is None else 'of a single pixel'
            raise Unreadable(f'{text}: cannot be read as a picture of two pixels or more.', reason)
        if picture.dtype == np.uint16:
            picture = picture // 257
        picture = np.atleast_3d(picture).clip(0, 255).astype(np.uint8)
        picture = np.repeat(picture, 3, 2) if picture.shape[2] == 1 else mmcv.bgr2rgb(picture[..., :3])
        try:
            data = self.prepare(data)
        except cv2.error as error:  # so thin that a side would have no pixel
            sides = size_text(picture.shape[:2])
            text = f'{text}: its {sides} pixels cannot be brought to the student: {error.err}'
            raise Unreadable(text, 'too thin for the student') from error
        has_stem = isinstance(source, np.ndarray) or self.has_stem(source, EXTENSIONS)
        return Shot(name, picture, data, str(Path(name).with_suffix('.png')) if has_stem else f'{name}.png')

    def has_stem(self, file: Path, endings: tuple[str, ...]) -> bool:
        """Tell whether results are named without the ending of their file: only for the first file of each stem."""
        if (key := (file.parent, endings)) not in self.firsts:  # a stem that is a file's name (a.png.jpg) has no owner
            names = [name for name in sorted(os.listdir(file.parent), reverse=True) if name.lower().endswith(endings)]
            self.firsts[key] = {Path(name).stem: name for name in names} | dict.fromkeys(names, '')
        return self.firsts[key].get(file.stem, file.name) == file.name

    def predict(self, shots: Iterable[Shot]) -> Iterator[tuple[Shot, Any]]:
        """Yield pictures with what is found in them, as mmseg and mmdet give it, on the CPU."""
        for batch in filter(None, _batches(shots)):
            start = time.perf_counter()
            samples, seconds = predict_items(self.network, [shot.data for shot in batch])
            samples = [sample.cpu() for sample in samples]  # ends when the device has
            whole = time.perf_counter() - start
            self.times += [(1000 * seconds / len(batch), 1000 * whole / len(batch))] * len(batch)
            yield from zip(batch, samples, strict=True)

    def save(self, sample: Any, name: str, out: Path, label: str) -> None:
        """Write a picture's labels, or note its boxes."""
        if self.segments:
            labels = sample.pred_sem_seg.data[0].numpy()
            file = out / LABELS / label
            self.written.add(file)
            write_picture(labels.astype(np.uint8 if len(self.classes) <= 256 else np.uint16), file)
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
        self.written.add(Path(name))
        if time.monotonic() > self.next_write:
            start = time.monotonic()
            self.write(out)
            self.next_write = time.monotonic() + max(SECONDS, (time.monotonic() - start) / SHARE)

    def write(self, out: Path) -> None:
        """Write the boxes that were found so far, and earlier ones."""
        images, boxes = list[dict[str, Any]](), list[dict[str, Any]]()
        for number, (image, image_boxes) in enumerate(self.boxes.values(), 1):
            images.append({**image, 'id': number})
            boxes += [{**box, 'id': index, 'image_id': number} for index, box in enumerate(image_boxes, len(boxes) + 1)]
        if images:
            write_json(out / BOXES, {'images': images, 'annotations': boxes, 'categories': self.categories})

    def summary(self, out: Path, seconds: float) -> Iterator[str]:
        """Yield what was written, and the time of a picture; ``seconds`` of all, with reading and writing."""
        yield f'written  {out / DRAWN}'
        if self.segments:
            numbers = some((f'{number} {name}' for number, name in enumerate(self.classes)), 6)
            yield f'         {out / LABELS}: {len(self.written)} PNG; a value is the number of a class: {numbers}'
            colours = ('#' + bytes(colour).hex() for colour in self.network.dataset_meta['palette'])
            legend = (f'{name} {colour}' for name, colour in zip(self.classes, colours, strict=True))
            yield f'colours  {some(legend, 6)}, half and half with the picture'
        else:
            count, pictures = sum(len(self.boxes[str(name)][1]) for name in self.written), len(self.written)
            earlier = len(self.boxes) - pictures
            more = f'; boxes in {earlier} earlier ones are kept' if earlier else ''
            yield f'         {out / BOXES}: {count} boxes of {self.threshold} or more, in {pictures} pictures{more}'
        device = next(self.network.parameters()).device
        passes, prepared = zip(*(self.times[1:] or self.times), strict=True)  # the first is slower
        threads = f', {torch.get_num_threads()} threads' if device.type == 'cpu' else ''
        whole = f'{1000 * seconds / len(self.times):.1f} ms with reading and writing'
        measured = f'median of {len(passes)}, up to {BATCH} at once'
        yield f'time     {median(passes):.1f} ms a picture in the network ({measured}), on {device}{threads}'
        labels = ' and labels' if self.segments else ''
        yield f'         {median(prepared):.1f} ms with normalisation{labels}, {whole}'


def _batches(shots: Iterable[Shot]) -> Iterator[list[Shot]]:
    """Yield neighbours of one size together. The first picture comes alone: it takes longer, and is not timed."""
    batch, most = list[Shot](), 1
    try:
        for shot in shots:
            if batch and (len(batch) >= most or shot.data['inputs'].shape != batch[0].data['inputs'].shape):
                yield batch
                batch, most = [], BATCH
            batch.append(shot)
            most = min(most, PIXELS // max(shot.pixels for shot in batch))
    except Unreadable:  # those before it are predicted
        yield batch
        raise
    yield batch


def run_ahead(calls: Iterable[Callable[[], T]], threads: int) -> Generator[Future[T]]:
    """Yield calls that threads make, in their order. Those that were begun end, whatever happens."""
    main_threads = torch.get_num_threads()  # asked first, this thread keeps it; others would take what is set last
    try:
        # a thread with a second one of torch would take the processors from the network
        with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
            queue = deque[Future[T]]()
            for call in calls:
                queue.append(pool.submit(call))
                if len(queue) > AHEAD:
                    yield queue.popleft()
            yield from queue
    finally:
        torch.set_num_threads(main_threads)


def predict_shots(student: Student, shots: Iterable[Shot], out: Path, show: Callable[[str, np.ndarray], None]) -> None:
    """Write what the network finds while it looks at the next ones; ``show`` takes a drawn picture (BGR)."""

    def write(shot: Shot, sample: Any) -> None:
        student.save(sample, shot.name, out, shot.label)
        drawn = draw(shot.picture, sample, student.network.dataset_meta, 'pred', student.threshold)
        show(shot.name, mmcv.rgb2bgr(drawn))

    with closing(run_ahead((partial(write, *answer) for answer in student.predict(shots)), 1)) as writes:
        for future in writes:
            future.result()


Skipping = Callable[[Path], AbstractContextManager[None]]


def predict_pictures(student: Student, files: Sequence[Path], out: Path, skipping: Skipping) -> None:
    def readable() -> Iterator[Shot]:
        reads = run_ahead((partial(student.read, file, result_path(file)) for file in files), READERS)
        for file, shot in zip(files, reads, strict=True):
            with skipping(file):
                yield shot.result()

    predict_shots(student, readable(), out, lambda name, picture: write_picture(picture, out / DRAWN / name))


def predict_video(student: Student, file: Path, out: Path) -> None:
    """Write a video with the predictions drawn, and the prediction on each frame."""
    path = Path(result_path(file))
    stem = path.with_suffix('') if student.has_stem(file, VIDEOS) else path
    video = out / DRAWN / f'{stem}.mp4'
    if printable(str(video)) != str(video):  # OpenCV would end the process
        problem = f'{str(file)!r}: the path of a video and of --out must be UTF-8: rename it.'
        raise Unreadable(problem, 'with a path that is not UTF-8')
    frames = mmcv.VideoReader(str(file))
    if not frames.opened:
        raise Unreadable(f'{file}: cannot be read as a video.')
    if video.is_dir():
        raise IsADirectoryError(f'{video}: a folder is where the drawn video belongs. Remove it, or give another --out')
    if student.segments:  # frames of this video before it was cut
        shutil.rmtree(out / LABELS / path, ignore_errors=True)
    student.boxes = {name: entry for name, entry in student.boxes.items() if not name.startswith(f'{path}/')}
    video.parent.mkdir(parents=True, exist_ok=True)
    fps = frames.fps if 0 < frames.fps < 1000 else 25  # more is a clock's rate, which mp4 refuses
    unfinished, size, count = video.with_name(f'.{video.name}'), (frames.width, frames.height), 0
    writer = cv2.VideoWriter(str(unfinished), cv2.VideoWriter.fourcc(*'mp4v'), fps, size)
    if not writer.isOpened():
        raise OSError(f'{video}: OpenCV cannot write it: it has no encoder for mp4v, or no right to the folder.')

    def show(name: str, picture: np.ndarray) -> None:
        nonlocal count
        writer.write(picture)
        count += 1

    # as a generator: of a video without a duration `len` is negative
    read = track((frame for frame in frames), str(file), max(0, frames.frame_cnt) or None, transient=True)
    calls = (partial(student.read, frame, f'{path}/{number:06d}.jpg') for number, frame in enumerate(read))
    try:
        predict_shots(student, (shot.result() for shot in run_ahead(calls, 1)), out, show)
        writer.release()
        if not count:
            raise Unreadable(f'{file}: cannot be read as a video.')
        if count < SHORT * frames.frame_cnt:  # which is told by its size and its rate in some files
            print(f'WARNING: {file}: {count} of about {frames.frame_cnt} frames could be read')
        stored = max(0, int(cv2.VideoCapture(str(unfinished)).get(cv2.CAP_PROP_FRAME_COUNT)))  # OpenCV tells no error
        if stored < count:
            problem = f'{size_text(size[::-1])} pixels, {stored} of {count} frames could be'
            raise OSError(f'{video}: {problem} written. Look for space on the disk.')
        unfinished.replace(video)
    finally:
        writer.release()
        unfinished.unlink(missing_ok=True)


def result_path(file: Path) -> str:
    """Return where a file's results stand below the folder of results: its own path below the working folder."""
    path = Path(os.path.abspath(file))  # without `..`, which would lead out of that folder
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else Path(*path.parts[1:]))
