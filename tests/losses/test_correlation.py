import pytest
import torch
from torch import Tensor

from mmdistill_dense.losses import correlation_distance


def _logits(*shape: int) -> tuple[Tensor, Tensor]:
    student, teacher = 2 * torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return student.requires_grad_(), teacher


def _naive(
    student: Tensor, teacher: Tensor, temperature: float, beta: float, gamma: float, activation: str = 'softmax'
) -> Tensor:
    """Correlations by ``torch.corrcoef``, one by one."""
    odds = ((x / temperature).exp() for x in (student, teacher))
    s, t = (x / x.sum(1, keepdim=True) if activation == 'softmax' else x / (1 + x) for x in odds)
    rows = [1 - torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(s, t, strict=True)]
    columns = [1 - torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(s.T, t.T, strict=True)]
    return temperature**2 * (beta * torch.stack(rows).mean() + gamma * torch.stack(columns).mean())


@pytest.mark.parametrize('options', [(1.0, 1.0, 1.0), (4.0, 1.0, 0.0), (0.5, 0.3, 2.0)])
def test_equals_correlations_one_by_one(options: tuple[float, float, float]) -> None:
    student, teacher = _logits(24, 11)
    temperature, beta, gamma = options
    loss = correlation_distance(student, teacher, temperature=temperature, beta=beta, gamma=gamma)
    torch.testing.assert_close(loss, _naive(student, teacher, *options), rtol=1e-6, atol=0)  # the 1e-8 below


@pytest.mark.parametrize('temperature', [1.0, 3.0])
def test_independent_scores_equal_correlations_one_by_one(temperature: float) -> None:
    student, teacher = _logits(24, 11)
    loss = correlation_distance(student, teacher, temperature=temperature, beta=0.5, activation='sigmoid')
    expected = _naive(student, teacher, temperature, 0.5, 1.0, 'sigmoid')
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert torch.autograd.gradcheck(lambda x: correlation_distance(x, teacher, activation='sigmoid'), student)


def test_positions_of_maps_are_rows() -> None:
    student, teacher = _logits(2, 5, 3, 4)
    rows = (x.permute(0, 2, 3, 1).reshape(-1, 5) for x in (student, teacher))
    torch.testing.assert_close(correlation_distance(student, teacher), correlation_distance(*rows))


def test_shift_and_scale_of_the_scores_do_not_count() -> None:
    """Adding to all classes of a row changes no probability; equal ones give (almost) zero."""
    student, _ = _logits(24, 11)
    shifts = torch.arange(24.0, dtype=torch.float64)[:, None]
    assert correlation_distance(student, student.detach() + shifts).item() == pytest.approx(0, abs=1e-5)


def test_the_sign_of_the_agreement_counts() -> None:
    scores = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    assert correlation_distance(scores, scores).item() == pytest.approx(0, abs=1e-6)
    assert correlation_distance(scores, -scores).item() == pytest.approx(4)


@pytest.mark.parametrize('rows', [1, 4])
def test_constant_scores_stay_finite(rows: int) -> None:
    student = torch.zeros(rows, 3, requires_grad=True)
    loss = correlation_distance(student, torch.tensor([[5.0, 0.0, 0.0]]).expand(rows, 3))
    loss.backward()
    assert loss.item() == pytest.approx(2) and student.grad.isfinite().all()


@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
def test_scores_that_hardly_vary_have_a_moderate_gradient_towards_the_teacher(activation: str) -> None:
    """A classifier that starts at 0: 1e7 before, a step of which would have thrown the student away."""
    noise, teacher = _logits(500, 11)
    norms = {}
    for scale in (1.0, 1e-2, 1e-4, 1e-6, 0.0):
        student = (scale * noise.detach()).float().requires_grad_()
        loss = correlation_distance(student, teacher.detach().float(), activation=activation)
        (grad,) = torch.autograd.grad(loss, student)
        norms[scale] = float(grad.norm())
        better = correlation_distance(student - 1e-2 * grad, teacher.detach().float(), activation=activation)
        assert better < loss
    assert norms[1e-6] <= 1.1 * norms[1e-4] < 30 * norms[1.0]
    assert norms[0.0] == pytest.approx(norms[1e-6], rel=1e-2)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r'temperature must be above 0, got 0'):
        correlation_distance(torch.zeros(1, 2), torch.zeros(1, 2), temperature=0)
    with pytest.raises(ValueError, match=r'logits differ in shape: \(1, 2\) and \(1, 3\)'):
        correlation_distance(torch.zeros(1, 2), torch.zeros(1, 3))
