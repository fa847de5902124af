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


def test_gradchecks_rows_and_keys_and_leaves_the_teacher_alone() -> None:
    student, student_keys, teacher, teacher_keys = _inputs()
    teacher.requires_grad_()
    weight = torch.rand(5, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)

    def loss(rows: Tensor, keys: Tensor) -> Tensor:
        return 3 * similarity_divergence(rows, keys, teacher, teacher_keys, row_weight=weight, temperature=0.5, block=2)

    assert torch.autograd.gradcheck(loss, (student, student_keys))
    loss(student, student_keys).backward()
    assert teacher.grad is None


def test_gradcheck_of_rows_that_are_their_own_keys() -> None:
    """As in the minibatch part, where a picture's pixels are rows and keys."""
    teacher = _unit(2, 4, 3, seed=7)
    maps = _unit(2, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: similarity_divergence(x.flatten(0, 1), x, teacher.flatten(0, 1), teacher), maps
    )


@pytest.mark.parametrize('block', [1, 2, 5, 9])
def test_blocks_do_not_change_the_result(block: int) -> None:
    inputs = _inputs()
    results = []
    for size in (None, block):
        loss = similarity_divergence(*inputs, block=size)
        results.append((loss, *torch.autograd.grad(loss, inputs[:2])))
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-14)


def test_order_of_rows_keys_and_groups_does_not_matter() -> None:
    rows, keys, teacher, teacher_keys = _inputs()
    by_row, by_key, by_group = (torch.randperm(n, generator=torch.Generator().manual_seed(1)) for n in (5, 4, 3))
    mixed = [x[by_row] for x in (rows, teacher)], [x[by_group][:, by_key] for x in (keys, teacher_keys)]
    loss = similarity_divergence(mixed[0][0], mixed[1][0], mixed[0][1], mixed[1][1])
    torch.testing.assert_close(loss, similarity_divergence(rows, keys, teacher, teacher_keys))


def test_a_rotation_of_the_students_space_is_no_difference() -> None:
    """Relations are compared, not vectors."""
    rows, keys, *_ = _inputs(student=4)
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(2), dtype=DOUBLE))
    loss = similarity_divergence(rows, keys, rows.detach() @ turn, keys.detach() @ turn)
    assert loss.item() == pytest.approx(0, abs=1e-14)
    assert similarity_divergence(rows, keys, rows.detach() @ turn, keys.detach()).item() > 1e-3


@pytest.mark.parametrize('sizes', [dict(rows=0), dict(keys=0), dict(groups=0)])
def test_nothing_to_compare_is_zero_and_connected(sizes: dict[str, int]) -> None:
    inputs = _inputs(**sizes)
    loss = similarity_divergence(*inputs)
    loss.backward()
    assert loss.item() == 0 and inputs[0].grad is not None and not inputs[0].grad.any()


def test_half_inputs_under_autocast_give_float32() -> None:
    inputs = _inputs()
    exact = similarity_divergence(*inputs, temperature=0.5)
    with torch.autocast('cpu', torch.bfloat16):
        loss = similarity_divergence(*(x.bfloat16() for x in inputs), temperature=0.5)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=0.05, atol=1e-3)


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
