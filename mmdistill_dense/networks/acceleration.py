"""Options that make a frozen teacher's forward pass cheaper; each states how exact it is."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmdistill_dense.config.unknown_keys import read_options
from mmdistill_dense.networks.building import move


def _contiguous(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(arg.contiguous() if isinstance(arg, Tensor) else arg for arg in args)


@dataclass(frozen=True)
class Acceleration:
    """Options of ``teacher.accelerate``; they leave the student's step as it is."""

    # keep weights and maps in channels-last order; the result differs by rounding only (1e-5 of the largest value in
    # float32). The tapped tensors have that order too. Whether it is faster depends on the device. Defaults to False.
    channels_last: bool = False
    # ``'bfloat16'`` or ``'float16'`` runs convolutions and products in that type, the rest by autocast's rules (3e-2 of
    # the largest value in bfloat16); the taps are returned in the inputs' own. Defaults to the surrounding autocast.
    dtype: Literal['bfloat16', 'float16'] | None = None

    @classmethod
    def parse(cls, option: Mapping[str, Any] | bool | None, key: str) -> 'Acceleration':
        """Read the options; ``None`` and ``False`` switch everything off."""
        return read_options(cls, {} if option in (None, False) else option, f'{key}.accelerate')

    @cached_property
    def changes_pass(self) -> bool:
        """Whether :meth:`running` does anything."""
        return self.channels_last or self.dtype is not None

    def prepare(self, network: nn.Module) -> None:
        """Apply the options to a loaded network in place."""
        weight = next(network.parameters(), None)
        on_cpu = weight is not None and weight.device.type == 'cpu'
        probes = [getattr(torch.cpu, name, None) for name in ('_is_avx512_bf16_supported', '_is_amx_tile_supported')]
        units = [ask() for ask in probes if ask is not None]  # torch knows the two kinds of x86
        if self.dtype == 'bfloat16' and on_cpu and units and not any(units):
            problem = 'this CPU has no units for it and runs the teacher several times slower: leave it out here'
            print_log(f"accelerate.dtype='bfloat16': {problem}.", 'current', logging.WARNING)
        if self.channels_last:
            move(network, memory_format=torch.channels_last)
            for module in network.modules():
                # Compiled operations read memory as NCHW whatever the strides say (RoIAlign, ModulatedDeformConv2d:
                # other results, no error; open-mmlab/mmcv#2203).
                if any(base.__module__.startswith('mmcv.ops.') for base in type(module).__mro__):
                    move(module, memory_format=torch.contiguous_format)
                    module.register_forward_pre_hook(_contiguous)

    @contextmanager
    def running(self, inputs: Tensor) -> Iterator[Tensor]:
        """Set the autocast dtype, and yield the inputs in the memory order of the network."""
        if self.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        autocast = torch.autocast(inputs.device.type, getattr(torch, self.dtype)) if self.dtype else nullcontext()
        with autocast:
            yield inputs
