"""Precision and input checks of the losses: float32 for half-precision inputs, also under autocast."""

import functools
from collections.abc import Callable
from typing import ParamSpec

import torch
from torch import Tensor

P = ParamSpec('P')
WITHOUT_FLOAT64 = {'mps'}  # types of devices


def loss_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which a loss of ``x`` is computed: float32 for float16 and bfloat16, else ``x``'s own."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def sum_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which long sums over ``x`` are kept: float64, or float32 on Apple's GPUs, which lack it."""
    return torch.float32 if x.device.type in WITHOUT_FLOAT64 else torch.float64


def without_autocast(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Decorate a loss so that autocast is off inside it, on the device of its first tensor argument."""

    @functools.wraps(loss)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        first = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        if first.is_meta:  # it has no autocast
            return loss(*args, **kwargs)
        with torch.autocast(first.device.type, enabled=False):
            return loss(*args, **kwargs)

    return wrapped


def check_temperature(temperature: float) -> None:
    """Raise ``ValueError`` unless a temperature is above 0."""
    if not temperature > 0:
        raise ValueError(f'temperature must be above 0, got {temperature}')


def check_same_shape(student: Tensor, teacher: Tensor, *, what: str = 'maps') -> None:
    """Raise ``ValueError`` with both shapes unless they are equal (a loss never broadcasts)."""
    if student.shape != teacher.shape:
        raise ValueError(
            f'student and teacher {what} differ in shape: {tuple(student.shape)} and {tuple(teacher.shape)}'
        )


def check_same_grid(student: Tensor, teacher: Tensor) -> None:
    """Raise ``ValueError`` with both shapes unless maps (B, C, ...) have equal batch and size; channels may differ."""
    if student.shape[0] != teacher.shape[0] or student.shape[2:] != teacher.shape[2:]:
        raise ValueError(
            f'student and teacher maps differ in batch or size: {tuple(student.shape)} and {tuple(teacher.shape)}'
        )
