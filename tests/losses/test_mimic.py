import pytest
import torch

from mmdistill_dense.losses import feature_mimic


def _maps(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 5, 6, generator=generator, dtype=torch.float64).to(dtype)
    return student.requires_grad_(), teacher.requires_grad_()


@pytest.mark.parametrize('reduction, divisor', [('sum', 3), ('mean', 3 * 4 * 5 * 6)])
def test_equals_the_naive_formula(reduction: str, divisor: int) -> None:
    student, teacher = _maps()
    loss = feature_mimic(student, teacher, reduction=reduction)
    pairs = zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)
    assert loss.item() == pytest.approx(sum((s - t) ** 2 for s, t in pairs) / divisor, rel=1e-12)
    loss.backward()
    torch.testing.assert_close(student.grad, 2 * (student - teacher).detach() / divisor)
    assert teacher.grad is None


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"reduction must be 'sum' or 'mean', got 'max'"):
        feature_mimic(torch.zeros(1, 2), torch.zeros(1, 2), reduction='max')
    with pytest.raises(ValueError, match=r'differ in shape: \(1, 2\) and \(2, 2\)'):
        feature_mimic(torch.zeros(1, 2), torch.zeros(2, 2))
