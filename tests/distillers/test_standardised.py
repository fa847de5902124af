"""LogitKD and RoIHeadKD on standardised scores: the formula, what it leaves free, and what is refused."""

import math

import pytest
import torch

from mmdistill_dense.distillers import LogitKD, RoIHeadKD
from mmdistill_dense.losses import softmax_divergence, standardised
from tests.distillers.case import DistillerCase
from tests.distillers.steps import draw, set_up


class TestLogitKD(DistillerCase):
    option = dict(type='LogitKD', temperature=2.0, standardise=True)
    student = teacher = (2, 5, 6, 7)
    zero_on_identical = True


def loss(student, teacher, temperature=2.0):
    return softmax_divergence(standardised(student), standardised(teacher), temperature=temperature)


def naive(student, teacher, temperature):
    """One row in plain numbers."""
    chances = []
    for row in (teacher, student):
        mean = sum(row) / len(row)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in row) / (len(row) - 1))
        powers = [math.exp((value - mean) / (deviation + 1e-7) / temperature) for value in row]
        chances.append([power / sum(powers) for power in powers])
    return temperature**2 * sum(t * math.log(t / s) for t, s in zip(*chances, strict=True))


def test_the_example_of_the_paper_and_a_naive_loop():
    one = naive([2, -1, 0.5], [10, 1, 4], 2.0)
    assert one == pytest.approx(0.010465, abs=1e-6)
    kd = set_up(LogitKD, [(4, 2, 3), (4, 2, 3)], temperature=3.0, standardise=True)
    student, teacher = draw(2, 4, 2, 3), 5 * draw(2, 4, 2, 3, seed=1) + 100
    rows = [x.movedim(1, -1).reshape(-1, 4).tolist() for x in (student, teacher)]
    expected = sum(naive(s, t, 3.0) for s, t in zip(*rows, strict=True)) / 12
    assert float(kd({'tap': [student]}, {'tap': [teacher]}, None)['loss_kd']) == pytest.approx(expected, rel=1e-9)
    halves = [float(loss(student[i : i + 1], teacher[i : i + 1])) for i in range(2)]
    assert sum(halves) / 2 == pytest.approx(float(loss(student, teacher))), 'two processes give the mean of one'


def test_scale_and_offset_are_free_and_the_gradient_knows():
    student, teacher = draw(3, 5).requires_grad_(), draw(3, 5, seed=1)
    scale = torch.tensor([[2.0], [0.5], [7.0]], dtype=torch.float64)
    moved = (scale * student - 3).detach().requires_grad_()
    values = loss(student, teacher), loss(moved, teacher)
    torch.testing.assert_close(*values, rtol=1e-5, atol=0)
    (plain,), (other,) = (torch.autograd.grad(v, x) for v, x in zip(values, (student, moved), strict=True))
    torch.testing.assert_close(other, plain / scale, rtol=1e-5, atol=1e-12)
    z = standardised(student)
    assert plain.sum(1).abs().max() < 1e-12 and (plain * z).sum(1).abs().max() < 1e-7
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher), student)


def test_equal_scores_get_no_gradient():
    student = torch.cat([torch.full((1, 4), 0.3), draw(1, 4).float()]).requires_grad_()
    loss(student, draw(2, 4, seed=1).float()).backward()
    assert not student.grad[0].any() and student.grad[1].any()


def test_a_high_temperature_is_the_correlation():
    student, teacher = draw(3, 6), draw(3, 6, seed=1)
    correlation = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(student, teacher, strict=True)])
    torch.testing.assert_close(loss(student, teacher, 1e3), (5 / 6 * (1 - correlation)).mean(), rtol=1e-3, atol=0)


def test_two_classes_are_refused():
    with pytest.raises(ValueError, match='with 2 classes, standardised scores are constants'):
        set_up(LogitKD, [(2, 4, 4), (2, 4, 4)], standardise=True)
    roi = RoIHeadKD('x', output='cls_score', form='softmax', standardise=True)
    with pytest.raises(ValueError, match='with 2 classes, standardised scores are constants'):
        roi.setup({'x': [torch.Size((1, 2))]}, {})


def test_a_box_head_compares_standardised_rows():
    student, teacher = draw(5, 4), 3 * draw(5, 4, seed=1)
    roi = RoIHeadKD('x', output='cls_score', form='softmax', standardise=True, temperature=2.0)
    roi.answer = lambda features, rois: teacher
    found = roi({'x': [student], roi.rois: [torch.zeros(5, 5)]}, {'neck': []}, None)['loss_roi']
    torch.testing.assert_close(found, loss(student, teacher))
