"""Channel-wise distillation: the shared case, its alignment, a real detector and the errors."""

import pytest
import torch

from mmdistill_dense.distillers import CWD
from mmdistill_dense.losses import channel_divergence
from tests.distillers.case import DistillerCase
from tests.distillers.steps import detector_steps, trained_children, whole_and_mean_of_halves

FEATURES = 'decode_head.conv_seg:input'


class TestScores(DistillerCase):
    option = dict(type='CWD')
    student = teacher = (2, 5, 6, 7)
    zero_on_identical = True


class TestFeatures(DistillerCase):
    option = dict(type='CWD', student_tap=FEATURES)


class TestLastStage(DistillerCase):
    option = dict(type='CWD', student_tap='backbone[3]', temperature=1.0)
    student = (2, 64, 4, 4)
    teacher = (2, 128, 8, 8)


def test_the_published_temperature_and_place_are_the_defaults():
    distiller = CWD()
    assert [str(tap) for tap in distiller.student_taps] == ['decode_head.conv_seg']
    student, teacher = torch.randn(2, 2, 3, 4, 5)
    (loss,) = distiller.loss(student, teacher, 0).values()
    torch.testing.assert_close(loss, channel_divergence(student, teacher, temperature=4.0))


def test_the_alignment_has_no_bias_and_equal_channels_have_no_alignment():
    for channels, names in ((3, ['aligns.0.weight']), (5, [])):
        distiller = CWD('a')
        distiller.setup({'a': [torch.Size((1, channels, 4, 4))]}, {'a': [torch.Size((1, 5, 4, 4))]})
        assert [name for name, _ in distiller.named_parameters()] == names


@pytest.mark.parametrize('channels', [5, 8])
def test_a_batch_is_the_mean_of_its_images(channels):
    shapes = [(1, 5, 4, 4), (1, channels, 8, 8)]
    distiller = CWD('a')
    distiller.setup(*({'a': [torch.Size(shape)]} for shape in shapes))
    torch.testing.assert_close(*whole_and_mean_of_halves(distiller, shapes))


@pytest.mark.parametrize(('tap', 'levels'), [('neck[:4]', 4), ('bbox_head.retina_cls', 5)])
def test_it_trains_a_real_detector(tap, levels):
    model, values = detector_steps(dict(type='CWD', student_tap=tap, temperature=1.0, loss_weight=5.0))
    assert values[-1] < values[0]
    assert len(model.distillers['x'].levels) == levels
    assert trained_children(model) == {'backbone', 'neck'} | ({'bbox_head'} if 'head' in tap else set())


@pytest.mark.parametrize('temperature', [0, -1.0])
def test_errors(temperature):
    with pytest.raises(ValueError, match=f'temperature must be > 0, got {temperature}'):
        CWD(temperature=temperature)
