"""Options that make a frozen teacher's forward pass cheaper; each states how exact it is."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, partial
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from mmdistill_dense.networks.building import move
from mmdistill_dense.networks.taps import Tap

DTYPES = {'bfloat16': torch.bfloat16, 'float16': torch.float16}
Pair = tuple[str, str]


@dataclass(frozen=True)
class Acceleration:
    """Options of ``teacher.accelerate``; all of them leave the student's step as it is."""

    # multiply each batch norm into the convolution before it, which saves one pass over the map. The result differs by
    # rounding only (1e-5 of the largest value in float32). Defaults to True.
    fold_bn: bool = True
    # keep weights and maps in channels-last order; the result differs by rounding only. The tapped tensors have that
    # order too. Whether it is faster depends on the device. Defaults to False.
    channels_last: bool = False
    # ``'bfloat16'`` or ``'float16'`` runs convolutions and products in that type, the rest by autocast's rules (3e-2 of
    # the largest value in bfloat16); the taps are returned in the inputs' own. Defaults to the surrounding autocast.
    dtype: str | None = None
    # ``torch.compile`` the largest parts that hold no tap inside; the first step takes long. The result differs by
    # rounding only. Defaults to False.
    compile: bool = False
    # run the teacher beside the student on a second CUDA stream; the result is the same. Has no effect on a CPU.
    # Defaults to False.
    stream: bool = False

    @classmethod
    def parse(cls, option: Mapping[str, Any] | bool | None, key: str) -> Acceleration:
        """Read the options; ``False`` switches everything off."""
        if option is False:
            return cls(fold_bn=False)
        known = [field.name for field in fields(cls)]
        option = {} if option in (None, True) else option
        if not isinstance(option, Mapping) or not set(option) <= set(known):
            raise TypeError(f'{key}.accelerate is False or a dict of {", ".join(known)}, got {option!r}.')
        for name, value in option.items():
            if name == 'dtype' and value not in (None, *DTYPES):
                raise ValueError(f'{key}.accelerate.dtype must be {", ".join(DTYPES)} or None, got {value!r}.')
            if name != 'dtype' and not isinstance(value, bool):
                raise ValueError(f'{key}.accelerate.{name} must be True or False, got {value!r}.')
        return cls(**option)

    @property
    def changes_pass(self) -> bool:
        """Whether :meth:`running` does anything."""
        return self.channels_last or self.dtype is not None

    def prepare(self, network: nn.Module, taps: Sequence[Tap], pairs: Sequence[Pair]) -> None:
        """Apply the options to a loaded network in place; ``pairs`` come from :func:`foldable`."""
        weight = next(network.parameters(), None)
        if self.dtype == 'bfloat16' and weight is not None and not _has_bfloat16(weight.device):
            print_log(
                "accelerate.dtype='bfloat16': this CPU has no units for it and runs the teacher several times slower. "
                'Leave it out here; it is for GPUs.',
                'current',
                logging.WARNING,
            )
        if self.fold_bn:
            fold(network, pairs)
        if self.channels_last:
            move(network, memory_format=torch.channels_last)
        if self.compile:
            for module in untapped_parts(network, taps):
                module.forward = torch.compile(module.forward)

    @contextlib.contextmanager
    def running(self, inputs: Tensor) -> Iterator[Tensor]:
        """Set the autocast dtype, and yield the inputs in the memory order of the network."""
        if self.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        if self.dtype is None:
            yield inputs
            return
        with torch.autocast(inputs.device.type, DTYPES[self.dtype]):
            yield inputs

    @contextlib.contextmanager
    def beside(self, views: Sequence[Tensor]) -> Iterator[None]:
        """Launch work on a second CUDA stream, after the work that was launched before the context."""
        if not self.stream or not views[0].is_cuda:
            yield
            return
        stream = _second_stream(views[0].device)
        stream.wait_stream(torch.cuda.current_stream(views[0].device))
        for view in views:
            view.record_stream(stream)
        with torch.cuda.stream(stream):
            yield

    def join(self, recorded: Mapping[str, Sequence[Tensor]]) -> None:
        """Make the current stream wait for the work of :meth:`beside`, and mark its results as in use there."""
        tensors = [tensor for found in recorded.values() for tensor in found]
        if not self.stream or not tensors[0].is_cuda:
            return
        current = torch.cuda.current_stream(tensors[0].device)
        current.wait_stream(_second_stream(tensors[0].device))
        for tensor in tensors:
            tensor.record_stream(current)


def _has_bfloat16(device: torch.device) -> bool:
    """Tell whether a device has units for bfloat16; of CPUs torch knows the two kinds of x86."""
    known = ('_is_avx512_bf16_supported', '_is_amx_tile_supported')
    asked = [getattr(torch.cpu, name) for name in known if hasattr(torch.cpu, name)]
    return device.type != 'cpu' or not asked or any(ask() for ask in asked)


@cache
def _second_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


@contextlib.contextmanager
def foldable(network: nn.Module, taps: Sequence[Tap], found: list[Pair]) -> Iterator[None]:
    """Watch a forward pass; at its end append the names of each (convolution, batch norm) that can be folded.

    In a pair, the convolution feeds this norm alone and the norm reads this convolution alone, in every call. So a
    convolution that several norms share is in no pair, nor is one whose output is tapped or used twice. A module that
    several others hold is in no pair either: folding would replace it in one of them alone.
    """
    watch = _Watch()
    handles = []
    holders = Counter(id(child) for module in network.modules() for child in module._modules.values())
    for name, module in network.named_modules():
        if holders[id(module)] > 1:
            continue
        if _plain_convolution(module):
            handles.append(module.register_forward_hook(partial(watch.made_by, name)))
        elif _plain_norm(module):
            handles.append(module.register_forward_pre_hook(partial(watch.read_by, name)))
            handles.append(module.register_forward_hook(watch.read))
    try:
        with watch:
            yield
    finally:
        for handle in handles:
            handle.remove()
    tapped = {tap.path for tap in taps}
    inputs = {tap.path for tap in taps if tap.argument is not None}
    found += [pair for pair in watch.pairs() if pair[0] not in tapped and pair[1] not in inputs]


class _Watch(TorchFunctionMode):
    """Records which modules read the output of each convolution."""

    _SHAPE_READS = ('__get__', 'size', 'dim')  # these use a tensor's shape, not its values

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[Tensor, str]] = {}  # keeps the tensors, so that no id is used twice
        self.readers: dict[str, set[str | None]] = {}
        self.sources: dict[str, set[str | None]] = {}
        self.norm: str | None = None  # the one that is running

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.made and self.norm is None and getattr(func, '__name__', '') not in self._SHAPE_READS:
            for value in tree_leaves((args, kwargs)):
                self._note(value, None)
        return func(*args, **(kwargs or {}))

    def made_by(self, name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        self.made[id(output)] = output, name

    def read_by(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.sources.setdefault(name, set()).add(self._note(args[0], name))
        self.norm = name

    def read(self, *_: Any) -> None:
        self.norm = None

    def pairs(self) -> list[Pair]:
        """Return the pairs whose convolution and norm are connected to nothing else."""
        only = [(next(iter(fed_by)), norm) for norm, fed_by in self.sources.items() if len(fed_by) == 1]
        return [(conv, norm) for conv, norm in only if conv is not None and self.readers[conv] == {norm}]

    def _note(self, value: Any, reader: str | None) -> str | None:
        source = self.made.get(id(value), (None, None))[1]
        if source is not None:
            self.readers.setdefault(source, set()).add(reader)
        return source


def _plain_convolution(module: nn.Module) -> bool:
    # Subclasses and hooks may change the weight before it is used (weight standardisation, spectral norm); mmcv's own
    # Conv2d does not.
    return isinstance(module, nn.Conv2d) and type(module).__name__ == 'Conv2d' and not module._forward_pre_hooks


def _plain_norm(module: nn.Module) -> bool:
    # Subclasses may do more: timm's BatchNormAct2d holds the activation.
    known = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
    return isinstance(module, _BatchNorm) and type(module).forward in known and module.running_mean is not None


def fold(network: nn.Module, pairs: Sequence[Pair]) -> None:
    """Multiply each norm into its convolution, and put an identity in the norm's place, where a tap may sit."""
    for conv, norm in pairs:
        parts: list[Any] = [network.get_submodule(name) for name in (conv, norm)]
        _put(network, conv, fuse_conv_bn_eval(*parts))
        _put(network, norm, nn.Identity().eval())


def _put(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition('.')
    setattr(network.get_submodule(parent), name, module)


def untapped_parts(network: nn.Module, taps: Sequence[Tap]) -> list[nn.Module]:
    """Return the largest modules without a tapped module inside; they may be tapped themselves."""
    tapped = [tap.path for tap in taps]
    parts: list[nn.Module] = []

    def visit(module: nn.Module, path: str) -> None:
        inside = any(tap.startswith(f'{path}.') if path else True for tap in tapped)
        if inside or isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            for name, child in module.named_children():
                visit(child, f'{path}.{name}' if path else name)
        else:
            parts.append(module)

    visit(network, '')
    return parts
