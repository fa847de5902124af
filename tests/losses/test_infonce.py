import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense.apps.inspect.step_cost import peak_extra_memory
from mmdistill_dense.losses import key_ranks, normalize_pixels, pixel_info_nce, pixel_pairs, spatial_gate
from tests.distillers.steps import draw
from tools.benchmark import reference

DOUBLE = torch.float64


def _unit(*shape: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> Tensor:
    return F.normalize(draw(*shape, seed=seed), dim=1).to(dtype)


def _rows(n: int = 30, k: int = 50, c: int = 8, dtype: torch.dtype = DOUBLE) -> tuple[Tensor, Tensor, Tensor]:
    """Student (a leaf), teacher, negatives."""
    student, teacher, negatives = (_unit(size, c, seed=seed, dtype=dtype) for seed, size in enumerate((n, n, k)))
    return student.requires_grad_(), teacher, negatives


@pytest.mark.parametrize('sizes', [(30, 50, 8), (1, 50, 8), (30, 1, 8), (30, 50, 1)])
@pytest.mark.parametrize('temperature', [1.0, 0.2, 0.005])
def test_loss_and_gradient_equal_the_released_formula(sizes: tuple[int, int, int], temperature: float) -> None:
    student, teacher, negatives = _rows(*sizes)
    loss, per_pixel = pixel_info_nce(student, teacher, negatives, temperature)
    expected = reference.pcd_info_nce(student, teacher, negatives, temperature)
    (grad,), (expected_grad,) = (torch.autograd.grad(3 * value, student) for value in (loss, expected))
    torch.testing.assert_close((loss, grad), (expected, expected_grad), rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(per_pixel.mean(), loss)
    assert not per_pixel.requires_grad


def test_row_weights_weigh_the_rows() -> None:
    student, teacher, negatives = _rows()
    weight = torch.zeros(30, dtype=DOUBLE)
    weight[[3, 8]] = torch.tensor([0.25, 2.0], dtype=DOUBLE)
    loss, per_pixel = pixel_info_nce(student, teacher, negatives, row_weight=weight)
    torch.testing.assert_close(loss, 0.25 * per_pixel[3] + 2 * per_pixel[8])
    loss.backward()
    assert student.grad.any(1).nonzero().flatten().tolist() == [3, 8]


def test_a_small_loss_keeps_its_digits_in_float32() -> None:
    """The logsumexp of all logits minus the positive loses half of them."""
    student, _, negatives = _rows(30, 20, 64)
    teacher = F.normalize(student.detach() + 0.1 * _unit(30, 64, seed=5), dim=1)
    exact, _ = pixel_info_nce(student, teacher, negatives, 0.05)
    loss, _ = pixel_info_nce(student.float(), teacher.float(), negatives.float(), 0.05)
    assert exact < 1e-3
    assert abs(loss.item() / exact.item() - 1) < 1e-5


@pytest.mark.soak
def test_memory_is_a_fraction_of_the_released_forms() -> None:
    student, teacher, negatives = _rows(784, 16384, 256, torch.float32)

    def ours() -> Tensor:
        return torch.autograd.grad(pixel_info_nce(student, teacher, negatives)[0], student)[0]

    def released() -> Tensor:
        return torch.autograd.grad(reference.pcd_info_nce(student, teacher, negatives, 0.2), student)[0]

    assert peak_extra_memory(ours) < 0.2 * peak_extra_memory(released)


def test_pixels_become_unit_rows_in_any_memory_layout() -> None:
    x = draw(2, 4, 3, 5)
    rows, weight = normalize_pixels(x)
    assert rows.shape == (30, 4) and weight.tolist() == [1.0] * 30
    torch.testing.assert_close(rows[7], x[0, :, 1, 2] / x[0, :, 1, 2].norm())
    for other in (x.to(memory_format=torch.channels_last), torch.stack([x, x], -1)[..., 0], x.mT.contiguous().mT):
        assert torch.equal(normalize_pixels(other)[0], rows)


@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_pixels_without_direction_and_invalid_ones_have_no_part(side: str) -> None:
    student, teacher = draw(2, 8, 3, 5).requires_grad_(), draw(2, 8, 3, 5, seed=1)
    valid = torch.ones(2, 3, 5, dtype=torch.bool)
    valid[1, 2, 4] = False
    with torch.no_grad():
        (student if side == 'student' else teacher)[0, :, 1, 1] = 1e-9
    rows, targets, weight = pixel_pairs(student, teacher, valid)
    assert (weight == 0).nonzero().flatten().tolist() == [6, 29]
    loss, _ = pixel_info_nce(rows, targets, _unit(20, 8), 0.2, weight / weight.sum())
    loss.backward()
    untouched = (student.grad == 0).all(1)
    assert untouched.nonzero().tolist() == [[0, 1, 1], [1, 2, 4]]
    assert student.grad.abs().max() < 10  # the plain formula gives 1e8 here


@pytest.mark.parametrize(('kind', 'activation'), [('relu', F.relu), ('gelu', F.gelu), ('silu', F.silu)])
def test_mean_of_a_gated_map_is_the_activation_of_the_mean(kind: str, activation) -> None:
    x = draw(3, 6, 4, 5)
    torch.testing.assert_close(spatial_gate(x, kind).mean((2, 3)), activation(x.mean((2, 3))))
    single = x[:, :, :1, :1]
    torch.testing.assert_close(spatial_gate(single, kind), activation(single))


def test_a_mean_of_zero_closes_the_gate_and_half_maps_stay_half() -> None:
    x = torch.tensor([[[[-1.0, 1.0]], [[-1.0, 2.0]]]])
    assert spatial_gate(x).tolist() == [[[[0.0, 0.0]], [[-1.0, 2.0]]]]
    large = torch.full((1, 1, 300, 300), 3.0, dtype=torch.float16)  # the sum overflows float16
    for kind in ('relu', 'gelu', 'silu'):
        gated = spatial_gate(large, kind)
        assert gated.dtype == torch.float16 and gated.isfinite().all() and gated.min() > 2


def test_ranks_count_the_nearer_negatives() -> None:
    negatives = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    vectors, keys = torch.tensor([[5.0, 0.0], [5.0, 0.0]]), torch.tensor([[9.0, 0.1], [0.0, 2.0]])
    assert key_ranks(vectors, keys, negatives).tolist() == [1, 2]
