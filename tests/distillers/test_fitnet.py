"""FitNet: the shared case, its formula by loops, several levels, and a detector's neck."""

import pytest
import torch
from torch import nn

from mmdistill_dense.distillers import FitNet
from tests import toys
from tests.distillers.case import DistillerCase


class TestFitNet(DistillerCase):
    option = dict(type='FitNet')


def test_step_in_a_real_detector():
    """Every level of the neck of a RetinaNet pair: gradients, and a falling loss on one repeated batch."""
    distillers = dict(hint=dict(type='FitNet', student_tap='neck'))
    model = toys.distilled('mmdet', student=toys.det_net(), teacher=toys.det_teacher(), distillers=distillers)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    values = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = toys.losses_of(model, toys.det_batch())['distill.hint.loss_fitnet']
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0]
    assert len(model.distillers['hint'].aligns) == 5
    assert all(p.grad is not None and p.grad.any() for p in model.distillers.parameters())


def maps(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(*levels, **options):
    """A distiller in float64, given (student, teacher) shapes without the batch for each level."""
    torch.manual_seed(0)
    distiller = FitNet('tap', **options)
    distiller.setup(*({'tap': [torch.Size((1, *level[side])) for level in levels]} for side in (0, 1)))
    return distiller.double()


def naive(student, teacher, regressor):
    """The mean over pictures, channels and positions of the squared difference, in plain numbers."""
    weight, bias = regressor.weight.flatten(1).tolist(), regressor.bias.tolist()
    squares = []
    for s, t in zip(student, teacher, strict=True):
        for pixel, target in zip(s.flatten(1).t().tolist(), t.flatten(1).t().tolist(), strict=True):
            hints = [
                b + sum(w * v for w, v in zip(row, pixel, strict=True)) for row, b in zip(weight, bias, strict=True)
            ]
            squares += [(hint - value) ** 2 for hint, value in zip(hints, target, strict=True)]
    return sum(squares) / len(squares)


def test_equals_plain_arithmetic_and_sums_over_levels():
    distiller = make(((3, 4, 2), (5, 4, 2)), ((3, 2, 1), (5, 2, 1)))
    students, teachers = ([maps(2, c, 4, 2, seed=c), maps(2, c, 2, 1, seed=c + 1)] for c in (3, 5))
    expected = [naive(s, t, r) for s, t, r in zip(students, teachers, distiller.aligns, strict=True)]
    loss = distiller({'tap': students}, {'tap': teachers}, None)['loss_fitnet']
    assert loss.item() == pytest.approx(sum(expected), rel=1e-10)


def test_gradients_of_map_and_regressor_agree_with_differences():
    distiller = make(((3, 2, 2), (4, 2, 2)))
    student, teacher = maps(2, 3, 2, 2).requires_grad_(), maps(2, 4, 2, 2, seed=1)
    regressor = distiller.aligns[0]

    def loss(x, *_):
        return distiller({'tap': [x]}, {'tap': [teacher]}, None)['loss_fitnet']

    assert torch.autograd.gradcheck(loss, (student, regressor.weight, regressor.bias))


def test_the_regressor_stands_also_where_channels_agree():
    assert isinstance(make(((4, 2, 2), (4, 2, 2))).aligns[0], nn.Conv2d)
    assert isinstance(make(((4, 2, 2), (4, 2, 2)), align='auto').aligns[0], nn.Identity)


def test_the_regressors_output_is_resized_to_the_teachers_map():
    distiller = make(((3, 2, 2), (4, 4, 4)))
    student, teacher = maps(2, 3, 2, 2), maps(2, 4, 4, 4, seed=1)
    hint = nn.functional.interpolate(distiller.aligns[0](student), (4, 4), mode='bilinear', align_corners=False)
    loss = distiller({'tap': [student]}, {'tap': [teacher]}, None)['loss_fitnet']
    torch.testing.assert_close(loss, (hint - teacher).square().mean())


def test_halves_of_a_batch_average_to_the_whole():
    distiller = make(((3, 2, 2), (4, 2, 2)))
    student, teacher = maps(4, 3, 2, 2), maps(4, 4, 2, 2, seed=1)
    pairs = zip(student.split(2), teacher.split(2), strict=True)
    halves = [distiller({'tap': [s]}, {'tap': [t]}, None)['loss_fitnet'] for s, t in pairs]
    whole = distiller({'tap': [student]}, {'tap': [teacher]}, None)['loss_fitnet']
    torch.testing.assert_close(sum(halves) / 2, whole)
