import pytest
import torch
from torch import Tensor

from mmdistill_dense.apps.inspect.step_cost import peak_extra_memory
from mmdistill_dense.losses import (
    Branch,
    gate,
    mask_dice,
    mask_weights,
    masked_feature_loss,
    pixel_weights,
    token_masks,
    weighted_mse,
)
from tests.distillers.steps import draw
from tools.benchmark import reference

SHAPES = {
    'usual': (2, 8, 7, 9, 6),
    'one row': (2, 8, 1, 9, 6),
    'one column': (2, 8, 7, 1, 6),
    'one position': (2, 8, 1, 1, 6),
    'one image': (1, 8, 7, 9, 6),
    'one token': (2, 8, 7, 9, 1),
    'one channel': (2, 1, 7, 9, 6),
}
EVERY_SHAPE = pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES)


def _inputs(
    shape: tuple[int, ...] = SHAPES['usual'], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Branch]:
    """Student (a leaf), teacher, tokens, branch."""
    n, c, h, w, t = shape
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    branch = Branch(normal(c, c, 3, 3), normal(c), normal(t, c, 1, 1), normal(t))
    return normal(n, c, h, w).requires_grad_(), normal(n, c, h, w), normal(t, c), branch


def _parameters(tokens: Tensor, branch: Branch) -> tuple[Tensor, Branch]:
    return tokens.requires_grad_(), Branch(*(part.requires_grad_() for part in branch))


@EVERY_SHAPE
@pytest.mark.parametrize('student_mask', [False, True])
@pytest.mark.parametrize('with_branch', [False, True])
def test_loss_equals_the_released_formula(shape: tuple[int, ...], with_branch: bool, student_mask: bool) -> None:
    student, teacher, tokens, branch = _inputs(shape)
    results = []
    for function in (masked_feature_loss, reference.maskd_loss):
        loss = function(
            student, teacher, tokens, branch if with_branch else None, student_mask=student_mask, eps=0.1, factor=0.5
        )
        results.append((loss, *torch.autograd.grad(3 * loss, student)))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-14)


@EVERY_SHAPE
def test_masks_weights_and_gate_equal_the_released_formulas(shape: tuple[int, ...]) -> None:
    """Values, and the gradients that learn the tokens: of tokens, branch and map."""
    x, upstream, tokens, branch = _inputs(shape)
    tokens, branch = _parameters(tokens, branch)
    masks, expected_masks = token_masks(tokens, x), reference.maskd_masks(tokens, x)
    weights, expected_weights = mask_weights(branch, x), reference.maskd_mask_weights(x, *branch)
    torch.testing.assert_close(masks, expected_masks)
    torch.testing.assert_close(weights, expected_weights)
    for p, expected_p in ((weights, expected_weights), (None, None)):
        gated, expected = gate(x, masks, p), reference.maskd_gate(x, expected_masks, expected_p)
        leaves = [x, tokens, *(branch if p is not None else ())]
        grads = torch.autograd.grad(gated, leaves, upstream, retain_graph=True)
        expected_grads = torch.autograd.grad(expected, leaves, upstream, retain_graph=True)
        torch.testing.assert_close((gated, *grads), (expected, *expected_grads))


def test_dice_equals_the_broadcast_formula() -> None:
    for count in (2, 6):
        masks = draw(2, count, 7, 9).sigmoid().requires_grad_()
        dices = mask_dice(masks), reference.maskd_dice(masks)
        torch.testing.assert_close(*((dice, *torch.autograd.grad(dice, masks)) for dice in dices))
        torch.testing.assert_close(mask_dice(masks.flatten(2)), mask_dice(masks))


def test_dice_of_equal_disjoint_single_and_no_masks() -> None:
    rows = torch.eye(4).expand(2, 4, 4)
    assert mask_dice(rows).item() == 0
    assert mask_dice(rows[:, :1].expand(2, 3, 4)).item() == pytest.approx(1)
    assert mask_dice(torch.zeros(2, 3, 4)).item() == 0
    for shape in ((2, 1, 5), (0, 3, 5)):
        masks = torch.ones(shape, requires_grad=True)
        mask_dice(masks).backward()
        assert mask_dice(masks).item() == 0 and not masks.grad.any()


def test_students_own_mask_is_a_constant() -> None:
    student, teacher, tokens, _ = _inputs()
    loss = masked_feature_loss(student, teacher, tokens, student_mask=True)
    frozen = pixel_weights(token_masks(tokens, teacher) * token_masks(tokens, student.detach()))
    expected = weighted_mse(student, teacher, frozen)
    torch.testing.assert_close(torch.autograd.grad(loss, student), torch.autograd.grad(expected, student))
    assert loss < masked_feature_loss(student, teacher, tokens)  # smaller masks


def test_masks_without_area_count_nothing() -> None:
    """The released form divides 0 by 0."""
    student, teacher, tokens, branch = _inputs(dtype=torch.float32)
    teacher, tokens = teacher.abs() + 1, tokens.clone()
    tokens[:] = -1e4
    for some in (None, branch):
        loss = masked_feature_loss(student, teacher, tokens, some)
        loss.backward()
        assert loss.item() == 0 and not student.grad.any()
    tokens[0] = 0  # one mask of 1/2
    loss = masked_feature_loss(student, teacher, tokens)
    alone = masked_feature_loss(student, teacher, tokens[:1])
    torch.testing.assert_close(loss, alone / 6)


@pytest.mark.soak
def test_memory_is_a_tenth_of_the_released_form() -> None:
    """One level of a detector at 800x1333."""
    student, teacher, tokens, branch = _inputs((1, 256, 100, 168, 6), dtype=torch.float32)
    peaks = [
        peak_extra_memory(
            lambda loss=loss: torch.autograd.grad(loss(student, teacher, tokens, branch, student_mask=True), student)
        )
        for loss in (masked_feature_loss, reference.maskd_loss)
    ]
    assert peaks[0] <= 0.1 * peaks[1]
    assert peaks[0] <= 1.25 * student.nbytes + 16 * 2**20
