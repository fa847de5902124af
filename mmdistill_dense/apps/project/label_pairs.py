"""Pair pictures with their label images: by two patterns, or by a tree that is known.

In patterns such as ``train/*_sat.jpg`` and ``train/*_mask.png`` each star of the labels stands, in order, for what the
star of the pictures matched. ``*`` matches inside of one folder or name, ``**`` across folders. A pattern without an
ending stands for files of any ending.
"""

import itertools
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from shlex import quote

import numpy as np
from PIL import Image

from mmdistill_dense.apps.project.picture_files import open_picture, repeated
from mmdistill_dense.apps.project.splits import SPLITS, split_of
from mmdistill_dense.unlabelled.pictures import EXTENSIONS
from mmdistill_dense.utils.sampling import evenly
from mmdistill_dense.utils.validate import some

LABEL_ENDINGS = (*EXTENSIONS, '.gif')
ANY = '.*'  # the ending of a pattern without one
STARS = re.compile(r'(\*\*/|\*\*|(?<!\.)\*|\*(?!\Z))')  # of a pattern, but for that of ``ANY``
_MATCHES = {'**/': '((?:.*/)?)', '**': '(.*)', '*': '([^/]*)', ANY: r'\.[^./]+'}
_LABELS = ('label', 'mask', 'annot', 'gt', 'seg', 'truth')  # in the places of label images, the likeliest first
_SAMPLED, _TRIALS = 500, 24  # pictures on which patterns are tried, and from which they are made
_PART = re.compile(rf'(?i)(?<![a-z])(?:{"|".join(word for words in SPLITS.values() for word in words)})(?![a-z])')
_ORDERED_TREE = 'Cityscapes'  # the first; of its label images of several kinds the first one counts
# Tried in this order, in lower case.
TREES: Sequence[tuple[str, str, str]] = (
    ('Cityscapes', 'leftimg8bit/**_leftimg8bit', 'gtfine/**_gtfine_{labeltrainids,labelids}'),
    ('VOC', 'jpegimages/**', '{segmentationclass,segmentationclassaug}/**'),
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


@dataclass(frozen=True)
class Patterns:
    images: str
    labels: str
    name: str = ''  # of a known tree, whose patterns are in lower case

    @classmethod
    def from_options(cls, images: str | None, labels: str | None) -> 'Patterns | None':
        if not images or not labels:  # one alone is refused where the options are read
            return None
        whole = []
        for option, pattern in (('--images', images), ('--labels', labels)):
            if pattern.startswith('/') or '..' in pattern.split('/'):
                raise ValueError(f'{option} {pattern!r}: a pattern is a path below --data.')
            text = unicodedata.normalize('NFC', os.path.normpath(pattern))
            whole.append(text if text.endswith(ANY) or text.lower().endswith(LABEL_ENDINGS) else f'{text}{ANY}')
        few, many = (len(STARS.findall(text)) for text in (images, labels))
        if few < many:
            problem = f'--labels {labels!r} has {many} stars, --images {images!r} has {few}'
            raise ValueError(f'{problem}. Each star of the labels stands for what a star of the pictures matched.')
        return cls(*whole)

    def label_path(self, stars: Sequence[str]) -> str:
        """Return the path of a label image from what the stars matched."""
        texts = (star.rstrip('/') for star in stars)  # the pictures may have more
        path = STARS.sub(lambda star: next(texts) + star[0][2:], self.labels)  # ** may match no folder
        return os.path.normpath(path).lstrip('/')

    def part(self, picture: str, stars: Sequence[str]) -> str | None:
        """Return the part (train, val, test) that a folder names, or one of several stars of the file's name."""
        star_count = len(STARS.findall(self.images.rpartition('/')[2]))
        words = [star.lower() for star in stars[-star_count:]] if star_count > 1 else []
        parts = (part for part, names in SPLITS.items() if set(names) & set(words))
        return split_of(PurePosixPath(picture).parts[:-1]) or next(parts, None)

    def spell_out(self, picture: str, label: str) -> 'Patterns':
        """Return those of a known tree as the names of a pair are written, with the endings of both."""
        texts = []
        for path, text in ((picture, self.images), (label, self.labels)):
            if match := _rule(text).fullmatch(path.lower() if self.name else path):
                for number, star in reversed([*enumerate(STARS.findall(text), 1)]):
                    path = f'{path[: match.start(number)]}{star}{path[match.end(number) :]}'
            texts.append(path)
        return Patterns(*texts)

    def __str__(self) -> str:
        images, labels = (quote(text.removesuffix(ANY)) for text in (self.images, self.labels))
        return f'--images={images} --labels={labels}'  # also where they begin with -


def _rule(pattern: str) -> re.Pattern[str]:
    keys = re.split(r'(\*\*/|\*\*|\.\*\Z|\*)', pattern)
    return re.compile(''.join(_MATCHES.get(key, re.escape(key)) for key in keys), re.DOTALL)


class Files:
    """Paths below a folder, found by their names; ``fold``: in lower case, as the patterns of known trees are."""

    def __init__(self, paths: Sequence[str], fold: bool = False) -> None:
        # macOS writes an é as two characters
        self.forms = {path: unicodedata.normalize('NFC', path.lower() if fold else path) for path in paths}
        self._paths_by_form = defaultdict[str, list[str]](list)
        for path, form in self.forms.items():
            for key in (form, f'{os.path.splitext(form)[0]}{ANY}'):
                self._paths_by_form[key].append(path)

    def labels_of(self, pictures: Sequence[str], patterns: Patterns) -> dict[str, tuple[list[str], Sequence[str]]]:
        """Return the label images of each picture that the pattern matches, and what its stars matched."""
        rule, labels = _rule(patterns.images), dict[str, tuple[list[str], Sequence[str]]]()
        for path in pictures:
            if (match := rule.fullmatch(self.forms[path])) and path.lower().endswith(EXTENSIONS):
                candidates = self._paths_by_form.get(patterns.label_path(match.groups()), ())
                labels[path] = [candidate for candidate in candidates if candidate != path], match.groups()
        return labels


@dataclass(frozen=True)
class Pairing:
    patterns: Patterns
    labels: Mapping[str, str]  # the label image of each picture
    parts: Mapping[str, str | None]  # of each picture
    bare: Sequence[str]  # pictures without a label image
    orphans: Sequence[str]  # label images without a picture
    extras: Sequence[str]  # those of a labelled picture with a word after its name, as X_color.png beside X.png


def pair_by_patterns(files: Files, patterns: Patterns) -> Pairing:
    """Pair by patterns. A label image is no picture, even where both patterns match it."""
    candidates = files.labels_of(list(files.forms), patterns)
    if several := {path: labels for path, (labels, _) in candidates.items() if len(labels) > 1}:
        path, labels = next(iter(several.items()))
        problem = f'{path} has {len(labels)} label images, {some(labels, 3)}; so have {len(several) - 1} others'
        raise ValueError(f'--data: {problem}. Join them into one, or choose: {patterns.spell_out(path, labels[0])}')
    label_set = {label for labels, _ in candidates.values() for label in labels}
    rule = _rule(patterns.labels)
    masks = {path for path, form in files.forms.items() if rule.fullmatch(form)}
    label_of = {path: labels[0] for path, (labels, _) in candidates.items() if labels and path not in label_set}
    if shared := repeated(label_of.values()):
        owners = [path for path, label in label_of.items() if label == shared[0]]
        problem = f'{some(owners, 3)} have one label image, {shared[0]}; so have {len(shared) - 1} others'
        advice = f'take out what is twice, or choose: {patterns.spell_out(owners[0], shared[0])}'
        raise ValueError(f'--data: {problem}. Each picture has its own: {advice}')
    names = {os.path.splitext(label)[0] for label in label_of.values()}
    strays = sorted(masks - {*label_of, *label_of.values()})
    # no letter or digit follows the name of another one
    extras = [path for path in strays if any(path[: end.start()] in names for end in re.finditer(r'[\W_]', path))]
    bare = [path for path in candidates if path not in label_of and path not in label_set and path not in masks]
    parts = {path: patterns.part(path, candidates[path][1]) for path in (*label_of, *bare)}
    return Pairing(patterns, label_of, parts, bare, sorted({*strays} - {*extras}), extras)


def find_tree(paths: Sequence[str]) -> Pairing | None:
    """Pair by the known tree that has most label images; no other one may have label images of the same pictures."""
    files, folders = Files(paths, fold=True), {part.lower() for path in paths for part in path.split('/')[:-1]}
    matches = dict[Patterns, dict[str, list[str]]]()
    for name, *row in TREES:  # a tree may begin at any folder below the data, and has each of its words in braces
        split = (re.split(r'\{(.*?)\}', text) for text in row)  # every second part is that of braces
        choices = ([part.split(',') if n % 2 else [part] for n, part in enumerate(pieces)] for pieces in split)
        texts = (map(''.join, itertools.product(*choice)) for choice in choices)
        for image, label in itertools.product(*texts):
            patterns = Patterns(f'**/{image}.*', f'**/{label}' + ('' if label.endswith('.png') else '.*'), name)
            literal = (folder for folder in (*image.split('/')[:-1], *label.split('/')[:-1]) if '*' not in folder)
            if (name == _ORDERED_TREE and matches) or not folders.issuperset(literal):
                continue
            if pairs := {path: labels for path, (labels, _) in files.labels_of(paths, patterns).items() if labels}:
                matches[patterns] = pairs
    if not matches:
        return None
    best, labelled = max(matches.items(), key=lambda match: len(match[1]))  # the first of several
    for other, pairs in matches.items():
        if conflict := next((path for path in pairs if pairs[path] != labelled.get(path, pairs[path])), None):
            first, second = labelled[conflict][0], pairs[conflict][0]
            advice = f'Choose: {best.spell_out(conflict, first)} or {other.spell_out(conflict, second)}'
            raise ValueError(f'--data: {conflict} has two label images, {first} and {second}. {advice}')
    return pair_by_patterns(files, best)


def many_masks(paths: Sequence[str]) -> str:
    """Say what to do if each picture has a folder of masks, as in nuclei of the Data Science Bowl; else return ''."""
    folders = Counter(os.path.dirname(path) for path in paths)
    pairs = [(path, f'{os.path.dirname(path)}/masks') for path in folders if os.path.basename(path).lower() == 'images']
    many = [(path, masks) for path, masks in pairs if folders[masks] > folders[path]]
    if len(many) <= len(pairs) / 2:
        return ''
    folder, masks = many[0]
    text = f' {folder} has {folders[folder]} picture(s), and {masks} {folders[masks]}: many masks a picture. Join them'
    advice = 'or write them as objects of COCO (docs/your_labels.md#many-masks-a-picture).'
    return f"{text} into one label image of the picture's name, {advice}"


def proposal(root: Path, paths: Sequence[str]) -> str:
    """Return a sentence with patterns that pair pictures of an unknown tree; empty if none was found."""
    files, sample, trials = Files(paths), evenly(sorted(paths), _SAMPLED), Counter[Patterns]()
    common = set.intersection(*({*path.split('/')[:-1]} for path in paths))
    by_begin = defaultdict[str, list[str]](list)  # files by the beginnings of their names, before each sign
    for path in paths:
        name = os.path.basename(path)
        for sign in re.finditer(r'[\W_]', name):
            by_begin[name[: sign.start()]].append(path)
    for path in evenly(sample, _TRIALS):
        stem = os.path.splitext(os.path.basename(path))[0]
        for begin in {stem, re.sub(r'[_-][^_-]*$', '', stem)} - {''}:
            trials.update(_pattern(path, other, begin, common) for other in evenly(by_begin[begin], _TRIALS))
    scored = []
    for patterns, _ in trials.most_common(2 * _TRIALS):
        pairs = [(labels[0], path) for path, (labels, _) in files.labels_of(sample, patterns).items() if labels]
        # the more pictures they pair, the likelier their label images hold classes, the fewer stars
        text, labels = (patterns.images + patterns.labels).lower(), patterns.labels.lower()
        kinds = (-rank for rank, word in enumerate(_LABELS) if word in labels)
        kind = -10 if re.search('colou?r|instance', text) else next(kinds, -9)
        scored.append((len(pairs), kind, -len(text), patterns, pairs[:1]))
    for *_, patterns, examples in sorted(scored, key=lambda entry: entry[:3], reverse=True):
        colours = []
        for name in [name for pair in examples for name in pair]:  # a label image has far fewer than its picture
            with open_picture(root / name) as image:
                small = np.asarray(image.resize((64, 64), Image.Resampling.NEAREST)).reshape(64 * 64, -1)
                colours.append(len(np.unique(small, axis=0)))
        if colours and 2 * colours[0] < colours[1]:
            count = sum(bool(labels) for labels, _ in files.labels_of(paths, patterns).values())
            return f' Try {patterns}: they pair {count} pictures.'
    return ''


def _pattern(path: str, other: str, begin: str, common: Collection[str]) -> Patterns:
    """Return patterns of two files whose names have one beginning, with stars for it and for shared folders."""
    (*folder, name), (*other_folder, other_name) = path.split('/'), other.split('/')
    shared = [part for part in folder if part in other_folder and part not in common]
    starred = shared if shared == [part for part in other_folder if part in shared] else []
    texts = ['/'.join('*' if part in starred else part for part in parts) for parts in (folder, other_folder)]
    if _PART.findall(texts[0]) == _PART.findall(texts[1]):
        texts = [_PART.sub('*', text) for text in texts]
    end, label_end = name[len(begin) :], other_name[len(begin) :]
    end = end if _PART.search(label_end) else _PART.sub('*', end)  # 21_training.tif and 21_manual1.gif
    return Patterns(f'{texts[0]}/*{end}'.lstrip('/'), f'{texts[1]}/*{label_end}'.lstrip('/'))
