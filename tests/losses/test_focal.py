import itertools
import math

import pytest
import torch

from mmdistill_dense import losses

B, C, H, W = 2, 3, 4, 5


def _maps(count: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return list(torch.randn(count, B, C, H, W, generator=generator, dtype=torch.float64))


def _cells() -> itertools.product:
    return itertools.product(range(B), range(H), range(W))


# Boxes


def test_boxes_beyond_the_map_are_cut_and_keep_their_area() -> None:
    painted = losses.box_weights(torch.tensor([[3.0, 3.0, 5.0, 5.0], [20.0, 20.0, 22.0, 22.0]]), 5, 5)
    assert (painted[3:, 3:] == torch.tensor(1 / 9)).all() and painted.count_nonzero() == 4


def test_background_sums_to_one_where_there_is_any() -> None:
    foreground = torch.zeros(3, 2, 3)
    foreground[0, 0] = 0.5
    foreground[1] = 0.25
    weights = losses.background_weights(foreground)
    assert weights[0].tolist() == [[0, 0, 0], [pytest.approx(1 / 3)] * 3]
    assert weights.sum((1, 2)).tolist() == pytest.approx([1, 0, 1])


# Attention


def test_attentions_equal_the_naive_formula() -> None:
    (x,) = _maps(1)
    where, which = losses.spatial_attention(x, 0.5), losses.channel_attention(x, 0.5)
    assert where.shape == (B, H, W) and which.shape == (B, C)
    for b in range(B):
        size = {(h, w): sum(abs(x[b, c, h, w].item()) for c in range(C)) / C for _, h, w in _cells()}
        total = sum(math.exp(v / 0.5) for v in size.values())
        for (h, w), v in size.items():
            assert where[b, h, w].item() == pytest.approx(H * W * math.exp(v / 0.5) / total, rel=1e-10)
        size_c = [x[b, c].abs().mean().item() for c in range(C)]
        total = sum(math.exp(v / 0.5) for v in size_c)
        assert which[b].tolist() == pytest.approx([C * math.exp(v / 0.5) / total for v in size_c], rel=1e-10)


# Errors


def test_focal_error_equals_the_naive_formula() -> None:
    student, teacher = _maps()
    generator = torch.Generator().manual_seed(1)
    position = torch.rand(B, H, W, generator=generator, dtype=torch.float64)
    channel = torch.rand(B, C, generator=generator, dtype=torch.float64)
    total = sum(
        position[b, h, w] * channel[b, c] * (student[b, c, h, w] - teacher[b, c, h, w]) ** 2
        for b, h, w in _cells()
        for c in range(C)
    )
    torch.testing.assert_close(losses.focal_error(student, teacher, position, channel), total / B)


def test_shifted_error_equals_the_naive_formula() -> None:
    student, teacher = _maps()
    shift = torch.randn(B, C, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = (student - teacher + shift[..., None, None]).square().sum() / B
    torch.testing.assert_close(losses.shifted_error(student, teacher, shift), expected)


def test_shifted_error_does_not_cancel() -> None:
    """A shift that takes a constant difference away leaves exactly the rest."""
    teacher = torch.zeros(1, 1, 10, 10)
    student = torch.full_like(teacher, 4096.0)
    assert losses.shifted_error(student, teacher, torch.full((1, 1), -4096.0)).item() == 0


def test_absolute_error_equals_the_naive_formula() -> None:
    student, teacher = (x.sum(1) for x in _maps())
    total = sum(abs(student[b, h, w] - teacher[b, h, w]) for b, h, w in _cells())
    torch.testing.assert_close(losses.absolute_error(student, teacher), total / B)


def test_errors() -> None:
    with pytest.raises(ValueError, match='temperature must be above 0, got 0'):
        losses.spatial_attention(torch.zeros(1, 2, 3, 3), 0)
    with pytest.raises(ValueError, match='temperature must be above 0, got -1'):
        losses.channel_attention(torch.zeros(1, 2, 3, 3), -1)
    with pytest.raises(ValueError, match=r'maps differ in shape: \(1, 2, 3, 3\) and \(1, 2, 3, 4\)'):
        losses.shifted_error(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 4), torch.zeros(1, 2))
