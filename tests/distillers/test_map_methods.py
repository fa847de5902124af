"""FeatureMatch, and all other methods with a teacher that gives maps alone."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmdistill_dense.distillers import FeatureMatch, QueueKL
from mmdistill_dense.distillers.feature_match import ChannelStatistics
from mmdistill_dense.losses import feature_match
from tests.distillers.steps import dot, draw, loss_of, run, set_up

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


# lightly-train's


# Losses of lightly-train's distillation methods, by ours, on the same tensors. The numbers come from the loss
# classes of lightly-train 0.18.0 (v1, v2 and v3 with temperatures of 0.07), run once in float64 under torch 2.13 on the
# tensors that are made here: projected, resized (bilinear) and normalised as its methods do. Nothing here is its code.
GLOBAL, GLOBAL_WRITTEN_ROWS = 7.025826581990008, 7.005538943416677


def wave(step, *shape):
    return torch.sin(step * torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)).view(shape)


@pytest.mark.parametrize(('init', 'expected'), [('zeros', GLOBAL), ('empty', GLOBAL_WRITTEN_ROWS)])
def test_published_versions_of_the_loss(init, expected):
    """Two steps, of 2 and 3 pictures; of the 12 rows of the queue 7 are empty."""
    queue_kl = set_up(QueueKL, ((6, 1, 1), (6,)), queue_size=12, queue_init=init, head=None)
    run(queue_kl, wave(0.3, 2, 6, 1, 1), wave(1.1, 2, 6))
    actual = run(queue_kl, wave(2.3, 3, 6)[:, :, None, None], wave(1.7, 3, 6))
    assert actual['loss_queue'].item() == pytest.approx(expected, rel=1e-6)
