"""Builds a network from its config, without what would fetch weights, and moves it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn

from mmdistill_dense.config.resolve import ModelConfig
from mmdistill_dense.config.unknown_keys import explained
from mmdistill_dense.weights.mmengine_loader import install_reader

# keys of model.teacher that are not keys of its network
TEACHER_OPTIONS = ('checkpoint', 'allow_random', 'allow_other_classes', 'accelerate')


def build_network(config: ModelConfig, pretrained: bool = True) -> Any:
    """Build a network in its own scope; ``pretrained=False`` clears what would load backbone weights."""
    install_reader()  # what the network's init_cfg names is read by it
    model = config.model.to_dict() if hasattr(config.model, 'to_dict') else dict(config.model)
    if config.scope is not None:
        model['_scope_'] = config.scope
    # mm* constructors read their options as attributes.
    try:
        return MODELS.build(ConfigDict(model if pretrained else without_pretrained(model)))
    except TypeError as error:
        raise TypeError(
            explained(error, model, ('student', 'teacher', 'distillers', 'inherit', *TEACHER_OPTIONS))
        ) from error


def without_pretrained(model: Any) -> Any:
    """Return a copy of a model config in which nothing fetches pre-trained weights."""
    if isinstance(model, Mapping):
        kept = {}
        for name, value in model.items():
            if name in ('pretrained', 'teacher_ckpt'):  # the second is that of mmdet's own distilling detectors
                value = None
            elif name == 'init_cfg' and isinstance(value, (list, tuple)):
                value = [member for member in value if not _fetches(member)]
            elif name == 'init_cfg' and _fetches(value):
                continue
            kept[name] = without_pretrained(value)
        return kept
    if isinstance(model, (list, tuple)):
        return type(model)(without_pretrained(member) for member in model)
    return model


def _fetches(init_cfg: Any) -> bool:
    # PVT of mmdet reads the checkpoint of an init_cfg without a type
    return isinstance(init_cfg, Mapping) and ('Pretrained' in str(init_cfg.get('type')) or 'checkpoint' in init_cfg)


def move(network: nn.Module, **place: Any) -> nn.Module:
    """Return a network after a change of ``device`` or ``dtype``, whatever its class makes of ``to``.

    Detectors of mmdet that hold a teacher of their own (LD, LAD) override ``to`` and take no dtype. mmengine's is
    called where there is one: it tells the data preprocessor its device.
    """
    kind = BaseModel if isinstance(network, BaseModel) else nn.Module
    return kind.to(network, **place)
