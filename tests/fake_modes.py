"""What torch is asked while a FakeDevice runs: each operation is done on values, and its waits are told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.fake_tensor import DeviceTensor, is_device, is_ours, on_values

if TYPE_CHECKING:
    from tests.fake_device import FakeDevice

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
