"""Methods that hand maps or scores to one loss: which options reach it, and scores that do not compete."""

import statistics

import pytest
import torch
import torch.nn.functional as F

from mmdistill_dense import losses
from mmdistill_dense.distillers import AT, CWD, DIST, MGD, PKD, SKD, FitNet, LogitKD, RoIHeadKD
from tests import toys
from tests.distillers.steps import divergence, draw, set_up
from tests.distillers.test_pairs_that_cannot_be_compared import BINARY


def loss_of(distiller, student, teacher):
    (loss,) = distiller({'tap': student}, {'tap': teacher}, None).values()
    return loss


def released_nodes(student, teacher):
    return losses.pairwise_distance(*(F.max_pool2d(x, 4, ceil_mode=True) for x in (student, teacher)))


def standardised_channels(student, teacher):
    """By hand, over the batch and the positions, at the default temperature."""
    spread = [(x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt() for x in (student, teacher)]
    maps = [(x - x.mean((0, 2, 3), keepdim=True)) / s for x, s in zip((student, teacher), spread, strict=True)]
    return losses.channel_divergence(*maps, temperature=4.0)


@pytest.mark.parametrize(('kind', 'options', 'formula', 'of_formula'), [
    (AT, dict(power=3.0, reduction='sum'), losses.attention_distance, None),
    (CWD, {}, losses.channel_divergence, dict(temperature=4.0)),
    (CWD, dict(temperature=2.0), losses.channel_divergence, None),
    (CWD, dict(norm=True), standardised_channels, {}),
    (LogitKD, dict(temperature=4.0), losses.softmax_divergence, None),
    (LogitKD, dict(temperature=3.0, activation='sigmoid'), losses.sigmoid_divergence, dict(temperature=3.0)),
    (DIST, dict(temperature=3.0), losses.correlation_distance, None),
    (DIST, dict(beta=0.5, gamma=2.0), losses.correlation_distance, None),
    (DIST, dict(activation='sigmoid'), losses.correlation_distance, None),
    (PKD, {}, losses.standardized_mse, None),
    (SKD, dict(patch_size=4), released_nodes, {}),
    (FitNet, dict(align='none'), F.mse_loss, {}),
])  # fmt: skip
def test_options_reach_the_formula(kind, options, formula, of_formula):
    distiller = set_up(kind, [(3, 4, 5)] * 2, **options)
    assert not list(distiller.parameters())
    student, teacher = draw(2, 3, 4, 5), draw(2, 3, 4, 5, seed=1)
    expected = formula(student, teacher, **(options if of_formula is None else of_formula))
    torch.testing.assert_close(loss_of(distiller, [student], [teacher]), expected)


@pytest.mark.parametrize(('kind', 'options', 'names'), [
    (CWD, {}, {3: ['weight'], 5: []}),
    (FitNet, {}, {3: ['weight', 'bias'], 5: ['weight', 'bias']}),
    (FitNet, dict(align='auto'), {3: ['weight', 'bias'], 5: []}),
    (MGD, {}, {3: ['weight', 'bias'], 5: []}),
])  # fmt: skip
def test_the_alignment(kind, options, names):
    for channels, expected in names.items():
        distiller = set_up(kind, [(channels, 4, 4), (5, 4, 4)], **options)
        assert [name for name, _ in distiller.aligns[0].named_parameters()] == expected


@pytest.mark.parametrize(('options', 'size', 'nodes'), [
    ({}, (8, 12), (4, 6)),
    (dict(patch_size=2), (5, 6), (3, 3)),  # a last incomplete patch is a node
    (dict(patch_size=3), (2, 9), (1, 3)),  # a patch no larger than the map
    (dict(patch_size=1), (5, 6), (5, 6)),
    (dict(pool_scale=0.5), (8, 12), (2, 2)),
    (dict(pool_scale=0.5), (5, 12), (3, 2)),
    (dict(pool_scale=1.0), (8, 12), (1, 1)),
    (dict(pool_scale=0.1), (5, 20), (5, 10)),  # never less than a position
])  # fmt: skip
def test_nodes_of_skd_are_the_largest_values_of_patches(options, size, nodes):
    x = torch.randn(2, 3, *size)
    pooled = SKD(**options).nodes(x)
    assert pooled.shape == (2, 3, *nodes) and pooled.amax() == x.amax()


@pytest.mark.parametrize('kind', [LogitKD, DIST])
@pytest.mark.parametrize('resize', ['default', 'teacher'])
def test_scores_of_another_stride_are_resized_the_students_unless_told_otherwise(kind, resize):
    """A transformer of stride 4 teaches a network of stride 8."""
    options = {} if resize == 'default' else dict(resize=resize)
    student, teacher = draw(2, 3, 4, 4), draw(2, 3, 8, 8, seed=1)
    distiller = set_up(kind, [(3, 4, 4), (3, 8, 8)], **options)
    size = (4, 4) if resize == 'teacher' else (8, 8)
    resized = [F.interpolate(x, size, mode='bilinear', align_corners=False) for x in (student, teacher)]
    (expected,) = kind('a').loss(*resized, 0).values()
    assert torch.equal(loss_of(distiller, [student], [teacher]), expected)


def test_a_binary_head_is_distilled_by_its_sigmoid():
    distillers = dict(
        kd=dict(type='LogitKD', activation='sigmoid'), dist=dict(type='DIST', activation='sigmoid', beta=0)
    )
    model = toys.distilled(student=BINARY[0], teacher=BINARY[1], distillers=distillers)
    batch = toys.seg_batch()
    for sample in batch['data_samples']:
        sample.gt_sem_seg.data = (sample.gt_sem_seg.data > 2).long()
    found = toys.losses_of(model, batch)
    for name in ('kd', 'dist'):
        weight = model.decode_head.conv_seg.weight
        (grad,) = torch.autograd.grad(found[f'distill.{name}.loss_{name}'], [weight], retain_graph=True)
        assert grad.any(), name


# Standardised scores


def standard(student, teacher, temperature=2.0):
    return losses.softmax_divergence(*map(losses.standardised, (student, teacher)), temperature=temperature)


def naive_standard(student, teacher, temperature):
    """One row in plain numbers."""
    rows = [[(value - statistics.fmean(row)) / (statistics.stdev(row) + 1e-7) for value in row]
            for row in (student, teacher)]  # fmt: skip
    return temperature**2 * divergence(*rows, temperature)


def test_standardised_scores_give_the_example_of_the_paper_and_a_naive_loop():
    assert naive_standard([2, -1, 0.5], [10, 1, 4], 2.0) == pytest.approx(0.010465, abs=1e-6)
    kd = set_up(LogitKD, [(4, 2, 3), (4, 2, 3)], temperature=3.0, standardise=True)
    student, teacher = draw(2, 4, 2, 3), 5 * draw(2, 4, 2, 3, seed=1) + 100
    rows = [x.movedim(1, -1).reshape(-1, 4).tolist() for x in (student, teacher)]
    expected = sum(naive_standard(s, t, 3.0) for s, t in zip(*rows, strict=True)) / 12
    assert float(loss_of(kd, [student], [teacher])) == pytest.approx(expected, rel=1e-9)
    assert torch.autograd.gradcheck(lambda x: standard(x, teacher[:1]), student[:1].requires_grad_())


def test_equal_scores_get_no_gradient():
    student = torch.cat([torch.full((1, 4), 0.3), draw(1, 4).float()]).requires_grad_()
    standard(student, draw(2, 4, seed=1).float()).backward()
    assert not student.grad[0].any() and student.grad[1].any()


def test_two_classes_of_a_box_head_are_refused():
    roi = RoIHeadKD('x', output='cls_score', form='softmax', standardise=True)
    with pytest.raises(ValueError, match='with 2 classes, standardised scores are constants'):
        roi.setup({'x': [torch.Size((1, 2))]}, {})


def test_a_box_head_compares_standardised_rows():
    student, teacher = draw(5, 4), 3 * draw(5, 4, seed=1)
    roi = RoIHeadKD('x', output='cls_score', form='softmax', standardise=True, temperature=2.0)
    roi.answer = lambda features, rois: teacher
    found = roi({'x': [student], roi.rois: [torch.zeros(5, 5)]}, {'neck': []}, None)['loss_roi']
    torch.testing.assert_close(found, standard(student, teacher))
