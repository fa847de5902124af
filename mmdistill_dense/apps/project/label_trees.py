"""The trees of label images that are known, and patterns that would read another one."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from mmdistill_dense.apps.project.label_pairs import Files, Paired, Patterns, pair
from mmdistill_dense.apps.project.picture_folders import LABELS, SPLITS, opened
from mmdistill_dense.utils.evenly import evenly
from mmdistill_dense.utils.validate import some

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
            raise ValueError(f'--data: {twice} has two label images, {both[0][1]} and {both[1][1]}. Choose: {choices}.')
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
        word = next((place for place, word in enumerate((*LABELS, 'truth')) if word in labels), 9)
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
