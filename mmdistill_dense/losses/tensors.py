"""How the losses treat tensors: float32 also under autocast, blocks that fit a cache, one grid, one device."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

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
        tensor = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        if tensor.is_meta:  # it has no autocast
            return loss(*args, **kwargs)
        with torch.autocast(tensor.device.type, enabled=False):
            return loss(*args, **kwargs)

    return wrapped


def check_same_shape(student: Tensor, teacher: Tensor, *, kind: str = 'maps') -> None:
    """Raise ``ValueError`` with both shapes unless they are equal (a loss never broadcasts)."""
    if student.shape != teacher.shape:
        shapes = f'{tuple(student.shape)} and {tuple(teacher.shape)}'
        raise ValueError(f'student and teacher {kind} differ in shape: {shapes}')


def cast_pair(student: Tensor, teacher: Tensor, kind: str = 'maps') -> tuple[Tensor, Tensor]:
    """Return two tensors of one shape in the dtype of a loss, the teacher's without a gradient."""
    check_same_shape(student, teacher, kind=kind)
    dtype = loss_dtype(student)
    return student.to(dtype), teacher.detach().to(dtype)


def check_shape(name: str, value: Tensor, shape: Sequence[int]) -> None:
    """Raise ``ValueError`` unless a further argument of a loss has this shape."""
    if tuple(value.shape) != tuple(shape):
        raise ValueError(f'{name} must be {tuple(shape)}, got {tuple(value.shape)}')


def check_same_grid(student: Tensor, teacher: Tensor) -> None:
    """Raise ``ValueError`` with both shapes unless maps (B, C, ...) have equal batch and size; channels may differ."""
    if student.shape[0] != teacher.shape[0] or student.shape[2:] != teacher.shape[2:]:
        shapes = f'{tuple(student.shape)} and {tuple(teacher.shape)}'
        raise ValueError(f'student and teacher maps differ in batch or size: {shapes}')


_BLOCK = {'cpu': 2**19}  # elements of a buffer: 2 MiB of float32, about one core's cache
_BLOCK_ELSEWHERE = 2**24  # 64 MiB: few launches


def block_elements(device: torch.device) -> int:
    """Return how many elements a temporary on this device should hold."""
    return _BLOCK.get(device.type, _BLOCK_ELSEWHERE)


def tiles(outer: int, inner: int, cost: int, budget: int) -> list[tuple[slice, slice]]:
    """Cut an outer x inner grid into tiles within ``budget``, at least one cell each; a cell costs ``cost``."""
    cells = max(1, budget // max(cost, 1))
    step_outer, step_inner = max(1, cells // max(inner, 1)), max(1, min(inner, cells))
    grid = []
    for o in range(0, outer, step_outer):
        for i in range(0, inner, step_inner):
            grid.append((slice(o, min(o + step_outer, outer)), slice(i, min(i + step_inner, inner))))
    return grid


def wants_gradient(x: Tensor) -> bool:
    """Tell whether a loss of ``x`` will be back-propagated to it."""
    return torch.is_grad_enabled() and x.requires_grad


def with_gradients(value: Tensor, *pairs: tuple[Tensor, Tensor | None], divisor: float = 1.0) -> Tensor:
    """Return a scalar with gradients that were computed without autograd: pairs of an input and ``divisor`` times its
    own, or ``None``.
    """
    inputs, gradients = zip(*pairs, strict=True)
    return _WithGradients.apply(value, divisor, len(pairs), *gradients, *inputs)


class _WithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, divisor: float, count: int, *tensors: Tensor | None) -> Tensor:
        ctx.save_for_backward(*tensors[:count])
        ctx.divisor = divisor
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        scale, saved = grad_output / ctx.divisor, ctx.saved_tensors
        none = [None] * (3 + len(saved))
        return *none, *(None if gradient is None else gradient * scale for gradient in saved)


def to_device(x: Tensor, like: Tensor) -> Tensor:
    """Copy a CPU tensor to the device of another tensor without blocking the CPU; the dtype stays.

    From memory that is not pinned, the copy may wait for all launched work. Change the dtype on the device: a change
    during the copy would need such memory.
    """
    pinned = x.pin_memory() if like.is_cuda and x.device.type == 'cpu' else x
    return pinned.to(like.device, non_blocking=True)


def to_grid(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize a map (B, C, H, W) to ``size``: adaptive average pooling where it is at least as large on both axes, else
    bilinear.
    """
    height, width = size
    if x.shape[2:] == (height, width):
        return x
    if x.shape[2] >= height and x.shape[3] >= width:
        return F.adaptive_avg_pool2d(x, (height, width))
    return F.interpolate(x, (height, width), mode='bilinear', align_corners=False)


def centres_inside(image_shapes: Sequence[Sequence[int]], batch_shape: Sequence[int], size: Sequence[int]) -> Tensor:
    """Return which pixels of a map have their centre strictly inside the image; padding is at the right and bottom.

    Args:
        image_shapes: Height and width of each of the B images before padding.
        batch_shape: Height and width of the padded batch.
        size: Height and width of the map.

    Returns:
        (B, *size) bool on the CPU.
    """
    rows, columns = ((torch.arange(n) + 0.5) * (padded / n) for n, padded in zip(size, batch_shape, strict=True))
    shapes = torch.tensor([list(shape[:2]) for shape in image_shapes])
    inside_rows, inside_columns = rows < shapes[:, :1], columns < shapes[:, 1:]
    return inside_rows[:, :, None] & inside_columns[:, None]
