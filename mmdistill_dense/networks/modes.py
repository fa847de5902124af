"""The mode in which a network runs where it is compared: as in training, but without what is random there.

The student is recorded in training mode, its teacher in eval mode. Norms and dropout aside, most modules compute the
same in both. Some do not: FCOS multiplies its boxes by the stride only in evaluation, DDRNet's backbone returns more
maps in training. The outputs of such modules can be compared only if both networks run them in the same mode.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import product
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mmdistill_dense.utils.reproducible import fork_rng

Result = TypeVar('Result')
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# Classes that draw random numbers in training, or write to a buffer of theirs: their teacher stays in eval mode.
_CHANGES = ('EMAModule', 'Matrix_Decomposition_2D_Base', 'ROIGather', 'BiMultiHeadAttention')


def run_as_trained(network: nn.Module, run: Callable[[], Result]) -> tuple[Result, bool]:
    """Return ``run()``, a pass through a network in training mode, and whether it was in that mode.

    Norms, dropout, torch's own layers, and modules that draw or remember something in training stay in eval mode. The
    whole network does if it fails in training mode: for instance, it may need labels there.
    """
    network.eval()  # not chained: mmseg's backbones return nothing from it
    with suppress(Exception), attributes(*followed(network), training=True):  # in eval mode its message is better
        return run(), True
    return run(), False


def followed(network: nn.Module) -> list[nn.Module]:
    """Return the modules that run in training mode where a network runs as in training."""
    modules = (module for module in network.modules() if not is_noise(module))
    return [module for module in modules if not any(kind.__name__ in _CHANGES for kind in type(module).__mro__)]


@contextmanager
def restoring(modules: Iterable[nn.Module], buffers: Iterable[Tensor] = ()) -> Iterator[None]:
    """Restore the modes of modules and the values of buffers at the end."""
    modes = [(module, module.training) for module in modules]
    values = [(buffer, buffer.clone()) for buffer in buffers]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode  # not train(), which does more in backbones of mm*
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)


@contextmanager
def attributes(*owners: Any, **values: Any) -> Iterator[None]:
    """Give objects other values of attributes that they have while the context is open, such as ``training=True``."""
    with ExitStack() as originals:
        for owner, name in product(owners, values):
            originals.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, values[name])  # not train(), which does more in backbones of mm*
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network into eval mode while the context is open; random numbers that are drawn do not count."""
    with attributes(*model.modules(), training=False), fork_rng():
        yield


@contextmanager
def without_side_effects(*modules: nn.Module) -> Iterator[None]:
    """Let modules run once more, and restore buffers, modes, random streams and autocast's cache.

    Autocast keeps the half-precision copies of weights it made; in older versions of torch, those made without gradient
    would be used by the training step that follows in the same context.
    """
    within = [part for module in modules for part in module.modules()]
    buffers = [buffer for module in modules for buffer in module.buffers()]
    with restoring(within, buffers), fork_rng(), ExitStack() as originals:
        originals.callback(torch.set_autocast_cache_enabled, torch.is_autocast_cache_enabled())
        torch.set_autocast_cache_enabled(False)
        yield


def train_without_noise(network: nn.Module) -> None:
    """Put a network into training mode but its norms and dropout into eval mode, so that no output is random."""
    network.train()
    for module in filter(is_noise, network.modules()):
        module.eval()


def is_noise(module: nn.Module) -> bool:
    """Tell whether a module uses its mode for statistics or noise only: torch's own layers, any norm, any dropout."""
    name, kinds = type(module).__name__.lower(), [kind for kind in type(module).__mro__ if kind is not nn.Module]
    torchs = any(kind.__module__.startswith('torch.nn.modules.') for kind in kinds)
    has_name = any(part in name for part in ('drop', 'norm', 'stochasticdepth'))
    return has_name or (torchs and not isinstance(module, _CONTAINERS))


kept, untouched = restoring, without_side_effects  # their names until 0.3
