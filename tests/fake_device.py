"""A stand-in for a GPU: its tensors hold real values, do not mix with those of the CPU, and tell where the CPU waits.

On a GPU the CPU launches operations and goes on. It has to wait, until all that was launched is done, wherever it needs
a number from the device or hands memory over that the device reads later. Such places are counted, by line:

- numbers that are asked for: ``item``, ``int``, ``float``, ``bool``, ``tolist``, ``torch.equal``, a copy to the CPU;
- sizes that depend on values: ``nonzero``, ``masked_select``, ``unique``, ``bincount``, a boolean index, and
  ``repeat_interleave`` without ``output_size``. ``x[mask] = number`` is none: torch fills without counting;
- copies to the device from memory that is not pinned: ``to``, ``copy_``, ``torch.tensor(numbers, device=…)``, an index
  that is a Python list or lies on the CPU. ``non_blocking=True`` alone does not help: CUDA then stages the memory and
  "may synchronize with the stream" (CUDA Driver API, "API synchronization behavior"). From pinned memory
  (``pin_memory()``, no change of dtype on the way) nothing waits.

Not counted: a single number of the CPU beside tensors of the device, which is handed to the kernel; and a wait for an
event, which leaves what was launched behind it in the queue. :attr:`FakeDevice.events` says how much that was.

Two mistakes that a GPU answers with wrong numbers are errors here. A copy to the CPU with ``non_blocking=True`` holds
NaN until an event behind it was waited for. Memory that changes after it was sent is found at the end.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeGuard
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device('lazy:0')  # a name that torch knows


class DeviceTensor(Tensor):
    """A tensor of the device; ``value`` holds its numbers on the CPU."""

    value: Tensor
    is_cuda = True  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, value: Tensor) -> DeviceTensor:
        layout = dict(strides=value.stride(), storage_offset=value.storage_offset(), dtype=value.dtype)
        made = Tensor._make_wrapper_subclass(cls, value.size(), **layout, device=DEVICE)
        made.value = value
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._has_compatible_shallow_copy_type.default:  # x.data = y, of resize_
            return True
        raise RuntimeError(f'{func} outside of FakeDevice.running()')


def is_ours(value: Any) -> TypeGuard[DeviceTensor]:
    """Tell whether something is a tensor of the device."""
    return isinstance(value, DeviceTensor)


def is_device(device: Any) -> bool:
    """Tell whether this is the device, by object or by name."""
    return device is not None and torch.device(device).type == DEVICE.type


def on_values(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operation on the values; what it makes lies on the device, unless it is asked for on the CPU."""
    target = kwargs.get('device')
    leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    words = {id(leaf.value if is_ours(leaf) else leaf): leaf for leaf in leaves}  # they come back as they are
    kwargs = kwargs if target is None else {**kwargs, 'device': torch.device('cpu')}
    plain = tree_map(lambda leaf: leaf.value if is_ours(leaf) else leaf, (args, kwargs))
    made = func(*plain[0], **plain[1])
    if func is torch.ops.aten.resize_.default:
        args[0].data = DeviceTensor(made)

    def back(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or (target is not None and not is_device(target)):
            return leaf
        return words[id(leaf)] if id(leaf) in words else DeviceTensor(leaf)

    return tree_map(back, made)


def on_device(value: Any) -> Any:
    """Return the same on the device: tensors (leaves again), data samples, and lists and dicts of them."""
    if isinstance(value, (list, tuple)):
        return [on_device(item) for item in value]
    if isinstance(value, dict):
        return {name: on_device(item) for name, item in value.items()}
    if isinstance(value, Tensor):
        return DeviceTensor(value.detach().clone()).requires_grad_(value.requires_grad)
    return value.to(DEVICE) if hasattr(value, 'to') else value


# Each operation is done on values, and its waits are told

ASKS = {  # operations that give the CPU a number, or whose result has a size that it must know
    *('_local_scalar_dense', 'equal', 'allclose', 'nonzero', 'masked_select', 'bincount', 'histc'),
    *('_unique', '_unique2', 'unique_dim', 'unique_consecutive', 'unique_dim_consecutive'),
}
COPIES = {'_to_copy', 'copy_'}
INDEXES = {'index', 'index_put', 'index_put_', '_index_put_impl_', '_unsafe_index', '_unsafe_index_put'}


class Operations(TorchDispatchMode):
    """Runs each operation on the values and looks at what it means on a device."""

    def __init__(self, device: FakeDevice) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix('aten::')
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not (any(map(is_ours, leaves)) or is_device(kwargs.get('device'))):
            return func(*args, **kwargs)
        self.device.launched += 1
        if name == '_to_copy' and is_ours(args[0]) and kwargs.get('non_blocking') and not _stays(kwargs):
            return self.device.fetch(args[0].value.to(kwargs.get('dtype')))  # torch takes pinned memory for it
        if name in COPIES:
            self._copy(name, args, kwargs)
        elif name in INDEXES:
            self._index(args)
        else:
            _refuse_mix(name, leaves)
            if name in ASKS or (name == 'repeat_interleave' and kwargs.get('output_size') is None):
                self.device.wait(name)
        return on_values(func, args, kwargs)

    def _copy(self, name: str, args: Any, kwargs: Any) -> None:
        into, source = (None, args[0]) if name == '_to_copy' else args[:2]
        if is_ours(source):
            if not (_stays(kwargs) if into is None else is_ours(into)):
                self.device.wait('copy to the CPU')
        elif into is None or source.dim() > 0:  # a single number is handed to the kernel
            dtype = kwargs.get('dtype') if into is None else into.dtype
            non_blocking = kwargs.get('non_blocking', False) if into is None else len(args) > 2 and args[2]
            self.device.send(source, non_blocking, cast=dtype not in (None, source.dtype))

    def _index(self, args: Any) -> None:
        if not is_ours(args[0]):
            raise RuntimeError('indices should be on the same device as the indexed tensor (cpu)')
        for index in args[1]:
            if index is not None and not is_ours(index):
                self.device.wait('index on the CPU')
            elif index is not None and index.dtype == torch.bool:
                self.device.wait('boolean index')
        if len(args) > 2 and not is_ours(args[2]):
            self.device.wait('index assigned from the CPU')


class Calls(TorchFunctionMode):
    """What torch does in C++ before an operation reaches :class:`Operations`."""

    def __init__(self, device: FakeDevice) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor, Tensor.new_tensor):
            return self._from_numbers(func, args, kwargs)
        if func is Tensor.pin_memory:
            pinned = args[0].clone()
            pinned.fake_pinned = True
            return pinned
        if not args or not is_ours(args[0]):
            return func(*args, **kwargs)
        if func is Tensor.tolist:
            self.device.wait('tolist')
            return args[0].value.tolist()
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            key = args[1] if isinstance(args[1], tuple) else (args[1],)
            return self._indexed(func, args[0], tuple(self._known(part) for part in key), *args[2:])
        return func(*args, **kwargs)

    def _indexed(self, func: Any, x: Tensor, key: tuple[Any, ...], *value: Any) -> Any:
        tensors = [part for part in key if isinstance(part, Tensor)]
        if tensors and value and isinstance(value[0], (int, float)):
            if len(key) == 1 and tensors[0].dtype == torch.bool:
                mask = tensors[0]
                return x.masked_fill_(mask.view(*mask.shape, *[1] * (x.ndim - mask.ndim)), value[0])
            self.device.wait('number assigned to indexed places')  # goes there as a tensor
        return func(x, key, *value)

    def _from_numbers(self, func: Any, args: Any, kwargs: Any) -> Any:
        data = args[1] if func is Tensor.new_tensor else args[0]
        device = kwargs.get('device', args[0].device if func is Tensor.new_tensor else None)
        if isinstance(data, Tensor) or not is_device(device):
            return func(*args, **kwargs)
        dtype = kwargs.get('dtype', args[0].dtype if func is Tensor.new_tensor else None)
        self.device.wait('numbers to the device')
        made = DeviceTensor(torch.tensor(data, dtype=dtype))
        return made.requires_grad_(kwargs.get('requires_grad', False))

    def _known(self, index: Any) -> Any:
        if isinstance(index, (list, np.ndarray)):
            self.device.wait('index by Python numbers')
            return DeviceTensor(torch.as_tensor(index))
        return index


def _stays(kwargs: Any) -> bool:
    return kwargs.get('device') is None or is_device(kwargs['device'])


def _refuse_mix(name: str, leaves: list[Tensor]) -> None:
    strangers = [leaf for leaf in leaves if not is_ours(leaf) and leaf.dim() > 0]
    if strangers and len(strangers) < len(leaves):
        raise RuntimeError(f'{name}: expected all tensors to be on the same device, found cpu {strangers[0].shape}')


# The device

PACKAGES = ('mmdistill_dense', 'mmseg', 'mmdet', 'mmengine', 'mmcv')


class Wait(NamedTuple):
    """A place where the CPU waits: ``mmdistill_dense/losses/x.py:87``, and what for.

    torch's own part of a backward pass has no line; its place is empty.
    """

    place: str
    what: str

    @property
    def ours(self) -> bool:
        """Whether the line is none of the mm* packages, which may wait also where this one calls them."""
        return not self.place.startswith(PACKAGES[1:])


class FakeDevice:
    """Counts the waits of what runs inside :meth:`running`.

    Attributes:
        waits: How often the CPU waited, by :class:`Wait`.
        events: For each wait for an event, how many operations were launched behind it: they keep a GPU busy.
        launched: Operations on the device so far.
    """

    def __init__(self) -> None:
        self.waits: Counter[Wait] = Counter()
        self.events: list[int] = []
        self.launched = 0
        self._arriving: list[tuple[Tensor, Tensor]] = []  # memory of the CPU and what will be in it
        self._sent: list[tuple[Tensor, int]] = []  # with the version that was sent

    @contextlib.contextmanager
    def running(self) -> Iterator[FakeDevice]:
        """Let tensors of the device work, in mmengine and mmcv too, which wait in operations of their own uncounted."""
        autocast, indexes = torch.autocast, import_module('mmengine.structures.instance_data')
        restored = torch.serialization.default_restore_location  # of files: here they stay on the CPU
        with contextlib.ExitStack() as stack:
            for target, name, value in [
                (torch, 'autocast', lambda device_type, *rest, **options: (
                    contextlib.nullcontext() if is_device(device_type) else autocast(device_type, *rest, **options))),
                (torch.cuda, 'current_stream', lambda *_: SimpleNamespace(record_event=self.event)),
                (torch.serialization, 'default_restore_location',
                 lambda x, at: x if is_device(at) else restored(x, at)),
                (import_module('mmengine.runner.runner'), 'get_device', lambda: DEVICE.type),
                (indexes, 'IndexType', indexes.IndexType | DeviceTensor),
                *((module := import_module(f'mmcv.ops.{name}'), 'ext_module', _on_values(module.ext_module))
                  for name in ('nms', 'roi_align')),
            ]:  # fmt: skip
                stack.enter_context(mock.patch.object(target, name, value))
            for mode in (Operations(self), Calls(self)):
                stack.enter_context(mode)
            yield self
        for source, version in self._sent:
            if source._version != version:
                raise RuntimeError(f'{tuple(source.shape)} was changed after it was sent to the device')

    def forget(self) -> None:
        """Count anew."""
        self.waits.clear()
        self.events.clear()

    def ours(self) -> int:
        """How often we waited."""
        return sum(count for wait, count in self.waits.items() if wait.ours)

    def others(self) -> int:
        """How often the mm* packages waited."""
        return self.waits.total() - self.ours()

    # What modes and streams tell

    def wait(self, kind: str) -> None:
        """Count a wait at the innermost line of one of the packages."""
        frame: Any = sys._getframe(1)
        while frame is not None and not _in_package(frame.f_code.co_filename):
            frame = frame.f_back
        line_name = '' if frame is None else f'{_in_package(frame.f_code.co_filename)}:{frame.f_lineno}'
        self.waits[Wait(line_name, kind)] += 1

    def send(self, source: Tensor, non_blocking: bool, cast: bool = False) -> None:
        """Note a copy from the CPU."""
        if non_blocking and getattr(source, 'fake_pinned', False) and not cast:
            self._sent.append((source, source._version))
        else:
            self.wait('copy to the device')

    def fetch(self, value: Tensor) -> Tensor:
        """Return memory of the CPU that will hold the values later."""
        memory = torch.full_like(value, torch.nan if value.is_floating_point() else 1)
        self._arriving.append((memory, value.clone()))
        return memory

    def event(self) -> Any:
        """Return an event behind what was launched so far."""
        behind, arriving = self.launched, list(self._arriving)

        def synchronize() -> None:
            self.events.append(self.launched - behind)
            for memory, value in arriving:
                memory.copy_(value)

        return SimpleNamespace(synchronize=synchronize)


def _on_values(module: Any) -> Any:
    """Return compiled operations that work on values."""

    def run(operation: Any, *args: Any, **kwargs: Any) -> Any:
        plain = tree_map(lambda x: x.value if is_ours(x) else x, (args, kwargs))
        made = operation(*plain[0], **plain[1])
        return DeviceTensor(made) if isinstance(made, Tensor) else made

    return SimpleNamespace(**{name: partial(run, member) for name, member in vars(module).items() if callable(member)})


def _in_package(file: str) -> str:
    """Return the part of a path from its package on, if it is one of those that are told."""
    parts = file.split('/')
    indexes = [index for index, part in enumerate(parts) if part in PACKAGES and 'tests' not in parts[index:]]
    return '/'.join(parts[indexes[-1] :]) if indexes else ''
