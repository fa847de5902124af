"""Find the modules that compute something else in training than in evaluation, and run them in training mode.

The student is recorded in training mode, its teacher in eval mode. Norms and dropout aside, most modules compute the
same in both. Some do not: FCOS multiplies its boxes by the stride only in evaluation, DDRNet's backbone returns more
maps in training. The outputs of such modules can be compared only if both networks run them in the same mode.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from types import CodeType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmdistill_dense.utils.reproducible import fork_rng

Result = TypeVar('Result')
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_NOT_IN_FORWARD = ('__init__', 'train', 'loss', 'predict')  # methods that a forward pass does not call


def modes_to_follow(network: nn.Module, run: Callable[[], object]) -> list[str]:
    """Return the paths of the modules to run in training mode while the rest of the network is in eval mode.

    Norms and dropout are not among them, nor are modules that draw random numbers or change their own buffers in
    training. The list is empty for a network that fails with these modules in training mode. ``run`` is a forward pass
    through the network, which is put into eval mode.
    """
    network.eval()  # not chained: mmseg's backbones return nothing from it
    chosen = {path: module for path, module in network.named_modules() if reads_mode(module)}
    while chosen:
        watch = _Watch(chosen)
        try:
            with watch.open(), in_training(chosen.values()):
                run()
        except Exception:  # for instance, it needs labels in training; in eval mode the pass gives a better message
            return []
        if not watch.unfit:
            break
        for path in watch.unfit:
            del chosen[path]
    return list(chosen)


@contextmanager
def kept(modules: Iterable[nn.Module], buffers: Iterable[Tensor] = (), streams: bool = False) -> Iterator[None]:
    """Restore the modes of modules, the values of buffers and the random ``streams`` at the end."""
    modes = [(module, module.training) for module in modules]
    values = [(buffer, buffer.clone()) for buffer in buffers]
    try:
        with fork_rng() if streams else nullcontext():
            yield
    finally:
        for module, mode in modes:
            module.training = mode  # not train(), which does more in backbones of mm*
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)


@contextmanager
def in_training(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put these modules, but no module inside them, into training mode while the context is open."""
    modules = list(modules)
    with kept(modules):
        for module in modules:
            module.training = True
        yield


def run_as_trained(network: nn.Module, run: Callable[[], Result]) -> Result:
    """Return ``run()`` with a network in eval mode but for the modules of :func:`modes_to_follow`; it runs before."""
    modes = modes_to_follow(network, run)
    with in_training(network.get_submodule(path) for path in modes):
        return run()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network into eval mode while the context is open; random numbers that are drawn do not count."""
    with kept(model.modules(), streams=True):
        for module in model.modules():
            module.training = False
        yield


@contextmanager
def untouched(*modules: nn.Module) -> Iterator[None]:
    """Let modules run once more, and restore buffers, modes, random streams and autocast's cache.

    Autocast keeps the half-precision copies of weights it made; in older versions of torch, those made without gradient
    would be used by the training step that follows in the same context.
    """
    within = [part for module in modules for part in module.modules()]
    buffers = [buffer for module in modules for buffer in module.buffers()]
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with kept(within, buffers, streams=True):
            yield
    finally:
        torch.set_autocast_cache_enabled(cached)


def train_without_noise(network: nn.Module) -> None:
    """Put a network into training mode but its norms and dropout into eval mode, so that no output is random."""
    network.train()
    for module in network.modules():
        if is_noise(module):
            module.eval()


def is_noise(module: nn.Module) -> bool:
    """Tell whether a module uses its mode for statistics or noise only: torch's own layers, any norm, any dropout."""
    name = type(module).__name__.lower()
    return 'drop' in name or 'norm' in name or _is_torchs(module)


def reads_mode(module: nn.Module) -> bool:
    """Tell whether the code of a module reads ``self.training`` for something else than noise."""
    kind: Any = type(module)
    return not is_noise(module) and _class_reads_mode(kind)


def _is_torchs(module: nn.Module) -> bool:
    return not isinstance(module, _CONTAINERS) and any(
        kind.__module__.startswith('torch.nn.modules.') and kind is not nn.Module for kind in type(module).__mro__
    )


@functools.cache
def _class_reads_mode(kind: type) -> bool:
    methods = [
        inspect.unwrap(getattr(value, '__func__', getattr(value, 'fget', value)))
        for base in kind.__mro__
        if base.__module__.split('.')[0] not in ('torch', 'builtins', 'mmdistill_dense')
        for name, value in vars(base).items()
        if name not in _NOT_IN_FORWARD and (callable(value) or isinstance(value, (classmethod, staticmethod, property)))
    ]
    return any(_asks(method) for method in methods)


def _asks(method: Any) -> bool:
    code = getattr(method, '__code__', None)
    if code is None or not _names_mode(code):
        return False
    try:
        return 'self.training' in inspect.getsource(method)  # mmcv's ConvModule reads the mode of a part instead
    except OSError:  # no source file: the class was defined at a prompt
        return True


def _names_mode(code: CodeType) -> bool:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return 'training' in code.co_names or any(_names_mode(one) for one in inner)


class _Watch(TorchDispatchMode):
    """Records which modules draw random numbers, or change their own buffers, in a forward pass."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.modules = modules
        self.unfit: set[str] = set()
        self._running: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._running and torch.Tag.nondeterministic_seeded in func.tags:
            self.unfit.add(self._running[-1])
        return func(*args, **(kwargs or {}))

    @contextmanager
    def open(self) -> Iterator[None]:
        """Watch while the context is open."""
        before = {path: _buffers(module) for path, module in self.modules.items()}
        with ExitStack() as stack:
            for path, module in self.modules.items():
                stack.callback(module.register_forward_pre_hook(functools.partial(self._enter, path)).remove)
                stack.callback(module.register_forward_hook(self._leave).remove)
            stack.enter_context(self)
            yield
        self.unfit |= {path for path, module in self.modules.items() if _buffers(module) != before[path]}

    def _enter(self, path: str, *_: Any) -> None:
        self._running.append(path)

    def _leave(self, *_: Any) -> None:
        self._running.pop()


def _buffers(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Return the identity and version of each buffer; they change when it is replaced or written to."""
    return {name: (id(value), value._version) for name, value in module.named_buffers(recurse=False)}
