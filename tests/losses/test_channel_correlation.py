import math
import statistics

import pytest
import torch

from mmdistill_dense.losses import standardized_mse

SHAPE = (3, 4, 5, 6)


def _maps(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
    student = 3 * student + teacher + torch.arange(4.0)[:, None, None]
    return student.to(dtype).requires_grad_(), teacher.to(dtype).requires_grad_()


def _channels(x: torch.Tensor) -> list[list[float]]:
    return [x[:, c].flatten().tolist() for c in range(x.shape[1])]


def test_equals_the_naive_formula() -> None:
    student, teacher = _maps()
    total = 0.0
    for s, t in zip(_channels(student), _channels(teacher), strict=True):
        z_s, z_t = ([(v - statistics.fmean(x)) / (statistics.stdev(x) + 1e-6) for v in x] for x in (s, t))
        total += sum((a - b) ** 2 for a, b in zip(z_s, z_t, strict=True))
    assert standardized_mse(student, teacher).item() == pytest.approx(total / (2 * math.prod(SHAPE)), rel=1e-10)


def test_is_one_minus_the_correlation_of_each_channel() -> None:
    student, teacher = _maps()
    rho = [statistics.correlation(s, t) for s, t in zip(_channels(student), _channels(teacher), strict=True)]
    n = 3 * 5 * 6
    expected = (1 - statistics.fmean(rho)) * (n - 1) / n
    assert standardized_mse(student, teacher, eps=1e-12).item() == pytest.approx(expected, rel=1e-9)


def test_range() -> None:
    student, _ = _maps()
    assert standardized_mse(student, student).item() == pytest.approx(0, abs=1e-12)
    assert standardized_mse(-student, student).item() == pytest.approx(2 * 89 / 90, rel=1e-6)


@pytest.mark.parametrize('offset', [0.0, 0.1, 5.0, 1000.1])
@pytest.mark.parametrize('noise', [0.0, 1e-7])
def test_a_channel_of_the_student_that_does_not_vary_has_no_gradient(offset: float, noise: float) -> None:
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, 2, 4, 25, 42, generator=generator)
    student[:, 1] = offset + noise * student[:, 1]
    standardized_mse(student.requires_grad_(), teacher).backward()
    assert student.grad is not None and student.grad[:, 1].abs().max() == 0
    assert all(student.grad[:, c].any() for c in (0, 2, 3))


def test_above_the_floor_the_gradient_grows_as_the_inverse_deviation() -> None:
    student, teacher = (x.detach() for x in _maps())
    small = (student * 1e-4).requires_grad_()
    standardized_mse(student.requires_grad_(), teacher, eps=1e-9).backward()
    standardized_mse(small, teacher, eps=1e-9).backward()
    assert student.grad is not None and small.grad is not None
    torch.testing.assert_close(small.grad, 1e4 * student.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize('offset', [0.1, 1000.1])
def test_channels_that_do_not_vary_have_half_a_loss_on_one_side_and_none_on_both(offset: float) -> None:
    student, teacher = (x.detach() for x in _maps(torch.float32))
    n, rest = 3 * 5 * 6, standardized_mse(student[:, 1:], teacher[:, 1:]) * 3
    for flat in ((student,), (student, teacher)):
        for x in flat:
            x[:, 0] = offset
        expected = rest + (n - 1) / (2 * n) * (len(flat) == 1)
        torch.testing.assert_close(standardized_mse(student, teacher) * 4, expected, rtol=1e-5, atol=0)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r'eps must be above 0, got 0'):
        standardized_mse(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), eps=0)
    with pytest.raises(ValueError, match=r'maps differ in shape: \(1, 2, 3\) and \(2, 2, 3\)'):
        standardized_mse(torch.zeros(1, 2, 3), torch.zeros(2, 2, 3))
