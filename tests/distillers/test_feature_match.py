"""FeatureMatch against its formula; its statistics over steps, views and padded batches."""

import math
from types import SimpleNamespace

import pytest
import torch

from mmdistill_dense.distillers import FeatureMatch
from mmdistill_dense.distillers.feature_match import ChannelStatistics
from mmdistill_dense.losses import feature_match
from tests.distillers.case import DistillerCase

DOUBLE = torch.float64


class TestFeatureMatch(DistillerCase):
    rounding = 0.02
    option = dict(type='FeatureMatch')


class TestTokens(DistillerCase):
    rounding = 0.02
    option = dict(type='FeatureMatch', standardise='token', smooth_l1=0.0, mse=0.5, resize='teacher')
    teacher = (2, 128, 5, 3)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def distiller(shapes=((3, 2, 3), (4, 4, 6)), **options):
    torch.manual_seed(0)
    made = FeatureMatch('tap', **options)
    made.setup(*({'tap': [torch.Size((1, *shape))]} for shape in shapes))
    return made.double()


def samples(*shapes, batch=(32, 48)):
    return [SimpleNamespace(metainfo=dict(img_shape=shape, batch_input_shape=batch)) for shape in shapes]


def naive(student, teacher, a, b, c, kept=None):
    """Plain arithmetic, a position at a time."""
    pictures = []
    for number, (s, t) in enumerate(zip(student, teacher, strict=True)):
        values = []
        for y, x in ((y, x) for y in range(s.shape[1]) for x in range(s.shape[2])):
            if kept is not None and not kept[number][y][x]:
                continue
            u, v = s[:, y, x].tolist(), t[:, y, x].tolist()
            cos = sum(p * q for p, q in zip(u, v, strict=True)) / math.hypot(*u) / math.hypot(*v)
            d = [abs(p - q) for p, q in zip(u, v, strict=True)]
            huber = sum(x * x / 2 if x < 1 else x - 0.5 for x in d) / len(d)
            values.append(a * (1 - cos) + b * huber + c * sum(x * x for x in d) / len(d))
        pictures.append(sum(values) / len(values))
    return sum(pictures) / len(pictures)


@pytest.mark.parametrize('weights', [(0.5, 0.5, 0.0), (1.0, 0.0, 0.0), (0.2, 0.3, 0.7)])
@pytest.mark.parametrize('part', [False, True])
def test_loss_is_its_formula(weights, part):
    student, teacher = 2 * draw(2, 3, 4, 5), draw(2, 3, 4, 5, seed=1)
    inside = torch.zeros(2, 4, 5, dtype=torch.bool)
    inside[0, :3, :2] = inside[1, :1] = True
    found = feature_match(student, teacher, **dict(zip(('cosine', 'smooth_l1', 'mse'), weights, strict=True)),
                          inside=inside if part else None)  # fmt: skip
    assert found.item() == pytest.approx(
        naive(student, teacher, *weights, inside.tolist() if part else None), rel=1e-12
    )


def test_gradcheck():
    student, teacher = draw(2, 3, 2, 2).requires_grad_(), draw(2, 3, 2, 2, seed=1)
    inside = torch.tensor([[[1, 1], [0, 1]], [[1, 0], [0, 0]]]).bool()
    assert torch.autograd.gradcheck(lambda x: feature_match(x, teacher, mse=0.3, inside=inside), student)


def test_a_step_is_the_formula_with_the_standardised_map():
    made = distiller(cosine=0.3, mse=0.2)
    student, teacher = draw(2, 3, 2, 3), 5 * draw(2, 4, 4, 6, seed=1) + 7
    mean, std = teacher.mean((0, 2, 3)), teacher.std((0, 2, 3), correction=0)
    target = (teacher - mean[:, None, None]) / std[:, None, None]
    aligned = torch.nn.functional.interpolate(made.aligns[0](student), (4, 6), mode='bilinear')
    found = made({'tap': [student]}, {'tap': [teacher]}, None)['loss_match']
    assert found.item() == pytest.approx(naive(aligned, target, 0.3, 0.5, 0.2), rel=1e-9)


def test_a_map_that_shrinks_is_averaged():
    made = distiller(((3, 2, 3), (4, 4, 6)), resize='teacher', standardise=None)
    student, teacher = draw(2, 3, 2, 3), draw(2, 4, 4, 6, seed=1)
    pooled = teacher.unflatten(3, (3, 2)).unflatten(2, (2, 2)).mean((3, 5))
    found = made({'tap': [student]}, {'tap': [teacher]}, None)['loss_match']
    assert found.item() == pytest.approx(naive(made.aligns[0](student), pooled, 0.5, 0.5, 0.0), rel=1e-9)


def test_statistics_are_of_all_positions_of_the_first_steps():
    made = distiller(steps=3)
    maps = [(step + 1) * draw(2, 4, 4, 6, seed=step) + 10 * step for step in range(5)]
    for step, teacher in enumerate(maps):
        made.train(step != 1)  # a step in evaluation leaves them
        made({'tap': [draw(2, 3, 2, 3)]}, {'tap': [teacher]}, None)
        seen = torch.stack([x for number, x in enumerate(maps[: step + 1]) if number != 1][:3])
        torch.testing.assert_close(made.parts[0].mean, seen.mean((0, 1, 3, 4)))
        torch.testing.assert_close(made.parts[0].var, seen.var((0, 1, 3, 4), correction=0))
    assert (made.parts[0].seen, made.parts[0].count) == (3, 3 * 2 * 4 * 6)


def test_a_channel_far_from_zero_keeps_its_digits():
    """DINOv3 has channels whose mean is a hundred times their deviation."""
    part = ChannelStatistics(1, 10)
    maps = [draw(4, 1, 16, 16, seed=seed) + 3e3 for seed in range(3)]
    for x in maps:
        part.update([x.float()], None)
    assert part.var.item() == pytest.approx(torch.cat(maps).var(correction=0).item(), rel=1e-4)


def test_a_constant_channel_is_divided_by_a_thousandth():
    part = ChannelStatistics(2, 1)
    x = torch.stack([torch.full((3, 3), 5.0), torch.arange(9.0).view(3, 3)])[None]
    part.update([x], None)
    assert torch.equal(part(x)[0, 0], torch.zeros(3, 3)) and part(x + 1)[0, 0, 0, 0].item() == pytest.approx(1e3)


def test_padding_takes_no_part():
    """A padded batch is its cropped pictures: loss, gradient and statistics."""
    padded, alone = distiller(), distiller()
    student, teacher = draw(2, 3, 4, 6), draw(2, 4, 4, 6, seed=1)
    cropped = slice(None), slice(None), slice(3), slice(2)  # 24 x 16 of 32 x 48, cells of 8
    student.requires_grad_()
    both = samples((32, 48), (24, 16))
    loss = padded({'tap': [student]}, {'tap': [teacher]}, both)['loss_match']
    rows = torch.cat([teacher[0].flatten(1), teacher[1:][cropped][0].flatten(1)], 1)
    torch.testing.assert_close(padded.parts[0].mean, rows.mean(1))
    torch.testing.assert_close(padded.parts[0].var, rows.var(1, correction=0))
    alone.load_state_dict(padded.state_dict())
    pictures = [(student[:1], teacher[:1]), (student[1:][cropped], teacher[1:][cropped])]
    apart = [alone.eval()({'tap': [s]}, {'tap': [t]}, None)['loss_match'] for s, t in pictures]
    expected = torch.stack(apart).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert not student.grad[1, :, 3:].any() and not student.grad[1, :, :, 2:].any() and student.grad[1].any()


def test_statistics_of_a_checkpoint_go_on():
    first = distiller(steps=3)
    maps = [draw(2, 4, 4, 6, seed=step) for step in range(4)]
    for teacher in maps[:2]:
        first({'tap': [draw(2, 3, 2, 3)]}, {'tap': [teacher]}, None)
    second = distiller(steps=3)
    second({'tap': [draw(2, 3, 2, 3)]}, {'tap': [maps[3]]}, None)  # has counted its own step
    second.load_state_dict(first.state_dict())
    losses = [[made({'tap': [draw(2, 3, 2, 3)]}, {'tap': [teacher]}, None)['loss_match'] for teacher in maps[2:]]
              for made in (first, second)]  # fmt: skip
    assert torch.equal(*(torch.stack(found) for found in losses))
    states = [made.state_dict() for made in (first, second)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_broken_map_does_not_stay_in_the_statistics():
    made, teacher = distiller(), draw(2, 4, 4, 6)
    for x in (teacher, teacher * float('nan'), teacher):
        loss = made({'tap': [draw(2, 3, 2, 3)]}, {'tap': [x]}, None)['loss_match']
    assert loss.isfinite()
    torch.testing.assert_close(made.parts[0].mean, teacher.mean((0, 2, 3)))


def test_statistics_stay_exact_in_a_half_model():
    made = distiller().float().half()
    assert made.parts[0].var.dtype == made.parts[0].mean.dtype == torch.float32


def test_wrong_options_are_named():
    for options, words in [
        (dict(standardise='layer'), "standardise must be one of 'channel', 'token' or None, got 'layer'"),
        (dict(cosine=0, smooth_l1=0), 'cosine, smooth_l1, mse must be >= 0 and not all 0'),
        (dict(steps=0), 'steps must be a whole number >= 1'),
    ]:
        with pytest.raises(ValueError, match=words):
            FeatureMatch(**options)
    with pytest.raises(ValueError, match='maps of one channel'):
        distiller(((3, 2, 3), (1, 4, 6)), smooth_l1=0.0)
