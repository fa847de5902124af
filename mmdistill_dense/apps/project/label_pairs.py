"""Pair pictures with their label images: by two patterns, or by a tree that is known.

In patterns such as ``train/*_sat.jpg`` and ``train/*_mask.png`` each star of the labels stands, in order, for what the
star of the pictures matched. ``*`` matches inside of one folder or name, ``**`` across folders. A pattern without an
ending stands for files of any ending.
"""

from __future__ import annotations

import itertools
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from shlex import quote

import numpy as np
from PIL import Image

from mmdistill_dense.apps.project.picture_folders import SPLITS, opened, split_of
from mmdistill_dense.unlabelled.pictures import EXTENSIONS
from mmdistill_dense.utils.evenly import evenly
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
        images, labels = (quote(text.removesuffix(ANY)) for text in (self.images, self.labels))
        return f'--images={images} --labels={labels}'  # also where they begin with -


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
        raise ValueError(f'--data: {told}. Join them into one, or choose: {patterns.written(path, labels[0])}')
    taken = {label for labels, _ in found.values() for label in labels}
    rule = patterns.rule(labels=True)
    drawn = {path for path, form in files.forms.items() if rule.fullmatch(form)}
    own = {path: labels[0] for path, (labels, _) in found.items() if labels and path not in taken}
    if shared := [label for label, count in Counter(own.values()).items() if count > 1]:
        owners = [path for path, label in own.items() if label == shared[0]]
        told = f'{some(owners, 3)} have one label image, {shared[0]}; so have {len(shared) - 1} others'
        advice = f'take out what is twice, or choose: {patterns.written(owners[0], shared[0])}'
        raise ValueError(f'--data: {told}. Each picture has its own: {advice}')
    names = {os.path.splitext(label)[0] for label in own.values()}
    alone, spare = list[str](), list[str]()
    for path in sorted(drawn - {*own, *own.values()}):  # no letter or digit follows the name of another one
        beginnings = (path[:place] for place, letter in enumerate(path) if not letter.isalnum())
        (spare if any(one in names for one in beginnings) else alone).append(path)
    bare = [path for path in found if path not in own and path not in taken and path not in drawn]
    parts = {path: patterns.part(path, found[path][1]) for path in (*own, *bare)}
    return Paired(patterns, own, parts, bare, alone, spare)


_LABELS = ('label', 'mask', 'annot', 'gt', 'seg', 'truth')  # in the places of label images, the likeliest first
_SAMPLED, _LOOKED = 500, 12  # pictures on which patterns are tried, and folders and names from which they are made
_PART = re.compile(rf'(?i)(?<![a-z])(?:{"|".join(word for words in SPLITS.values() for word in words)})(?![a-z])')
_IN_ORDER = 'Cityscapes'  # of its label images of several kinds the first row counts
# Tried in this order, in lower case.
TREES: Sequence[tuple[str, str, str]] = (
    ('Cityscapes', 'leftimg8bit/**_leftimg8bit', 'gtfine/**_gtfine_labeltrainids'),
    ('Cityscapes', 'leftimg8bit/**_leftimg8bit', 'gtfine/**_gtfine_labelids'),
    ('VOC', 'jpegimages/**', 'segmentationclass/**'),
    ('VOC', 'jpegimages/**', 'segmentationclassaug/**'),
    ('mmseg', 'img_dir/**', 'ann_dir/**'),
    ('images and labels', '{images,image,imgs,img}/**', '{labels,label}/**{,_label,_mask}'),
    ('images and masks', '{images,image,imgs,img}/**', 'masks/**{,_mask,_label}'),
    ('images and masks', '{images,image,imgs,img}/**', 'mask/**'),
    ('ADE20K', '{images,image,imgs,img}/**', '{annotations,annotation}/**'),
    ('INRIA', '{images,image,imgs,img}/**', 'gt/**'),
    ('masks inside', '*', 'masks/*'),
    ('labels beside', '*{,_images,_imgs}/*', '*{_labels,_label,_masks,_mask,annot}/*'),
    ('Roboflow', '**', '**_mask.png'),
    ('Oxford pets', 'images/**', 'annotations/trimaps/**'),
    ('DeepGlobe', '**_sat', '**_mask'),
    ('BDD100K', 'images/10k/**', 'labels/sem_seg/masks/**'),
    ('Semantic Drone', 'original_images/**', 'label_images_semantic/**'),
    ('LoveDA', 'images_png/*', 'masks_png/*'),
    ('RELLIS-3D', 'pylon_camera_node/*', 'pylon_camera_node_label_id/*'),
    ('FloodNet', '*-org-img/*', '*-label-img/*_lab'),
    ('Potsdam', '2_ortho_rgb/*_rgb', '5_labels_for_participants/*_label'),
    ('Carvana', 'train/*', 'train_masks/*_mask'),
    ('DRIVE', 'images/*_*', '1st_manual/*_manual1'),
    ('ISIC', 'isic2018_task1-2_*_input/*', 'isic2018_task1_*_groundtruth/*_segmentation'),
)


def find_tree(paths: Sequence[str]) -> Paired | None:
    """Pair by the known tree that has most label images; no other one may have label images of the same pictures."""
    files, folders = Files(paths, fold=True), {part.lower() for path in paths for part in path.split('/')[:-1]}
    found: list[tuple[Patterns, dict[str, list[str]]]] = []
    known = list[Patterns]()  # each may begin at any folder below the data; a row has each of its words in braces
    for name, *row in TREES:
        split = (re.split(r'\{(.*?)\}', text) for text in row)  # every second part is that of braces
        texts = [
            itertools.product(*(part.split(',') if n % 2 else [part] for n, part in enumerate(one))) for one in split
        ]
        for image, label in itertools.product(*(map(''.join, one) for one in texts)):
            known.append(Patterns(f'**/{image}.*', f'**/{label}' + ('' if label.endswith('.png') else '.*'), name))
    for patterns in known:
        literal = (one for text in (patterns.images, patterns.labels) for one in text.split('/')[:-1] if '*' not in one)
        if (found and found[-1][0].name == patterns.name == _IN_ORDER) or not folders.issuperset(literal):
            continue
        every = files.labels_of(paths, patterns)
        if labelled := {path: labels for path, (labels, _) in every.items() if labels}:
            found.append((patterns, labelled))
    if not found:
        return None
    best, labelled = max(found, key=lambda one: len(one[1]))  # the first of several
    for other, own in found:
        if twice := next((path for path in own if own[path] != labelled.get(path, own[path])), None):
            both = ((best, labelled[twice][0]), (other, own[twice][0]))
            choices = ' or '.join(str(one.written(twice, label)) for one, label in both)
            raise ValueError(f'--data: {twice} has two label images, {both[0][1]} and {both[1][1]}. Choose: {choices}')
    return pair(files, best)


def tree(paths: Sequence[str]) -> str:
    """Describe the folders of some files, each with a file."""
    folders = defaultdict[str, list[str]](list)
    for path in paths:
        folders[os.path.dirname(path) or '.'].append(os.path.basename(path))
    return some((f'{folder}/ ({len(names)}, as {names[0]})' for folder, names in sorted(folders.items())), 6)


def many_masks(paths: Sequence[str]) -> str:
    """Say what to do if each picture has a folder of masks, as in nuclei of the Data Science Bowl; else return ''."""
    folders = Counter(os.path.dirname(path) for path in paths)
    beside = [(one, f'{os.path.dirname(one)}/masks') for one in folders if os.path.basename(one).lower() == 'images']
    many = [(one, masks) for one, masks in beside if folders[masks] > folders[one]]
    if len(many) <= len(beside) / 2 or not many:
        return ''
    (one, masks), *_ = many
    told = f' {one} has {folders[one]} picture(s), and {masks} {folders[masks]}: many masks a picture. Join them into'
    advice = 'or write them as objects of COCO (docs/your_labels.md#many-masks-a-picture).'
    return f"{told} one label image of the picture's name, {advice}"


def proposal(root: Path, paths: Sequence[str]) -> str:
    """Return a sentence with patterns that pair pictures of an unknown tree; empty if none was found."""
    files, sample = Files(paths), evenly(sorted(paths), _SAMPLED)
    folders = defaultdict[tuple[str, ...], list[str]](list)
    for path in paths:
        folders[PurePosixPath(path).parts[:-1]].append(os.path.basename(path))
    tried = dict[Patterns, None]()
    for one in evenly(sorted(folders), _LOOKED):
        near = sorted(folders, key=lambda other: (-len({*one} & {*other}), abs(len(one) - len(other)), other))
        tried.update((patterns, None) for other in near[:_LOOKED] for patterns in _candidates(one, other, folders))
    scored = []
    for patterns in tried:
        own = {path: labels[0] for path, (labels, _) in files.labels_of(sample, patterns).items() if labels}
        # the more pictures they pair, the likelier their label images hold classes, the fewer stars
        both, labels = (patterns.images + patterns.labels).lower(), patterns.labels.lower()
        for_the_eye = any(word in both for word in ('color', 'colour', 'instance'))
        word = next((place for place, word in enumerate(_LABELS) if word in labels), 9)
        if own:
            scored.append(((len(own), not for_the_eye, -word, -len(both)), patterns, next(iter(own.items()))))
    for _, patterns, (picture, label) in sorted(scored, key=lambda one: one[0], reverse=True):
        colours = []
        for name in (label, picture):  # label images have far fewer
            with opened(root / name) as image:
                small = np.asarray(image.resize((64, 64), Image.Resampling.NEAREST)).reshape(64 * 64, -1)
                colours.append(len(np.unique(small, axis=0)))
        if 2 * colours[0] < colours[1]:
            count = sum(bool(labels) for labels, _ in files.labels_of(paths, patterns).values())
            return f' Try {patterns}: they pair {count} pictures.'
    return ''


def _candidates(
    one: tuple[str, ...], other: tuple[str, ...], names: Mapping[tuple[str, ...], Sequence[str]]
) -> Iterator[Patterns]:
    """Yield patterns of two folders whose files share names, with stars for parts and for folders that both share."""
    ends = Counter[tuple[str, str]]()
    for name in evenly(names[one], _LOOKED):
        stem, suffix = os.path.splitext(name)
        for cut in {'', *re.findall(r'[_-][^_-]*$', stem)}:
            begin = stem.removesuffix(cut)
            found = (own for own in names[other] if own.startswith(begin) and (one, name) != (other, own))
            rest = (own[len(begin) :] for own in found)
            ends.update((cut + suffix, end) for end in rest if begin and not end[:1].isalnum())
    common = set(one).intersection(*names)  # of all folders
    shared = [part for part in one if part in other and part not in common]
    for (end, label_end), _ in ends.most_common(_LOOKED // 4):
        for starred in ((), shared if shared == [part for part in other if part in shared] else ()):
            texts = ['/'.join('*' if part in starred else part for part in parts) for parts in (one, other)]
            if _PART.findall(texts[0]) == _PART.findall(texts[1]):
                texts = [_PART.sub('*', text) for text in texts]
            end = end if _PART.search(label_end) else _PART.sub('*', end)  # 21_training.tif and 21_manual1.gif
            yield Patterns(f'{texts[0]}/*{end}'.lstrip('/'), f'{texts[1]}/*{label_end}'.lstrip('/'))
