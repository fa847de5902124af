"""The batch of a check, read or generated, and pictures to test the teacher on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from mmdistill_dense.analysis.batches import training_batch
from mmdistill_dense.check.context import Size, Subject
from mmdistill_dense.recipes.check_data import classes_of
from mmdistill_dense.utils.evenly import evenly_spaced
from mmdistill_dense.utils.messages import message_of
from mmdistill_dense.utils.random_streams import fork_rng, seed_everything

VIEW_SIDE = 224  # of a generated view if the config gives no size
_WORKERS = ('persistent_workers', 'prefetch_factor', 'pin_memory', 'multiprocessing_context')


def read_data(subject: Subject) -> None:
    """Read the first batch of the training set as the runner's loader gives it, or note why it cannot be read."""
    dataset = (subject.config.get('train_dataloader') or {}).get('dataset') or {}
    subject.data_classes = classes_of(dataset)
    if subject.options.size is not None:
        subject.data_problem = '--size asks for generated pictures'
        return
    if 'train_dataloader' not in subject.config:
        subject.data_problem = 'the config has no train_dataloader'
        return
    try:
        loader = _loader(subject)
    except FileNotFoundError as error:
        subject.data_problem = str(error)
        return
    subject.pictures = len(loader.dataset)
    subject.data_classes = (getattr(loader.dataset, 'metainfo', None) or {}).get('classes') or subject.data_classes
    with fork_rng():
        seed_everything(0)
        try:
            subject.batch = next(iter(loader))
        except FileNotFoundError as error:
            subject.data_problem = str(error)
        except StopIteration:
            raise ValueError(
                f'train_dataloader gives no batch: {subject.pictures} pictures, batch {subject.batch_size}.'
            ) from None


def read_validation(subject: Subject) -> None:
    """Read validation pictures, also those that a teacher is tested on; training reads all of them later."""
    if subject.data_problem or 'val_dataloader' not in subject.config:
        return
    try:
        dataset = DATASETS.build(subject.config.val_dataloader.dataset)
        for place in evenly_spaced(len(dataset), max(1, subject.options.val)):
            subject.tested = dataset[place]
    except Exception as error:  # a pipeline may run any code
        subject.validation_problem = message_of(error)


def _loader(subject: Subject) -> Any:
    option = {key: value for key, value in subject.config.train_dataloader.items() if key not in _WORKERS}
    loader = Runner.build_dataloader({**option, 'batch_size': subject.batch_size, 'num_workers': 0}, seed=0)
    if len(loader.dataset) == 0:
        raise ValueError(
            'train_dataloader.dataset holds no pictures: the folders exist, but no picture is found in them. Check '
            'data_prefix, img_suffix, seg_map_suffix, ann_file and filter_cfg.'
        )
    return loader


def generate(subject: Subject) -> Mapping[str, Any]:
    """Return a generated batch with the student's classes, of ``--size`` or of the config's training size."""
    model, size = subject.model, subject.options.size
    if any(hasattr(model, name) for name in ('decode_head', 'bbox_head', 'roi_head')):
        return training_batch(model, subject.config, subject.batch_size, size)
    side: Size = size or getattr(model.data_preprocessor, 'size', None) or (VIEW_SIDE, VIEW_SIDE)
    draw = torch.Generator().manual_seed(0)

    def view() -> list[torch.Tensor]:
        shape = (3, *side)
        return [torch.randint(256, shape, generator=draw, dtype=torch.uint8) for _ in range(subject.batch_size)]

    return {'inputs': [view(), view()], 'data_samples': [BaseDataElement() for _ in range(subject.batch_size)]}


def shapes_of(inputs: torch.Tensor | Sequence[torch.Tensor]) -> list[list[int]]:
    """Return the shape of a preprocessed batch, or of each of its views."""
    return [list(one.shape) for one in ([inputs] if torch.is_tensor(inputs) else inputs)]


@torch.no_grad()
def test_pictures(network: Any, config: Config, count: int) -> tuple[dict[str, float], int]:
    """Test a network on some validation pictures, spread over the set.

    Args:
        network: In eval mode, with its own preprocessor.
        config: Has ``val_dataloader`` and ``val_evaluator``.
        count: Pictures.

    Returns:
        The metrics by name, and the number of pictures.
    """
    dataset = DATASETS.build(config.val_dataloader.dataset)
    places = evenly_spaced(len(dataset), count)
    evaluator = Evaluator(config.val_evaluator)
    evaluator.dataset_meta = dataset.metainfo
    seen = []
    for place in places:
        item = dataset[place]
        batch = {key: [value] for key, value in item.items()}
        outputs = network.val_step(batch)
        evaluator.process(data_samples=outputs, data_batch=batch)
        seen += [sample.metainfo.get('img_id') for sample in outputs]
    for metric in evaluator.metrics:  # else COCO's metric counts pictures that were not tested
        if getattr(metric, 'img_ids', 0) is None and getattr(metric, '_coco_api', None) is not None:
            metric.img_ids = seen
    found = evaluator.evaluate(len(places))
    numbers = {name: float(value) for name, value in found.items() if isinstance(value, (int, float, np.number))}
    return numbers, len(places)
