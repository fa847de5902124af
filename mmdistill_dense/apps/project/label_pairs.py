"""Pair pictures with their label images by two patterns, such as ``train/*_sat.jpg`` and ``train/*_mask.png``.

Each star of the labels stands, in order, for what the star of the pictures matched. ``*`` matches inside of one folder
or name, ``**`` across folders. A pattern without an ending stands for files of any ending.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from mmdistill_dense.apps.project.picture_folders import SPLITS, split_of
from mmdistill_dense.unlabelled.pictures import EXTENSIONS
from mmdistill_dense.utils.validate import some

LABEL_ENDINGS = (*EXTENSIONS, '.gif')
ANY = '.*'  # the ending of a pattern without one
STARS = re.compile(r'(\*\*/|\*\*|\*)')
_MATCHES = {'**/': '((?:.*/)?)', '**': '(.*)', '*': '([^/]*)'}


@dataclass(frozen=True)
class Patterns:
    images: str
    labels: str
    name: str = ''  # of a known tree, whose patterns are in lower case

    @classmethod
    def given(cls, images: str | None, labels: str | None) -> Patterns | None:
        """Return those of the command line; ``None`` without them."""
        if not images or not labels:  # one alone is refused where the options are read
            return None
        whole = []
        for option, given in (('--images', images), ('--labels', labels)):
            if given.startswith('/') or '..' in given.split('/'):
                raise ValueError(f'{option} {given!r}: a pattern is a path below --data.')
            text = unicodedata.normalize('NFC', os.path.normpath(given))
            whole.append(text if text.endswith(ANY) or text.lower().endswith(LABEL_ENDINGS) else f'{text}{ANY}')
        few, many = (len(STARS.findall(text)) for text in (images, labels))
        if few < many:
            told = f'--labels {labels!r} has {many} stars, --images {images!r} has {few}'
            raise ValueError(f'{told}. Each star of the labels stands for what a star of the pictures matched.')
        return cls(*whole)

    def rule(self, labels: bool) -> re.Pattern[str]:
        """Return what matches the whole path of a picture, or of a label image."""
        text = self.labels if labels else self.images
        body, ending = (text.removesuffix(ANY), r'\.[^./]+') if text.endswith(ANY) else (text, '')
        return re.compile(''.join(_MATCHES.get(one, re.escape(one)) for one in STARS.split(body)) + ending, re.DOTALL)

    def place(self, stars: Sequence[str]) -> str:
        """Return the path of a label image from what the stars matched."""
        rest = iter(stars)

        def fill(star: re.Match[str]) -> str:
            value = next(rest).rstrip('/')
            return f'{value}/' if star[0] == '**/' and value else value

        ending = ANY if self.labels.endswith(ANY) else ''
        return STARS.sub(fill, self.labels.removesuffix(ANY)) + ending

    def part(self, picture: str, stars: Sequence[str]) -> str | None:
        """Return the part (train, val, test) that a folder names, or one of several stars of the file's name."""
        own = len(STARS.findall(self.images.removesuffix(ANY).rpartition('/')[2]))
        words = [star.lower() for star in stars[-own:]] if own > 1 else []
        named = (part for part, names in SPLITS.items() if set(names) & set(words))
        return split_of(PurePosixPath(picture).parts[:-1]) or next(named, None)

    def written(self, picture: str, label: str) -> Patterns:
        """Return those of a known tree as the names of a pair are written, with the endings of both."""
        texts = []
        for path, text in ((picture, self.images), (label, self.labels)):
            match, found, place = self.rule(labels=path == label).fullmatch(path.lower() if self.name else path), '', 0
            for number, star in enumerate(STARS.findall(text.removesuffix(ANY)), 1):
                start, end = match.span(number) if match else (0, 0)
                found, place = f'{found}{path[place:start]}{star}', end
            texts.append(found + path[place:])
        return Patterns(*texts)

    def __str__(self) -> str:
        return f"--images '{self.images.removesuffix(ANY)}' --labels '{self.labels.removesuffix(ANY)}'"


class Files:
    """Paths below a folder, found by their names; ``fold``: in lower case, as the patterns of known trees are."""

    def __init__(self, paths: Sequence[str], fold: bool = False) -> None:
        # macOS writes an é as two characters
        self.forms = {path: unicodedata.normalize('NFC', path.lower() if fold else path) for path in paths}
        self._places = defaultdict[str, list[str]](list)
        for path, form in self.forms.items():
            for place in (form, f'{os.path.splitext(form)[0]}{ANY}'):
                self._places[place].append(path)

    def labels_of(self, pictures: Sequence[str], patterns: Patterns) -> dict[str, tuple[list[str], Sequence[str]]]:
        """Return the label images of each picture that the pattern matches, and what its stars matched."""
        rule, found = patterns.rule(labels=False), dict[str, tuple[list[str], Sequence[str]]]()
        for path in pictures:
            if (match := rule.fullmatch(self.forms[path])) and path.lower().endswith(EXTENSIONS):
                places = self._places.get(patterns.place(match.groups()), ())
                found[path] = [one for one in places if one != path], match.groups()
        return found


@dataclass(frozen=True)
class Paired:
    patterns: Patterns
    labels: Mapping[str, str]  # the label image of each picture
    parts: Mapping[str, str | None]  # of each picture
    bare: Sequence[str]  # pictures without a label image
    alone: Sequence[str]  # label images without a picture
    spare: Sequence[str]  # those of a labelled picture with a word after its name, as X_color.png beside X.png

    @property
    def label_images(self) -> list[str]:
        return [*self.labels.values(), *self.alone, *self.spare]


def pair(files: Files, patterns: Patterns) -> Paired:
    """Pair by patterns. A label image is no picture, even where both patterns match it."""
    found = files.labels_of(list(files.forms), patterns)
    if several := {path: labels for path, (labels, _) in found.items() if len(labels) > 1}:
        path, labels = next(iter(several.items()))
        told = f'{path} has {len(labels)} label images, {some(labels, 3)}; so have {len(several) - 1} others'
        raise ValueError(f'--data: {told}. Join them into one, or choose: {patterns.written(path, labels[0])}.')
    taken = {label for labels, _ in found.values() for label in labels}
    rule = patterns.rule(labels=True)
    drawn = {path for path, form in files.forms.items() if rule.fullmatch(form)}
    own = {path: labels[0] for path, (labels, _) in found.items() if labels and path not in taken}
    if shared := [label for label, count in Counter(own.values()).items() if count > 1]:
        owners = [path for path, label in own.items() if label == shared[0]]
        told = f'{some(owners, 3)} have one label image, {shared[0]}; so have {len(shared) - 1} others'
        advice = f'take out what is twice, or choose: {patterns.written(owners[0], shared[0])}'
        raise ValueError(f'--data: {told}. Each picture has its own: {advice}.')
    names = {os.path.splitext(label)[0] for label in own.values()}
    alone, spare = list[str](), list[str]()
    for path in sorted(drawn - {*own, *own.values()}):  # no letter or digit follows the name of another one
        beginnings = (path[:place] for place, letter in enumerate(path) if not letter.isalnum())
        (spare if any(one in names for one in beginnings) else alone).append(path)
    bare = [path for path in found if path not in own and path not in taken and path not in drawn]
    parts = {path: patterns.part(path, found[path][1]) for path in (*own, *bare)}
    return Paired(patterns, own, parts, bare, alone, spare)
