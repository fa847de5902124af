import math

import pytest
import torch
from torch import Tensor

from mmdistill_dense.losses import attention_distance


def _maps(batch: int = 2, size: tuple[int, int] = (3, 4)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(batch, c, *size, generator=generator, dtype=torch.float64) for c in (3, 5))
    return student.requires_grad_(), teacher


def _naive(student: Tensor, teacher: Tensor, power: float) -> float:
    """Attention maps position by position, in Python's floats; mean over images and positions."""

    def attention(image: Tensor) -> list[float]:
        energies = [sum(abs(v) ** power for v in position) for position in image.flatten(1).T.tolist()]
        length = math.sqrt(sum(e * e for e in energies))
        return [e / length for e in energies]

    pairs = [(attention(s), attention(t)) for s, t in zip(student, teacher, strict=True)]
    squares = [(a - b) ** 2 for s, t in pairs for a, b in zip(s, t, strict=True)]
    return sum(squares) / len(squares)


@pytest.mark.parametrize('power', [1.0, 2.0, 3.5])
def test_equals_positions_one_by_one(power: float) -> None:
    student, teacher = _maps()
    loss = attention_distance(student, teacher, power=power)
    assert loss.item() == pytest.approx(_naive(student, teacher, power), rel=1e-9)


def test_sum_is_free_of_the_size_and_at_most_two() -> None:
    student, teacher = _maps()
    total = attention_distance(student, teacher, reduction='sum')
    torch.testing.assert_close(total, 12 * attention_distance(student, teacher))
    apart = torch.eye(4).reshape(4, 1, 1, 4)
    assert attention_distance(apart, apart.flip(0), reduction='sum').item() == pytest.approx(2)
    both = [x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in (student, teacher)]
    torch.testing.assert_close(attention_distance(*both, reduction='sum'), total)


@pytest.mark.parametrize(
    ('shape', 'options', 'words'),
    [
        ((1, 2, 4, 4), dict(power=0.5), 'power must be at least 1, got 0.5'),
        ((1, 2, 4, 4), dict(reduction='none'), "reduction must be 'mean' or 'sum', got 'none'"),
        ((1, 2, 4, 5), {}, r'differ in batch or size: \(1, 2, 4, 5\) and \(1, 3, 4, 4\)'),
        ((2, 2, 4, 4), {}, r'differ in batch or size: \(2, 2, 4, 4\)'),
    ],
)
def test_errors(shape: tuple, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        attention_distance(torch.zeros(shape), torch.zeros(1, 3, 4, 4), **options)
