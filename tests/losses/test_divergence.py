import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmdistill_dense.losses import channel_divergence, sigmoid_divergence, softmax_divergence

Divergence = Callable[..., Tensor]
BOTH = pytest.mark.parametrize('divergence', [softmax_divergence, sigmoid_divergence])


def _logits(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    student, teacher = 3 * torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return student.to(dtype).requires_grad_(), teacher.to(dtype).requires_grad_()


def _naive_softmax(student: list[float], teacher: list[float], temperature: float) -> float:
    def probabilities(logits: list[float]) -> list[float]:
        exponentials = [math.exp(z / temperature) for z in logits]
        return [e / sum(exponentials) for e in exponentials]

    p, q = probabilities(teacher), probabilities(student)
    return temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def _naive_sigmoid(student: list[float], teacher: list[float], temperature: float) -> float:
    return sum(_naive_softmax([s, 0.0], [t, 0.0], temperature) for s, t in zip(student, teacher, strict=True))


@pytest.mark.parametrize('temperature', [1.0, 4.0])
@pytest.mark.parametrize('shape', [(2, 3, 4, 5), (6, 3)])
@pytest.mark.parametrize(
    'divergence, naive', [(softmax_divergence, _naive_softmax), (sigmoid_divergence, _naive_sigmoid)]
)
def test_equals_the_naive_formula(divergence: Divergence, naive, shape: tuple[int, ...], temperature: float) -> None:
    student, teacher = _logits(*shape)
    rows = [x.detach().movedim(1, -1).reshape(-1, shape[1]).tolist() for x in (student, teacher)]
    expected = [naive(s, t, temperature) for s, t in zip(*rows, strict=True)]
    loss = divergence(student, teacher, temperature=temperature)
    assert loss.item() == pytest.approx(sum(expected) / len(expected), rel=1e-12)


@BOTH
def test_extreme_logits_stay_finite(divergence: Divergence) -> None:
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = divergence(student, -student.detach())
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


@pytest.mark.parametrize('divergence', [softmax_divergence, channel_divergence])
def test_a_constant_between_the_sides_takes_no_digits(divergence: Divergence) -> None:
    teacher, noise = _logits(2, 19, 16, 16, dtype=torch.float32)
    student = teacher.detach() + 1e-2 * noise + 1e4
    exact = divergence(student.double(), teacher.double())
    assert 0 < divergence(student, teacher).item() == pytest.approx(exact.item(), rel=1e-2)


@BOTH
def test_errors(divergence: Divergence) -> None:
    with pytest.raises(ValueError, match=r'temperature must be above 0, got 0'):
        divergence(torch.zeros(1, 2), torch.zeros(1, 2), temperature=0)
    with pytest.raises(ValueError, match=r'logits differ in shape: \(1, 2\) and \(1, 3\)'):
        divergence(torch.zeros(1, 2), torch.zeros(1, 3))
