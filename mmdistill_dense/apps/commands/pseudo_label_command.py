"""The command ``pseudo-labels``, which writes a teacher's labels of pictures as files."""

from __future__ import annotations

import argparse
import copy
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DATASETS, init_default_scope

from mmdistill_dense.apps.commands.training import load_config
from mmdistill_dense.config.resolve import teachers_of
from mmdistill_dense.config.values import tested_set
from mmdistill_dense.datasets.label_files import LabelImages
from mmdistill_dense.guards.config import check_teacher_classes
from mmdistill_dense.networks.class_pairs import ClassPairs
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.networks.trace import TeacherOption
from mmdistill_dense.unlabelled.pictures import picture_paths, training_steps, without_labels
from mmdistill_dense.unlabelled.pseudo_labels import (
    DET_THRESHOLD,
    IGNORED,
    SEG_THRESHOLD,
    PseudoOption,
    check_pairs,
    check_scores,
    check_unsure_boxes,
    probabilities,
    sure_boxes,
    sure_pixels,
    two_classes,
)
from mmdistill_dense.unlabelled.step import UnlabelledOption
from mmdistill_dense.unlabelled.stream import TRIED, Pictures, open_pictures
from mmdistill_dense.utils.devices import device_of
from mmdistill_dense.utils.files import list_text, write_json, write_text, write_whole
from mmdistill_dense.utils.runner_internals import Sample

LIST, BOXES = 'pictures.txt', 'instances.json'


def pseudo_labels(args: argparse.Namespace) -> None:
    option = PseudoOption(args.threshold, teacher=args.teacher)
    print(*write_labels(load_config(args), args.out, option, args.pictures), sep='\n')


def write_labels(config: Config, out: Path, option: PseudoOption, folder: str | None = None) -> list[str]:
    """Label whole pictures, as the test pipeline shows them, and list those with a sure label; return what to tell."""
    # label images named and numbered as those of the data set, or COCO boxes, the unsure ones as crowds (ignored)
    init_default_scope(config.get('default_scope', 'mmengine'))
    labelled = DATASETS.build(copy.deepcopy(config.train_dataloader.dataset))
    pictures = _pictures(config, labelled, folder)
    paths = picture_paths(pictures.dataset)
    _refuse_pictures_in(out, [*paths, *picture_paths(labelled)])
    names = _names(paths, pictures.dataset.data_root)
    teacher = _teacher(config, option, labelled)
    found = _predicted(teacher.network, pictures, names)
    to_set: Mapping[str, str] = {}
    segments = hasattr(teacher.network, 'decode_head')
    if segments:
        files = LabelImages.of(labelled, names)
        to_set = files.to_set
        total, counts, best = _write_maps(teacher, found, out, files, option.threshold or SEG_THRESHOLD)
    else:
        total, counts, best = _write_boxes(
            found, out / BOXES, labelled, option.threshold or DET_THRESHOLD, teacher.class_pairs()
        )
    if not total:
        raise ValueError(
            f'{teacher.key} is sure of nothing on {len(pictures.dataset)} pictures (at most {best:.3f}): lower '
            '--threshold, or train it longer. Nothing is written.'
        )
    classes = labelled.metainfo['classes']
    shares = ', '.join(f'{classes[number]} {count}' for number, count in sorted(counts.items()) if number >= 0)
    return [
        f'{total} of {len(pictures.dataset)} pictures have labels; {pictures.labelled} labelled ones were left out.',
        f'sure {"pixels" if segments else "boxes"}: {shares}; unsure: {counts[-1]}',
        f'written: {out / (LIST if segments else BOXES)}',
        *(f'set {name}={value!r} in the data set that reads them' for name, value in to_set.items()),
    ]


def _pictures(config: Config, labelled: Any, folder: str | None) -> Pictures:
    given = {'data_root': folder} if folder else config.model.get('unlabelled')
    if not given:
        raise ValueError('pseudo_labels: no pictures are named: give --pictures DIR, or set model.unlabelled.')
    option = UnlabelledOption.parse({**given, 'pipeline': [{'type': 'LoadImageFromFile'}]})
    assert option is not None, 'something is given'
    pictures = open_pictures(option, config, labelled)
    steps = training_steps(tested_set(config))
    kept, _ = without_labels(steps, itertools.islice(picture_paths(pictures.dataset), TRIED), 'test_dataloader')
    pictures.dataset.pipeline = Compose(kept)
    return pictures


def _teacher(config: Config, option: PseudoOption, labelled: Any) -> FrozenTeacher:
    given = {key.removeprefix('teacher.'): (key, one) for key, one in teachers_of(config.model).items()}
    if not given:
        raise ValueError('pseudo_labels: model.teacher is not set in this config.')
    name = option.teacher_of(given)
    key, one = given[name]
    parsed = TeacherOption.parse(one, f'model.{key}', name)
    if parsed.grid is not None:
        raise ValueError(f'pseudo_labels: remove {parsed.key}.scale and fit: here the test pipeline sets the size.')
    if parsed.allow_other_classes:
        raise ValueError(f'pseudo_labels: remove {parsed.key}.allow_other_classes: the labels must be of the data set.')
    check_unsure_boxes(parsed)
    teacher = FrozenTeacher(parsed)
    teacher.load(torch.zeros((), device=device_of(None)))
    for line in check_teacher_classes(labelled.metainfo.get('classes'), teacher):
        print(line)
    if (pairs := teacher.class_pairs()) is not None:
        assert teacher.network is not None, 'it is loaded'
        check_pairs(pairs, teacher.network)
    return teacher


@torch.no_grad()
def _predicted(network: Any, pictures: Pictures, names: Iterable[str]) -> Iterator[tuple[str, Sample]]:
    """Yield the name of each picture and its sample with predictions; damaged ones are left out."""
    for number, name in enumerate(names):
        item = pictures.dataset.prepare_data(number)
        if item is not None:
            yield name, network.test_step(pseudo_collate([item]))[0]


def _names(paths: Sequence[str], root: str) -> list[str]:
    """Return the paths below ``root``, or below their common folder if some lie elsewhere."""
    names = [Path(os.path.relpath(path, root or '.')).as_posix() for path in paths]
    if root and not any(name.startswith('../') for name in names):
        return names
    common = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    return [Path(os.path.relpath(path, common)).as_posix() for path in paths]


def _refuse_pictures_in(out: Path, paths: Iterable[str]) -> None:
    folder = os.path.join(os.path.realpath(out), '')
    inside = [path for path in paths if os.path.realpath(path).startswith(folder)]
    if inside:
        raise ValueError(f'pseudo_labels: --out {out} holds pictures, e.g. {inside[0]}: choose another folder.')


def _write_maps(
    teacher: FrozenTeacher, found: Iterator[tuple[str, Sample]], out: Path, files: LabelImages, threshold: float
) -> tuple[int, Counter[int], float]:
    assert teacher.network is not None, 'it is loaded'
    check_scores(teacher.network)
    counts, best, names = Counter({-1: 0}), 0.0, []
    for name, sample in found:
        answer = sample.get('seg_logits').data[None]
        sigmoid = answer.shape[1] == 1  # mmseg has applied it
        scores = two_classes(answer) if sigmoid else probabilities(answer)
        best = max(best, float(scores.max()))
        labels = sure_pixels(scores, threshold, pairs=teacher.class_pairs())[0].cpu().numpy().astype(np.uint8)
        seen, numbers = np.unique(labels, return_counts=True)
        counts.update({-1 if one == IGNORED else int(one): int(n) for one, n in zip(seen, numbers, strict=True)})
        if (labels != IGNORED).any():
            stem = files.stem(name)
            content = cv2.imencode('.png', files.values[labels])[1].tobytes()
            write_whole(out / f'{stem}{files.seg_map_suffix}', content, alone=True)
            names.append(stem)
    if names:
        write_text(out / LIST, list_text(names, 'pseudo_labels'))
    return len(names), counts, best


def _write_boxes(
    found: Iterator[tuple[str, Sample]], file: Path, labelled: Any, threshold: float, pairs: ClassPairs | None
) -> tuple[int, Counter[int], float]:
    counts, best = Counter({-1: 0}), 0.0
    images: list[Mapping[str, Any]] = []
    boxes: list[Mapping[str, Any]] = []
    for name, sample in found:
        predicted = sample.pred_instances.cpu()
        best = max([best, *predicted.scores.tolist()])
        sure, unsure = sure_boxes(predicted, threshold, pairs)
        counts.update(sure.labels.tolist())
        counts[-1] += len(unsure)
        if not len(sure):
            continue
        number, (height, width) = len(images) + 1, sample.metainfo['ori_shape'][:2]
        images.append({'id': number, 'file_name': name, 'height': int(height), 'width': int(width)})
        for crowd, instances in enumerate((sure, unsure)):
            for (x, y, x2, y2), label in zip(instances.bboxes.tolist(), instances.labels.tolist(), strict=True):
                w, h = x2 - x, y2 - y
                own = {'id': len(boxes) + 1, 'image_id': number, 'category_id': label + 1, 'iscrowd': crowd}
                boxes.append({**own, 'bbox': [round(one, 2) for one in (x, y, w, h)], 'area': round(w * h, 2)})
    names = [{'id': number + 1, 'name': name} for number, name in enumerate(labelled.metainfo['classes'])]
    if images:
        write_json(file, {'images': images, 'annotations': boxes, 'categories': names})
    return len(images), counts, best
