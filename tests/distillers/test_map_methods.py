"""Methods for teachers that give maps alone against their formulas: FeatureMatch, TokenRelations, QueryMatch."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmdistill_dense.distillers import FeatureMatch, QueryMatch, TokenRelations
from mmdistill_dense.distillers.feature_match import ChannelStatistics
from mmdistill_dense.losses import feature_match, query_match, token_relations
from tests.distillers.steps import divergence, dot, draw, set_up

MASK = torch.tensor([[1, 1, 1, 1, 0, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]]).bool().view(2, 2, 5)
PARTS = pytest.mark.parametrize('inside', [None, MASK, torch.zeros_like(MASK)], ids=['all', 'some', 'none'])


def rows_of(inside, *maps):
    """Of each picture the vectors of all maps at the positions inside it, as plain numbers."""
    for number, pair in enumerate(zip(*maps, strict=True)):
        kept = torch.ones(pair[0][0].numel()).bool() if inside is None else inside[number].flatten()
        yield [x.flatten(1)[:, kept].t().tolist() for x in pair]


def mean(values):
    return sum(values) / len(values) if values else 0.0


def run(made, student, teacher):
    (loss,) = made({'tap': [student]}, {'tap': [teacher]}, None).values()
    return loss


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
    found = feature_match(student, teacher, **options, inside=inside)
    assert found.item() == pytest.approx(match_naive(student, teacher, *weights, inside), rel=1e-12)


def match_of(**options):
    return set_up(FeatureMatch, [(3, 2, 3), (4, 4, 6)], **options)


def test_a_step_compares_with_the_standardised_map_and_a_map_that_shrinks_is_averaged():
    student, teacher = draw(2, 3, 2, 3), 5 * draw(2, 4, 4, 6, seed=1) + 7
    made = match_of(cosine=0.3, mse=0.2)
    target = (teacher - teacher.mean((0, 2, 3))[:, None, None]) / teacher.std((0, 2, 3), correction=0)[:, None, None]
    aligned = F.interpolate(made.aligns[0](student), (4, 6), mode='bilinear')
    assert run(made, student, teacher).item() == pytest.approx(match_naive(aligned, target, 0.3, 0.5, 0.2), rel=1e-9)
    made = match_of(resize='teacher', standardise=None)
    pooled = teacher.unflatten(3, (3, 2)).unflatten(2, (2, 2)).mean((3, 5))
    expected = match_naive(made.aligns[0](student), pooled, 0.5, 0.5, 0.0)
    assert run(made, student, teacher).item() == pytest.approx(expected, rel=1e-9)


def test_statistics_are_of_all_positions_of_the_first_steps():
    made = match_of(steps=3)
    maps = [(step + 1) * draw(2, 4, 4, 6, seed=step) + 10 * step for step in range(5)]
    for step, teacher in enumerate(maps):
        made.train(step != 1)  # a step in evaluation leaves them
        run(made, draw(2, 3, 2, 3), teacher)
        seen = torch.stack([x for number, x in enumerate(maps[: step + 1]) if number != 1][:3])
        torch.testing.assert_close(made.parts[0].mean, seen.mean((0, 1, 3, 4)))
        torch.testing.assert_close(made.parts[0].var, seen.var((0, 1, 3, 4), correction=0))
    assert (made.parts[0].seen, made.parts[0].count) == (3, 3 * 2 * 4 * 6)


def test_a_channel_far_from_zero_keeps_its_digits_and_a_constant_one_is_divided_by_a_thousandth():
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


# TokenRelations


def relations_naive(student, teacher, tau, diagonal=True, chosen=None, inside=None):
    """A similarity at a time; ``chosen`` are the numbers of rows among all positions."""
    pictures = []
    numbers = torch.arange(student[0, 0].numel()).view(1, 1, *student.shape[2:]).expand(len(student), -1, -1, -1)
    for s, t, own in rows_of(inside, student, teacher, numbers):
        values = []
        for m, (number,) in enumerate(own):
            columns = [n for n in range(len(own)) if diagonal or n != m]
            scores = ([dot(x[m], x[n]) / math.hypot(*x[m]) / math.hypot(*x[n]) for n in columns] for x in (s, t))
            if chosen is None or number in chosen:
                values.append(divergence(*scores, tau))
        pictures.append(mean(values))
    return mean(pictures)


@pytest.mark.parametrize('diagonal', [True, False])
@pytest.mark.parametrize('rows', [None, [0, 3, 8]])
@PARTS
def test_relations_are_their_formula(diagonal, rows, inside):
    student, teacher = draw(2, 3, 2, 5), draw(2, 4, 2, 5, seed=1)
    options = dict(diagonal=diagonal, rows=None if rows is None else torch.tensor(rows), inside=inside)
    found = token_relations(student, teacher, temperature=0.3, **options)
    assert found.item() == pytest.approx(relations_naive(student, teacher, 0.3, diagonal, rows, inside), rel=1e-11)


def test_rows_are_drawn_anew_and_their_mean_is_the_whole():
    made, student, teacher = (
        set_up(TokenRelations, [(3, 4, 6), (4, 4, 6)], num_pixels=6),
        draw(2, 3, 4, 6),
        draw(2, 4, 4, 6, seed=1),
    )
    whole = run(set_up(TokenRelations, [(3, 4, 6), (4, 4, 6)], num_pixels=None), student, teacher).item()
    found = []
    for made.state.iteration in range(100):
        found.append(run(made, student, teacher).item())
    assert len(set(found)) > 75 and mean(found) == pytest.approx(whole, rel=0.06)


# QueryMatch


def query_naive(query, value, teacher, inside=None):
    """A position at a time."""
    pictures = []
    for q, v, t in rows_of(inside, query, value, teacher):
        errors = []
        for one, target in zip(q, t, strict=True):
            scores = [math.exp(dot(one, key)) for key in t]
            read = [dot(scores, column) / sum(scores) for column in zip(*v, strict=True)]
            errors.append(mean([(x - y) ** 2 for x, y in zip(read, target, strict=True)]))
        pictures.append(mean(errors))
    return mean(pictures)


@PARTS
def test_query_is_its_formula(inside):
    maps = [draw(2, 3, 2, 5, seed=seed) for seed in range(3)]
    assert query_match(*maps, inside=inside).item() == pytest.approx(query_naive(*maps, inside), rel=1e-11)


def test_queries_and_values_are_linear_in_the_normalised_map():
    made, student, teacher = set_up(QueryMatch, [(3, 4, 6), (4, 4, 6)]), draw(2, 3, 4, 6), draw(2, 4, 4, 6, seed=1)
    part = made.aligns[0]
    with torch.no_grad():
        part.norm.weight.uniform_(0.5, 2)
    tokens = student.flatten(2).mT
    spread = (tokens.var(2, correction=0, keepdim=True) + part.norm.eps).sqrt()
    normal = (tokens - tokens.mean(2, keepdim=True)) / spread * part.norm.weight
    q, v = (normal @ layer.weight.t() + layer.bias for layer in (part.query, part.value))
    expected = query_naive(*(x.mT.reshape(2, 4, 4, 6) for x in (q, v)), teacher)
    assert run(made, student, teacher).item() == pytest.approx(expected, rel=1e-10)
