"""Attention transfer: the shared case, other channels, a real detector and the errors."""

import pytest
import torch

from mmdistill_dense.distillers import AT
from mmdistill_dense.losses import attention_distance
from tests.distillers.case import DistillerCase
from tests.distillers.steps import detector_steps, trained_children, whole_and_mean_of_halves


class TestAT(DistillerCase):
    option = dict(type='AT')
    zero_on_identical = True


class TestSum(DistillerCase):
    option = dict(type='AT', student_tap='decode_head.conv_seg:input', reduction='sum', power=4.0)
    student = (2, 16, 4, 6)
    teacher = (2, 32, 8, 12)


def _set_up(shapes, **options):
    distiller = AT('a', **options)
    distiller.setup(*({'a': [torch.Size(shape)]} for shape in shapes))
    return distiller


def test_options_reach_the_formula_and_channels_are_never_mixed():
    distiller = _set_up([(1, 3, 4, 5), (1, 7, 4, 5)], power=3.0, reduction='sum')
    assert not list(distiller.parameters())
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 7, 4, 5)
    (loss,) = distiller({'a': [student]}, {'a': [teacher]}, None).values()
    torch.testing.assert_close(loss, attention_distance(student, teacher, power=3.0, reduction='sum'))


@pytest.mark.parametrize('reduction', ['mean', 'sum'])
def test_a_batch_is_the_mean_of_its_images(reduction):
    shapes = [(1, 5, 4, 4), (1, 8, 8, 8)]
    torch.testing.assert_close(*whole_and_mean_of_halves(_set_up(shapes, reduction=reduction), shapes))


def test_it_trains_a_real_detector():
    model, values = detector_steps(dict(type='AT', student_tap='neck', reduction='sum'))
    assert values[-1] < values[0]
    assert len(model.distillers['x'].levels) == 5
    assert trained_children(model) == {'backbone', 'neck'}


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(power=0.5), 'power must be >= 1, got 0.5'),
        (dict(reduction='max'), "reduction must be one of 'sum', 'mean', got 'max'"),
    ],
)
def test_errors(options, words):
    with pytest.raises(ValueError, match=words):
        AT(**options)
