"""Compare our losses with the released formulas, written naively: time, extra memory, gradient error.

The cases are in ``loss_cases.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from operator import add

import torch
from torch import Tensor

from tools.benchmark.section import Failure, table
from tools.benchmark.timing import Timing, interleaved_times, peak_extra_memory

Function = Callable[..., Tensor]
Levels = Sequence[Tensor]

NOTE = (
    'Time and memory of forward and backward. Memory: peak of the allocator, with outputs and gradients; on a CPU '
    'without the scratch memory inside libraries. Error: of the gradients (of the output where there is only a '
    'forward), max / max, against the released formula in float64.'
)


@dataclass(frozen=True)
class Case:
    """One comparison: two functions of the same tensors. Each is called once per level, and its results are added.

    Attributes:
        name: The name of the row.
        inputs: Tensors that get a gradient, one list per argument, one tensor per level. Without any, the functions
            run forward only.
        constants: Tensors without a gradient, in the same form. They follow the inputs in the call.
        ours: Our function.
        released: The naive formula.
    """

    name: str
    inputs: Sequence[Levels]
    constants: Sequence[Levels]
    ours: Function
    released: Function


@dataclass(frozen=True)
class Size:
    """Pictures, channels of student and teacher, height and width of each level, timed turns, and other sizes.

    Attributes:
        classes: Classes of the label maps.
        keys: Rows of a queue.
        boxes: Boxes of each picture.
        tokens: Tokens of MasKD.
        pool: Pooling size of Af-DCD.
    """

    pictures: int
    student: int
    teacher: int
    maps: Sequence[tuple[int, int]]
    turns: int = 5
    classes: int = 0
    keys: int = 0
    boxes: int = 0
    tokens: int = 0
    pool: int = 0

    def __str__(self) -> str:
        channels = f'{self.student}' if self.student == self.teacher else f'{self.student} and {self.teacher}'
        maps = ' of ' + ', '.join(f'{height}x{width}' for height, width in self.maps) if self.maps else ''
        more = {field.name: getattr(self, field.name) for field in fields(self)[5:]}
        extra = ''.join(f', {name} {value}' for name, value in more.items() if value)
        return f'{self.pictures} pictures, {channels} channels{maps}{extra}'


@dataclass(frozen=True)
class Method:
    """Makes the cases of a size; the first of its ``sizes`` is the default, ``'small'`` is that of the tests."""

    make: Callable[[Size, torch.Generator], list[Case]]
    sizes: Mapping[str, Size]

    def cases(self, size: Size) -> list[Case]:
        """Return the cases of a size, on the same random tensors each time."""
        return self.make(size, torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Row:
    """The measurement of one case.

    ``result_bytes`` is the least that any implementation holds at the end: the gradients, or the output without them.
    An error is the largest, over the results, of max over max against float64.
    """

    method: str
    name: str
    ours_time: Timing
    released_time: Timing
    ours_bytes: int
    released_bytes: int
    result_bytes: int
    ours_error: float
    released_error: float


def measure(method: str, case: Case, turns: int, device: str | torch.device = 'cpu') -> Row:
    """Time the passes in turns, then take the memory and the results of one pass each."""
    works = {name: one_pass(getattr(case, name), case, torch.float32, device) for name in ('ours', 'released')}
    times = interleaved_times(works, turns, device)
    memory = {name: peak_extra_memory(work, device) for name, work in works.items()}
    exact = one_pass(case.released, case, torch.float64, device)()
    results = {name: work() for name, work in works.items()}
    errors = {name: _error(result, exact) for name, result in results.items()}
    return Row(
        method, case.name, times['ours'], times['released'], memory['ours'], memory['released'],
        sum(result.nbytes for result in results['ours']), errors['ours'], errors['released'],
    )  # fmt: skip


def one_pass(
    function: Function, case: Case, dtype: torch.dtype = torch.float32, device: str | torch.device = 'cpu'
) -> Callable[[], tuple[Tensor, ...]]:
    """Return the timed work: forward and backward of a function on the tensors of a case."""
    arguments = [[x.detach().to(device, dtype) for x in kind] for kind in (*case.inputs, *case.constants)]
    leaves = [x.requires_grad_() for kind in arguments[: len(case.inputs)] for x in kind]

    def work() -> tuple[Tensor, ...]:
        output = reduce(add, [function(*level) for level in zip(*arguments, strict=True)])
        return torch.autograd.grad(output, leaves) if leaves else (output,)

    return work


def _error(results: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    return max(float((r - e).abs().max() / e.abs().max()) for r, e in zip(results, exact, strict=True))


def as_markdown(rows: Sequence[Row | Failure]) -> str:
    """Return the table of the rows."""
    head = ['method', 'loss', 'released s', 'ours s', 'faster', 'released MiB', 'ours MiB', 'ratio']
    return table([*head, 'of which results MiB', 'released error', 'ours'], [_cells(row) for row in rows])


def _cells(row: Row | Failure) -> list[str]:
    if isinstance(row, dict):
        return [row['method'], row['name'], row['error'], *'–' * 8]
    released, ours, result = (f'{size / 2**20:.1f}' for size in (row.released_bytes, row.ours_bytes, row.result_bytes))
    faster = f'**{row.released_time.median / row.ours_time.median:.3g}x**'
    times = [row.method, row.name, str(row.released_time), str(row.ours_time), faster]
    ratio = f'**{row.ours_bytes / row.released_bytes:.2g}**'
    return [*times, released, ours, ratio, result, f'{row.released_error:.1e}', f'{row.ours_error:.1e}']
