"""Predict a picture as the student's first evaluation will, which comes long after the start of a training."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dataset import pseudo_collate

from mmdistill_dense.check.context import Size, Subject
from mmdistill_dense.datasets.without_labels import training_steps
from mmdistill_dense.networks.modes import evaluating
from mmdistill_dense.networks.trace import first_larger
from mmdistill_dense.utils.messages import message_of
from mmdistill_dense.utils.random_streams import fork_rng


def predict(subject: Subject) -> None:
    """Pass the picture of validation that was read through the student."""
    item = subject.tested
    if item is None or not hasattr(subject.model, 'val_step'):
        return
    try:
        _predict(subject.model, item)
    except Exception as error:
        height, width = item['inputs'].shape[-2:]
        steps = training_steps(subject.config.val_dataloader.dataset)
        scales = ', '.join(f'{one["type"]}.scale={one["scale"]}' for one in steps if one.get('scale'))
        larger = first_larger(lambda size: _predict(subject.model, _resized(item, size)), (height, width))
        works = f' It can predict one of {larger[0]}x{larger[1]}: set such a scale' if larger else ''
        raise ValueError(
            f'training would stop at its first evaluation: {type(subject.model).__name__.removeprefix("Distilled")} '
            f'cannot predict a picture of {height}x{width}, as val_dataloader.dataset.pipeline '
            f'({scales or "without a scale"}) gives it. {message_of(error).rstrip(".")}.{works}'
            + (' there and in test_dataloader (new: --size), or take another network.' if works else '')
        ) from error


@torch.no_grad()
def _predict(model: Any, item: dict[str, Any]) -> None:
    with evaluating(model), fork_rng():
        model.val_step(pseudo_collate([copy.deepcopy(item)]))


def _resized(item: dict[str, Any], size: Size) -> dict[str, Any]:
    """Return a packed picture in another size; its labels, which a prediction does not read, stay."""
    sample = copy.deepcopy(item['data_samples'])
    sample.set_metainfo({'img_shape': size, 'pad_shape': size})
    inputs = F.interpolate(item['inputs'][None].float(), size)[0].to(item['inputs'].dtype)
    return {'inputs': inputs, 'data_samples': sample}
