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


def _covers(box: list[float], y: int, x: int) -> bool:
    x1, y1, x2, y2 = box
    return math.floor(x1) <= x <= math.ceil(x2) and math.floor(y1) <= y <= math.ceil(y2)


def _area(box: list[float]) -> int:
    x1, y1, x2, y2 = box
    return (math.ceil(x2) + 1 - math.floor(x1)) * (math.ceil(y2) + 1 - math.floor(y1))


@pytest.mark.parametrize('count', [0, 1, 7, 150])
def test_a_cell_has_the_inverse_area_of_its_smallest_box(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    corners = 12 * torch.rand(count, 2, 2, generator=generator, dtype=torch.float64).sort(1).values
    boxes = corners.flatten(1)
    painted = losses.box_weights(boxes, 9, 11)
    assert painted.shape == (9, 11) and painted.dtype == torch.float64
    for y, x in itertools.product(range(9), range(11)):
        areas = [_area(box) for box in boxes.tolist() if _covers(box, y, x)]
        assert painted[y, x].item() == pytest.approx(1 / min(areas) if areas else 0, rel=1e-12)


def test_small_boxes_lie_on_large_ones_in_any_order() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [1, 1, 2, 2], [0, 0, 3, 3]])
    painted = losses.box_weights(boxes, 5, 5)
    assert painted[1, 1] == 1 / 4 and painted[0, 0] == torch.tensor(1 / 16) and painted[4, 4] == torch.tensor(1 / 25)
    for order in itertools.permutations(range(3)):
        assert torch.equal(losses.box_weights(boxes[list(order)], 5, 5), painted)


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


def test_attentions_have_mean_one_and_follow_permutations() -> None:
    (x,) = _maps(1)
    where, which = losses.spatial_attention(x, 0.3), losses.channel_attention(x, 0.3)
    torch.testing.assert_close(where.mean((1, 2)), torch.ones(B, dtype=torch.float64))
    torch.testing.assert_close(which.mean(1), torch.ones(B, dtype=torch.float64))
    torch.testing.assert_close(losses.spatial_attention(x.flip(3, 1), 0.3), where.flip(2))
    torch.testing.assert_close(losses.channel_attention(x.flip(3, 1), 0.3), which.flip(1))


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


def test_gradcheck() -> None:
    student, teacher = _maps()
    position, channel = losses.spatial_attention(teacher, 0.5), losses.channel_attention(teacher, 0.5)
    shift = torch.randn(B, C, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    student.requires_grad_()
    check = torch.autograd.gradcheck
    assert check(lambda x: losses.focal_error(x, teacher, position, channel), student)
    assert check(lambda x, y: losses.shifted_error(x, teacher, y), (student, shift))
    assert check(lambda x: losses.absolute_error(losses.spatial_attention(x, 0.5), position), student)
    assert check(lambda x: losses.absolute_error(losses.channel_attention(x, 0.5), channel), student)


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = (x.requires_grad_() for x in _maps())
    position, channel = losses.spatial_attention(teacher, 0.5), losses.channel_attention(teacher, 0.5)
    values = [
        losses.focal_error(student, teacher, position, channel),
        losses.shifted_error(student, teacher, student.new_zeros(B, C)),
        losses.absolute_error(losses.spatial_attention(student, 0.5), position),
    ]
    torch.stack(values).sum().backward()
    assert teacher.grad is None and student.grad is not None


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_maps_are_lifted(dtype: torch.dtype) -> None:
    student, teacher = torch.full((1, 2, 100, 100), 100.0, dtype=dtype), torch.zeros(1, 2, 100, 100, dtype=dtype)
    ones = torch.ones(1, 100, 100), torch.ones(1, 2)
    with torch.autocast('cpu', torch.bfloat16):
        focal = losses.focal_error(student, teacher, *ones)
        shifted = losses.shifted_error(student, teacher, torch.zeros(1, 2, dtype=dtype))
        where = losses.spatial_attention(student, 0.5)
    assert focal.dtype == shifted.dtype == where.dtype == torch.float32
    assert focal.item() == shifted.item() == pytest.approx(2e8)  # beyond float16


def test_empty_batches_give_zero() -> None:
    empty = torch.zeros(0, C, H, W, requires_grad=True)
    assert losses.focal_error(empty, empty, torch.zeros(0, H, W), torch.zeros(0, C)).item() == 0
    assert losses.shifted_error(empty, empty, torch.zeros(0, C)).item() == 0
    assert losses.absolute_error(losses.spatial_attention(empty, 1.0), torch.zeros(0, H, W)).item() == 0


def test_errors() -> None:
    with pytest.raises(ValueError, match='temperature must be above 0, got 0'):
        losses.spatial_attention(torch.zeros(1, 2, 3, 3), 0)
    with pytest.raises(ValueError, match='temperature must be above 0, got -1'):
        losses.channel_attention(torch.zeros(1, 2, 3, 3), -1)
    with pytest.raises(ValueError, match=r'maps differ in shape: \(1, 2, 3, 3\) and \(1, 2, 3, 4\)'):
        losses.shifted_error(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 4), torch.zeros(1, 2))
