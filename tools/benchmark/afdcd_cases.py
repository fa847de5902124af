"""What `tools/benchmark.py losses` compares for Af-DCD: the contrast, and the folded first convolution."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmdistill_dense import losses
from tools.benchmark import reference
from tools.benchmark.loss_cases import Case, Function


@dataclass(frozen=True)
class Size:
    """Channels and map of a pair, how its contrast pools and groups channels, and images."""

    student: int
    teacher: int
    height: int
    width: int
    pool: int
    groups: int = 16
    batch: int = 1


SIZES = {
    'cityscapes': Size(512, 2048, 64, 128, pool=4),
    'camvid': Size(512, 2048, 45, 45, pool=0),
    'small': Size(64, 256, 32, 32, pool=4),
}
DEFAULT_SIZE = 'cityscapes'
TEMPERATURE, PATCH = 0.07, (4, 4)


def describe(size_name: str) -> str:
    """Return what a size is, in words."""
    size = SIZES[size_name]
    text = f'one image, {size.student} and {size.teacher} channels of {size.height}x{size.width}'
    return f'{text}; with pooling both hold the gradient of the unpooled map' if size.pool else text


def cases(size_name: str) -> list[Case]:
    """Return the cases for one image of a size in SIZES."""
    return cases_of(SIZES[size_name])


def cases_of(size: Size) -> list[Case]:
    """Return the cases for a size."""
    draw = torch.Generator().manual_seed(0)
    pool = max(size.pool, 1)
    # the naive formula takes whole patches only
    height = size.height // (pool * PATCH[0]) * pool * PATCH[0]
    width = size.width // (pool * PATCH[1]) * pool * PATCH[1]
    teacher = torch.randn(size.batch, size.teacher, height, width, generator=draw).relu()
    student = teacher + torch.randn(teacher.shape, generator=draw)
    near, start, target = (
        _pooled(x, size.pool) for x in (student, 0.05 * torch.randn(teacher.shape, generator=draw), teacher)
    )
    return [
        _contrast('contrast core, near convergence', near, target, size.groups, 0),
        _contrast('contrast core, at the start', start, target, size.groups, 0),
        _contrast('contrast core, compiled', near, target, size.groups, 0, compiled=True),
        *(
            _contrast(f'contrast with pooling{suffix}', student, teacher, size.groups, size.pool, compiled)
            for suffix, compiled in (('', False), (', compiled', True))
            if size.pool
        ),
        _first_conv(size, draw),
    ]


def _pooled(x: Tensor, pool: int) -> Tensor:
    return torch.nn.functional.max_pool2d(x, pool) if pool else x


def _contrast(name: str, student: Tensor, teacher: Tensor, groups: int, pool: int, compiled: bool = False) -> Case:
    options: dict[str, Any] = {'groups': groups, 'temperature': TEMPERATURE, 'pool_size': pool, 'patch_size': PATCH}

    def ours(student: Tensor, teacher: Tensor) -> Tensor:
        return losses.dense_contrast(student, teacher, compiled=compiled, **options)

    def released(student: Tensor, teacher: Tensor) -> Tensor:
        return reference.afdcd_contrast(student, teacher, groups, TEMPERATURE, pool, PATCH)

    return Case(name, [student], [teacher], ours, released, repeats=7)


def _first_conv(size: Size, draw: torch.Generator) -> Case:
    cs, ct = size.student, size.teacher
    keep = losses.random_keep((size.batch, size.height, size.width), 0.75, draw)
    feat = torch.randn(size.batch, cs, size.height, size.width, generator=draw).relu()
    shapes = {(ct, cs, 1, 1): cs, (ct,): cs, (ct, ct, 3, 3): 9 * ct}
    align, align_bias, conv = (
        (2 * torch.rand(shape, generator=draw) - 1) * fan_in**-0.5 for shape, fan_in in shapes.items()
    )
    upstream = torch.randn(size.batch, ct, size.height, size.width, generator=draw)

    def scalar(function: Function) -> Function:
        def run(feat: Tensor, *rest: Tensor) -> Tensor:
            *weights, keep, upstream = rest
            return torch.dot(function(feat, keep.bool(), *weights).flatten(), upstream.flatten())

        return run

    inputs = [feat, align, align_bias, conv, torch.zeros(ct)]
    ours, released = scalar(losses.masked_align_conv), scalar(reference.afdcd_first_conv)
    return Case('align + first conv', inputs, [keep, upstream], ours, released, repeats=3)
