"""YOLO's text files. A line is an object: ``class x y width height`` or ``class x1 y1 x2 y2 …``."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from mmdistill_dense.apps.project import picture_folders as folders
from mmdistill_dense.apps.project.formats import objects as common
from mmdistill_dense.apps.project.formats.objects import Given, Labelled, Object, Reading
from mmdistill_dense.apps.project.picture_folders import SPLITS, Names, Size
from mmdistill_dense.apps.project.picture_sources import check_apart
from mmdistill_dense.utils.evenly import evenly
from mmdistill_dense.utils.validate import some

NAMES = ('classes.txt', 'obj.names', 'labels.txt')
_BESIDE = {'images': 'labels', 'Images': 'Labels', 'IMAGES': 'LABELS'}
_SLACK = 0.01  # by how much a share may pass 0 or 1, as Ultralytics allows


def recognise(given: Given) -> list[Path]:
    """Return the pictures with a text file, or none if these hold no rows of YOLO."""
    paired = [picture for picture in pictures_of(given) if label_of(picture).is_file()]
    for picture in evenly(paired, 20) if paired else []:
        if (is_row := begins_with_a_row(label_of(picture))) is not None:
            return paired if is_row else []
    return paired


def begins_with_a_row(file: Path) -> bool | None:
    """Tell whether a text file begins with an object; ``None`` if it is empty or not there."""
    if not file.is_file():
        return None
    words = file.read_text(encoding='utf-8-sig', errors='replace').strip().partition('\n')[0].split()
    return len(words) >= 5 and words[0].isdigit() if words else None


def pictures_of(given: Given) -> list[Path]:
    """Return the pictures; those in folders of label images only if text files of their own lie at their place."""
    outside = folders.outside_labels(given.root, given.pictures)
    known, texts = set(outside), {label_of(one).parent for one in outside}
    inside = {one: label_of(one) for one in given.pictures if one not in known}
    named = {one.parent for one, text in inside.items() if text.parent not in texts and text.is_file()}
    return [one for one in given.pictures if one in known or one.parent in named]


def label_of(picture: Path) -> Path:
    """Return the place of a picture's text file: in ``labels`` beside ``images``, else beside the picture."""
    parts, beside = list(picture.parts), picture.with_suffix('.txt')
    places = [place for place, one in enumerate(parts) if one in _BESIDE]
    if not places:
        return beside
    parts[places[-1]] = _BESIDE[parts[places[-1]]]
    there = Path(*parts).with_suffix('.txt')
    return there if there.is_file() or (there.parent.is_dir() and not begins_with_a_row(beside)) else beside


def read(given: Given, files: Sequence[Path]) -> Reading:
    """Read all pictures. One without a text file has no object, as YOLO's trainings take it."""
    file, told = _yaml(given)
    pictures, read_for, shared = pictures_of(given), set[Path](), dict[Path, Path]()
    parts = dict[Path, str]()
    found = Reading('YOLO', file or given.root)
    if file:
        found.files.append(file)
        known = _numbered_names(told['names'])
        if not known or folders.repeated(known.values()):
            raise ValueError(f'--data: {file}: names is {told["names"]!s:.80}. Give each number one name of its own.')
        if (count := str(told.get('nc', len(known)))).removesuffix('.0').lstrip('0') != str(len(known)):
            raise ValueError(f'--data: {file}: nc is {count:.40}, and names has {len(known)} classes. Correct one.')
        parts = _parts(given, pictures, file, told, found)
        if given.divided:  # anew; what neither the file names nor has labels is no part of the data
            named, parts = {*parts} or {*pictures}, {}
            pictures = [one for one in pictures if one in named or label_of(one).is_file()]
    else:
        known = dict(enumerate(found.add_names(given.root, NAMES) or given.classes))
    source = str(next(iter(found.files), '--classes'))
    for picture, image in folders.each_opened(pictures):
        size, turned = folders.size_of(image, stored=given.exif == 'ignore'), folders.orientation(image) != 1
        label, objects = label_of(picture), list[Object]()
        if label.is_file():
            if (other := shared.setdefault(label, picture)) != picture:
                raise ValueError(f'--data: {other} and {picture} have one text file, {label}. Take one of them out.')
            found.files.append(label)
            read_for.add(picture.with_suffix(''))
            with folders.named(label):
                objects = list(_objects(label, size, known, source, bool(told.get('kpt_shape'))))
        part = parts.get(picture, '') if parts else given.part_of(picture)
        found.pictures.append(Labelled(picture, None if turned else size, objects, part))
    if bare := [one for one in pictures if one.with_suffix('') not in read_for]:
        read = evenly([one for one in pictures if one.with_suffix('') in read_for] or bare, 20)
        converted = sum(bool(_of_another_form(one)) for one in read)  # the text files were made from the others
        if (others := [*filter(None, map(_of_another_form, bare))]) and 2 * converted < len(read):
            said = f'{len(others)} pictures have no text file, and their objects in another form ({others[0][0]})'
            raise ValueError(f'--data: {said}. Export all in one form, or take these files and pictures out.')
        found.notes.append(f'{len(bare)} pictures have no text file: nothing is in them, as YOLO takes it')
    used, places = {*found.files}, {place for one in pictures for place in (one.parent, label_of(one).parent)}
    for text in folders.files_below(given.root, ('.txt',)):
        if text.parent in places and text not in used and begins_with_a_row(text):
            second = text.with_suffix('') in read_for
            found.lost_files['are second ones of a picture' if second else 'hold objects of no picture'].append(text)
    found.classes = list(known.values())
    if not known:
        seen = {drawn['name'] for one in found.pictures for drawn in one.objects}
        found.classes = sorted(seen, key=lambda name: int(name.removeprefix('class_')))
        found.notes.append(f'no data.yaml and no {", ".join(NAMES)}: name the classes 0, 1, … by --classes')
    return found


def _of_another_form(picture: Path) -> list[Path]:
    """Return the files of VOC or labelme with the name of a picture that hold an object."""
    places = [
        file.with_suffix(end) for file in dict.fromkeys((picture, label_of(picture))) for end in ('.xml', '.json')
    ]
    marks = b'<object>', b'"points"'
    return [file for file in dict.fromkeys(places) if file.is_file() and any(one in file.read_bytes() for one in marks)]


class _Texts(yaml.SafeLoader):
    """YAML loader that leaves each word as it is written: ``on``, ``007``, ``1e3`` and ``~`` are names of classes."""

    yaml_implicit_resolvers: dict[Any, Any] = {}


_NOTHING = re.compile('|~|null|false|no|off', re.IGNORECASE)  # a key without a value


def _holds(value: Any) -> bool:
    return not _NOTHING.fullmatch(value) if isinstance(value, str) else bool(value)


def _numbered_names(listed: Any) -> dict[int, str]:
    """Return the names by their numbers, in this order; nothing if they are no texts, or not all have a number."""
    names = dict(enumerate(listed)) if isinstance(listed, list) else listed if isinstance(listed, dict) else {}
    numbers = [int(key) for key in map(str, names) if key.isdecimal()]
    if len({*numbers}) < len(names) or not all(type(name) is str and name.strip() for name in names.values()):
        return {}
    return dict(sorted(zip(numbers, map(str.strip, names.values()), strict=True)))


def _yaml(given: Given) -> tuple[Path | None, Mapping[str, Any]]:
    """Return the file that names classes and parts, and its content. A second one with other names is refused."""
    files, found = folders.files_below(given.root, ('.yaml', '.yml')), list[tuple[Path, Mapping[str, Any]]]()
    for path in sorted(files, key=lambda path: (len(path.parts), path.name != 'data.yaml')):
        if found and path.name != found[0][0].name:
            continue
        with folders.named(path):
            text = path.read_text(encoding='utf-8')
            content = yaml.load(text, Loader=_Texts)
            if isinstance(content, dict) and _holds(content.get('names')):
                if any(isinstance(one, yaml.AliasEvent) for one in yaml.parse(text)):  # few may stand for millions
                    raise ValueError('it has aliases (*name). Write what they stand for.')
                # datumaro writes the names of parts as they were given
                found.append((path, {key.lower(): value for key, value in content.items() if _holds(value)}))
    below = {folder for one in given.pictures for folder in one.parents}
    other = [path for path, one in found if path.parent in below
             and _numbered_names(one['names']) != _numbered_names(found[0][1]['names'])]  # fmt: skip
    if other:
        advice = 'Give one of their folders as --data, or number the classes alike and keep one file'
        raise ValueError(f'--data: {other[0]} and {found[0][0]} name other classes. {advice}.')
    return found[0] if found else (None, {})


def _parts(
    given: Given, pictures: Sequence[Path], file: Path, told: Mapping[str, Any], reading: Reading
) -> dict[Path, str]:
    """Return the part of each picture that ``train``, ``val`` and ``test`` of a yaml file name."""
    index, root = Names(given.root, pictures), given.root.resolve()
    found, starts = dict[str, list[Path]](), [file.parent / str(told.get('path') or ''), file.parent]
    # where each folder and those above it lead, because any of them may be a link
    above = {one: {os.path.realpath(each) for each in (one, *one.parents)} for one in {one.parent for one in pictures}}
    for part, words in SPLITS.items():
        entries: Any = next((told[word] for word in words if told.get(word)), [])
        for entry in entries if isinstance(entries, list) else [entries]:
            # exports write ../train/images for the folder beside the file
            inside = PurePosixPath(*[one for one in PurePosixPath(str(entry)).parts if one not in ('..', '.')])
            tried = [start / one for one in (str(entry), inside) for start in starts]
            there = [one.resolve() for one in tried if one.exists()]
            there.sort(key=lambda one: not one.is_relative_to(root))  # path may lead to what this is a copy of
            place = next(iter(there), None)
            if place is None and (part == 'test' or given.divided):  # of exports without pictures for it
                reading.notes.append(f'WARNING: {part}: {entry} of {file.name} is not there')
                continue
            if place is None:
                told_of = some(dict.fromkeys(tried), 3)
                raise FileNotFoundError(f'--data: {file}: {part}: {entry} is not there ({told_of}).')
            if place.is_dir():
                own = [picture for picture in pictures if str(place) in above[picture.parent]]
            else:
                reading.files.append(place)
                listed = {line: index.find([line]) for line in folders.lines_of(place)}
                own = list(filter(None, listed.values()))
                lost = [line for line, picture in listed.items() if picture is None]
                if lost and not given.divided:
                    raise FileNotFoundError(f'--data: {place} names pictures that are not there: {some(lost, 3)}.')
            if not own and not given.divided:
                raise ValueError(f'--data: {file}: {part}: {entry}: no picture in it.')
            found.setdefault(part, []).extend(own)
    if not given.divided:
        check_apart(found, str(file))
    return {picture: part for part, own in found.items() for picture in own}


def _objects(label: Path, size: Size, known: Mapping[int, str], source: str, posed: bool) -> Iterator[Object]:
    height, width = size
    for number, line in enumerate(label.read_text(encoding='utf-8-sig', errors='replace').splitlines(), 1):
        words = line.split()
        if not words:
            continue
        where = f'--data: {label}, line {number} ({line:.60})'
        try:
            kind, values = int(words[0]), [float(word) for word in words[1:]]
        except ValueError:
            raise ValueError(f'{where}: a line is a class number and shares of the picture.') from None
        if posed:
            values = values[:4]
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            raise ValueError(f'{where}: {len(values)} numbers after the class. A box has 4, a polygon 6, 8, ….')
        if wrong := [value for value in values if not (math.isfinite(value) and -_SLACK <= value <= 1 + _SLACK)]:
            raise ValueError(f'{where}: {wrong[0]} is no share of the picture. Shares lie between 0 and 1.')
        if known and kind not in known:
            raise ValueError(f'{where}: {source} names no class {kind}; it has {some(known, 12)}.')
        name = known.get(kind, f'class_{kind}')
        if len(values) == 4:
            x, y, w, h = values
            corners = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
            yield {'name': name, **common.from_box(*corners)}
        else:
            points = [(x * width, y * height) for x, y in zip(values[::2], values[1::2], strict=True)]
            yield {'name': name, **common.from_points(points)}
