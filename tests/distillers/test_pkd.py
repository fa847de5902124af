"""PKD: sums over levels, real networks, and what its statistics are taken over."""

import doctest

import pytest
import torch

from mmdistill_dense.distillers import PKD, pkd
from tests import toys
from tests.distillers.case import DistillerCase


class TestPKD(DistillerCase):
    option = dict(type='PKD', student_tap='decode_head.conv_seg')
    student = teacher = (2, 7, 8, 8)
    zero_on_identical = True


class TestOtherWidths(DistillerCase):
    option = dict(type='PKD', student_tap='backbone[3]')


def _correlation(student, teacher):
    """Pearson's of a channel, by torch."""
    return torch.corrcoef(torch.stack([student.flatten(), teacher.flatten()]))[0, 1]


def _levels(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, *size, generator=generator, dtype=torch.float64) for size in sizes]


def test_levels_are_summed_means_over_channels():
    sizes = (8, 8), (4, 4), (1, 1)  # one position each picture, compared over the batch
    students, teachers = _levels(*sizes), _levels(*sizes, seed=1)
    distiller = PKD('neck')
    shapes = {'neck': [torch.Size((1, *x.shape[1:])) for x in students]}
    distiller.setup(shapes, shapes)
    assert not list(distiller.parameters())
    expected = 0
    for s, t in zip(students, teachers, strict=True):
        n = s[:, 0].numel()
        expected += sum(1 - _correlation(s[:, c], t[:, c]) for c in range(3)) / 3 * (n - 1) / n
    loss = distiller({'neck': students}, {'neck': teachers}, None)['loss_pkd']
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


def test_other_sizes_are_resized_to_the_teachers():
    (student,), (teacher,) = _levels((4, 4)), _levels((8, 8), seed=1)
    distiller = PKD('neck')
    distiller.setup(*({'neck': [torch.Size((1, *x.shape[1:]))]} for x in (student, teacher)))
    resized = torch.nn.functional.interpolate(student, (8, 8), mode='bilinear')
    loss = distiller({'neck': [student]}, {'neck': [teacher]}, None)['loss_pkd']
    torch.testing.assert_close(loss, distiller.loss(resized, teacher, 0)['loss_pkd'])


def test_statistics_are_of_the_whole_batch_of_the_process():
    """A picture that is brighter on both sides correlates with the others: halves of a batch are not its mean."""
    (student,), (teacher,) = _levels((8, 8)), _levels((8, 8), seed=1)
    offset = torch.tensor([0.0, 20.0], dtype=torch.float64)[:, None, None, None]
    loss = PKD().loss
    apart = [loss(student[i : i + 1], teacher[i : i + 1], 0)['loss_pkd'].item() for i in (0, 1)]
    together = loss(student + offset, teacher + offset, 0)['loss_pkd'].item()
    assert together < 0.1 < min(apart)


@pytest.mark.parametrize(('kind', 'levels'), [('retinanet', 4), ('faster_rcnn', 4)])
def test_a_step_of_a_detector(kind, levels):
    option = dict(pkd=dict(type='PKD', loss_weight=10))
    config = toys.model_config(toys.det_net(kind), toys.det_teacher(kind), option)
    model = toys.ready(toys.build(config, scope='mmdet'))
    assert len(model.distillers['pkd'].levels) == levels
    losses = toys.losses_of(model, toys.det_batch())
    value = losses['distill.pkd.loss_pkd']
    assert 0 < value < 10 * 2 * levels
    value.backward()
    trained = {name.split('.')[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained == {'backbone', 'neck', 'distillers'}


def test_example():
    assert doctest.testmod(pkd).failed == 0
