"""Build a network from its config, with or without pre-trained weights, and move it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn

from mmdistill_dense.config.resolve import DISTILL_KEYS, ModelConfig
from mmdistill_dense.config.unknown_keys import explained
from mmdistill_dense.utils.protocols import Network
from mmdistill_dense.weights.mmengine_loader import install_reader

Module = TypeVar('Module', bound=nn.Module)

# keys of model.teacher that are not keys of its network
TEACHER_OPTIONS = ('checkpoint', 'allow_random', 'allow_other_classes', 'accelerate', 'scale', 'fit')


def build_network(config: ModelConfig, pretrained: bool = True) -> Network:
    """Build a network in its own scope; ``pretrained=False`` removes the options that would load backbone weights."""
    install_reader()  # it reads the files that the network's init_cfg names
    model = config.model.to_dict() if hasattr(config.model, 'to_dict') else dict(config.model)
    if config.scope is not None:
        model['_scope_'] = config.scope
    # mm* constructors read their options as attributes.
    try:
        return MODELS.build(ConfigDict(model if pretrained else without_pretrained(model)))
    except TypeError as error:
        known = (*DISTILL_KEYS, *TEACHER_OPTIONS)
        raise TypeError(explained(error, model, config.source, known)) from error


def without_pretrained(model: Any) -> Any:
    """Return a copy of a model config without the options that load pre-trained weights."""
    if isinstance(model, Mapping):
        kept = {}
        for name, value in model.items():
            if name in ('pretrained', 'teacher_ckpt'):  # the second belongs to mmdet's own distilling detectors
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
    # mmdet's PVT also loads the checkpoint of an init_cfg without a type.
    return isinstance(init_cfg, Mapping) and ('Pretrained' in str(init_cfg.get('type')) or 'checkpoint' in init_cfg)


def move(network: Module, **place: Any) -> Module:
    """Change the ``device`` or ``dtype`` of a network even where its class overrides ``to``, and return it.

    Detectors of mmdet that hold a teacher of their own (LD, LAD) override ``to`` and take no dtype. mmengine's ``to``
    is called where there is one, because it tells the data preprocessor its device.
    """
    kind = BaseModel if isinstance(network, BaseModel) else nn.Module
    return kind.to(network, **place)
