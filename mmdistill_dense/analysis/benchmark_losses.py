"""Our losses beside the released formulas, written naively: time, extra memory, gradient error."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmdistill_dense import losses
from mmdistill_dense.analysis import reference
from mmdistill_dense.analysis.measure import Timing, interleaved_times, peak_extra_memory

Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """One comparison: two functions of the same tensors, those of ``inputs`` with gradient."""

    name: str
    inputs: Sequence[Tensor]
    constants: Sequence[Tensor]
    ours: Function
    released: Function
    repeats: int


@dataclass(frozen=True)
class Row:
    """What was measured for one case; an error is the largest, over the inputs, of max over max against float64."""

    name: str
    ours_time: Timing
    released_time: Timing
    ours_bytes: int
    released_bytes: int
    ours_error: float
    released_error: float


@dataclass(frozen=True)
class Size:
    """Channels and map of an Af-DCD pair, and how its contrast pools."""

    student: int
    teacher: int
    height: int
    width: int
    pool: int


SIZES = {
    'cityscapes': Size(512, 2048, 64, 128, pool=4),
    'camvid': Size(512, 2048, 45, 45, pool=0),
    'small': Size(64, 256, 32, 32, pool=4),
}
GROUPS, TEMPERATURE, PATCH = 16, 0.07, (4, 4)


def afdcd_cases(size_name: str) -> list[Case]:
    """Return the cases of Af-DCD for one image of a size in SIZES."""
    size = SIZES[size_name]
    draw = torch.Generator().manual_seed(0)
    pool = max(size.pool, 1)
    # the naive formula takes whole patches only
    height = size.height // (pool * PATCH[0]) * pool * PATCH[0]
    width = size.width // (pool * PATCH[1]) * pool * PATCH[1]
    teacher = torch.randn(1, size.teacher, height, width, generator=draw).relu()
    student = teacher + torch.randn(teacher.shape, generator=draw)
    near, start, target = (
        _pooled(x, size.pool) for x in (student, 0.05 * torch.randn(teacher.shape, generator=draw), teacher)
    )
    return [
        _contrast('contrast core, near convergence', near, target, 0),
        _contrast('contrast core, at the start', start, target, 0),
        *([_contrast('contrast with pooling', student, teacher, size.pool)] if size.pool else []),
        _first_conv(size, draw),
    ]


METHODS = {'afdcd': afdcd_cases}
NOTE = (
    'Memory: peak of what the CPU allocator handed out during forward and backward, outputs and gradients included, '
    'scratch inside oneDNN not; with pooling both hold the gradient of the unpooled map. Gradient errors: max '
    'over max, against the released formula in float64.'
)


def _pooled(x: Tensor, pool: int) -> Tensor:
    return torch.nn.functional.max_pool2d(x, pool) if pool else x


def _contrast(name: str, student: Tensor, teacher: Tensor, pool: int) -> Case:
    def ours(student: Tensor, teacher: Tensor) -> Tensor:
        return losses.dense_contrast(
            student, teacher, groups=GROUPS, temperature=TEMPERATURE, pool_size=pool, patch_size=PATCH
        )

    def released(student: Tensor, teacher: Tensor) -> Tensor:
        return reference.afdcd_contrast(student, teacher, GROUPS, TEMPERATURE, pool, PATCH)

    return Case(name, [student], [teacher], ours, released, repeats=7)


def _first_conv(size: Size, draw: torch.Generator) -> Case:
    cs, ct = size.student, size.teacher
    keep = losses.random_keep((1, size.height, size.width), 0.75, draw)
    feat = torch.randn(1, cs, size.height, size.width, generator=draw).relu()
    shapes = {(ct, cs, 1, 1): cs, (ct,): cs, (ct, ct, 3, 3): 9 * ct}
    align, align_bias, conv = (
        (2 * torch.rand(shape, generator=draw) - 1) * fan_in**-0.5 for shape, fan_in in shapes.items()
    )
    upstream = torch.randn(1, ct, size.height, size.width, generator=draw)

    def scalar(function: Function) -> Function:
        def run(feat: Tensor, *rest: Tensor) -> Tensor:
            *weights, keep, upstream = rest
            return torch.dot(function(feat, keep.bool(), *weights).flatten(), upstream.flatten())

        return run

    inputs = [feat, align, align_bias, conv, torch.zeros(ct)]
    ours, released = scalar(losses.masked_align_conv), scalar(reference.afdcd_first_conv)
    return Case('align + first conv', inputs, [keep, upstream], ours, released, repeats=3)


def measure(case: Case) -> Row:
    """Time forward and backward in turns, then take the memory and the gradients of one pass each."""
    functions = {'ours': case.ours, 'released': case.released}
    works = {name: _pass(function, case, torch.float32) for name, function in functions.items()}
    times = interleaved_times(works, case.repeats)
    memory = {name: peak_extra_memory(work) for name, work in works.items()}
    exact = _pass(case.released, case, torch.float64)()
    errors = {name: _error(work(), exact) for name, work in works.items()}
    return Row(
        case.name,
        times['ours'],
        times['released'],
        memory['ours'],
        memory['released'],
        errors['ours'],
        errors['released'],
    )


def _pass(function: Function, case: Case, dtype: torch.dtype) -> Callable[[], tuple[Tensor, ...]]:
    leaves = [x.to(dtype).requires_grad_() for x in case.inputs]
    constants = [x.to(dtype) for x in case.constants]

    def work() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(*leaves, *constants), leaves)

    return work


def _error(grads: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    return max(float((g - e).abs().max() / e.abs().max()) for g, e in zip(grads, exact, strict=True))


def as_markdown(rows: Sequence[Row]) -> str:
    """Return the table of the rows."""
    head = ['forward + backward', 'released s', 'ours s', 'ratio', 'released MiB', 'ours MiB', 'ratio']
    head += ['released error', 'ours']
    table = [head, ['---'] * len(head)]
    for row in rows:
        time_ratio = row.ours_time.median / row.released_time.median
        memory = [f'{size / 2**20:.1f}' for size in (row.released_bytes, row.ours_bytes)]
        errors = [f'{error:.1e}' for error in (row.released_error, row.ours_error)]
        cells = [row.name, str(row.released_time), str(row.ours_time), f'**{time_ratio:.2f}**', *memory]
        table.append([*cells, f'**{row.ours_bytes / row.released_bytes:.2f}**', *errors])
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in table)
