"""The losses of lightly-train's three distillation methods, by ours, on the same tensors.

The numbers come from the loss classes of lightly-train 0.18.0 (v1, v2 and v3 with temperatures of 0.07), run once in
float64 under torch 2.13 on the tensors that this file makes: projected, resized (bilinear) and normalised as its
methods do. Nothing of its code is here.
"""

import math

import pytest
import torch

from mmdistill_dense.distillers import FitNet, QueueKL, TokenRelations
from tests.distillers.steps import set_up

GLOBAL, GLOBAL_WRITTEN_ROWS, LOCAL, SQUARES = (
    7.025826581990008,
    7.005538943416677,
    11.120906053718654,
    0.9018471721562636,
)


def wave(step, *shape):
    return torch.sin(step * torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)).view(shape)


STUDENT, TEACHER, BLOCK = wave(1.3, 2, 3, 2, 3), wave(1.9, 2, 5, 4, 6), wave(2.9, 2, 5, 4, 6)
FIRST, SECOND = wave(0.7, 5, 3), wave(0.9, 5, 3)  # projections


def project(convolution, weight):
    with torch.no_grad():
        convolution.weight.copy_(weight[:, :, None, None])
        convolution.bias.zero_()


def test_the_local_term_of_v3():
    ours = set_up(TokenRelations, (STUDENT.shape[1:], TEACHER.shape[1:]))
    project(ours.aligns[0], FIRST)
    assert ours({'tap': [STUDENT]}, {'tap': [TEACHER]}, None)['loss_relations'].item() == pytest.approx(LOCAL, rel=1e-6)


@pytest.mark.parametrize(('init', 'expected'), [('zeros', GLOBAL), ('empty', GLOBAL_WRITTEN_ROWS)])
def test_v1_and_the_global_term_of_v3(init, expected):
    """Two steps, of 2 and 3 pictures; of the 12 rows of the queue 7 are empty."""
    ours = set_up(QueueKL, ((6, 1, 1), (6,)), queue_size=12, queue_init=init, head=None)
    ours({'tap': [wave(0.3, 2, 6, 1, 1)]}, {'tap': [wave(1.1, 2, 6)]}, None)
    found = ours({'tap': [wave(2.3, 3, 6)[:, :, None, None]]}, {'tap': [wave(1.7, 3, 6)]}, None)
    assert found['loss_queue'].item() == pytest.approx(expected, rel=1e-6)


def test_v2_is_fitnet_with_two_taps():
    """Two blocks of the teacher, one projection each: half the sum of the means is the mean over both."""
    ours = FitNet([('tap', 0.5), ('tap', 0.5)], ['maps.0', 'maps.1'])
    shapes = {name: [torch.Size((1, *TEACHER.shape[1:]))] for name in ('maps.0', 'maps.1')}
    ours.setup({'tap': [torch.Size((1, *STUDENT.shape[1:]))]}, shapes)
    for convolution, weight in zip(ours.double().aligns, (FIRST, SECOND), strict=True):
        project(convolution, weight)
    found = ours({'tap': [STUDENT]}, {'maps.0': [TEACHER], 'maps.1': [BLOCK]}, None)['loss_fitnet']
    assert found.item() == pytest.approx(SQUARES, rel=1e-6)
