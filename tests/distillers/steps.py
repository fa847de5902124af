"""What tests of methods share: maps, a distiller that is set up, halves of a batch, and a real detector."""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from mmdistill_dense.distillers import Distiller
from mmdistill_dense.distillers.base import RunState
from tests import toys
from tests.distillers.maskd.tokens import random_tokens


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dot(u: Sequence[float], v: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(u, v, strict=True))


def divergence(student: Sequence[float], teacher: Sequence[float], t: float, s: float | None = None) -> float:
    """``KL(softmax(teacher / t) || softmax(student / s))`` of one row of scores, in plain numbers."""
    powers = [math.exp(z / t) for z in teacher], [math.exp(z / (s or t)) for z in student]
    p, q = ([power / sum(row) for power in row] for row in powers)
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def overlaps(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Return three areas of two boxes, given by their corners: the shared one, the union, and the hull."""
    inner = math.prod(max(min(a[n + 2], b[n + 2]) - max(a[n], b[n]), 0.0) for n in (0, 1))
    areas = (math.prod(max(box[n + 2] - box[n], 0.0) for n in (0, 1)) for box in (a, b))
    hull = math.prod(max(max(a[n + 2], b[n + 2]) - min(a[n], b[n]), 0.0) for n in (0, 1))
    return inner, sum(areas) - inner, hull


def set_up(kind: type[Distiller], *levels: Any, tap: str = 'tap', **options: Any) -> Any:
    """A distiller of one tap in float64, given the (student, teacher) shapes of each level without the batch."""
    torch.manual_seed(0)
    distiller = kind(tap, **options)
    distiller.setup(*({tap: [torch.Size((1, *level[side])) for level in levels]} for side in (0, 1)))
    distiller.state = RunState(iteration=3, max_iters=10, seed=1)
    if hasattr(distiller, 'load_tokens'):
        distiller.load_tokens(random_tokens(distiller))
    return distiller.double()


def padded(number: int, pictures: slice) -> tuple[Tensor, Tensor, list[Any]]:
    """Some of four pictures, two of which are padded: maps of 5 and of 7 channels by the seed ``number``, samples."""
    draw = torch.Generator().manual_seed(number)
    student, teacher = (torch.randn(4, channels, 4, 4, generator=draw, dtype=torch.float64) for channels in (5, 7))
    shapes = [(32, 32), (20, 32), (32, 32), (12, 8)][pictures]
    samples = [SimpleNamespace(metainfo=dict(img_shape=shape, batch_input_shape=(32, 32))) for shape in shapes]
    return student[pictures], teacher[pictures], samples


def boxed(count: int = 2, padded: tuple[int, int] = (64, 64)) -> list[Any]:
    """Samples of generated pictures of 64 x 64 pixels with boxes, in a batch of the given size."""
    samples = toys.det_batch(count)['data_samples']
    for sample in samples:
        sample.set_metainfo(dict(batch_input_shape=padded, pad_shape=(64, 64)))
    return samples


def trained_children(model: Any) -> set[str]:
    named_parameters = model.named_parameters()
    return {name.split('.')[0] for name, p in named_parameters if p.grad is not None and p.grad.any()} - {'distillers'}


def run(distiller: Any, student: Tensor, teacher: Tensor, samples: Any = None) -> dict[str, Tensor]:
    return distiller({'tap': [student]}, {'tap': [teacher]}, samples)


def loss_of(distiller: Any, student: Tensor, teacher: Tensor, samples: Any = None) -> Tensor:
    (loss,) = run(distiller, student, teacher, samples).values()
    return loss
