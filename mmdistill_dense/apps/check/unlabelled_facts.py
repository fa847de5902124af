"""Read the pictures without labels of a check: how many there are, and in a step."""

from __future__ import annotations

import copy

from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS

from mmdistill_dense.apps.check.context import Subject, UnlabelledFacts
from mmdistill_dense.unlabelled.step import unlabelled_of
from mmdistill_dense.unlabelled.stream import open_pictures
from mmdistill_dense.utils.evenly import evenly_spaced
from mmdistill_dense.utils.reproducible import fork_rng, seed_everything


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
    subject.unlabelled = UnlabelledFacts(len(found.dataset), found.labelled, count)
