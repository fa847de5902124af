"""Build a network from its config, with or without pre-trained weights, and move it."""

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmdistill_dense.config.resolve import DISTILL_KEYS, TEACHER_OPTIONS, ModelConfig, without_pretrained
from mmdistill_dense.config.unknown_keys import explain_option_error, explain_type_error
from mmdistill_dense.config.values import listed
from mmdistill_dense.utils.runner_internals import Network
from mmdistill_dense.utils.validate import text_of
from mmdistill_dense.weights.mmengine_loader import install_reader

Module = TypeVar('Module', bound=nn.Module)
_BUILT: ContextVar[dict[str, tuple[ConfigDict, Network]] | None] = ContextVar('_BUILT', default=None)


@contextmanager
def building_once() -> Iterator[None]:
    """Let :func:`build_network` build equal configs once while this is open; each caller gets a copy for itself."""
    token = _BUILT.set({})
    try:
        yield
    finally:
        _BUILT.reset(token)


def build_network(config: ModelConfig, pretrained: bool = True) -> Network:
    """Build a network in its own scope; ``pretrained=False`` removes the options that would load backbone weights."""
    install_reader()  # it reads the files that the network's init_cfg names
    model = config.model.to_dict() if hasattr(config.model, 'to_dict') else dict(config.model)
    if config.scope is not None:
        model['_scope_'] = config.scope
    option = ConfigDict(model if pretrained else without_pretrained(model))  # constructors read attributes
    networks, content = _BUILT.get(), f'{option!r} on {torch.empty(0).device}'
    if networks is not None and content in networks:
        return copy_network(networks[content][1])
    try:
        network = MODELS.build(option)
    except OSError as error:  # mmdet's LAD reads the file of its own teacher
        raise OSError(f'{config.key}: {error} To build it without files, set {config.key}.pretrained=False.') from error
    except TypeError as error:
        other_keys = (*DISTILL_KEYS, *TEACHER_OPTIONS)
        raise TypeError(explain_option_error(error, model, config.key, other_keys, config.beside)) from error
    except KeyError as error:
        with MODELS.switch_scope_and_registry(config.scope) as registry:
            message = explain_type_error(text_of(error), model, config.key, registry.module_dict, config.beside)
        raise KeyError(message) from error
    if any(kind.__name__ == 'BaseMOTModel' for kind in type(network).__mro__):
        inside = f'its detector: set {config.key} to the model.detector of its config'
        remedy = inside if 'detector' in config.model else 'a detector of pictures with the same parts'
        raise ValueError(f'{config.key}: {type(network).__name__} sees videos, not single pictures. Use {remedy}.')
    complete_heads(network)
    is_whole = '...' not in content  # numpy and torch abbreviate long arrays
    if networks is not None and is_whole and not any(map(_may_share, network.modules())):
        with suppress(Exception):  # what cannot be copied is built each time
            networks[content] = option, copy_network(network)  # the option stays, so that no other has its addresses
    return network


def _may_share(module: nn.Module) -> bool:
    """Tell whether a copy may share a part: of a module that copies itself, or whose functions close over it."""
    values = [*vars(module).values()]
    values += [member for value in values if isinstance(value, dict) for member in value.values()]  # as its hooks
    values += [member for value in values if isinstance(value, (list, tuple)) for member in value]
    functions = [getattr(value, 'func', value) for value in values]  # of a partial
    return hasattr(module, '__deepcopy__') or any(getattr(function, '__closure__', None) for function in functions)


def complete_heads(network: nn.Module) -> None:
    """Let SSD predict: mmdet asks every dense head for ``loss_cls``, and SSD's has none."""
    head: Any
    for head in network.modules():
        if type(head).__name__ == 'SSDHead' and not hasattr(head, 'loss_cls'):
            head.loss_cls = None


def copy_network(network: Module, shapes_alone: bool = False) -> Module:
    """Return a deep copy of a network, also of one that holds computed tensors, which torch does not copy (CLRNet)."""
    memo: dict[int, Any] = {
        id(value): value.detach().clone()
        for module in network.modules()
        for value in [*vars(module).values(), *module.buffers(recurse=False)]
        if isinstance(value, Tensor) and not value.is_leaf
    }
    if shapes_alone:
        for value in [*network.parameters(), *network.buffers()]:
            if type(value) in (nn.Parameter, Tensor):  # a lazy parameter has no shape yet
                empty = torch.empty_like(value, device='meta')
                parameter = isinstance(value, nn.Parameter)
                memo.setdefault(id(value), nn.Parameter(empty, value.requires_grad) if parameter else empty)
    return copy.deepcopy(network, memo)


@contextmanager
def naming_weights(network: nn.Module, key: str) -> Iterator[None]:
    """Name the config key in an error about pre-trained weights that cannot be read while the context is open."""
    try:
        yield
    except OSError as error:
        files = {
            str(init['checkpoint']): path
            for path, module in network.named_modules()
            for init in listed(getattr(module, 'init_cfg', None))
            if isinstance(init, Mapping) and init.get('checkpoint')
        }
        keys = [f'{key}.{path}.init_cfg.checkpoint={file!r}' for file, path in files.items() if file in str(error)]
        where = ', '.join(keys) or f'{key} ({", ".join(files)})'
        root = os.environ.get('MMDISTILL_WEIGHTS', 'weights')
        note = f' MMDISTILL_WEIGHTS names the folder {root}.' if any(file.startswith(root) for file in files) else ''
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
        problem = f'{where}: {error}{note} In mmseg, {key}.pretrained may have set it'
        raise kind(f'{problem}. To start without weights, set {key}.pretrained=False.') from error


def move(network: Module, **options: Any) -> Module:
    """Change the ``device`` or ``dtype`` of a network even where its class overrides ``to``, and return it.

    Detectors of mmdet that hold a teacher of their own (LD, LAD) override ``to`` and take no dtype. mmengine's ``to``
    is called where there is one, because it tells the data preprocessor its device.
    """
    kind = BaseModel if isinstance(network, BaseModel) else nn.Module
    return kind.to(network, **options)
