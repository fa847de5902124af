"""Label images that new writes from polygons, masks and colours."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco
from rich.progress import track

from mmdistill_dense.apps.project import label_values
from mmdistill_dense.apps.project import picture_folders as folders
from mmdistill_dense.apps.project.box_labels import BoxData
from mmdistill_dense.apps.project.formats.objects import Labelled, class_name, packed
from mmdistill_dense.apps.project.label_values import Colour, Values
from mmdistill_dense.datasets.label_files import has_mask
from mmdistill_dense.utils.evenly import evenly
from mmdistill_dense.utils.files import read_json, write_json, write_text
from mmdistill_dense.utils.runner_internals import IGNORED
from mmdistill_dense.utils.validate import close_or_all, some

FOLDER, NOTE = 'labels', 'source.json'
BACKGROUND = 'background'
_TABLES = (
    'labelmap.txt', 'class_dict.csv', 'label_class_dict.csv', '_classes.csv', 'classes.csv', 'colormap.json',
    'label_colors.txt',
)  # fmt: skip
_TO_FILL = 'class_dict.csv'
_MOST_COLOURS, _SAMPLED = 64, 200
_STRANGE = 0.01  # share of pixels of no known colour above which a label image is refused


@dataclass(frozen=True)
class Job:
    target: str  # its path in the folder of the project
    make: Callable[[], np.ndarray]  # (height, width), uint8


@dataclass(frozen=True)
class Drawing:
    """All label images to write, and what they are made from."""

    jobs: Sequence[Job]
    source: str
    stamp: str  # changes with the source

    def __post_init__(self) -> None:
        if twice := folders.repeated(job.target for job in self.jobs):
            raise ValueError(f'--data: two pictures of one name: {some(twice, 3)}. Give each its own name.')

    @property
    def note(self) -> dict[str, Any]:
        return {'source': self.source, 'images': len(self.jobs), 'sha256': self.stamp}

    def replaces(self, out: Path) -> bool:
        """Tell whether label images are there that were made from another source."""
        return read_json(out / FOLDER / NOTE) not in (None, self.note)

    def write(self, out: Path) -> str:
        """Write them, unless they are there and made from the same source; return what was done."""
        file = out / FOLDER / NOTE
        if read_json(file) == self.note and all((out / job.target).is_file() for job in self.jobs):
            return f'{len(self.jobs)} label images are there, made from the same source'
        drawn = out / f'.{FOLDER}'  # until all are drawn: one may be refused
        shutil.rmtree(drawn, ignore_errors=True)
        try:
            for job in track(self.jobs, 'label images', transient=True):
                place = out / f'.{job.target}'
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(job.make()).save(place)
            file.unlink(missing_ok=True)
            for job in self.jobs:
                (out / job.target).parent.mkdir(parents=True, exist_ok=True)
                (out / f'.{job.target}').replace(out / job.target)
        finally:
            shutil.rmtree(drawn, ignore_errors=True)
        write_json(file, self.note)
        return f'{len(self.jobs)} label images, made from {self.source}'


def _check_number(classes: Sequence[str]) -> None:
    if len(classes) > IGNORED:
        told = f'{len(classes)} classes; a label image numbers at most {IGNORED}, the background included'
        raise ValueError(f'--data: {told}. Choose some by --classes.')


# Objects


def objects_drawing(
    data: BoxData, targets: Sequence[str], background: str, notes: list[str]
) -> tuple[tuple[str, ...], Drawing]:
    """Return the classes and the label images of the objects of a data set. Later objects lie above earlier ones.

    ``targets``: the place in the folder of the project of each label image, in the order of parts and pictures. Some
    are drawn and checked as label images are that are there.
    """
    classes, empty = data.classes, IGNORED
    if background == 'class':
        own = next((name for name in classes if name.lower() == BACKGROUND), BACKGROUND)
        classes, empty = (own, *(name for name in classes if name != own)), 0
    numbers = {name: number for number, name in enumerate(classes)}
    _check_number(classes)
    if len(classes) < 2:
        advice = '--background class makes what no object covers a class too'
        raise ValueError(f'--data: {classes[0]} is the only class, so there is nothing to learn. {advice}.')
    jobs, values, seen = list[Job](), Values(len(targets)), dict[str, list[int]]()
    digest = hashlib.sha256(repr((classes, empty)).encode())
    for part, pictures in data.parts.items():
        for one, place in zip(pictures, targets[len(jobs) :], strict=False):  # those of the next parts follow
            if bare := [each for each in one.objects if not has_mask(each)]:
                told = f'{one.picture} has a box without a polygon or mask ({bare[0]["bbox"]})'
                raise ValueError(f'--data: {told}. Outline every object; boxes alone are for networks of mmdet::.')
            jobs.append(Job(place, partial(paint, one, numbers, empty)))
        split = data.splits[part]
        digest.update(split.content.encode() if split.content else (data.root / split.labels).read_bytes())
        drawn_now = evenly(jobs[-len(pictures) :], label_values.COUNTED)
        seen[part] = sorted({value for job in drawn_now for value in values.add(Path(job.target), job.make())})
    label_values.check_several(data.root, values)
    label_values.check_splits(data.root, seen, dict(enumerate(classes)), notes)
    return classes, Drawing(jobs, str(data.root), digest.hexdigest())


def paint(one: Labelled, numbers: Mapping[str, int], empty: int) -> np.ndarray:
    """Return the label image of a picture, with its objects drawn to the pixel; one of no class covers those below."""
    size = one.size or (0, 0)
    found = np.full(size, empty, np.uint8)
    with folders.named(one.picture):
        for each in one.objects:
            value = IGNORED if each['iscrowd'] else numbers.get(each['name'], empty)
            found[coco.decode(packed(each['segmentation'], size)) > 0] = value
    return found


# Label images that are there


def copied(path: Path) -> np.ndarray:
    with folders.opened(path) as image:
        return label_values.in_one_channel(image, path).astype(np.uint8)


def drawing_of(root: Path, labels: Sequence[tuple[str, Path]], make: Callable[[Path], np.ndarray], how: str) -> Drawing:
    """Return the label images that are made from files, given as target and file; ``how`` changes with ``make``."""
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for _, path in labels]
    stamp = hashlib.sha256(repr((files, how)).encode()).hexdigest()
    return Drawing([Job(place, partial(make, path)) for place, path in labels], str(root), stamp)


def of_colours(root: Path, labels: Sequence[Path], given: Sequence[str]) -> bool:
    """Tell whether label images, of some, hold colours: most of them, or one where all are RGB.

    Those of three equal channels hold numbers, unless the list of colours has all their grays, and the names ``given``.
    """
    sampled, found, of_rgb, grays = evenly(labels, _SAMPLED), 0, 0, set[int]()
    for path in sampled:
        with folders.opened(path) as image:
            if image.mode in ('RGB', 'RGBA'):
                pixels, of_rgb = np.asarray(image), of_rgb + 1
                found += label_values.has_colours(pixels)
                if not found:
                    grays |= {*np.unique(pixels[..., 0]).tolist()}
    if of_rgb < len(sampled):
        return 2 * found > len(sampled)
    if found:
        return True
    try:
        table = colour_table(root)[0]
    except ValueError:  # a list of something else
        return False
    return {*given} <= table.keys() and all((gray, gray, gray) in table.values() for gray in grays)


def colours_drawing(
    root: Path,
    parts: Mapping[str, Sequence[Path]],
    targets: Sequence[tuple[str, Path]],
    given: Sequence[str],
    notes: list[str],
) -> tuple[tuple[str, ...], Drawing]:
    """Return the classes of coloured label images and the images to write, given as target and file."""
    table, source = colour_table(root)
    if not table:
        raise ValueError(_ask_for_names(root, evenly([path for _, path in targets], _SAMPLED)))
    if unknown := [name for name in given if name not in table]:
        raise ValueError(f'--classes {some(unknown)}: not in {source}. {close_or_all(unknown[0], list(table))}')
    classes = tuple(name for name in table if not given or name in given)
    _check_number(classes)
    if len(classes) < 2:
        told = f'{classes[0]} is the only class, and pixels of other colours are ignored, so there is nothing to learn'
        raise ValueError(f'--classes: {told}. Name the background too: {source} has {some(table)}.')
    numbers = {name: number for number, name in enumerate(classes)}
    codes = {r << 16 | g << 8 | b: numbers.get(name, IGNORED) for name, (r, g, b) in table.items()}
    pixels, strange, seen = Counter[int](), 0, dict[str, list[int]]()
    for part, paths in parts.items():
        here = Counter[int]()
        for path in evenly(paths, _SAMPLED // len(parts)):
            values, counts = np.unique(_codes_in(path), return_counts=True)
            strange += _strange(path, values, counts, codes)
            for value, count in zip(values.tolist(), counts.tolist(), strict=True):
                here[codes.get(value, IGNORED)] += count
        pixels, seen[part] = pixels + here, sorted(here)
    if strange:
        told = f'{strange / pixels.total():.2%} of the pixels have a colour of no class'
        notes.append(f'WARNING: {told}; they are ignored')
    if ignored := [name for name in table if name not in numbers]:
        share = (pixels[IGNORED] - strange) / pixels.total()
        notes.append(f'ignored, because --classes leaves them out: {some(ignored)} ({share:.1%} of the pixels)')
    label_values.check_splits(root, seen, dict(enumerate(classes)), notes)
    notes += [f'{len(classes)} classes, by colour, from {source}', *label_values.hint_of_void(classes)]
    return classes, drawing_of(root, targets, partial(recolour, codes=codes), repr(sorted(codes.items())))


def recolour(path: Path, codes: Mapping[int, int]) -> np.ndarray:
    """Return the numbers of the classes in an image of their colours; raise if many pixels have another colour."""
    found = _codes_in(path)
    values, places, counts = np.unique(found, return_inverse=True, return_counts=True)
    _strange(path, values, counts, codes)
    return np.array([codes.get(int(value), IGNORED) for value in values], np.uint8)[places].reshape(found.shape)


def _strange(path: Path, values: np.ndarray, counts: np.ndarray, codes: Mapping[int, int]) -> int:
    """Return the number of pixels of unknown colours; raise if they are many."""
    strange = np.array([int(value) not in codes for value in values])
    lost = int(counts[strange].sum())
    if lost > _STRANGE * counts.sum():
        most = _colour(int(values[strange][counts[strange].argmax()]))
        told = f'{lost / counts.sum():.1%} of the pixels of {path} have a colour of no class, most often {most}'
        raise ValueError(f'--data: {told}. Add it to the list of colours, or write without smoothed edges (no JPEG).')
    return lost


def _codes_in(path: Path) -> np.ndarray:
    with folders.opened(path) as image:
        if image.mode not in ('RGB', 'RGBA'):
            raise ValueError(f'--data: {path} has the mode {image.mode}, and others are of colours. Write all alike.')
        pixels = np.asarray(image).astype(np.int64)
    if pixels.shape[2] == 4 and (pixels[..., 3] != 255).any():
        raise ValueError(f'--data: {path} has transparent pixels. Write it without an alpha channel.')
    return pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]


def _colour(code: int) -> Colour:
    return code >> 16, code >> 8 & 255, code & 255


def _ask_for_names(root: Path, paths: Sequence[Path]) -> str:
    """Return a refusal that shows the colours in some label images, the most frequent first; write a list to fill."""
    counts: dict[int, int] = defaultdict(int)
    for path in paths:
        for value, count in zip(*np.unique(_codes_in(path), return_counts=True), strict=True):
            counts[int(value)] += int(count)
    total, looked = sum(counts.values()), len(paths)
    shares = {_colour(code): count / total for code, count in sorted(counts.items(), key=lambda one: -one[1])}
    told = some((f'{colour}: {share:.1%}' for colour, share in shares.items()), 8)
    start = f'--data {root}: the label images hold colours, and no list of them is there ({", ".join(_TABLES)}). '
    if len(shares) > _MOST_COLOURS:
        advice = 'write label images without smoothed edges (no anti-aliasing, no JPEG)'
        return f'{start}{len(shares)} colours in {looked} are too many for classes: {advice}. Most frequent: {told}.'
    lines = ['name,r,g,b', *(f'class_{number},{",".join(map(str, colour))}' for number, colour in enumerate(shares))]
    file = Path(_TO_FILL)
    if not file.exists():
        write_text(file, '\n'.join([*lines, '']))
    return f'{start}Found in {looked} of them: {told}. Name them in {file.absolute()}, and put this file into {root}.'


def colour_table(root: Path) -> tuple[dict[str, Colour], str]:
    """Return the colour of each class, from the first list of colours in the folder, and the list's path."""
    tables = [file for name in _TABLES if (file := root / name).is_file()]
    for file in tables:
        if rows := list(_rows(file)):
            found: dict[str, Colour] = {}
            for name, values in rows:
                try:
                    colour = tuple(int(value) for value in values)
                except (TypeError, ValueError):
                    colour = ()
                if len(colour) != 3 or not set(colour) <= set(range(256)):
                    raise ValueError(f'--data: {file}: {name} has the colour {values!r}, not three numbers to 255.')
                if name in found or colour in found.values():
                    raise ValueError(f'--data: {file}: {name} or its colour {colour} stands twice. List each once.')
                found[name] = colour
            return found, str(file)
    if tables:
        advice = 'A csv file needs the columns name, r, g and b. Add them, or take the file out'
        raise ValueError(f'--data: {tables[0]} lists no colour. {advice}.')
    return {}, ''


def _rows(file: Path) -> Iterator[tuple[str, Sequence[Any]]]:
    """Yield names and colours in CVAT's labelmap, a csv with columns name, r, g, b, or json."""
    if file.suffix == '.json':
        content = json.loads(file.read_text(encoding='utf-8-sig'))
        listed = content.items() if isinstance(content, dict) else ((one['name'], one['color']) for one in content)
        yield from ((class_name(str(file), name), colour) for name, colour in listed)
    elif file.name == 'label_colors.txt':  # of CamVid: ``64 128 64 Animal``
        yield from ((name, colour) for *colour, name in (line.split(maxsplit=3) for line in folders.lines_of(file)))
    elif file.suffix == '.txt':
        for number, line in enumerate(line for line in folders.lines_of(file) if not line.startswith('#')):
            name, colour, *_ = [*line.split(':'), '', '']
            # VOC spreads the bits of a class over the three channels
            bits = [[(number >> 3 * place + channel & 1) << 7 - place for place in range(8)] for channel in range(3)]
            yield name.strip(), colour.split(',') if colour else [*map(sum, bits)]
    else:
        lines = folders.lines_of(file)
        for row in csv.DictReader(lines, delimiter=';' if lines and ';' in lines[0] else ','):
            known = {str(key).strip().lower(): value for key, value in row.items()}
            if {'name', 'r', 'g', 'b'} <= set(known):
                yield str(known['name']).strip(), [str(known[key]).strip() for key in 'rgb']
