"""The values in label images, and their classes."""

import csv
import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track

from mmdistill_dense.apps.project.formats.objects import class_name
from mmdistill_dense.apps.project.picture_files import Size, lines_of, open_picture, repeated, size_of, stored_size
from mmdistill_dense.utils.runner_internals import IGNORED
from mmdistill_dense.utils.sampling import evenly
from mmdistill_dense.utils.validate import size_text, some

COUNTED, MOST = 200, 5000  # label images of each split whose values are read, and where values are far apart
LIST = 'classes.txt'
CSV = '_classes.csv'  # Roboflow's: a line `Pixel Value, Class`, then a line a class
TABLES = (
    'labelmap.txt', 'class_dict.csv', 'label_class_dict.csv', '_classes.csv', 'classes.csv', 'colormap.json',
    'label_colors.txt',
)  # fmt: skip
NO_CLASS = '-'
_JPEG = ('.jpg', '.jpeg', '.jfif')
_VOID = re.compile(r'[\W_]*(void|ignored?|unlabell?ed|unannotated|undefined|don.?t.?care)[\W_]*', re.IGNORECASE)
_GAP = 10  # missing values that a rare class may explain
_MIN_VALUES, _MIN_HIGHEST = 32, 200  # more values, up to higher ones, come from smoothed edges
_MAIN_VALUES, _MAIN_SHARE = 3, 0.9  # if this number of values holds this share of the pixels
_MIN_CHANCE = 0.01  # if two values never occur together by a smaller chance, they seem to exclude each other
Pair = tuple[Path, Path]  # a picture and its label image
Parts = Mapping[str, Sequence[Pair]]
Colour = tuple[int, ...]  # red, green, blue
Named = tuple[tuple[str, ...], tuple[int, ...], bool]


@dataclass
class Values:
    """The values in label images that were read, and the colours that palettes give to them."""

    channels: int = 1  # 3 if some have three equal ones, which mmseg does not read
    # the part, the label image, and how many of its pixels have each value
    rows: list[tuple[str, Path, np.ndarray]] = field(default_factory=list)
    colours: dict[int, tuple[Colour, Path]] = field(default_factory=dict)  # and where they were first seen
    palette: Sequence[Colour] = ()  # the longest one that has colours

    def read(self, part: str, label: Path) -> Size:
        """Add a label image and the colours of its palette, and return its size."""
        with open_picture(label) as image:
            pixels, size = in_one_channel(image, label), size_of(image, stored=True)
            self.channels = max(self.channels, len(image.getbands()))
            palette = [(*colour,) for colour in np.reshape(image.getpalette() or [], (-1, 3)).tolist()]
        counts = self.add(part, label, pixels)
        colours = {value: colour for value, colour in enumerate(palette[:IGNORED]) if counts[value]}
        if any(colour != (value, value, value) for value, colour in colours.items()):  # grays tell no colours
            self.palette = max(self.palette, palette, key=len)  # writers leave unused colours out
            for value, colour in colours.items():
                other, source = self.colours.setdefault(value, (colour, label))
                if colour != other:
                    problem = f'by their palettes, {value} is the colour {other} in {source}, and {colour} in {label}'
                    advice = 'If the colours are the classes, write RGB. If the numbers are, write no palette'
                    raise ValueError(f'--data: {problem}. {advice}.')
        return size

    def add(self, part: str, label: Path, pixels: np.ndarray) -> np.ndarray:
        """Add the numbers of a label image, and return how many pixels have each value."""
        if (extreme := min(int(pixels.min()), 0) or int(pixels.max())) not in range(IGNORED + 1):
            problem = f'{label} holds the value {extreme}; a class has a number from 0 to {IGNORED - 1} (8 bits)'
            raise ValueError(f'--data: {problem}, and {IGNORED} is ignored. Number the classes anew.')
        self.rows.append((part, label, np.bincount(pixels.ravel(), minlength=IGNORED + 1)))
        return self.rows[-1][2]

    def pixels(self, part: str = '') -> np.ndarray:
        """Return how many pixels have each value, in a part or in all of them."""
        return np.sum([counts for name, _, counts in self.rows if part in ('', name)], 0)

    def values(self, part: str = '') -> list[int]:
        return np.flatnonzero(self.pixels(part)).tolist()

    def holding(self, value: int) -> list[Path]:
        """Return the label images that hold a value."""
        return [label for _, label, counts in self.rows if counts[value]]

    @property
    def smoothed(self) -> str:
        """Say that most values seem to come from smoothed edges; empty if they do not."""
        pixels, values = self.pixels(), self.values()
        most = np.argsort(-pixels, kind='stable')[:_MAIN_VALUES]
        share, highest = pixels[most].sum() / pixels.sum(), max({*values} - {IGNORED}, default=0)
        if len(values) <= _MIN_VALUES or highest < _MIN_HIGHEST or share < _MAIN_SHARE:  # classes count from 0
            return ''
        summary = f'{len(values)} values, of which {some(sorted(most.tolist()))} hold {share:.0%} of the pixels'
        advice = 'Write none: resize by the nearest pixel, draw without anti-aliasing, save no JPEG.'
        return f'{summary}: the others seem to come from smoothed edges. {advice}'


def sample_label_values(parts: Parts, stored: bool, some_ignored: bool) -> Values:
    """Read some pairs of each part; pictures as they are ``stored``, or as EXIF turns them."""
    stats = Values()
    sample = [(part, *pair) for part, pairs in parts.items() for pair in evenly(pairs, COUNTED)]
    for part, path, label in sample:
        size, picture_size = stats.read(part, label), stored_size(path, stored)
        if picture_size != size:
            advice = 'Bring the label image to the size of the picture, without mixing its values (nearest pixel).'
            if picture_size == size[::-1]:
                advice = 'Its sides are swapped: turn it as the picture is turned.'
            sizes = f'{size_text(picture_size)} pixels, its label image {label} has {size_text(size)}'
            raise ValueError(f'--data: {path} has {sizes}. {advice}')
    if some_ignored or _has_gaps(class_values(stats.values())):  # a value that was missed would be ignored in training
        more = {label: part for part, pairs in parts.items() for _, label in evenly(pairs, MOST)}
        for label in track(sorted(more.keys() - {label for _, _, label in sample}), 'label images', transient=True):
            stats.read(more[label], label)
    return stats


def in_one_channel(image: Image.Image, label: Path) -> np.ndarray:
    """Return the numbers in a label image, (height, width). Three equal channels are one."""
    pixels = np.asarray(image)
    if image.mode in ('RGB', 'RGBA') and not has_colours(pixels):
        return pixels[..., 0]
    if image.mode not in ('L', 'P', 'I', '1', 'I;16'):
        advice = 'A label image has one channel of class numbers, or all of them are RGB, in the colours of classes'
        raise ValueError(f'--data: {label} has the mode {image.mode}. {advice}.')
    return pixels


def has_colours(pixels: np.ndarray) -> bool:
    """Tell whether some pixel of (height, width, 3 or 4) is not gray, or transparent."""
    return bool((pixels[..., :3] != pixels[..., :1]).any() or (pixels[..., 3:] != 255).any())


def _named_by_colours(root: Path, stats: Values, notes: list[str]) -> tuple[tuple[str, ...], str]:
    """Return names from a list of colours, by the palette, else by grays if it has all of them; and their source."""
    table, path, classes = dict[str, Colour](), '', class_values(values := stats.values())
    with nullcontext() if stats.palette else suppress(ValueError):  # a list of something else
        table, path = colour_table(root)
    colours = [*stats.palette[:IGNORED]] or [(value, value, value) for value in range(IGNORED + 1)]
    by_colour = {colour: name for name, colour in table.items()}
    names = {value: by_colour.pop(colour) for value, colour in enumerate(colours) if by_colour.get(colour)}
    unnamed, numbers, means = [value for value in values if value not in names], classes, 'their grays'
    if table and stats.palette:
        if (value := next(iter(unnamed), IGNORED)) != IGNORED:
            problem = f'names no class of the colour {stats.palette[value]}, which the palette of'
            where = f'{stats.holding(value)[0]} gives to the value {value}'
            raise ValueError(f'--data: {path} {problem} {where}. Add it, or name the classes by --classes.')
        numbers, means = classes if _has_gaps(classes) else (*range(max(names) + 1),), 'the palette of the label images'
    elif unnamed or (IGNORED in values and IGNORED not in classes):
        return (), ''
    notes.append(f'classes named by {means}, from {path}')
    return tuple(names.get(value, NO_CLASS) for value in numbers), f'--data: {path}'


def name_values(root: Path, parts: Parts, class_names: Sequence[str], stored: bool, notes: list[str]) -> Named:
    """Return names of classes, of a list or numbered; label values; and whether label images have one channel."""
    # Roboflow's list lies in the folder itself, else in each part's folder
    lists = [file for file in (root / LIST, root / CSV) if file.is_file()][:1] or sorted(root.glob(f'*/{CSV}'))
    names, source = tuple(class_names), '--classes'
    if lists and not names:
        names, source = _names_in(lists[0]), f'--data: {lists[0]}'
        if different := [file for file in lists if _names_in(file) != names]:
            raise ValueError(f'--data: {different[0]} names other classes than {lists[0]}. Keep the one that is right.')
    stats = sample_label_values(parts, stored, NO_CLASS in names)
    if lossy := [label for pairs in parts.values() for _, label in pairs if label.suffix.lower() in _JPEG]:
        text = f'{len(lossy)} label images are JPEG, which changes values at edges ({lossy[0]}). Write them as .png'
        if not class_names and not (root / LIST).is_file():
            raise ValueError(f'--data {root}: {text}; or name the classes by --classes, if no value was changed.')
        notes.append(f'WARNING: {text}')
    if not names:
        names, source = _named_by_colours(root, stats, notes)
    check_several(root, stats)
    values, smoothed, count = stats.values(), stats.smoothed, len(stats.rows)
    classes = class_values(values)
    if IGNORED in values and IGNORED not in classes:
        _check_ignored(root, stats, notes)
    counted = _has_gaps(classes)
    if counted and len(labels := stats.holding(classes[-1])) == 1 and count > 1:
        notes.append(f'the value {classes[-1]} stands in one label image alone: {labels[0]}')
    if not names and smoothed:
        raise ValueError(f'--data {root}: the label images hold {smoothed} If they are classes, name them: --classes.')
    if not names:
        shown = some([value for value in classes if value in values], 12)
        images = f'{count} of {sum(map(len, parts.values()))} label images'
        summary = f'{len(classes)} classes, from the values {shown} in {images}'
        notes.append(f'{summary}; name them with --classes, or in {LIST} in the data folder')
        names = default_names(classes)
    table = classes if counted else tuple(range(len(names)))
    if len(names) < len(classes) or len(names) != len(table):
        apart = ' Separate names by spaces: --classes sky road.' if len(names) == 1 and ',' in names[0] else ''
        highest = max({*values} - {IGNORED}, default=IGNORED)
        examples = f'{some(values, 12)} (the {highest} for instance in {stats.holding(highest)[0]})'
        summary = f'{len(names)} names ({some(names)}), but the label images have the values {examples}'
        advice = f'Name each value in this order, also missing ones between them.{apart} {NO_CLASS} ignores one'
        raise ValueError(f'{source}: {summary}; {IGNORED} is ignored. {advice}.{smoothed and f" They are {smoothed}"}')
    notes += hint_of_void(names, NO_CLASS)
    pairs = [(name, value) for name, value in zip(names, table, strict=True) if name != NO_CLASS]
    if twins := repeated(name for name, _ in pairs):
        raise ValueError(f'{source}: {some(sorted(twins))} twice. Give each class its name; {NO_CLASS} ignores one.')
    if unseen := [f'{name} ({value})' for name, value in pairs if value not in values]:
        notes.append(f'no pixel of the {count} label images that were looked at has: {some(unseen)}')
    check_splits(root, stats, {value: name for name, value in pairs}, notes)
    named_values = tuple(value for _, value in pairs) if counted or NO_CLASS in names else ()
    return tuple(name for name, _ in pairs), named_values, stats.channels == 1


def hint_of_void(names: Sequence[str], written: str = '', more: Sequence[str] = ()) -> list[str]:
    """Return a hint for names such as ``void``, or ``more``; ``written`` in their place leaves them out."""
    void = [name for name in names if _VOID.fullmatch(name) or name.lower() in more]
    remaining = [written if name in void else name for name in names if written or name not in void]
    if not void or len({*remaining} - {NO_CLASS}) < (1 if more else 2):  # a detector learns one class, too
        return []
    words = f'--classes {shlex.join(remaining)}'
    return [f'{some(void)}: learned, and part of the mean score, as each class is. If it is none: {words}']


def check_several(root: Path, stats: Values) -> None:
    if len(values := stats.values()) == 1:
        text = f'the {len(stats.rows)} label images that were looked at hold the value {values[0]} alone'
        raise ValueError(f'--data {root}: {text}. A label image holds the number of the class at each pixel.')


def _check_ignored(root: Path, stats: Values, notes: list[str]) -> None:
    """Tell how much is ignored; refuse masks of 0 and 255 among others of 0 and 1, whose objects would be ignored."""
    ignoring, ones, pixels, total = stats.holding(IGNORED), {*stats.holding(1)}, stats.pixels(), len(stats.rows)
    share = f'{pixels[IGNORED] / pixels.sum():.1%} of the pixels'
    notes.append(f'{IGNORED} stands in {len(ignoring)} of {total} label images, {share}, and is ignored')
    other = {*ignoring} & {*stats.holding(0)}
    by_chance = math.comb(total - len(ones), len(other)) / math.comb(total, len(other))
    if stats.values() == [0, 1, IGNORED] and other.isdisjoint(ones) and by_chance < _MIN_CHANCE:
        problem = f'{len(ones)} label images hold 1, {len(other)} others hold 0 and {IGNORED} ({min(other)})'
        advice = f'write 1 in its place. To ignore it, write 2, and name that {NO_CLASS} in --classes'
        raise ValueError(f'--data {root}: {problem}, and none holds both. So 1 and {IGNORED} seem one class: {advice}.')


def _names_in(path: Path) -> tuple[str, ...]:
    """Return the names in a file in the order of the numbers before them, else, but for a table, of the lines."""
    lines, table = lines_of(path), path.suffix == '.csv'
    rows = list(csv.reader(lines)) if table else [line.split(maxsplit=1) for line in lines]
    pairs = [(row[0].strip().rstrip(':.,'), row[1].strip()) for row in rows if len(row) == 2]
    numbered = sorted((int(number), name) for number, name in pairs if number.isdecimal())  # no titles of a table
    if not table and len(numbered) < len(lines):
        return tuple(lines)
    if not numbered or [number for number, _ in numbered] != list(range(len(numbered))):
        problem = 'its lines are not a number and a name, with the numbers 0, 1, 2, …, once each'
        advice = 'Number them so, or write names alone in the order of the values. Names with numbers go to --classes'
        raise ValueError(f'--data: {path}: {problem}. {advice}.')
    return tuple(name for _, name in numbered)


def default_names(values: Iterable[int]) -> tuple[str, ...]:
    return tuple(f'class_{value}' for value in values)


def check_splits(root: Path, stats: Values, names: Mapping[int, str], notes: list[str]) -> None:
    """Refuse a part whose label images hold no class, as those of test sets with secret labels do."""
    of_train = stats.values('train')
    for part in dict.fromkeys(part for part, _, _ in stats.rows):
        values = stats.values(part)
        if values == [IGNORED] and IGNORED not in names:
            problem = f'all pixels of the label images for {part} are {IGNORED}, which is ignored'
            raise ValueError(f'--data {root}: {problem}. Take this split out of the folder, or add its labels.')
        if part != 'train' and len(shown := [names[value] for value in values if value in names]) == 1:
            notes.append(f'WARNING: the label images for {part} that were looked at show {shown[0]} alone')
        if absent := [f'{names[value]} ({value})' for value in values if value in {*names}.difference(of_train)]:
            where = f'in label images for {part}, and in none of those for train that were looked at'
            notes.append(f'WARNING: {where}: {some(absent)}. Nobody can learn it, and its score of 0 enters the mean')


def _has_gaps(values: Sequence[int]) -> bool:
    """Tell whether the values of classes are not their numbers, as 0, 255 or 0, 38, 75."""
    return tuple(values) != tuple(range(len(values)))


def class_values(values: Sequence[int]) -> tuple[int, ...]:
    """Return the label values that are classes: 0 to the largest, or those found where they are far apart."""
    # 255 is ignored, unless it is needed: masks of 0 and 255 have two classes
    numbers = [value for value in values if value != IGNORED]
    if len(numbers) >= 2 and max(numbers) < len(numbers) + _GAP:
        return tuple(range(max(numbers) + 1))
    return tuple(values) if len(values) >= 2 else (0, 1)


def colour_table(root: Path) -> tuple[dict[str, Colour], str]:
    """Return the colour of each class, from the first list of colours in the folder, and the list's path."""
    files = [file for name in TABLES if (file := root / name).is_file()]
    for file in files:
        table = dict[str, Colour]()
        for name, values in _colour_rows(file):
            colour: Colour = ()
            with suppress(TypeError, ValueError):
                colour = (*bytes(map(int, values)),)  # from 0 to 255
            if len(colour) != 3:
                raise ValueError(f'--data: {file}: {name} has the colour {values!r}, not three numbers to 255.')
            if name in table or colour in table.values():
                raise ValueError(f'--data: {file}: {name} or its colour {colour} stands twice. List each once.')
            table[name] = colour
        if table:
            return table, str(file)
    if files:
        advice = 'A csv file needs the columns name, r, g and b. Add them, or take the file out'
        raise ValueError(f'--data: {files[0]} lists no colour. {advice}.')
    return {}, ''


def _colour_rows(file: Path) -> Iterator[tuple[str, Sequence[Any]]]:
    """Yield names and colours in CVAT's labelmap, a csv with columns name, r, g, b, or json."""
    lines = lines_of(file)  # refuses what is no text
    if file.suffix == '.json':
        content = json.loads(file.read_text(encoding='utf-8-sig'))
        pairs = content.items() if isinstance(content, dict) else ((entry['name'], entry['color']) for entry in content)
        yield from ((class_name(str(file), name), colour) for name, colour in pairs)
    elif file.name == 'label_colors.txt':  # of CamVid: ``64 128 64 Animal``
        yield from ((name, colour) for *colour, name in (line.split(maxsplit=3) for line in lines))
    elif file.suffix == '.txt':
        for number, line in enumerate(line for line in lines if not line.startswith('#')):
            name, colour, *_ = [*line.split(':'), '', '']
            # VOC spreads the bits of a class over the three channels
            bits = [[(number >> 3 * bit + channel & 1) << 7 - bit for bit in range(8)] for channel in range(3)]
            yield name.strip(), colour.split(',') if colour else [*map(sum, bits)]
    else:
        for row in csv.DictReader(lines, delimiter=';' if lines and ';' in lines[0] else ','):
            columns = {str(key).strip().lower(): str(value).strip() for key, value in row.items()}
            if {'name', 'r', 'g', 'b'} <= set(columns):
                yield columns['name'], [columns[key] for key in 'rgb']
