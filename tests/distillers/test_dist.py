"""Correlation of class scores: the shared case, what it ignores by design, and the errors."""

import pytest
import torch

from mmdistill_dense.distillers import DIST
from tests.distillers.case import DistillerCase

TAP = 'decode_head.conv_seg'


class TestDIST(DistillerCase):
    option = dict(type='DIST')
    student = teacher = (2, 5, 6, 7)
    zero_on_identical = True


class TestDISTOfIndependentScores(DistillerCase):
    option = dict(type='DIST', activation='sigmoid')
    student = teacher = (2, 5, 6, 7)
    zero_on_identical = True


def _scores(*shape, seed=0):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _loss(student, teacher, **options):
    return DIST(**options).loss(student, teacher, 0)['loss_dist']


def _correlations(s, t):
    return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(s, t, strict=True)])


@pytest.mark.parametrize('options', [{}, dict(temperature=3.0), dict(beta=0.5, gamma=2.0), dict(gamma=0.0)])
def test_equals_torch_corrcoef(options):
    student, teacher = _scores(2, 4, 3, 2), _scores(2, 4, 3, 2, seed=1)
    temperature = options.get('temperature', 1.0)
    s, t = ((m.movedim(1, -1).reshape(-1, 4) / temperature).softmax(1) for m in (student, teacher))
    rows, classes = _correlations(s, t), _correlations(s.T, t.T)
    expected = options.get('beta', 1) * (1 - rows.mean()) + options.get('gamma', 1) * (1 - classes.mean())
    torch.testing.assert_close(
        _loss(student, teacher, **options), temperature**2 * expected, rtol=1e-5, atol=1e-9
    )  # 1e-8 in the denominator


def test_a_map_and_its_rows_are_the_same():
    student, teacher = _scores(2, 4, 3, 2), _scores(2, 4, 3, 2, seed=1)
    rows = [m.movedim(1, -1).reshape(-1, 4) for m in (student, teacher)]
    torch.testing.assert_close(_loss(student, teacher), _loss(*rows))


def test_taps_are_summed_with_their_weights():
    distiller = DIST([TAP, ('auxiliary_head.conv_seg', 0.4)])
    assert str(DIST().student_taps[0]) == TAP
    taps = [str(tap) for tap in distiller.student_taps]
    shapes = {tap: [torch.Size((1, 4, 3, 2))] for tap in taps}
    distiller.setup(shapes, shapes)
    students, teachers = ({tap: [_scores(2, 4, 3, 2, seed=n + i)] for n, tap in enumerate(taps)} for i in (0, 5))
    main, auxiliary = (_loss(students[tap][0], teachers[tap][0]) for tap in taps)
    torch.testing.assert_close(distiller(students, teachers, None)['loss_dist'], main + 0.4 * auxiliary)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(temperature=0), 'temperature must be > 0, got 0'),
        (dict(beta=0, gamma=0), 'beta, gamma must be >= 0 and not all 0, got 0, 0'),
        (dict(gamma=-1), 'got 1.0, -1'),
        (dict(activation='tanh'), "activation must be one of 'softmax', 'sigmoid', got 'tanh'"),
    ],
)
def test_errors(options, words):
    with pytest.raises(ValueError, match=words):
        DIST(**options)
