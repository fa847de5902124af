"""What `tools/benchmark.py losses` compares for MasKD: the loss of all levels, its branch, and learning the tokens."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mmdistill_dense import losses
from mmdistill_dense.losses import Branch
from tools.benchmark import reference
from tools.benchmark.loss_cases import Case, Function, summed


@dataclass(frozen=True)
class Size:
    """Batch, channels, tokens and maps; the branch and the student's masks belong to detection."""

    batch: int
    channels: int
    tokens: int
    maps: Sequence[tuple[int, int]]
    detection: bool
    repeats: int


SIZES = {
    'detection': Size(2, 256, 6, [(200, 336), (100, 168), (50, 84), (25, 42), (13, 21)], detection=True, repeats=2),
    'retinanet': Size(2, 256, 6, [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)], detection=True, repeats=3),
    'seg_n16': Size(16, 19, 8, [(64, 128)], detection=False, repeats=7),
    'seg_n2': Size(2, 19, 8, [(64, 128)], detection=False, repeats=15),
    'ade20k': Size(4, 150, 8, [(64, 64)], detection=False, repeats=7),
    'small': Size(2, 32, 4, [(32, 40), (16, 20)], detection=True, repeats=3),
}
DEFAULT_SIZE = 'detection'


def describe(size_name: str) -> str:
    """Return what a size is, in words."""
    size = SIZES[size_name]
    maps = ', '.join(f'{height}x{width}' for height, width in size.maps)
    masks = 'weighted masks of teacher and student' if size.detection else "the teacher's masks"
    return f'{size.batch} images, {size.channels} channels of {maps}, {size.tokens} tokens, {masks}'


def cases(size_name: str) -> list[Case]:
    """Return the cases for a size in SIZES; the tensors of a case come kind by kind, each kind level by level."""
    return cases_of(SIZES[size_name])


def cases_of(size: Size) -> list[Case]:
    """Return the cases for a size."""
    draw = torch.Generator().manual_seed(0)
    shapes = [(size.batch, size.channels, height, width) for height, width in size.maps]
    teachers = [torch.randn(shape, generator=draw) for shape in shapes]
    students = [teacher + torch.randn(teacher.shape, generator=draw) for teacher in teachers]
    upstreams = [torch.randn(shape, generator=draw) for shape in shapes]
    tokens, *branches = zip(*(_parameters(size, draw) for _ in shapes), strict=True)
    branch = list(itertools.chain.from_iterable(branches))

    def case(name: str, inputs: list[Tensor], constants: list[Tensor], ours: Function, released: Function) -> Case:
        levels = len(shapes)
        return Case(name, inputs, constants, summed(ours, levels), summed(released, levels), size.repeats, not inputs)

    options = {'student_mask': size.detection, 'eps': 0.0 if size.detection else 1e-5}
    loss = partial(_loss, losses.masked_feature_loss, options)
    released_loss = partial(_loss, reference.maskd_loss, options)
    found = [case('loss of all levels', students, [*teachers, *tokens, *branch], loss, released_loss)]
    if branch:
        constants = [*teachers, *branch]
        found.append(case('branch alone, forward', [], constants, _weights, reference.maskd_mask_weights))
    constants = [*teachers, *upstreams]
    found.append(case('gate and Dice, to the tokens', [*tokens, *branch], constants, _learn, _released_learn))
    return found


def _parameters(size: Size, draw: torch.Generator) -> tuple[Tensor, ...]:
    """Draw the tokens of a level, and the four parameters of its branch where there is one."""
    c, t = size.channels, size.tokens
    shapes = {(t, c): 0.1, (c, c, 3, 3): (2 / (9 * c)) ** 0.5, (c,): 0.1, (t, c, 1, 1): (2 / t) ** 0.5, (t,): 0.1}
    parts = tuple(std * torch.randn(shape, generator=draw) for shape, std in shapes.items())
    return parts if size.detection else parts[:1]


def _loss(function: Function, options: Mapping[str, Any], *tensors: Tensor) -> Tensor:
    student, teacher, tokens, *branch = tensors
    return function(student, teacher, tokens, Branch(*branch) if branch else None, **options)


def _weights(teacher: Tensor, *branch: Tensor) -> Tensor:
    return losses.mask_weights(Branch(*branch), teacher)


def _learn(tokens: Tensor, *rest: Tensor) -> Tensor:
    *branch, x, upstream = rest
    masks = losses.token_masks(tokens, x)
    weights = _weights(x, *branch) if branch else None
    gated = losses.gate(x, masks, weights)
    return torch.dot(gated.flatten(), upstream.flatten()) + losses.mask_dice(masks)


def _released_learn(tokens: Tensor, *rest: Tensor) -> Tensor:
    *branch, x, upstream = rest
    masks = reference.maskd_masks(tokens, x)
    weights = reference.maskd_mask_weights(x, *branch) if branch else None
    gated = reference.maskd_gate(x, masks, weights)
    return torch.dot(gated.flatten(), upstream.flatten()) + reference.maskd_dice(masks)
