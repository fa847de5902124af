"""Gather tensors from the other processes of a run, and find the model inside a distributed wrapper."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mmdistill_dense.utils.runner_internals import Network

MIN_COUNT = 1e-6  # smaller than the mean over processes of a count that is 1 in one of them


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows of all processes, in order of rank; their numbers may differ, their lengths may not."""
    if world_size() == 1:
        return rows
    sizes = [torch.zeros(2, dtype=torch.long, device=rows.device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor(rows.shape, device=rows.device))
    counts, lengths = zip(*torch.stack(sizes).tolist(), strict=True)
    if len({*lengths}) > 1:
        problem = f'rows of {", ".join(map(str, lengths))} values: pictures of other sizes'
        raise ValueError(f'The processes compare {problem}. Set a fixed crop, or gather=False where the method has it.')
    padded = rows.new_zeros(max(counts), rows.shape[1])
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])


def gather_rows_with_gradient(rows: Tensor) -> Tensor:
    """Do the same as :func:`gather_rows` with gradient: that of a row is the sum of its gradients in all processes.

    If each process computes a part of a loss from the gathered rows, and DDP averages, then the gradients are those of
    one process that holds all rows.
    """
    return rows if world_size() == 1 else _Gather.apply(rows)


def rows_before(count: int, device: torch.device | str) -> int:
    """Return the number of rows in the processes of lower rank; this process holds ``count``."""
    if world_size() == 1:
        return 0
    counts = gather_rows(torch.full((1, 1), count, device=device))
    return int(counts[: dist.get_rank()].sum())


def mean_over_ranks(x: Tensor) -> Tensor:
    """Return the mean of a tensor over the processes."""
    if world_size() > 1:
        x = x.clone()
        dist.all_reduce(x)
        x /= world_size()
    return x


def mean_count(count: int, like: Tensor) -> Tensor:
    """Return the mean of a count over the processes, above 0, in float32 at least, on the device of ``like``.

    Where each process divides the sum of its rows by this, their mean is that of one process with all rows.
    """
    local_count = torch.full((), float(count), dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)
    return mean_over_ranks(local_count).clamp_min(MIN_COUNT)


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def unwrap(model: nn.Module) -> Network:
    """Return the model inside a distributed wrapper, and any other model as it is."""
    from mmengine.model import is_model_wrapper  # methods import this file, and the list of a suite no model

    inner: Any = model.module if is_model_wrapper(model) else model
    return inner


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        start = rows_before(len(rows), rows.device)
        ctx.rows = slice(start, start + len(rows))
        return gather_rows(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone()
        dist.all_reduce(grad)
        return grad[ctx.rows]
