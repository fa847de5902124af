import math

import pytest
import torch
from torch import Tensor

from mmdistill_dense.losses import channel_divergence


def _maps(*shape: int) -> tuple[Tensor, Tensor]:
    student, teacher = 2 * torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return student.requires_grad_(), teacher


def _naive(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """Every channel of every image by itself, in Python's floats."""
    total = 0.0
    for s, t in zip(student.flatten(0, 1).tolist(), teacher.flatten(0, 1).tolist(), strict=True):
        qs, ps = ([math.exp(v / temperature) for row in x for v in row] for x in (s, t))
        pairs = [(q / sum(qs), p / sum(ps)) for q, p in zip(qs, ps, strict=True)]
        total += sum(p * math.log(p / q) for q, p in pairs)
    return temperature**2 * total / (student.shape[0] * student.shape[1])


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_equals_channels_one_by_one(temperature: float) -> None:
    student, teacher = _maps(2, 3, 4, 5)
    loss = channel_divergence(student, teacher, temperature=temperature)
    assert loss.item() == pytest.approx(_naive(student, teacher, temperature), rel=1e-9)


def test_only_places_count_and_a_single_one_is_no_place() -> None:
    student, teacher = _maps(2, 3, 1, 1)
    assert channel_divergence(student, teacher).item() == 0
    bright = torch.zeros(1, 1, 1, 4)
    bright[..., 0] = 30.0  # all mass on one position against a quarter of it
    assert channel_divergence(torch.zeros(1, 1, 1, 4), bright).item() == pytest.approx(math.log(4))


def test_extreme_maps_stay_finite() -> None:
    student = torch.tensor([[[[1e4, -1e4]]]], requires_grad=True)
    loss = channel_divergence(student, -student.detach())
    loss.backward()
    assert loss.item() == pytest.approx(2e4) and student.grad.isfinite().all()


@pytest.mark.parametrize(
    ('shapes', 'temperature', 'words'),
    [
        (((1, 2, 2, 2), (1, 2, 2, 2)), 0.0, r'temperature must be above 0, got 0'),
        (((1, 2, 2, 2), (1, 3, 2, 2)), 1.0, r'maps differ in shape: \(1, 2, 2, 2\) and \(1, 3, 2, 2\)'),
        (((4, 2), (4, 2)), 1.0, r'at least one axis of positions, got \(4, 2\)'),
    ],
)
def test_errors(shapes: tuple, temperature: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        channel_divergence(*(torch.zeros(shape) for shape in shapes), temperature=temperature)
