"""TokenRelations against its formula, on chosen rows and on padded batches."""

import math
from types import SimpleNamespace

import pytest
import torch

from mmdistill_dense.distillers import TokenRelations
from mmdistill_dense.distillers.base import RunState
from mmdistill_dense.losses import token_relations
from tests.distillers.case import DistillerCase

DOUBLE = torch.float64


class TestTokenRelations(DistillerCase):
    rounding = 0.02
    option = dict(type='TokenRelations')


class TestOffTheDiagonal(DistillerCase):
    rounding = 0.02
    option = dict(type='TokenRelations', diagonal=False, num_pixels=9, resize='teacher', temperature=0.2)
    teacher = (2, 128, 5, 9)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def naive(student, teacher, tau, diagonal=True, rows=None, kept=None):
    """Plain arithmetic, a similarity at a time."""

    def distribution(vectors, m, columns):
        unit = [[x / math.hypot(*v) for x in v] for v in vectors]
        scores = [math.exp(sum(a * b for a, b in zip(unit[m], unit[n], strict=True)) / tau) for n in columns]
        return [score / sum(scores) for score in scores]

    pictures = []
    for number, (s, t) in enumerate(zip(student, teacher, strict=True)):
        s, t = (x.flatten(1).t().tolist() for x in (s, t))
        inside = [n for n in range(len(s)) if kept is None or kept[number][n]]
        values = []
        for m in inside if rows is None else [m for m in rows if m in inside]:
            columns = [n for n in inside if diagonal or n != m]
            p, q = distribution(t, m, columns), distribution(s, m, columns)
            values.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
        pictures.append(sum(values) / len(values) if values else 0)
    return sum(pictures) / len(pictures)


@pytest.mark.parametrize('diagonal', [True, False])
@pytest.mark.parametrize('rows', [None, [0, 3, 8]])
@pytest.mark.parametrize('part', [True, False])
def test_loss_is_its_formula(diagonal, rows, part):
    student, teacher = draw(2, 3, 2, 5), draw(2, 4, 2, 5, seed=1)
    inside = torch.tensor([[1, 1, 1, 1, 0, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]]).bool() if part else None
    options = dict(diagonal=diagonal, rows=None if rows is None else torch.tensor(rows))
    shown = None if inside is None else inside.view(2, 2, 5)
    found = token_relations(student, teacher, temperature=0.3, inside=shown, **options)
    kept = None if inside is None else inside.tolist()
    assert found.item() == pytest.approx(naive(student, teacher, 0.3, diagonal, rows, kept), rel=1e-11)


@pytest.mark.parametrize('diagonal', [True, False])
def test_gradcheck(diagonal):
    student, teacher = draw(2, 3, 2, 2).requires_grad_(), draw(2, 4, 2, 2, seed=1)
    inside = torch.tensor([[[1, 1], [0, 1]], [[1, 1], [1, 1]]]).bool()
    options = dict(temperature=0.5, diagonal=diagonal, rows=torch.tensor([0, 2, 3]), inside=inside)
    assert torch.autograd.gradcheck(lambda x: token_relations(x, teacher, **options), student)


def test_rotations_are_free_and_the_diagonal_hides_orthogonal_vectors():
    student, turn = draw(1, 64, 4, 4), torch.linalg.qr(draw(64, 64, seed=1))[0]
    turned = torch.einsum('dc,bchw->bdhw', turn, student)
    assert token_relations(turned, student).item() == pytest.approx(0, abs=1e-12)
    other = draw(1, 64, 4, 4, seed=2)  # its vectors are as orthogonal as the student's
    with_it, without = (token_relations(student, other, diagonal=diagonal).item() for diagonal in (True, False))
    assert with_it < 1e-2 < 0.5 < without


def distiller(**options):
    torch.manual_seed(0)
    made = TokenRelations('tap', **options)
    made.setup({'tap': [torch.Size((1, 3, 4, 6))]}, {'tap': [torch.Size((1, 4, 4, 6))]})
    made.state = RunState(seed=1)
    return made.double()


def test_padding_takes_no_part():
    made, student, teacher = distiller(), draw(2, 3, 4, 6).requires_grad_(), draw(2, 4, 4, 6, seed=1)
    shapes = (32, 48), (24, 16)
    samples = [SimpleNamespace(metainfo=dict(img_shape=shape, batch_input_shape=(32, 48))) for shape in shapes]
    loss = made({'tap': [student]}, {'tap': [teacher]}, samples)['loss_relations']
    pictures = [(student[:1], teacher[:1]), (student[1:, :, :3, :2], teacher[1:, :, :3, :2])]
    apart = [made({'tap': [s]}, {'tap': [t]}, None)['loss_relations'] for s, t in pictures]
    torch.testing.assert_close(loss, torch.stack(apart).mean())
    loss.backward()
    assert not student.grad[1, :, 3:].any() and not student.grad[1, :, :, 2:].any() and student.grad[1].any()


def test_rows_are_drawn_anew_and_their_mean_is_the_whole():
    made, student, teacher = distiller(num_pixels=6), draw(2, 3, 4, 6), draw(2, 4, 4, 6, seed=1)
    whole = distiller(num_pixels=None)({'tap': [student]}, {'tap': [teacher]}, None)['loss_relations'].item()
    found = []
    for made.state.iteration in range(200):
        found.append(made({'tap': [student]}, {'tap': [teacher]}, None)['loss_relations'].item())
    assert len(set(found)) > 150 and sum(found) / len(found) == pytest.approx(whole, rel=0.05)


@pytest.mark.parametrize(
    ('diagonal', 'side', 'words'), [(True, (1, 1), 'map of 1 x 1'), (False, (1, 2), 'map of 1 x 2')]
)
def test_too_few_positions_are_refused(diagonal, side, words):
    made = TokenRelations('tap', diagonal=diagonal)
    shapes = {'tap': [torch.Size((1, 3, *side))]}
    with pytest.raises(ValueError, match=words):
        made.setup(shapes, shapes)
    TokenRelations('tap', diagonal=True).setup(*2 * ({'tap': [torch.Size((1, 3, 1, 2))]},))
