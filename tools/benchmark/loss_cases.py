"""Our losses beside the released formulas, written naively: time, extra memory, gradient error."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmdistill_dense.analysis.timing import Timing, interleaved_times, peak_extra_memory

Function = Callable[..., Tensor]

NOTE = (
    'Memory: peak of what the CPU allocator handed out, outputs and gradients included, scratch inside the libraries '
    'not. Errors: of the gradients (of the output where there is only a forward), max over max, against the released '
    'formula in float64.'
)


@dataclass(frozen=True)
class Case:
    """One comparison: two functions of the same tensors, those of ``inputs`` with gradient unless ``forward_only``."""

    name: str
    inputs: Sequence[Tensor]
    constants: Sequence[Tensor]
    ours: Function
    released: Function
    repeats: int
    forward_only: bool = False


@dataclass(frozen=True)
class Row:
    """What was measured for one case.

    ``result_bytes`` is what any implementation must hold at the end: the gradients, or the output of a forward alone.
    An error is the largest, over the results, of max over max against float64.
    """

    name: str
    ours_time: Timing
    released_time: Timing
    ours_bytes: int
    released_bytes: int
    result_bytes: int
    ours_error: float
    released_error: float

    @property
    def faster(self) -> float:
        """How many times faster ours is, by the medians."""
        return self.released_time.median / self.ours_time.median


def summed(level: Function, levels: int) -> Function:
    """Make a function of all levels' tensors, kind by kind, from that of one level."""

    def run(*tensors: Tensor) -> Tensor:
        return torch.stack([level(*tensors[index::levels]) for index in range(levels)]).sum(0)

    return run


def measure(case: Case, device: str | torch.device = 'cpu') -> Row:
    """Time the passes in turns, then take the memory and the results of one pass each."""
    functions = {'ours': case.ours, 'released': case.released}
    works = {name: one_pass(function, case, torch.float32, device) for name, function in functions.items()}
    times = interleaved_times(works, case.repeats, device)
    memory = {name: peak_extra_memory(work, device) for name, work in works.items()}
    exact = one_pass(case.released, case, torch.float64, device)()
    results = {name: work() for name, work in works.items()}
    errors = {name: _error(result, exact) for name, result in results.items()}
    return Row(
        case.name,
        times['ours'],
        times['released'],
        memory['ours'],
        memory['released'],
        sum(result.nbytes for result in results['ours']),
        errors['ours'],
        errors['released'],
    )


def one_pass(
    function: Function, case: Case, dtype: torch.dtype = torch.float32, device: str | torch.device = 'cpu'
) -> Callable[[], tuple[Tensor, ...]]:
    """Make what is timed: forward and backward of a function on the tensors of a case."""
    leaves = [x.to(device, dtype).requires_grad_(not case.forward_only) for x in case.inputs]
    constants = [x.to(device, dtype) for x in case.constants]

    def work() -> tuple[Tensor, ...]:
        output = function(*leaves, *constants)
        return (output,) if case.forward_only else torch.autograd.grad(output, leaves)

    return work


def _error(results: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    return max(float((r - e).abs().max() / e.abs().max()) for r, e in zip(results, exact, strict=True))


def as_markdown(rows: Sequence[Row]) -> str:
    """Return the table of the rows."""
    head = ['forward + backward', 'released s', 'ours s', 'faster', 'released MiB', 'ours MiB', 'ratio']
    head += ['of which results MiB', 'released error', 'ours']
    table = [head, ['---'] * len(head)]
    for row in rows:
        sizes = [f'{size / 2**20:.1f}' for size in (row.released_bytes, row.ours_bytes)]
        errors = [f'{error:.1e}' for error in (row.released_error, row.ours_error)]
        cells = [row.name, str(row.released_time), str(row.ours_time), f'**{row.faster:.3g}x**', *sizes]
        cells += [f'**{row.ours_bytes / row.released_bytes:.2g}**', f'{row.result_bytes / 2**20:.1f}', *errors]
        table.append(cells)
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in table)
