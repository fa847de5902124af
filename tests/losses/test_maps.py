"""Distances of two feature maps: mimicking, smooth L1, correlation (PKD), attention (AT), grids."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense.losses import attention_distance, centres_inside, feature_mimic, standardized_mse, to_grid
from mmdistill_dense.losses.maps import smooth_l1
from tests.distillers.steps import draw
from tools.benchmark import reference

SHAPE = (3, 4, 5, 6)


@pytest.mark.parametrize('reduction, divisor', [('sum', 3), ('mean', 3 * 4 * 5 * 6)])
def test_equals_the_naive_formula_of_mimic(reduction: str, divisor: int) -> None:
    student, teacher = draw(*SHAPE).requires_grad_(), draw(*SHAPE, seed=1).requires_grad_()
    loss = feature_mimic(student, teacher, reduction=reduction)
    pairs = zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)
    assert loss.item() == pytest.approx(sum((s - t) ** 2 for s, t in pairs) / divisor, rel=1e-12)
    loss.backward()
    torch.testing.assert_close(student.grad, 2 * (student - teacher).detach() / divisor)
    assert teacher.grad is None


def _huber(difference: float, beta: float) -> float:
    size = abs(difference)
    return size * size / (2 * beta) if size < beta else size - beta / 2


@pytest.mark.parametrize('beta', [1.0, 0.11, 0.0])
def test_equals_the_naive_formula_of_regression(beta: float) -> None:
    student, teacher = draw(3, 4, 5).requires_grad_(), draw(3, 4, 5, seed=1).requires_grad_()
    loss = smooth_l1(student, teacher, beta=beta)
    pairs = list(zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True))
    assert loss.item() == pytest.approx(sum(_huber(s - t, beta) for s, t in pairs) / 60, rel=1e-12)
    loss.backward()
    difference = (student - teacher).detach()
    slope = difference.sign() if beta == 0 else (difference / beta).clamp(-1, 1)
    torch.testing.assert_close(student.grad, slope / 60)
    assert teacher.grad is None


def _maps_correlation() -> tuple[torch.Tensor, torch.Tensor]:
    teacher = draw(*SHAPE, seed=1)
    return 3 * draw(*SHAPE) + teacher + torch.arange(4.0)[:, None, None], teacher


def test_equals_the_released_formula_of_correlation() -> None:
    student, teacher = _maps_correlation()
    assert standardized_mse(student, teacher).item() == pytest.approx(reference.pkd(student, teacher).item(), rel=1e-10)


@pytest.mark.parametrize('offset', [0.0, 0.1, 5.0, 1000.1])
@pytest.mark.parametrize('noise', [0.0, 1e-7])
def test_a_channel_of_the_student_that_does_not_vary_has_no_gradient(offset: float, noise: float) -> None:
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, 2, 4, 25, 42, generator=generator)
    student[:, 1] = offset + noise * student[:, 1]
    standardized_mse(student.requires_grad_(), teacher).backward()
    assert student.grad is not None and student.grad[:, 1].abs().max() == 0
    assert all(student.grad[:, c].any() for c in (0, 2, 3))


@pytest.mark.parametrize('offset', [0.1, 1000.1])
def test_channels_that_do_not_vary_have_half_a_loss_on_one_side_and_none_on_both(offset: float) -> None:
    student, teacher = (x.float() for x in _maps_correlation())
    n, rest = 3 * 5 * 6, standardized_mse(student[:, 1:], teacher[:, 1:]) * 3
    for flat in ((student,), (student, teacher)):
        for x in flat:
            x[:, 0] = offset
        expected = rest + (n - 1) / (2 * n) * (len(flat) == 1)
        torch.testing.assert_close(standardized_mse(student, teacher) * 4, expected, rtol=1e-5, atol=0)


def _naive(student: Tensor, teacher: Tensor, power: float) -> float:
    """Attention maps position by position, in Python's floats; mean over images and positions."""

    def attention(image: Tensor) -> list[float]:
        energies = [sum(abs(v) ** power for v in position) for position in image.flatten(1).T.tolist()]
        length = math.sqrt(sum(e * e for e in energies))
        return [e / length for e in energies]

    pairs = [(attention(s), attention(t)) for s, t in zip(student, teacher, strict=True)]
    squares = [(a - b) ** 2 for s, t in pairs for a, b in zip(s, t, strict=True)]
    return sum(squares) / len(squares)


@pytest.mark.parametrize('power', [1.0, 2.0, 3.5])
def test_equals_positions_one_by_one(power: float) -> None:
    student, teacher = draw(2, 3, 3, 4), draw(2, 5, 3, 4, seed=1)
    loss = attention_distance(student, teacher, power=power)
    assert loss.item() == pytest.approx(_naive(student, teacher, power), rel=1e-9)


def test_sum_is_free_of_the_size_and_at_most_two() -> None:
    student, teacher = draw(2, 3, 3, 4), draw(2, 5, 3, 4, seed=1)
    total = attention_distance(student, teacher, reduction='sum')
    torch.testing.assert_close(total, 12 * attention_distance(student, teacher))
    apart = torch.eye(4).reshape(4, 1, 1, 4)
    assert attention_distance(apart, apart.flip(0), reduction='sum').item() == pytest.approx(2)
    both = [x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in (student, teacher)]
    torch.testing.assert_close(attention_distance(*both, reduction='sum'), total)


def test_a_map_of_the_size_is_returned_as_it_is() -> None:
    x = torch.randn(1, 2, 3, 4)
    assert to_grid(x, (3, 4)) is x


@pytest.mark.parametrize(('size', 'averaged'), [((3, 2), True), ((2, 4), True), ((7, 4), False), ((3, 5), False)])
def test_a_smaller_grid_averages_and_one_larger_on_an_axis_interpolates(size: tuple[int, int], averaged: bool) -> None:
    x = torch.randn(1, 2, 6, 4)
    bilinear = F.interpolate(x, size, mode='bilinear', align_corners=False)
    torch.testing.assert_close(to_grid(x, size), F.adaptive_avg_pool2d(x, size) if averaged else bilinear)


def test_channels_of_an_image_shape_are_ignored() -> None:
    assert torch.equal(centres_inside([(20, 20, 3)], (32, 32), (4, 4)), centres_inside([(20, 20)], (32, 32), (4, 4)))
