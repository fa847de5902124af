"""YOLO's text files. A line is an object: ``class x y width height`` or ``class x1 y1 x2 y2 …``."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mmdistill_dense.apps.project import picture_files
from mmdistill_dense.apps.project.formats import objects as common
from mmdistill_dense.apps.project.formats.objects import Labelled, Object, Reading, Request
from mmdistill_dense.apps.project.splits import SPLITS, Names, check_disjoint
from mmdistill_dense.utils.validate import some

NAMES = ('classes.txt', 'obj.names', 'labels.txt')
_LABEL_FOLDERS = {'images': 'labels', 'Images': 'Labels', 'IMAGES': 'LABELS'}
_SLACK = 0.01  # by how much a share may pass 0 or 1, as Ultralytics allows
_NOTHING = '~', 'null', 'Null', 'NULL', 'false', 'False', 'FALSE', 'no', 'No', 'NO', 'off', 'Off', 'OFF'


def find_yolo(request: Request) -> list[Path]:
    """Return the pictures with a text file, or none if these hold no rows of YOLO."""
    paired = [picture for picture in pictures_of(request) if label_of(picture).is_file()]
    first = next((answer for answer in map(starts_with_row, map(label_of, paired)) if answer is not None), True)
    return paired if first else []


def starts_with_row(file: Path) -> bool | None:
    """Tell whether a text file begins with an object; ``None`` if it is empty or not there."""
    text = file.read_text(encoding='utf-8-sig', errors='replace') if file.is_file() else ''
    words = text.strip().partition('\n')[0].split()
    return len(words) >= 5 and words[0].isdigit() if words else None


def pictures_of(request: Request) -> list[Path]:
    """Return the pictures; those in folders of label images only if text files of their own lie at their place."""
    outside = picture_files.outside_labels(request.root, request.pictures)
    outside_set, texts = set(outside), {label_of(picture).parent for picture in outside}
    inside = {picture: label_of(picture) for picture in request.pictures if picture not in outside_set}
    extra_folders = {picture.parent for picture, text in inside.items() if text.parent not in texts and text.is_file()}
    return [picture for picture in request.pictures if picture in outside_set or picture.parent in extra_folders]


def label_of(picture: Path) -> Path:
    """Return the place of a picture's text file: in ``labels`` beside ``images``, else beside the picture."""
    sibling = picture.with_suffix('.txt')
    folders = rf'(?s)(.*)/({"|".join(_LABEL_FOLDERS)})/'
    label = Path(re.sub(folders, lambda match: f'{match[1]}/{_LABEL_FOLDERS[match[2]]}/', str(sibling)))
    return label if label.is_file() or (label.parent.is_dir() and not starts_with_row(sibling)) else sibling


def read_yolo(request: Request) -> Reading:
    """Read all pictures. One without a text file has no object, as YOLO's trainings take it."""
    file, config = _yaml(request)
    pictures, parts = pictures_of(request), dict[Path, str]()
    reading = Reading('YOLO', file or request.root)
    if file:
        reading.files.append(file)
        names = _numbered_names(config['names'])
        if not names or picture_files.repeated(names.values()):
            raise ValueError(f'--data: {file}: names is {config["names"]!s:.80}. Give each number one name of its own.')
        if (count := str(config.get('nc', len(names)))).removesuffix('.0').lstrip('0') != str(len(names)):
            raise ValueError(f'--data: {file}: nc is {count:.40}, and names has {len(names)} classes. Correct one.')
        parts = _parts(request, pictures, config, reading)
        if request.has_split:  # anew; what neither the file names nor has labels is no part of the data
            used_pictures, parts = {*parts} or {*pictures}, {}
            pictures = [picture for picture in pictures if picture in used_pictures or label_of(picture).is_file()]
    else:
        names = dict(enumerate(reading.add_names(request.root, NAMES) or request.classes))
    source = str(next(iter(reading.files), '--classes'))
    labels = {picture: label for picture in pictures if (label := label_of(picture)).is_file()}
    for label in picture_files.repeated(labels.values()):
        twins = ' and '.join(str(picture) for picture in labels if labels[picture] == label)
        raise ValueError(f'--data: {twins} have one text file, {label}. Take one of them out.')
    reading.files += labels.values()
    for picture, image in picture_files.open_images(pictures):
        size, objects = picture_files.size_of(image, stored=request.exif == 'ignore'), list[Object]()
        if picture in labels:
            with picture_files.file_errors(labels[picture]):
                objects = list(_objects(labels[picture], size, names, source, bool(config.get('kpt_shape'))))
        part = parts.get(picture, '') if parts else request.part_of(picture)
        is_upright = picture_files.orientation(image) == 1
        reading.pictures.append(Labelled(picture, size if is_upright else None, objects, part))
    if bare := [picture for picture in pictures if picture not in labels]:
        others = {
            picture: file
            for picture in pictures
            for file in (path.with_suffix(end) for path in (picture, label_of(picture)) for end in ('.xml', '.json'))
            if file.is_file() and re.search(b'<object>|"points"', file.read_bytes())
        }
        sources = [others[picture] for picture in bare if picture in others]
        if sources and 2 * (len(others) - len(sources)) < len(labels):  # else the text files came from the others
            problem = f'{len(sources)} pictures have no text file, and their objects in another form ({sources[0]})'
            raise ValueError(f'--data: {problem}. Export all in one form, or take these files and pictures out.')
        reading.notes.append(f'{len(bare)} pictures have no text file: nothing is in them, as YOLO takes it')
    stems, used = {picture.with_suffix('') for picture in labels}, {*reading.files}
    text_dirs = {folder for picture in pictures for folder in (picture.parent, label_of(picture).parent)}
    for text in picture_files.files_below(request.root, ('.txt',)):
        if text.parent in text_dirs and text not in used and starts_with_row(text):
            reason = 'are second ones of a picture' if text.with_suffix('') in stems else 'hold objects of no picture'
            reading.skipped_files[reason].append(text)
    reading.classes = list(names.values())
    if not names:
        reading.classes = sorted(reading.names, key=lambda name: int(name.removeprefix('class_')))
        reading.notes.append(f'no data.yaml and no {", ".join(NAMES)}: name the classes 0, 1, … by --classes')
    return reading


def _numbered_names(raw: Any) -> dict[int, str]:
    """Return the names by their numbers, in this order; nothing if they are no texts, or not all have a number."""
    names = dict(enumerate(raw)) if isinstance(raw, list) else raw if isinstance(raw, dict) else {}
    numbers = [int(key) for key in map(str, names) if key.isdecimal()]
    if len({*numbers}) < len(names) or not all(type(name) is str and name.strip() for name in names.values()):
        return {}
    return dict(sorted(zip(numbers, map(str.strip, names.values()), strict=True)))


def _yaml(request: Request) -> tuple[Path | None, Mapping[str, Any]]:
    """Return the file that names classes and parts, and its content. A second one with other names is refused."""
    files, configs = picture_files.files_below(request.root, ('.yaml', '.yml')), list[tuple[Path, Mapping[str, Any]]]()
    for path in sorted(files, key=lambda path: (len(path.parts), path.name != 'data.yaml')):
        if configs and path.name != configs[0][0].name:
            continue
        with picture_files.file_errors(path):
            text = path.read_text(encoding='utf-8')
            content = yaml.load(text, yaml.BaseLoader)  # each word as it is written: on, 007, 1e3 and ~ are names
            if isinstance(content, dict) and content.get('names') and content['names'] not in _NOTHING:
                if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):  # few may stand for millions
                    raise ValueError('it has aliases (*name). Write what they stand for.')
                pairs = ((key.lower(), value) for key, value in content.items() if value and value not in _NOTHING)
                configs.append((path, dict(pairs)))  # datumaro writes the names of parts as they were given
    below = {folder for picture in request.pictures for folder in picture.parents}
    other = [path for path, content in configs if path.parent in below
             and _numbered_names(content['names']) != _numbered_names(configs[0][1]['names'])]  # fmt: skip
    if other:
        advice = 'Give one of their folders as --data, or number the classes alike and keep one file'
        raise ValueError(f'--data: {other[0]} and {configs[0][0]} name other classes. {advice}.')
    return configs[0] if configs else (None, {})


def _parts(request: Request, pictures: Sequence[Path], config: Mapping[str, Any], reading: Reading) -> dict[Path, str]:
    """Return the part of each picture that ``train``, ``val`` and ``test`` of a yaml file name."""
    index, root, file = Names(request.root, pictures), request.root, reading.source
    parts, starts = dict[str, list[Path]](), [file.parent / str(config.get('path', '')), file.parent]
    # where each folder and those above it lead, because any of them may be a link
    above = {path: {*map(os.path.realpath, (path, *path.parents))} for path in {picture.parent for picture in pictures}}
    for part, words in SPLITS.items():
        entries: Any = next((config[word] for word in words if word in config), [])
        for entry in entries if isinstance(entries, list) else [entries]:
            # exports write ../train/images for the folder beside the file
            inside = re.sub(r'^(\.{1,2}/+)+', '', str(entry))
            attempts = [start / path for path in (str(entry), inside) for start in starts]
            paths = [path.resolve() for path in attempts if path.exists()]  # path may lead to what this is a copy of
            target = min(paths, key=lambda path: not path.is_relative_to(root), default=None)
            if target is None:
                if part != 'test' and not request.has_split:
                    searched = some(dict.fromkeys(attempts), 3)
                    raise FileNotFoundError(f'--data: {file}: {part}: {entry} is not there ({searched}).')
                reading.notes.append(f'WARNING: {part}: {entry} of {file.name} is not there')  # in some exports
                continue
            if target.is_dir():
                members = [picture for picture in pictures if str(target) in above[picture.parent]]
            else:
                reading.files.append(target)
                matches = {line: index.find([line]) for line in picture_files.lines_of(target)}
                members = list(filter(None, matches.values()))
                absent = [line for line, picture in matches.items() if picture is None]
                if absent and not request.has_split:
                    raise FileNotFoundError(f'--data: {target} names pictures that are not there: {some(absent, 3)}.')
            if not members and not request.has_split:
                raise ValueError(f'--data: {file}: {part}: {entry}: no picture in it.')
            parts.setdefault(part, []).extend(members)
    if not request.has_split:
        check_disjoint(parts, str(file))
    return {picture: part for part, members in parts.items() for picture in members}


def _objects(
    label: Path, size: picture_files.Size, names: Mapping[int, str], source: str, posed: bool
) -> Iterator[Object]:
    height, width = size
    for number, line in enumerate(label.read_text(encoding='utf-8-sig', errors='replace').splitlines(), 1):
        if not (words := line.split()):
            continue
        where = f'--data: {label}, line {number} ({line:.60})'
        try:
            kind, values = int(words[0]), [float(word) for word in (words[1:5] if posed else words[1:])]
        except ValueError:
            raise ValueError(f'{where}: a line is a class number and shares of the picture.') from None
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            raise ValueError(f'{where}: {len(values)} numbers after the class. A box has 4, a polygon 6, 8, ….')
        if wrong := [value for value in values if not -_SLACK <= value <= 1 + _SLACK]:
            raise ValueError(f'{where}: {wrong[0]} is no share of the picture. Shares lie between 0 and 1.')
        if names and kind not in names:
            raise ValueError(f'{where}: {source} names no class {kind}; it has {some(names, 12)}.')
        if len(values) == 4:
            x, y, w, h = values
            corners = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
            shape = common.from_box(*corners)
        else:
            pairs = zip(values[::2], values[1::2], strict=True)
            shape = common.from_points([(x * width, y * height) for x, y in pairs])
        yield {'name': names.get(kind, f'class_{kind}'), **shape}
