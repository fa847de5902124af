"""The trained networks of a run, and validation pictures."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope, init_default_scope
from torch import nn

from mmdistill_dense.config.resolve import ModelConfig, is_distill_model, load_model, student_option
from mmdistill_dense.networks.building import build_network
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.networks.teacher_plan import TeacherOption
from mmdistill_dense.registry import DATASETS
from mmdistill_dense.report.section import Missing
from mmdistill_dense.report.trained_run import TrainedRun
from mmdistill_dense.utils.colours import palette_of as _palette
from mmdistill_dense.utils.protocols import Network, Sample
from mmdistill_dense.weights.strict_load import load_strictly, read_checkpoint, state_dict_of


@dataclass(frozen=True)
class Scene:
    """A validation picture.

    Attributes:
        name: The stem of its file.
        image: uint8 (H, W, 3), RGB, in the size of predictions.
        item: The output of the pipeline.
    """

    name: str
    image: np.ndarray
    item: dict[str, Any]


@dataclass(frozen=True)
class Scenes:
    """Some validation pictures, with the names and colours (K, 3) of their classes."""

    pictures: tuple[Scene, ...]
    classes: tuple[str, ...]
    palette: np.ndarray


def scenes_of(run: TrainedRun, count: int) -> Scenes:
    """Return evenly spaced pictures of a run's validation set, always the same."""
    loader = run.config.get('val_dataloader') or run.config.get('test_dataloader')
    if loader is None:
        raise Missing('No predictions: the config has neither val_dataloader nor test_dataloader.')
    with DefaultScope.overwrite_default_scope(run.config.get('default_scope', 'mmengine')):
        dataset = DATASETS.build(loader.dataset)
        total = len(dataset)
        chosen = dict.fromkeys((2 * place + 1) * total // (2 * count) for place in range(min(count, total)))
        items = [(index, dataset[index]) for index in chosen]
    meta = dataset.metainfo
    classes = tuple(meta.get('classes') or ())
    pictures = tuple(Scene(_name(item, index), _image(item), item) for index, item in items)
    return Scenes(pictures, classes, _palette(meta.get('palette'), len(classes)))


def student_of(run: TrainedRun) -> Network:
    """Return the plain student of a run with the weights of its last checkpoint, in eval mode."""
    path = run.checkpoint
    if path is None:
        raise Missing(f'No predictions of {run.title}: {run.folder} holds no checkpoint.')
    scope = run.config.get('default_scope', 'mmengine')
    init_default_scope(scope)
    if is_distill_model(run.model):
        option = load_model(student_option(run.model), 'model.student')
    else:
        option = ModelConfig(copy.deepcopy(run.config.model), scope, None)
    network = build_network(option, pretrained=False)
    load_strictly(network, state_dict_of(read_checkpoint(path), path), None, f'checkpoint={str(path)!r}')
    return _ready(network, run.title)


def teacher_of(run: TrainedRun, name: str) -> Network:
    """Return a teacher of a run, by its key under ``model``, with its weights."""
    option = TeacherOption.parse(copy.deepcopy(run.teachers[name]), f'model.{name}')
    if option.allow_other_classes:
        raise Missing(
            f'No predictions of {name}: model.{name} sets allow_other_classes, so its classes need not be those of the '
            'validation pictures.'
        )
    init_default_scope(run.config.get('default_scope', 'mmengine'))
    teacher = FrozenTeacher(option)
    teacher.load(torch.zeros(1))
    return _ready(teacher.network, name)


@torch.no_grad()
def predict(network: Network, pictures: Sequence[Scene]) -> list[Sample]:
    """Return a data sample for each picture."""
    samples: list[Sample] = []
    for picture in pictures:
        batch = {'inputs': [picture.item['inputs']], 'data_samples': [copy.deepcopy(picture.item['data_samples'])]}
        samples += network.test_step(batch)
    return samples


def _ready(network: nn.Module | None, title: str) -> Network:
    if not hasattr(network, 'test_step') or not any(hasattr(network, head) for head in _HEADS):
        raise Missing(f'No predictions of {title}: {type(network).__name__} has no head that segments or detects.')
    ready: Network = revert_sync_batchnorm(network)
    ready.eval()  # not chained: mmseg's backbones return nothing from it
    return ready


_HEADS = ('decode_head', 'bbox_head', 'roi_head')


def _name(item: dict[str, Any], index: int) -> str:
    return Path(item['data_samples'].metainfo.get('img_path') or '').stem or f'picture {index}'


def _image(item: dict[str, Any]) -> np.ndarray:
    """Return the picture in RGB (loaders give BGR), in the size of predictions."""
    planes = item['inputs']
    image = np.ascontiguousarray(planes.permute(1, 2, 0).clamp(0, 255).to(torch.uint8).numpy()[..., ::-1])
    height, width = item['data_samples'].metainfo.get('ori_shape', image.shape)[:2]
    return image if image.shape[:2] == (height, width) else cv2.resize(image, (width, height))
