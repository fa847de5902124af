"""Split a large tensor into blocks that fit a cache."""

from collections.abc import Iterator

import torch

_BLOCK = {'cpu': 2**19}  # elements of a buffer: 2 MiB of float32, about one core's cache
_BLOCK_ELSEWHERE = 2**24  # 64 MiB: few launches


def block_elements(device: torch.device) -> int:
    """Return how many elements a temporary on this device should hold."""
    return _BLOCK.get(device.type, _BLOCK_ELSEWHERE)


def tiles(outer: int, inner: int, cost: int, budget: int) -> Iterator[tuple[slice, slice]]:
    """Cut an outer x inner grid into tiles within ``budget``, at least one cell each; a cell costs ``cost``."""
    cells = max(1, budget // max(cost, 1))
    step_outer, step_inner = max(1, cells // max(inner, 1)), max(1, min(inner, cells))
    for o in range(0, outer, step_outer):
        for i in range(0, inner, step_inner):
            yield slice(o, min(o + step_outer, outer)), slice(i, min(i + step_inner, inner))
