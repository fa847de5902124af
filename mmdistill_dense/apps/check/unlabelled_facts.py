"""Read the pictures without labels of a check: how many a step has, and which look like others."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import cv2
import numpy as np
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS

from mmdistill_dense.apps.check.context import Subject, UnlabelledFacts
from mmdistill_dense.unlabelled.pictures import picture_paths
from mmdistill_dense.unlabelled.step import unlabelled_of
from mmdistill_dense.unlabelled.stream import open_pictures
from mmdistill_dense.utils.evenly import evenly, evenly_spaced
from mmdistill_dense.utils.reproducible import fork_rng, seed_everything

SIDE = 16  # of a thumbnail
ALIKE = 0.999  # cosine of two grey thumbnails without their means; re-encoded pictures of CamVid: 0.99995 and more
MOST = 2000  # pictures of each set that are compared, spread over it


def read_unlabelled(subject: Subject) -> None:
    """Open the pictures as training does, and give the model those of a step."""
    second = unlabelled_of(subject.model)
    if second is None or subject.data_problem:
        return
    labelled = DATASETS.build(copy.deepcopy(subject.config.train_dataloader.dataset))
    found = open_pictures(second.option, subject.config, labelled)
    count = second.option.count(subject.batch_size)
    with fork_rng():
        seed_everything(0)
        second.batch = pseudo_collate([found.dataset[place] for place in evenly_spaced(len(found.dataset), count)])
    facts = UnlabelledFacts(len(found.dataset), found.labelled, found.left_out, count)
    paths = picture_paths(found.dataset)
    for tested in found.tested.values():
        facts.alike += look_alikes(paths, tested)
    subject.unlabelled = facts


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
