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


def test_gradcheck() -> None:
    student, teacher = _values()
    assert torch.autograd.gradcheck(lambda x: smooth_l1(x, teacher.detach(), beta=0.5), student)


@pytest.mark.parametrize('shape', [(0, 4), (2, 0, 3)])
def test_no_values_give_zero_with_a_gradient(shape: tuple[int, ...]) -> None:
    student = torch.zeros(shape, requires_grad=True)
    loss = smooth_l1(student, torch.zeros(shape))
    loss.backward()
    assert loss.item() == 0 and student.grad is not None


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_values_are_lifted(dtype: torch.dtype) -> None:
    student, teacher = torch.full((200, 1000), 100.0, dtype=dtype), torch.zeros(200, 1000, dtype=dtype)
    with torch.autocast('cpu', torch.bfloat16):
        loss = smooth_l1(student, teacher)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(99.5)  # the sum is beyond float16


def test_errors() -> None:
    with pytest.raises(ValueError, match=r'beta must be >= 0, got -1'):
        smooth_l1(torch.zeros(1, 2), torch.zeros(1, 2), beta=-1)
    with pytest.raises(ValueError, match=r'values differ in shape: \(1, 2\) and \(2, 2\)'):
        smooth_l1(torch.zeros(1, 2), torch.zeros(2, 2))
