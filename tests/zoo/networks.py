"""All configs: what they resolve to, and their networks of full width, built without values."""

import copy
import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from mmcv.ops import deform_conv, modulated_deform_conv
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn
from torch.nn import functional

from mmdistill_dense.config.resolve import package_root
from mmdistill_dense.networks import trace
from tests.every_config import read

EVALUATION = [f'{split}_{part}' for split in ('val', 'test') for part in ('dataloader', 'evaluator', 'cfg')]
QUEUES = dict(PCD=('queue_size', 64), CIRKD=('pixel_memory', 4096))
_INITIALISERS = [f'{kind}_' for kind in ('uniform', 'normal', 'trunc_normal', 'constant')]
_INITIALISERS += [f'{kind}_{shape}_' for kind in ('xavier', 'kaiming') for shape in ('uniform', 'normal')]


@functools.lru_cache(maxsize=4)
def config(path: Path) -> Config:
    """A config as it resolves; not to be changed."""
    return read(path)


def config_names() -> Iterator[str]:
    for package in ('mmseg', 'mmdet'):
        root = package_root(package) / 'configs'
        for path in sorted(root.rglob('*.py')):
            if '_base_' not in path.parts and 'common' not in path.parts:
                yield f'{package}::{path.relative_to(root)}'


def key_of(value: Any) -> str:
    """One text for equal configs."""
    return json.dumps(value, sort_keys=True, default=str)


def active(model: Mapping[str, Any]) -> set[str]:
    """The names of the distillers that do something."""
    return {key for key, option in (model.get('distillers') or {}).items() if option.get('loss_weight', 1) != 0}


def build(cfg: Config) -> Any:
    """Build a config's model on the meta device, or on the CPU where something cannot be made or traced there."""
    init_default_scope(cfg.default_scope)
    model = _with_small_queues(cfg.model)
    with without_values():
        try:
            with torch.device('meta'), trace._NumbersOnCPU():
                return MODELS.build(model)
        except KeyError:
            raise
        except Exception:
            return MODELS.build(model)


def _with_small_queues(model: Any) -> Any:
    """Drawing gigabytes of random keys would be most of the walk."""
    model = copy.deepcopy(model)
    for option in (model.get('distillers') or {}).values():
        if option.get('type') in QUEUES:
            key, size = QUEUES[option.type]
            option[key] = size if option.get(key) == 'auto' else min(option.get(key, size), size)
    return model


@contextmanager
def without_values() -> Iterator[None]:
    """Let constructors leave the memory of their parameters as it is."""
    with ExitStack() as stack:
        for initialiser in _INITIALISERS:
            stack.enter_context(mock.patch.object(nn.init, initialiser, lambda tensor, *_, **__: tensor))
        stack.enter_context(mock.patch.object(deform_conv, 'deform_conv2d', _deform_conv))
        stack.enter_context(mock.patch.object(modulated_deform_conv, 'modulated_deform_conv2d', _modulated_deform_conv))
        stack.enter_context(mock.patch.object(SingleRoIExtractor, 'forward', _roi_features))
        yield


# Compiled operations do not run on the meta device; these give the same shapes.


def _deform_conv(x: Tensor, offset: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
    return functional.conv2d(x, weight, None, *geometry[:4])


def _modulated_deform_conv(x: Tensor, offset: Tensor, mask: Tensor, *parameters_and_geometry: Any) -> Tensor:
    return functional.conv2d(x, *parameters_and_geometry[:6])


def _roi_features(extractor: Any, feats: Any, rois: Tensor, *_: Any) -> Tensor:
    return feats[0].new_zeros(len(rois), extractor.out_channels, *extractor.roi_layers[0].output_size)
