"""FeatureMatch, and all other methods with a teacher that gives maps alone."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmdistill_dense.distillers import FeatureMatch, FitNet, QueueKL
from mmdistill_dense.distillers.feature_match import ChannelStatistics
from mmdistill_dense.losses import feature_match
from tests import toys
from tests.distillers.steps import dot, draw, loss_of, run, set_up
from tests.foundation.files import option

MASK = torch.tensor([[1, 1, 1, 1, 0, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]]).bool().view(2, 2, 5)
PARTS = pytest.mark.parametrize('inside', [None, MASK, torch.zeros_like(MASK)], ids=['all', 'some', 'none'])


def rows_of(inside, *maps):
    """Of each picture the vectors of all maps at the positions inside it, as plain numbers."""
    for number, pair in enumerate(zip(*maps, strict=True)):
        is_inside = torch.ones(pair[0][0].numel()).bool() if inside is None else inside[number].flatten()
        yield [x.flatten(1)[:, is_inside].t().tolist() for x in pair]


def mean(values):
    return sum(values) / len(values) if values else 0.0


# FeatureMatch


def match_naive(student, teacher, a, b, c, inside=None):
    """A position at a time."""
    pictures = []
    for rows in rows_of(inside, student, teacher):
        values = []
        for u, v in zip(*rows, strict=True):
            d = [abs(p - q) for p, q in zip(u, v, strict=True)]
            huber = mean([x * x / 2 if x < 1 else x - 0.5 for x in d])
            cosine = dot(u, v) / (math.hypot(*u) * math.hypot(*v)) if any(v) else 1  # no direction: no part
            values.append(a * (1 - cosine) + b * huber + c * mean([x * x for x in d]))
        pictures.append(mean(values))
    return mean(pictures)


@pytest.mark.parametrize('weights', [(0.5, 0.5, 0.0), (1.0, 0.0, 0.0), (0.2, 0.3, 0.7)])
@PARTS
def test_match_is_its_formula(weights, inside):
    student, teacher = 2 * draw(2, 3, 2, 5), draw(2, 3, 2, 5, seed=1)
    teacher[0, :, 0, 0] = 0
    options = dict(zip(('cosine', 'smooth_l1', 'mse'), weights, strict=True))
    actual = feature_match(student, teacher, **options, inside=inside)
    assert actual.item() == pytest.approx(match_naive(student, teacher, *weights, inside), rel=1e-12)


def match_of(**options):
    return set_up(FeatureMatch, [(3, 2, 3), (4, 4, 6)], **options)


def test_a_step_compares_with_the_standardised_map():
    student, teacher = draw(2, 3, 2, 3), 5 * draw(2, 4, 4, 6, seed=1) + 7
    made = match_of(cosine=0.3, mse=0.2)
    target = (teacher - teacher.mean((0, 2, 3))[:, None, None]) / teacher.std((0, 2, 3), correction=0)[:, None, None]
    aligned = F.interpolate(made.aligns[0](student), (4, 6), mode='bilinear')
    assert loss_of(made, student, teacher).item() == pytest.approx(
        match_naive(aligned, target, 0.3, 0.5, 0.2), rel=1e-9
    )
    made = match_of(resize='teacher', standardise=None)
    pooled = teacher.unflatten(3, (3, 2)).unflatten(2, (2, 2)).mean((3, 5))
    expected = match_naive(made.aligns[0](student), pooled, 0.5, 0.5, 0.0)
    assert loss_of(made, student, teacher).item() == pytest.approx(expected, rel=1e-9)


def test_statistics_are_of_all_positions_of_the_first_steps():
    made = match_of(steps=3)
    maps = [(step + 1) * draw(2, 4, 4, 6, seed=step) + 10 * step for step in range(5)]
    for step, teacher in enumerate(maps):
        made.train(step != 1)  # a step in evaluation leaves them
        loss_of(made, draw(2, 3, 2, 3), teacher)
        seen_maps = torch.stack([x for number, x in enumerate(maps[: step + 1]) if number != 1][:3])
        torch.testing.assert_close(made.parts[0].mean, seen_maps.mean((0, 1, 3, 4)))
        torch.testing.assert_close(made.parts[0].var, seen_maps.var((0, 1, 3, 4), correction=0))
    assert (made.parts[0].seen, made.parts[0].count) == (3, 3 * 2 * 4 * 6)


def test_a_channel_far_from_zero_keeps_its_digits():
    """DINOv3 has channels whose mean is a hundred times their deviation."""
    part = ChannelStatistics(1, 10)
    maps = [draw(4, 1, 16, 16, seed=seed) + 3e3 for seed in range(3)]
    for x in maps:
        part.update([x.float()], None)
    assert part.var.item() == pytest.approx(torch.cat(maps).var(correction=0).item(), rel=1e-4)
    part = ChannelStatistics(2, 1)
    x = torch.stack([torch.full((3, 3), 5.0), torch.arange(9.0).view(3, 3)])[None]
    part.update([x], None)
    assert torch.equal(part(x)[0, 0], torch.zeros(3, 3)) and part(x + 1)[0, 0, 0, 0].item() == pytest.approx(1e3)


def test_two_views_enter_the_statistics_as_one_step():
    made = match_of()
    students, teachers = ([draw(2, *size, seed=seed) for seed in range(2)] for size in ((3, 2, 3), (4, 4, 6)))
    made({'tap': students}, {'tap': teachers}, None)
    made.state.part = 'unlabelled'  # of the same step
    made({'tap': students[:1]}, {'tap': teachers[:1]}, None)
    both, part = torch.cat([*teachers, teachers[0]]), made.parts[0]
    assert int(part.seen) == 1
    torch.testing.assert_close((part.mean, part.var), (both.mean((0, 2, 3)), both.var((0, 2, 3), correction=0)))


# lightly-train's


# Losses of lightly-train's distillation methods, by ours, on the same tensors. The numbers come from the loss
# classes of lightly-train 0.18.0 (v1, v2 and v3 with temperatures of 0.07), run once in float64 under torch 2.13 on the
# tensors that are made here: projected, resized (bilinear) and normalised as its methods do. Nothing here is its code.
SQUARES = 0.9018471721562636
GLOBAL, GLOBAL_WRITTEN_ROWS = 7.025826581990008, 7.005538943416677


def wave(step, *shape):
    return torch.sin(step * torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)).view(shape)


STUDENT, TEACHER, BLOCK = wave(1.3, 2, 3, 2, 3), wave(1.9, 2, 5, 4, 6), wave(2.9, 2, 5, 4, 6)
FIRST, SECOND = wave(0.7, 5, 3), wave(0.9, 5, 3)  # projections


def project(convolution, weight):
    with torch.no_grad():
        convolution.weight.copy_(weight[:, :, None, None])
        convolution.bias.zero_()


@pytest.mark.parametrize(('init', 'expected'), [('zeros', GLOBAL), ('empty', GLOBAL_WRITTEN_ROWS)])
def test_published_versions_of_the_loss(init, expected):
    """Two steps, of 2 and 3 pictures; of the 12 rows of the queue 7 are empty."""
    queue_kl = set_up(QueueKL, ((6, 1, 1), (6,)), queue_size=12, queue_init=init, head=None)
    run(queue_kl, wave(0.3, 2, 6, 1, 1), wave(1.1, 2, 6))
    actual = run(queue_kl, wave(2.3, 3, 6)[:, :, None, None], wave(1.7, 3, 6))
    assert actual['loss_queue'].item() == pytest.approx(expected, rel=1e-6)


def test_v2_is_fitnet_with_two_taps():
    """Two blocks of the teacher, one projection each: half the sum of the means is the mean over both."""
    fitnet = FitNet([('tap', 0.5), ('tap', 0.5)], ['maps.0', 'maps.1'])
    shapes = {name: [torch.Size((1, *TEACHER.shape[1:]))] for name in ('maps.0', 'maps.1')}
    fitnet.setup({'tap': [torch.Size((1, *STUDENT.shape[1:]))]}, shapes)
    for convolution, weight in zip(fitnet.double().aligns, (FIRST, SECOND), strict=True):
        project(convolution, weight)
    actual = fitnet({'tap': [STUDENT]}, {'maps.0': [TEACHER], 'maps.1': [BLOCK]}, None)['loss_fitnet']
    assert actual.item() == pytest.approx(SQUARES, rel=1e-6)


# Segmentors and detectors


FOUNDATION = option()
QUEUE = dict(type='QueueKL', teacher_tap='cls', queue_size=4)
NEW = dict(
    match=dict(type='FeatureMatch'),
    blocks=dict(type='FeatureMatch', student_tap=['backbone[2]', 'backbone[3]'], teacher_tap=['maps.0', 'maps.1']),
    queue=QUEUE,
)
OTHERS = dict(
    mgd=dict(type='MGD', student_tap='backbone[3]'),
    pcd=dict(type='PCD', center=True, queue_size=8, queue_init='random'),
    skd=dict(type='SKD', student_tap='backbone[2]', patch_size=1),
    ifvd=dict(type='IFVD', student_tap='backbone[2]', num_classes=toys.NUM_CLASSES),
    afdcd=dict(type='AfDCD', student_tap='backbone[2]', resize='student', pool_size=0, groups=8),
)
DENSE = dict(
    match=NEW['match'],
    queue=dict(QUEUE, student_tap='neck[2]'),
    neck=dict(type='FeatureMatch', student_tap='neck[0]'),
    fgd=dict(type='FGD', student_tap='neck[1]', resize='student'),
)


@pytest.mark.parametrize('task', ['seg', 'det'])
def test_methods_that_compare_maps_reach_the_stem(task: str) -> None:
    net, methods = (toys.seg_net('fcn'), {**NEW, **OTHERS}) if task == 'seg' else (toys.det_net('gfl'), DENSE)
    on_map = {name: {'teacher_tap': 'map', **option} for name, option in methods.items()}
    model = toys.distilled(f'mm{task}', student=net, teacher=FOUNDATION, distillers=on_map)
    losses = toys.losses_of(model, toys.seg_batch() if task == 'seg' else toys.det_batch())
    stem = model.backbone.stem[0].weight if task == 'seg' else model.backbone.conv1.weight
    for name in model.distillers:
        loss = sum(value for key, value in losses.items() if key.startswith(f'distill.{name}.loss_'))
        (grad,) = torch.autograd.grad(loss, stem, retain_graph=True)
        assert loss.isfinite() and loss > 0 and grad.isfinite().all() and grad.abs().sum() > 0, name
    toys.total(losses).backward()
    assert all(parameter.grad is None for parameter in toys.teacher_of(model).network.parameters())
    assert not any('blocks' in name for name in model.state_dict())
