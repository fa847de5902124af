"""QueryMatch against its formula, and on padded batches."""

import math
from types import SimpleNamespace

import pytest
import torch

from mmdistill_dense.distillers import QueryMatch
from mmdistill_dense.losses import query_match
from tests.distillers.case import DistillerCase

DOUBLE = torch.float64


class TestQueryMatch(DistillerCase):
    rounding = 0.02
    option = dict(type='QueryMatch')


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def naive(query, value, teacher, kept=None):
    """Plain arithmetic, a position at a time."""
    pictures = []
    for number, maps in enumerate(zip(query, value, teacher, strict=True)):
        q, v, t = (x.flatten(1).t().tolist() for x in maps)
        inside = [n for n in range(len(q)) if kept is None or kept[number][n]]
        errors = []
        for m in inside:
            scores = [math.exp(sum(a * b for a, b in zip(q[m], t[n], strict=True))) for n in inside]
            read = [
                sum(score * v[n][c] for score, n in zip(scores, inside, strict=True)) / sum(scores)
                for c in range(len(q[m]))
            ]
            errors.append(sum((x - y) ** 2 for x, y in zip(read, t[m], strict=True)) / len(read))
        pictures.append(sum(errors) / len(errors) if errors else 0)
    return sum(pictures) / len(pictures)


MASK = torch.tensor([[1, 1, 1, 1, 0, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]]).bool()


@pytest.mark.parametrize('inside', [None, MASK, torch.zeros_like(MASK)], ids=['all', 'some', 'none'])
def test_loss_is_its_formula(inside):
    maps = [draw(2, 3, 2, 5, seed=seed) for seed in range(3)]
    found = query_match(*maps, inside=None if inside is None else inside.view(2, 2, 5))
    kept = None if inside is None else inside.tolist()
    assert found.item() == pytest.approx(naive(*maps, kept), rel=1e-11)


def test_gradcheck():
    query, value, teacher = (draw(2, 3, 2, 2, seed=seed) for seed in range(3))
    inside = torch.tensor([[[1, 1], [0, 1]], [[1, 1], [1, 1]]]).bool()
    inputs = query.requires_grad_(), value.requires_grad_()
    assert torch.autograd.gradcheck(lambda q, v: query_match(q, v, teacher, inside=inside), inputs)


def distiller():
    torch.manual_seed(0)
    made = QueryMatch('tap')
    made.setup({'tap': [torch.Size((1, 3, 4, 6))]}, {'tap': [torch.Size((1, 4, 4, 6))]})
    return made.double()


def test_queries_and_values_are_linear_in_the_normalised_map():
    made, student, teacher = distiller(), draw(2, 3, 4, 6), draw(2, 4, 4, 6, seed=1)
    part = made.aligns[0]
    with torch.no_grad():
        part.norm.weight.uniform_(0.5, 2)
    tokens = student.flatten(2).mT
    spread = (tokens.var(2, correction=0, keepdim=True) + part.norm.eps).sqrt()
    normal = (tokens - tokens.mean(2, keepdim=True)) / spread * part.norm.weight
    q, v = (normal @ layer.weight.t() + layer.bias for layer in (part.query, part.value))
    expected = naive(*(x.mT.reshape(2, 4, 4, 6) for x in (q, v)), teacher)
    assert made({'tap': [student]}, {'tap': [teacher]}, None)['loss_query'].item() == pytest.approx(expected, rel=1e-10)


def test_padding_takes_no_part():
    made, student, teacher = distiller(), draw(2, 3, 4, 6).requires_grad_(), draw(2, 4, 4, 6, seed=1)
    shapes = (32, 48), (24, 16)
    samples = [SimpleNamespace(metainfo=dict(img_shape=shape, batch_input_shape=(32, 48))) for shape in shapes]
    loss = made({'tap': [student]}, {'tap': [teacher]}, samples)['loss_query']
    pictures = [(student[:1], teacher[:1]), (student[1:, :, :3, :2], teacher[1:, :, :3, :2])]
    apart = [made({'tap': [s]}, {'tap': [t]}, None)['loss_query'] for s, t in pictures]
    torch.testing.assert_close(loss, torch.stack(apart).mean())
    loss.backward()
    assert not student.grad[1, :, 3:].any() and not student.grad[1, :, :, 2:].any() and student.grad[1].any()
