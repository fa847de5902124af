import pytest
import torch

from mmdistill_dense.losses.maps import smooth_l1


def _values(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64).to(dtype)
    return student.requires_grad_(), teacher.requires_grad_()


def _huber(difference: float, beta: float) -> float:
    size = abs(difference)
    return size * size / (2 * beta) if size < beta else size - beta / 2


@pytest.mark.parametrize('beta', [1.0, 0.11, 0.0])
def test_equals_the_naive_formula(beta: float) -> None:
    student, teacher = _values()
    loss = smooth_l1(student, teacher, beta=beta)
    pairs = list(zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True))
    assert loss.item() == pytest.approx(sum(_huber(s - t, beta) for s, t in pairs) / 60, rel=1e-12)
    loss.backward()
    difference = (student - teacher).detach()
    slope = difference.sign() if beta == 0 else (difference / beta).clamp(-1, 1)
    torch.testing.assert_close(student.grad, slope / 60)
    assert teacher.grad is None


def test_errors() -> None:
    with pytest.raises(ValueError, match=r'beta must be >= 0, got -1'):
        smooth_l1(torch.zeros(1, 2), torch.zeros(1, 2), beta=-1)
    with pytest.raises(ValueError, match=r'values differ in shape: \(1, 2\) and \(2, 2\)'):
        smooth_l1(torch.zeros(1, 2), torch.zeros(2, 2))
