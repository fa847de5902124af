"""Read the pictures without labels of a check: what they share with others, and how sure the teachers are on them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS

from mmdistill_dense.apps.check.context import Confidence, Subject, UnlabelledFacts
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.unlabelled.pictures import picture_paths
from mmdistill_dense.unlabelled.pseudo_labels import label_pictures, probabilities
from mmdistill_dense.unlabelled.step import Unlabelled, prepared, unlabelled_of
from mmdistill_dense.unlabelled.stream import open_pictures
from mmdistill_dense.utils.evenly import evenly, evenly_spaced
from mmdistill_dense.utils.reproducible import fork_rng, seed_everything

SIDE = 16  # of a thumbnail
ALIKE = 0.999  # cosine of two grey thumbnails without their means; re-encoded pictures of CamVid: 0.99995 and more
MOST = 2000  # pictures of each set that are compared, spread over it
ASKED = 16  # pictures of each kind on which the teachers are asked
FEW_LABELS = 0.05  # of the pixels or pictures
UNSURE = 0.8  # of the confidence on labelled pictures


def read_unlabelled(subject: Subject) -> None:
    """Open the pictures as training does, and give the model those of a step."""
    second = unlabelled_of(subject.model)
    if second is None or subject.data_problem:
        return
    labelled = DATASETS.build(copy.deepcopy(subject.config.train_dataloader.dataset))
    found = open_pictures(second.option, subject.config, labelled)
    count = second.option.count(subject.batch_size)
    second.batch = _batch(found.dataset, count)
    facts = UnlabelledFacts(len(found.dataset), found.labelled, found.left_out, count)
    facts.strong = str(second.option.strong or '')
    paths = picture_paths(found.dataset)
    for tested in found.tested.values():
        facts.alike += look_alikes(paths, tested)
    subject.unlabelled = facts
    subject.asked = _batch(found.dataset, ASKED), _batch(labelled, ASKED)


def ask_teachers(subject: Subject) -> None:
    """Note how sure the teachers are on pictures without and with labels."""
    if subject.unlabelled is None or subject.asked is None or not subject.options.weights:
        return
    for teacher, facts in zip(subject.frozen.values(), subject.teachers, strict=True):
        if facts.metric and teacher.pairs is None:  # it is loaded whole, and predicts the classes of the data
            scores = [_asked(subject, teacher, batch) for batch in subject.asked]
            sure = [float(np.mean([one for one, _ in found])) if found else 0.0 for found in scores]
            labels = np.concatenate([seen for _, seen in scores[0]] or [np.zeros(0, int)])
            values, counts = np.unique(labels, return_counts=True)
            shares = dict(zip(values.tolist(), (counts / max(counts.sum(), 1)).tolist(), strict=True))
            subject.unlabelled.confidence.append(Confidence(facts.key, sure[1], sure[0], shares))
    second = unlabelled_of(subject.model)
    if second is not None and second.option.pseudo:
        teacher = subject.frozen[second.option.pseudo.teacher_of(subject.frozen)]  # loaded whole for that
        if teacher.receipt is not None and teacher.receipt.file is not None:
            subject.unlabelled.pseudo = _labelled(subject, teacher, second)


def what_is_labelled(subject: Subject) -> str:
    """Return of what :attr:`UnlabelledFacts.pseudo` is a part."""
    return 'pixels' if hasattr(subject.model, 'decode_head') else 'pictures'


@torch.no_grad()
def _labelled(subject: Subject, teacher: FrozenTeacher, second: Unlabelled) -> float:
    assert subject.asked is not None and teacher.network is not None, 'the teachers were asked'
    assert second.option.pseudo is not None, 'it asks for labels'
    shares, ignored = [], second.ignored
    for one in _single(subject.asked[0]):
        inputs, samples = prepared(subject.model, one)
        option, pairs = second.option.pseudo, teacher.class_pairs()
        label_pictures(teacher.network, teacher.renormalised(inputs), samples, option, ignored, pairs)
        (sample,) = samples
        found = sample.gt_sem_seg.data != ignored if 'gt_sem_seg' in sample else len(sample.gt_instances) > 0
        shares.append(float(torch.as_tensor(found).float().mean()))
    return float(np.mean(shares))


def look_alikes(paths: Sequence[str], others: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of pictures whose grey thumbnails are almost equal, as after another compression or scale."""
    sides = [(spread, _thumbnails(spread)) for spread in (evenly(paths, MOST), evenly(others, MOST))]
    if not all(len(found) for _, found in sides):
        return []
    (names, first), (other_names, second) = sides
    cosines = first @ second.T
    best = cosines.argmax(1)
    return [(names[row], other_names[best[row]]) for row in np.nonzero(cosines.max(1) > ALIKE)[0]]


def _thumbnails(paths: Sequence[str]) -> np.ndarray:
    """Return the unit vectors (N, 256) of pictures; a picture of one colour, or that cannot be read, is zero."""
    rows = []
    for path in paths:
        picture = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
        small = (
            np.zeros((SIDE, SIDE))
            if picture is None
            else cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        )
        row = small.astype(np.float32).ravel()
        rows.append((row - row.mean()) / max(float(np.linalg.norm(row - row.mean())), 1e-6))
    return np.stack(rows) if rows else np.zeros((0, SIDE**2), np.float32)


def _batch(dataset: Any, count: int) -> dict[str, Any]:
    with fork_rng():
        seed_everything(0)
        return pseudo_collate([dataset[place] for place in evenly_spaced(len(dataset), count)])


def _single(batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {name: copy.deepcopy([values[place]]) for name, values in batch.items()}
        for place in range(len(batch['inputs']))
    ]


@torch.no_grad()
def _asked(subject: Subject, teacher: FrozenTeacher, batch: Mapping[str, Any]) -> list[tuple[float, np.ndarray]]:
    """Return for each picture how sure the teacher is, and the classes that it predicts."""
    network: Any = teacher.network
    found = []
    for one in _single(batch):
        inputs, samples = prepared(subject.model, one)
        inputs = teacher.renormalised(inputs)
        if hasattr(network, 'decode_head'):
            values, labels = probabilities(network.encode_decode(inputs, [one.metainfo for one in samples])).max(1)
        else:
            boxes = network.predict(inputs, samples, rescale=False)[0].pred_instances
            values, labels = boxes.scores[:10], boxes.labels[:10]
        found.append((float(values.mean()) if values.numel() else 0.0, labels.flatten().cpu().numpy()))
    return found
