"""A device that nothing may wait for: the meta device refuses to give numbers out, and this mode slow copies in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = (RuntimeError, NotImplementedError)


class NoWaiting(TorchDispatchMode):
    """Refuses a copy from the CPU to the meta device for which the CPU would wait.

    The meta device itself refuses ``item``, ``int``, ``bool``, ``nonzero``, ``unique``, boolean indices and ``cpu``: on
    a GPU the CPU waits in each of them until all work that was launched is done.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default:
            arrives = torch.device(kwargs.get('device') or args[0].device).type == 'meta'
            source, waits = args[0], not kwargs.get('non_blocking')
        elif func is torch.ops.aten.copy_.default:
            arrives, source, waits = args[0].is_meta, args[1], not (len(args) > 2 and args[2])
        else:
            return func(*args, **kwargs)
        if arrives and waits and not source.is_meta:
            raise RuntimeError(f'a copy of {tuple(source.shape)} to the device that the CPU waits for')
        return func(*args, **kwargs)


class NoNewNumbers(TorchFunctionMode):
    """Refuses tensors that are made of numbers of Python on the meta device: they are copied, and waited for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        fills = func in (torch.tensor, Tensor.new_tensor) or (func is torch.as_tensor and not _holds_tensor(args))
        if fills and made.is_meta:
            raise RuntimeError(f'numbers copied to the device, for which the CPU waits: {args[-1]}')
        return made


def _holds_tensor(args: Any) -> bool:
    return isinstance(args[0], Tensor)


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Let nothing wait for the meta device, which knows no autocast."""
    none = mock.patch.multiple(
        torch, autocast=lambda *_, **__: contextlib.nullcontext(), is_autocast_enabled=lambda *_: False
    )
    with none, NoWaiting(), NoNewNumbers():
        yield


def on_device(value: Any) -> Any:
    """Return the same on the meta device: tensors, data samples, and lists and dicts of them."""
    if isinstance(value, (list, tuple)):
        return [on_device(item) for item in value]
    if isinstance(value, dict):
        return {name: on_device(item) for name, item in value.items()}
    if isinstance(value, Tensor):
        return value.detach().to('meta').requires_grad_(value.requires_grad)
    return value.to('meta') if hasattr(value, 'to') else value
