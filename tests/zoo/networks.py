"""All configs: what they resolve to, and their networks of full width, built without values.

Configs of a pair share what their networks have in common: a teacher is built once, and one set of taps traced once.
"""

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

from mmdistill_dense.config.resolve import ModelConfig
from mmdistill_dense.model import build as model_module
from mmdistill_dense.networks import trace
from mmdistill_dense.networks import trace as teacher_plan
from mmdistill_dense.networks.building import build_network
from tests.every_config import read

QUEUES = dict(PCD=('queue_size', 64), CIRKD=('pixel_memory', 4096))
_INITIALISERS = [f'{kind}_' for kind in ('uniform', 'normal', 'trunc_normal', 'constant')]
_INITIALISERS += [f'{kind}_{shape}_' for kind in ('xavier', 'kaiming') for shape in ('uniform', 'normal')]

_trace = trace._trace
_networks: dict[str, nn.Module] = {}
_traces: dict[tuple, tuple | Exception] = {}


@functools.lru_cache(maxsize=4)
def config(path: Path) -> Config:
    """A config as it resolves; not to be changed."""
    return read(path)


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
    with _without_values():
        try:
            with torch.device('meta'), trace._NumbersOnCPU():
                return MODELS.build(model)
        except RuntimeError:
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
def _without_values() -> Iterator[None]:
    """Let constructors leave the memory of their parameters as it is, and share networks and traces."""
    with ExitStack() as stack:
        for initialiser in _INITIALISERS:
            stack.enter_context(mock.patch.object(nn.init, initialiser, lambda tensor, *_, **__: tensor))
        stack.enter_context(mock.patch.object(model_module, 'build_network', _named_network))
        stack.enter_context(mock.patch.object(teacher_plan, 'build_network', _shared_network))
        stack.enter_context(mock.patch.object(trace, '_trace', _shared_trace))
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


def _named_network(option: ModelConfig, *arguments: Any, **named: Any) -> Any:
    network = build_network(option, *arguments, **named)
    network.zoo_key = f'{torch.get_default_device()} {key_of(option.model)}'
    return network


def _shared_network(option: ModelConfig, *arguments: Any, **named: Any) -> Any:
    key = f'{torch.get_default_device()} {key_of(option.model)}'
    if key not in _networks:
        _networks[key] = _named_network(option, *arguments, **named)
    return _networks[key]


def _shared_trace(network: Any, taps: Any, size: Any, device: str, key: str, **named: Any) -> Any:
    place = (network.zoo_key, *map(str, taps), size, device)
    if place not in _traces:
        try:
            _traces[place] = _trace(network, taps, size, device, key, **named)
        except Exception as error:  # what the meta device cannot do
            _traces[place] = error
    found = _traces[place]
    if isinstance(found, Exception):
        raise found
    return found
