"""Divergences of class scores, channels and similarities, and the correlation of scores."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense.apps.inspect.step_cost import peak_extra_memory
from mmdistill_dense.losses import (
    channel_divergence,
    correlation_distance,
    sigmoid_divergence,
    similarity_divergence,
    softmax_divergence,
)
from tests.distillers.steps import divergence, draw

Function = Callable[..., Any]


def _softmax(student: list[float], teacher: list[float], temperature: float) -> float:
    return temperature**2 * divergence(student, teacher, temperature)


def _sigmoid(student: list[float], teacher: list[float], temperature: float) -> float:
    return sum(_softmax([s, 0.0], [t, 0.0], temperature) for s, t in zip(student, teacher, strict=True))


@pytest.mark.parametrize('temperature', [1.0, 4.0])
@pytest.mark.parametrize('shape', [(2, 3, 4, 5), (6, 3)])
@pytest.mark.parametrize('function, naive', [(softmax_divergence, _softmax), (sigmoid_divergence, _sigmoid)])
def test_equals_the_naive_formula(function: Function, naive: Function, shape: tuple, temperature: float) -> None:
    student, teacher = 3 * draw(*shape), 3 * draw(*shape, seed=1)
    rows = [x.detach().movedim(1, -1).reshape(-1, shape[1]).tolist() for x in (student, teacher)]
    expected = [naive(s, t, temperature) for s, t in zip(*rows, strict=True)]
    loss = function(student, teacher, temperature=temperature)
    assert loss.item() == pytest.approx(sum(expected) / len(expected), rel=1e-12)


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_equals_channels_one_by_one(temperature: float) -> None:
    student, teacher = 2 * draw(2, 3, 4, 5), 2 * draw(2, 3, 4, 5, seed=1)
    loss = channel_divergence(student, teacher, temperature=temperature)
    rows = (x.reshape(2 * 3, -1).tolist() for x in (student, teacher))
    total = sum(_softmax(s, t, temperature) for s, t in zip(*rows, strict=True))
    assert loss.item() == pytest.approx(total / 6, rel=1e-9)


DOUBLE = torch.float64


def _unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(draw(*shape, seed=seed), dim=-1)


def _inputs(rows: int = 5, groups: int = 3, keys: int = 4, student: int = 2, teacher: int = 6) -> list[Tensor]:
    """Student rows and keys (leaves), teacher rows and keys."""
    shapes = [(rows, student), (groups, keys, student), (rows, teacher), (groups, keys, teacher)]
    made = [_unit(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    return [x.requires_grad_() for x in made[:2]] + made[2:]


@pytest.mark.parametrize('temperature', [0.1, 1.0])
@pytest.mark.parametrize('sizes', [{}, dict(groups=1), dict(rows=1, keys=1), dict(student=1, teacher=1)])
def test_equals_plain_arithmetic(sizes: dict[str, int], temperature: float) -> None:
    inputs = _inputs(**sizes)
    scores = [torch.einsum('nc,gkc->ngk', *pair).tolist() for pair in (inputs[:2], inputs[2:])]
    expected = [
        sum(divergence(s, t, temperature) for s, t in zip(*rows, strict=True)) / len(rows[0])
        for rows in zip(*scores, strict=True)
    ]
    loss = similarity_divergence(*inputs, temperature=temperature)
    assert loss.item() == pytest.approx(sum(expected) / len(expected), rel=1e-10, abs=1e-14)
    weight = torch.linspace(0, 2, len(expected), dtype=DOUBLE)
    weighted = similarity_divergence(*inputs, temperature=temperature, row_weight=weight)
    assert weighted.item() == pytest.approx((torch.tensor(expected, dtype=DOUBLE) @ weight).item(), abs=1e-12)


def test_memory_does_not_grow_with_rows_times_keys() -> None:
    """Loss and gradient of 8192 x 4096 scores, of which one matrix alone has 128 MiB."""
    rows, keys, teacher, teacher_keys = (x.detach().float() for x in _inputs(8192, 1, 4096, 16, 16))
    rows.requires_grad_()

    def step() -> None:
        similarity_divergence(rows, keys, teacher, teacher_keys).backward()

    assert peak_extra_memory(step) < 128 * 2**20


def _naive_correlation(
    student: Tensor, teacher: Tensor, temperature: float, beta: float, gamma: float, activation: str
) -> Tensor:
    """Correlations by ``torch.corrcoef``, one by one."""
    odds = ((x / temperature).exp() for x in (student, teacher))
    s, t = (x / x.sum(1, keepdim=True) if activation == 'softmax' else x / (1 + x) for x in odds)
    rows = [1 - torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(s, t, strict=True)]
    columns = [1 - torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(s.T, t.T, strict=True)]
    return temperature**2 * (beta * torch.stack(rows).mean() + gamma * torch.stack(columns).mean())


@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
@pytest.mark.parametrize('options', [(1.0, 1.0, 1.0), (4.0, 1.0, 0.0), (0.5, 0.3, 2.0)])
def test_equals_correlations_one_by_one(options: tuple[float, float, float], activation: str) -> None:
    student, teacher = (2 * draw(24, 11, seed=seed) for seed in (0, 1))
    given = dict(zip(('temperature', 'beta', 'gamma'), options, strict=True), activation=activation)
    loss = correlation_distance(student, teacher, **given)
    torch.testing.assert_close(loss, _naive_correlation(student, teacher, **given), rtol=1e-6, atol=0)


def test_positions_of_maps_are_rows() -> None:
    student, teacher = (2 * draw(2, 5, 3, 4, seed=seed) for seed in (0, 1))
    rows = (x.permute(0, 2, 3, 1).reshape(-1, 5) for x in (student, teacher))
    torch.testing.assert_close(correlation_distance(student, teacher), correlation_distance(*rows))


@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
def test_scores_that_hardly_vary_have_a_moderate_gradient_towards_the_teacher(activation: str) -> None:
    """A classifier that starts at 0: 1e7 before, a step of which would have thrown the student away."""
    noise, teacher = (2 * draw(500, 11, seed=seed) for seed in (0, 1))
    norms = {}
    for scale in (1.0, 1e-2, 1e-4, 1e-6, 0.0):
        student = (scale * noise.detach()).float().requires_grad_()
        loss = correlation_distance(student, teacher.detach().float(), activation=activation)
        (grad,) = torch.autograd.grad(loss, student)
        norms[scale] = float(grad.norm())
        better = correlation_distance(student - 1e-2 * grad, teacher.detach().float(), activation=activation)
        assert better < loss
    assert norms[1e-6] <= 1.1 * norms[1e-4] < 30 * norms[1.0]
    assert norms[0.0] == pytest.approx(norms[1e-6], rel=1e-2)
