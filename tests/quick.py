"""What a process of tests does once, or leaves out, of what the mm* stack and torch do again and again."""

import ast
import copy
import functools
import itertools
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yapf.yapflib.yapf_api
from mmengine.config import Config
from mmengine.dataset import base_dataset
from mmengine.model import BaseModule, base_module
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmdistill_dense.model import build as model_build
from mmdistill_dense.networks import teacher as teacher_module
from tests.isolation import ROOT, USERS

_KNOWN = f'{os.sep}.mim{os.sep}', f'{ROOT}{os.sep}configs{os.sep}'  # parts of the places of configs that stay


def _read_known_configs_once() -> None:
    """Let this process read and run each config of an installed package or of ours once; callers get copies."""
    plain, plain_kind = Config._file2dict, functools.cache(Config._is_lazy_import)
    read = functools.cache(lambda environment, filename, *args, **kwargs: plain(filename, *args, **kwargs))

    def known(filename: Any) -> bool:
        return any(part in str(filename) for part in _KNOWN)

    def file2dict(filename: str, *args: Any, **kwargs: Any) -> tuple[dict, str, dict]:
        if not known(filename):
            return plain(filename, *args, **kwargs)
        users = tuple(map(os.environ.get, USERS))  # ours read some of them
        return copy.deepcopy(read(users, filename, *args, **kwargs))

    def is_lazy_import(filename: str) -> bool:
        return (plain_kind if known(filename) else plain_kind.__wrapped__)(filename)

    Config._file2dict, Config._is_lazy_import = staticmethod(file2dict), staticmethod(is_lazy_import)


def _trace_pairs_once() -> None:
    """Let this process trace each pair of networks once: a pass finds shapes, which go by the options."""
    build, plain, actual = model_build.build_network, model_build.trace_pair, {}

    def named(option: Any, *args: Any, **kwargs: Any) -> nn.Module:
        network = build(option, *args, **kwargs)
        network.make_named = f'{option.scope} {option.model!r}', *map(type, network.modules())
        return network

    def trace(student: nn.Module, taps: Any, teachers: Mapping[str, Any], size: Any) -> Any:
        make_named, scope = getattr(student, 'make_named', None), DefaultScope.get_current_instance()
        sides = [(name, option, [*map(str, texts)]) for name, (option, texts) in teachers.items()]
        key = make_named, repr(([*map(str, taps)], sides, size, scope and scope.scope_name))
        if make_named is None or key not in actual:
            actual[key] = plain(student, taps, teachers, size)
        return copy.deepcopy(actual[key])

    model_build.build_network, model_build.trace_pair = named, trace


def _read_teachers_once() -> None:
    """Let this process read each file of a teacher once, unless it changes; its tensors are copied into networks."""
    plain = teacher_module.read_checkpoint
    read = functools.lru_cache(64)(lambda path, *_: plain(path))

    def copied(path: Path) -> dict[str, Any]:
        actual = os.stat(path)
        return dict(read(path, actual.st_mtime_ns, actual.st_size, actual.st_ino))

    teacher_module.read_checkpoint = copied


def _leave_scopes_quickly() -> None:
    """Overwrite mmengine's scope without its pause for a name of its own, and without copies of all before it."""
    numbers = itertools.count()

    @contextmanager
    def overwrite(cls: Any, scope_name: str | None) -> Iterator[None]:
        if scope_name is None:
            yield
            return
        before = cls._instance_dict.copy()
        cls.get_instance(f'overwrite-{next(numbers)}', scope_name=scope_name)
        try:
            yield
        finally:
            cls._instance_dict = before

    DefaultScope.overwrite_default_scope = classmethod(overwrite)


def _norm(inputs: Tensor, *sizes: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(inputs), inputs.new_empty(sizes), inputs.new_empty(sizes)


def _layer_norm(inputs: Tensor, shape: list[int], *parts: Any) -> tuple[Tensor, Tensor, Tensor]:
    sizes = [inputs.shape[-len(shape) :], *(part.shape for part in parts if torch.is_tensor(part))]
    torch._check(all([*size] == shape for size in sizes))
    return _norm(inputs.contiguous(), *inputs.shape[: -len(shape)], *(1 for _ in shape))


def _bilinear(inputs: Tensor, size: list[int], *_: Any) -> Tensor:
    torch._check(min(*size, *inputs.shape) > 0)
    layout = torch._prims_common.suggest_memory_format(inputs)
    return inputs.new_empty(*inputs.shape[:2], *size).contiguous(memory_format=layout)


# What operations return on the meta device. Torch computes these in Python, which took most of the time of a pair.
_SHAPES = {
    'native_batch_norm': lambda inputs, *options: _norm(inputs, inputs.shape[1] if options[4] else 0),
    'native_group_norm': lambda inputs, *options: _norm(inputs, options[2], options[5]),
    'native_layer_norm': _layer_norm,
    'upsample_bilinear2d': _bilinear,
    **dict.fromkeys(('gelu', 'relu'), lambda inputs, **_: torch.empty_like(inputs)),
    **dict.fromkeys(('normal_', 'uniform_'), lambda inputs, *_, **__: inputs),
}
_read_known_configs_once()
_trace_pairs_once()
_read_teachers_once()
_leave_scopes_quickly()
_META = torch.library.Library('aten', 'IMPL', 'Meta')
for _name, _function in _SHAPES.items():
    _META.impl(_name, _function)
# mmengine prints each config prettily, logs how each weight began and where each class lies, and collects garbage
# for each data set: most of the time of a short run.
yapf.yapflib.yapf_api.FormatCode = lambda text, **_: (ast.parse(text) and text, True)
BaseModule._dump_init_info = base_module.update_init_info = lambda *_, **__: None
logging.disable(logging.DEBUG)
base_dataset.gc = SimpleNamespace(collect=int)
if not torch.cuda.is_available():  # torch notes each seed for later, with the stack of calls
    torch.cuda.manual_seed_all = torch.xpu.manual_seed_all = torch.mtia.manual_seed_all = lambda seed: None
