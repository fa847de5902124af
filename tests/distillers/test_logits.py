"""Logit distillation: the shared case, an independent formula and the errors."""

import math

import pytest
import torch
from torch.nn import functional as F

from mmdistill_dense.distillers import DIST, LogitKD
from tests import toys
from tests.distillers.case import DistillerCase


class TestSoftmax(DistillerCase):
    option = dict(type='LogitKD', temperature=2.0)
    student = teacher = (2, 5, 6, 7)
    zero_on_identical = True


class TestSigmoid(DistillerCase):
    option = dict(type='LogitKD', student_tap='decode_head', activation='sigmoid')
    student = teacher = (2, 5, 6, 7)
    zero_on_identical = True


def maps(classes=3):
    generator = torch.Generator().manual_seed(0)
    return [2 * torch.randn(2, classes, 3, 2, generator=generator, dtype=torch.float64) for _ in range(2)]


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_softmax_formula(temperature):
    student, teacher = maps()
    total = 0.0
    for b in range(2):
        for y in range(3):
            for x in range(2):
                s, t = ([v / temperature for v in m[b, :, y, x].tolist()] for m in (student, teacher))
                ps, pt = ([math.exp(v) / sum(map(math.exp, m)) for v in m] for m in (s, t))
                total += sum(p * math.log(p / q) for p, q in zip(pt, ps, strict=True))
    expected = temperature**2 * total / 12
    (loss,) = LogitKD(temperature=temperature).loss(student, teacher, 0).values()
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('temperature', [1.0, 3.0])
def test_sigmoid_formula(temperature):
    student, teacher = maps()
    total = 0.0
    for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True):
        q, p = (1 / (1 + math.exp(-v / temperature)) for v in (s, t))
        total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    expected = temperature**2 * total / 12
    (loss,) = LogitKD(temperature=temperature, activation='sigmoid').loss(student, teacher, 0).values()
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_default_taps_and_weights_per_tap():
    assert str(LogitKD().student_taps[0]) == 'decode_head.conv_seg' == str(LogitKD().teacher_taps[0])
    weighted = dict(type='LogitKD', student_tap=['decode_head', ('auxiliary_head', 0.4)])
    options = dict(
        both=weighted,
        main=dict(type='LogitKD', student_tap='decode_head'),
        auxiliary=dict(type='LogitKD', student_tap='auxiliary_head'),
    )
    losses = toys.losses_of(toys.distilled(teacher=toys.seg_teacher(), distillers=options))
    both, main, auxiliary = (losses[f'distill.{name}.loss_kd'] for name in options)
    torch.testing.assert_close(both, main + 0.4 * auxiliary)
    assert auxiliary > 0


@pytest.mark.parametrize('kind', [LogitKD, DIST])
@pytest.mark.parametrize('resize', [None, 'student', 'teacher'])
def test_scores_of_another_stride_are_resized_the_students_unless_told_otherwise(kind, resize):
    """A transformer of stride 4 teaches a network of stride 8."""
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 4, generator=draw), torch.randn(2, 3, 8, 8, generator=draw)
    sizes = {'student': (8, 8), 'teacher': (4, 4)}
    distiller = kind('a', **({} if resize is None else dict(resize=resize)))
    distiller.setup({'a': [torch.Size((1, 3, 4, 4))]}, {'a': [torch.Size((1, 3, 8, 8))]})
    assert not list(distiller.parameters())
    (loss,) = distiller({'a': [student]}, {'a': [teacher]}, None).values()
    size = sizes[resize or 'student']
    resized = [F.interpolate(x, size, mode='bilinear', align_corners=False) for x in (student, teacher)]
    (expected,) = kind('a').loss(*resized, 0).values()
    assert torch.equal(loss, expected)


@pytest.mark.parametrize('kind', [LogitKD, DIST])
def test_without_resizing_another_stride_is_refused(kind):
    shapes = ({'a': [torch.Size((1, 3, size, size))]} for size in (4, 8))
    with pytest.raises(ValueError, match=r"resize='student' or resize='teacher'"):
        kind('a', resize=None).setup(*shapes)


def test_other_classes_are_refused_at_construction():
    teacher = toys.seg_teacher(decode_head=dict(num_classes=4))
    with pytest.raises(ValueError) as error:
        toys.build(toys.model_config(teacher=teacher))
    message = str(error.value)
    assert f'distillers.kd: decode_head.conv_seg -> decode_head.conv_seg (level 0) has {toys.NUM_CLASSES}' in message
    assert 'class scores of the student and 4 of the teacher' in message


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(temperature=0), 'temperature must be > 0, got 0'),
        (dict(activation='tanh'), "activation must be one of 'softmax', 'sigmoid', got 'tanh'"),
    ],
)
def test_errors(options, words):
    with pytest.raises(ValueError, match=words):
        LogitKD(**options)


def binary(**options):
    """A segmentor with one channel of scores for two classes."""
    loss = dict(type='CrossEntropyLoss', use_sigmoid=True)
    head = dict(num_classes=2, out_channels=1, threshold=0.5, loss_decode=loss)
    return toys.seg_net('fcn', decode_head=head, auxiliary_head=head, **options)


@pytest.mark.parametrize(
    ('option', 'way_out'),
    [
        (dict(type='LogitKD'), "distillers.x.activation='sigmoid'"),
        (dict(type='DIST'), "distillers.x.activation='sigmoid' and distillers.x.beta=0"),
        (dict(type='DIST', activation='sigmoid'), 'distillers.x.beta=0'),
        (dict(type='HeadOutputKD', student_tap='decode_head.conv_seg', form='softmax'), "distillers.x.form='sigmoid'"),
    ],
)
def test_a_softmax_over_the_one_channel_of_a_binary_head_is_refused(option, way_out):
    """It is always 1: training would go on for hours with a loss of 0."""
    with pytest.raises(ValueError, match=r'distillers\.x: decode_head\.conv_seg.* has one class score') as error:
        toys.distilled(student=binary(), teacher=binary(width=16, allow_random=True), distillers=dict(x=option))
    assert way_out in str(error.value)


def test_a_binary_head_is_distilled_by_its_sigmoid():
    distillers = dict(
        kd=dict(type='LogitKD', activation='sigmoid'), dist=dict(type='DIST', activation='sigmoid', beta=0)
    )
    model = toys.distilled(student=binary(), teacher=binary(width=16, allow_random=True), distillers=distillers)
    batch = toys.seg_batch()
    for sample in batch['data_samples']:
        sample.gt_sem_seg.data = (sample.gt_sem_seg.data > 2).long()
    found = toys.losses_of(model, batch)
    for name in ('kd', 'dist'):
        (grad,) = torch.autograd.grad(
            found[f'distill.{name}.loss_{name}'], [model.decode_head.conv_seg.weight], retain_graph=True
        )
        assert grad.any(), name
