import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense.apps.inspect.step_cost import peak_extra_memory
from mmdistill_dense.losses import similarity_divergence

DOUBLE = torch.float64


def _unit(*shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(shape, generator=draw, dtype=DOUBLE), dim=-1)


def _inputs(rows: int = 5, groups: int = 3, keys: int = 4, student: int = 2, teacher: int = 6) -> list[Tensor]:
    """Student rows and keys (leaves), teacher rows and keys."""
    shapes = [(rows, student), (groups, keys, student), (rows, teacher), (groups, keys, teacher)]
    made = [_unit(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    return [x.requires_grad_() for x in made[:2]] + made[2:]


def _naive(student, student_keys, teacher, teacher_keys, temperature: float) -> list[float]:
    """One number a row, by plain arithmetic: rows, groups, keys and channels in loops."""

    def distribution(row: list[float], keys: list[list[float]]) -> list[float]:
        scores = [math.exp(sum(a * b for a, b in zip(row, key, strict=True)) / temperature) for key in keys]
        return [score / sum(scores) for score in scores]

    found = []
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        total = 0.0
        for s_keys, t_keys in zip(student_keys.tolist(), teacher_keys.tolist(), strict=True):
            q, p = distribution(s, s_keys), distribution(t, t_keys)
            total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        found.append(total / len(student_keys))
    return found


@pytest.mark.parametrize('temperature', [0.1, 1.0])
@pytest.mark.parametrize('sizes', [{}, dict(groups=1), dict(rows=1, keys=1), dict(student=1, teacher=1)])
def test_equals_plain_arithmetic(sizes: dict[str, int], temperature: float) -> None:
    inputs = _inputs(**sizes)
    expected = _naive(*inputs, temperature)
    loss = similarity_divergence(*inputs, temperature=temperature)
    assert loss.item() == pytest.approx(sum(expected) / len(expected), rel=1e-10, abs=1e-14)
    weight = torch.linspace(0, 2, len(expected), dtype=DOUBLE)
    weighted = similarity_divergence(*inputs, temperature=temperature, row_weight=weight)
    assert weighted.item() == pytest.approx((torch.tensor(expected, dtype=DOUBLE) @ weight).item(), abs=1e-12)


def test_gradcheck_of_rows_that_are_their_own_keys() -> None:
    """As in the minibatch part, where a picture's pixels are rows and keys."""
    teacher = _unit(2, 4, 3, seed=7)
    maps = _unit(2, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: similarity_divergence(x.flatten(0, 1), x, teacher.flatten(0, 1), teacher), maps
    )


def test_a_rotation_of_the_students_space_is_no_difference() -> None:
    """Relations are compared, not vectors."""
    rows, keys, *_ = _inputs(student=4)
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(2), dtype=DOUBLE))
    loss = similarity_divergence(rows, keys, rows.detach() @ turn, keys.detach() @ turn)
    assert loss.item() == pytest.approx(0, abs=1e-14)
    assert similarity_divergence(rows, keys, rows.detach() @ turn, keys.detach()).item() > 1e-3


def test_memory_does_not_grow_with_rows_times_keys() -> None:
    """Loss and gradient of 8192 x 4096 scores, of which one matrix alone has 128 MiB."""
    rows, keys, teacher, teacher_keys = (x.detach().float() for x in _inputs(8192, 1, 4096, 16, 16))
    rows.requires_grad_()

    def step() -> None:
        similarity_divergence(rows, keys, teacher, teacher_keys).backward()

    assert peak_extra_memory(step) < 128 * 2**20


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (dict(temperature=0), 'temperature must be above 0, got 0'),
        (dict(row_weight=torch.ones(3)), r'row_weight must be \(5,\), got \(3,\)'),
        (dict(teacher=_unit(4, 6)), 'student and teacher differ in rows or keys: 5 rows'),
        (dict(student_keys=_unit(3, 4, 7)), 'student rows must be'),
    ],
)
def test_errors(change: dict, words: str) -> None:
    names = ('student', 'student_keys', 'teacher', 'teacher_keys')
    with pytest.raises(ValueError, match=words):
        similarity_divergence(**{**dict(zip(names, _inputs(), strict=True)), **change})
