"""Tensors of the device that tests/fake_device.py stands in for: real values, on a device that torch does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor
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

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f'DeviceTensor({self.value})'

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
    given = {id(leaf.value if is_ours(leaf) else leaf): leaf for leaf in leaves}  # they come back as they are
    kwargs = kwargs if target is None else {**kwargs, 'device': torch.device('cpu')}
    plain = tree_map(lambda leaf: leaf.value if is_ours(leaf) else leaf, (args, kwargs))
    made = func(*plain[0], **plain[1])
    if func is torch.ops.aten.resize_.default:
        args[0].data = DeviceTensor(made)

    def back(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or (target is not None and not is_device(target)):
            return leaf
        return given[id(leaf)] if id(leaf) in given else DeviceTensor(leaf)

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


def on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the values of tensors, wherever they lie, without gradient and without counting a wait."""
    return {name: x.value if is_ours(x) else x.detach() for name, x in tensors.items()}
