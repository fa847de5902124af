"""Label images that new writes from polygons, masks and colours."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco
from rich.progress import track

from mmdistill_dense.apps.project import label_values
from mmdistill_dense.apps.project.box_labels import BoxData
from mmdistill_dense.apps.project.formats.objects import Labelled, shape_run_lengths
from mmdistill_dense.apps.project.label_values import TABLES, Colour, Parts, Values, colour_table
from mmdistill_dense.apps.project.picture_files import file_errors, open_picture, repeated
from mmdistill_dense.datasets.label_files import has_mask
from mmdistill_dense.utils.files import read_json, write_json, write_text
from mmdistill_dense.utils.runner_internals import IGNORED
from mmdistill_dense.utils.sampling import evenly
from mmdistill_dense.utils.validate import close_or_all, some

FOLDER, NOTE = 'labels', 'source.json'
BACKGROUND = 'background'
_MOST_COLOURS, _SAMPLED = 64, 200
_MAX_UNKNOWN = 0.01  # a label image with a larger share of unknown colours is refused
Job = tuple[str, Callable[[], np.ndarray]]  # a path in the folder of the project; what makes (height, width), uint8
Targets = Sequence[tuple[str, Path]]  # such paths, and files of the data
Drawn = tuple[tuple[str, ...], 'Drawing']  # classes, and their label images


@dataclass(frozen=True)
class Drawing:
    """All label images to write, and what they are made from."""

    jobs: Sequence[Job]
    source: str
    stamp: str  # changes with the source

    def __post_init__(self) -> None:
        if duplicates := repeated(target for target, _ in self.jobs):
            raise ValueError(f'--data: two pictures of one name: {some(duplicates, 3)}. Give each its own name.')

    @property
    def note(self) -> dict[str, Any]:
        return {'source': self.source, 'images': len(self.jobs), 'sha256': self.stamp}

    def replaces(self, out: Path) -> bool:
        """Tell whether label images are there that were made from another source."""
        return read_json(out / FOLDER / NOTE) not in (None, self.note)

    def write(self, out: Path) -> str:
        """Write them, unless they are there and made from the same source; return what was done."""
        file = out / FOLDER / NOTE
        if read_json(file) == self.note and all((out / target).is_file() for target, _ in self.jobs):
            return f'{len(self.jobs)} label images are there, made from the same source'
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix='.', dir=out) as unfinished:  # until all are drawn: one may be refused
            for target, make in track(self.jobs, 'label images', transient=True):
                path = Path(unfinished, target)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(make()).save(path)
            file.unlink(missing_ok=True)
            for target, _ in self.jobs:
                os.renames(Path(unfinished, target), out / target)
        write_json(file, self.note)
        return f'{len(self.jobs)} label images, made from {self.source}'


def _number(classes: Sequence[str], problem_of_one: str) -> dict[str, int]:
    if len(classes) > IGNORED:
        problem = f'{len(classes)} classes; a label image numbers at most {IGNORED}, the background included'
        raise ValueError(f'--data: {problem}. Choose some by --classes.')
    if len(classes) < 2:
        raise ValueError(problem_of_one)
    return {name: number for number, name in enumerate(classes)}


def objects_drawing(data: BoxData, targets: Sequence[str], background: str) -> Drawn:
    """Return the classes and the label images of the objects of a data set. Later objects lie above earlier ones."""
    classes, empty = data.classes, IGNORED
    if background == 'class':
        empty_class = next((name for name in classes if name.lower() == BACKGROUND), BACKGROUND)
        classes, empty = (empty_class, *(name for name in classes if name != empty_class)), 0
    text = f'--data: {classes[0]} is the only class, so there is nothing to learn'
    numbers = _number(classes, f'{text}. --background class makes what no object covers a class too.')
    jobs, stats = list[Job](), Values()
    digest = hashlib.sha256(repr((classes, empty)).encode())
    for part, pictures in data.parts.items():
        for sample, target in zip(pictures, targets[len(jobs) :], strict=False):  # those of the next parts follow
            if bare := [instance for instance in sample.objects if not has_mask(instance)]:
                problem = f'{sample.picture} has a box without a polygon or mask ({bare[0]["bbox"]})'
                raise ValueError(f'--data: {problem}. Outline every object; boxes alone are for networks of mmdet::.')
            jobs.append((target, partial(draw_label_image, sample, numbers, empty)))
        split = data.splits[part]
        digest.update(split.content.encode() if split.content else (data.root / split.labels).read_bytes())
        for target, make in evenly(jobs[-len(pictures) :], label_values.COUNTED):  # as of label images that are there
            stats.add(part, Path(target), make())
    label_values.check_several(data.root, stats)
    label_values.check_splits(data.root, stats, dict(enumerate(classes)), data.notes)
    return classes, Drawing(jobs, str(data.root), digest.hexdigest())


def draw_label_image(sample: Labelled, numbers: Mapping[str, int], empty: int) -> np.ndarray:
    """Return the label image of a picture, with its objects drawn to the pixel; one of no class covers those below."""
    size = sample.size or (0, 0)
    canvas = np.full(size, empty, np.uint8)
    with file_errors(sample.picture):
        for instance in sample.objects:
            value = IGNORED if instance['iscrowd'] else numbers.get(instance['name'], empty)
            canvas[coco.decode(shape_run_lengths(instance['segmentation'], size)) > 0] = value
    return canvas


def copied(path: Path) -> np.ndarray:
    with open_picture(path) as image:
        return label_values.in_one_channel(image, path).astype(np.uint8)


def drawing_of(root: Path, targets: Targets, make: Callable[[Path], np.ndarray], key: str) -> Drawing:
    """Return the label images that are made from files, given as target and file; ``key`` changes with ``make``."""
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for _, path in targets]
    stamp = hashlib.sha256(repr((files, key)).encode()).hexdigest()
    return Drawing([(target, partial(make, path)) for target, path in targets], str(root), stamp)


def are_coloured(root: Path, labels: Sequence[Path], class_names: Sequence[str]) -> bool:
    """Tell whether label images, of some, hold colours: most of them, or one where all are RGB."""
    sample, coloured, grays = evenly(labels, _SAMPLED), list[bool](), set[int]()
    for path in sample:
        with open_picture(path) as image:
            if image.mode in ('RGB', 'RGBA'):
                pixels = np.asarray(image)
                coloured.append(label_values.has_colours(pixels))
                grays |= {*np.unique(pixels[..., 0]).tolist()}
    if any(coloured) or len(coloured) < len(sample):
        return len(coloured) == len(sample) or 2 * sum(coloured) > len(sample)
    with suppress(ValueError):  # a list of something else; three equal channels are numbers, unless it has them all
        table, _ = colour_table(root)
        return {*class_names} <= table.keys() and all((gray, gray, gray) in table.values() for gray in grays)
    return False


def colours_drawing(root: Path, parts: Parts, targets: Targets, class_names: Sequence[str], notes: list[str]) -> Drawn:
    """Return the classes of coloured label images and the images to write, given as target and file."""
    table, source = colour_table(root)
    if not table:
        raise ValueError(_missing_table_message(root, evenly([path for _, path in targets], _SAMPLED)))
    if unknown := [name for name in class_names if name not in table]:
        raise ValueError(f'--classes {some(unknown)}: not in {source}. {close_or_all(unknown[0], list(table))}')
    classes = tuple(name for name in table if not class_names or name in class_names)
    text = f'{classes[0]} is the only class, and pixels of other colours are ignored, so there is nothing to learn'
    numbers = _number(classes, f'--classes: {text}. Name the background too: {source} has {some(table)}.')
    codes = {colour: numbers.get(name, IGNORED) for name, colour in table.items()}
    stats, unknown_count = Values(), 0
    for part, pairs in parts.items():
        for _, path in evenly(pairs, _SAMPLED // len(parts)):
            stats.add(part, path, recolour(path, codes))
            unknown_count += sum(count for colour, count in _read_colours(path)[1].items() if colour not in codes)
    pixels = stats.pixels()
    if unknown_count:
        text = f'{unknown_count / pixels.sum():.2%} of the pixels have a colour of no class'
        notes.append(f'WARNING: {text}; they are ignored')
    if ignored := [name for name in table if name not in numbers]:
        share = (pixels[IGNORED] - unknown_count) / pixels.sum()
        notes.append(f'ignored, because --classes leaves them out: {some(ignored)} ({share:.1%} of the pixels)')
    label_values.check_splits(root, stats, dict(enumerate(classes)), notes)
    notes += [f'{len(classes)} classes, by colour, from {source}', *label_values.hint_of_void(classes)]
    key = repr(sorted((r << 16 | g << 8 | b, number) for (r, g, b), number in codes.items()))
    return classes, drawing_of(root, targets, partial(recolour, codes=codes), key)


def recolour(path: Path, codes: Mapping[Colour, int]) -> np.ndarray:
    """Return the numbers of the classes in an image of their colours; raise if many pixels have another colour."""
    pixels, counts = _read_colours(path)
    unknown = {colour: count for colour, count in counts.items() if colour not in codes}
    numbers = np.full(pixels.shape[:2], IGNORED, np.uint8)
    if (count := sum(unknown.values())) > _MAX_UNKNOWN * numbers.size:
        most = max(unknown, key=unknown.__getitem__)
        text = f'{count / numbers.size:.1%} of the pixels of {path} have a colour of no class, most often {most}'
        raise ValueError(f'--data: {text}. Add it to the list of colours, or write without smoothed edges (no JPEG).')
    for colour in counts.keys() & codes.keys():
        numbers[(pixels == colour).all(-1)] = codes[colour]
    return numbers


def _read_colours(path: Path) -> tuple[np.ndarray, dict[Colour, int]]:
    """Return an image (height, width, 3), and how many of its pixels have each colour."""
    with open_picture(path) as image:
        if image.mode not in ('RGB', 'RGBA'):
            raise ValueError(f'--data: {path} has the mode {image.mode}, and others are of colours. Write all alike.')
        if image.mode == 'RGBA' and image.getchannel('A').getextrema() != (255, 255):
            raise ValueError(f'--data: {path} has transparent pixels. Write it without an alpha channel.')
        picture = image.convert('RGB')
        counts: Any = picture.getcolors(picture.width * picture.height)
        return np.asarray(picture), dict(sorted((colour, count) for count, colour in counts))


def _missing_table_message(root: Path, paths: Sequence[Path]) -> str:
    """Return a refusal that shows the colours in some label images, the most frequent first; write a list to fill."""
    counts, sampled = Counter[Colour](), len(paths)
    for path in paths:
        counts.update(_read_colours(path)[1])
    shares = {colour: count / counts.total() for colour, count in counts.most_common()}
    text = some((f'{colour}: {share:.1%}' for colour, share in shares.items()), 8)
    start = f'--data {root}: the label images hold colours, and no list of them is there ({", ".join(TABLES)}). '
    if len(shares) > _MOST_COLOURS:
        advice = 'write label images without smoothed edges (no anti-aliasing, no JPEG)'
        return f'{start}{len(shares)} colours in {sampled} are too many for classes: {advice}. Most frequent: {text}.'
    lines = ['name,r,g,b', *(f'class_{number},{",".join(map(str, colour))}' for number, colour in enumerate(shares))]
    file = Path('class_dict.csv')
    if not file.exists():
        write_text(file, '\n'.join([*lines, '']))
    return f'{start}Found in {sampled} of them: {text}. Name them in {file.absolute()}, and put this file into {root}.'
