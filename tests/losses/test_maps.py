"""Distances of two feature maps, their relations, masks over them, and the convolutions of masked maps."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mmdistill_dense import losses
from mmdistill_dense.losses.maps import smooth_l1
from tests.distillers.steps import draw
from tools.benchmark import reference

SHAPE = (3, 4, 5, 6)


def _huber(difference: float, beta: float) -> float:
    size = abs(difference)
    return size * size / (2 * beta) if size < beta else size - beta / 2


def _slope(difference: Tensor, beta: float) -> Tensor:
    return difference.sign() if beta == 0 else (difference / beta).clamp(-1, 1)


@pytest.mark.parametrize(('loss', 'term', 'slope', 'divisor'), [
    (losses.feature_mimic, lambda d: d * d, lambda d: 2 * d, 3),
    (partial(losses.feature_mimic, reduction='mean'), lambda d: d * d, lambda d: 2 * d, 360),
    *((partial(smooth_l1, beta=beta), partial(_huber, beta=beta), partial(_slope, beta=beta), 360)
      for beta in (1.0, 0.11, 0.0)),
])  # fmt: skip
def test_differences_equal_the_naive_formulas(loss: Any, term: Any, slope: Any, divisor: int) -> None:
    student, teacher = draw(*SHAPE).requires_grad_(), draw(*SHAPE, seed=1).requires_grad_()
    total = loss(student, teacher)
    pairs = zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)
    assert total.item() == pytest.approx(sum(term(s - t) for s, t in pairs) / divisor, rel=1e-12)
    total.backward()
    torch.testing.assert_close(student.grad, slope((student - teacher).detach()) / divisor)
    assert teacher.grad is None


def _maps_correlation() -> tuple[torch.Tensor, torch.Tensor]:
    teacher = draw(*SHAPE, seed=1)
    return 3 * draw(*SHAPE) + teacher + torch.arange(4.0)[:, None, None], teacher


def test_equals_the_released_formula_of_correlation() -> None:
    maps = _maps_correlation()
    assert losses.standardized_mse(*maps).item() == pytest.approx(reference.pkd(*maps).item(), rel=1e-10)


@pytest.mark.parametrize('offset', [0.0, 0.1, 5.0, 1000.1])
@pytest.mark.parametrize('noise', [0.0, 1e-7])
def test_a_constant_channel_of_the_student_has_no_gradient(offset: float, noise: float) -> None:
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, 2, 4, 25, 42, generator=generator)
    student[:, 1] = offset + noise * student[:, 1]
    losses.standardized_mse(student.requires_grad_(), teacher).backward()
    assert student.grad is not None and student.grad[:, 1].abs().max() == 0
    assert all(student.grad[:, c].any() for c in (0, 2, 3))


@pytest.mark.parametrize('offset', [0.1, 1000.1])
def test_constant_channels_have_half_a_loss(offset: float) -> None:
    student, teacher = (x.float() for x in _maps_correlation())
    n, rest = 3 * 5 * 6, losses.standardized_mse(student[:, 1:], teacher[:, 1:]) * 3
    for flat in ((student,), (student, teacher)):
        for x in flat:
            x[:, 0] = offset
        expected = rest + (n - 1) / (2 * n) * (len(flat) == 1)
        torch.testing.assert_close(losses.standardized_mse(student, teacher) * 4, expected, rtol=1e-5, atol=0)


def _naive_attention(student: Tensor, teacher: Tensor, power: float) -> float:
    """Attention maps position by position, in Python's floats; mean over images and positions."""

    def attention(image: Tensor) -> list[float]:
        energies = [sum(abs(v) ** power for v in position) for position in image.flatten(1).T.tolist()]
        length = math.sqrt(sum(e * e for e in energies))
        return [e / length for e in energies]

    pairs = [(attention(s), attention(t)) for s, t in zip(student, teacher, strict=True)]
    squares = [(a - b) ** 2 for s, t in pairs for a, b in zip(s, t, strict=True)]
    return sum(squares) / len(squares)


@pytest.mark.parametrize('power', [1.0, 2.0, 3.5])
def test_attention_equals_positions_one_by_one(power: float) -> None:
    student, teacher = draw(2, 3, 3, 4), draw(2, 5, 3, 4, seed=1)
    loss = losses.attention_distance(student, teacher, power=power)
    assert loss.item() == pytest.approx(_naive_attention(student, teacher, power), rel=1e-9)
    torch.testing.assert_close(losses.attention_distance(student, teacher, power=power, reduction='sum'), 12 * loss)


# Relations within a picture: pairs of positions (SKD) and class prototypes (IFVD)


# positions, channels of student and teacher: the first is cheaper by positions, the second by channels
SIZES = pytest.mark.parametrize(('size', 'c_s', 'c_t'), [((2, 3), 4, 9), ((5, 4), 2, 3)])


def _maps(size: tuple[int, int], c_s: int, c_t: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    return draw(batch, c_s, *size).requires_grad_(), draw(batch, c_t, *size, seed=1)


@SIZES
def test_relations_equal_the_released_formula_with_its_gradient(size: tuple[int, int], c_s: int, c_t: int) -> None:
    student, teacher = _maps(size, c_s, c_t)
    loss, naive = losses.pairwise_distance(student, teacher), reference.skd(student, teacher)
    torch.testing.assert_close(loss, naive)
    torch.testing.assert_close(torch.autograd.grad(loss, student), torch.autograd.grad(naive, student))
    unit, target = (x.flatten(2) / x.detach().flatten(2).norm(dim=1, keepdim=True) for x in (student, teacher))
    naive = (unit.mT @ unit - target.mT @ target).square().mean()  # the authors' code stops the gradient at the norms
    loss = losses.pairwise_distance(student, teacher, through_norm=False)
    torch.testing.assert_close(loss, naive)
    torch.testing.assert_close(torch.autograd.grad(loss, student), torch.autograd.grad(naive, student))


CLASSES = 4
IGNORED = 255


def _batch() -> tuple[Tensor, Tensor, Tensor]:
    labels = torch.randint(0, CLASSES, (2, 3, 4), generator=torch.Generator().manual_seed(0))
    labels[:, 0, 0] = IGNORED
    return *_maps((3, 4), 3, 5), labels


_loss = partial(losses.prototype_distance, num_classes=CLASSES)


def test_equals_maps_of_class_means_with_its_gradient() -> None:
    student, teacher, labels = _batch()
    loss, naive = _loss(student, teacher, labels), reference.ifvd(student, teacher, labels, CLASSES)
    torch.testing.assert_close(loss, naive)
    torch.testing.assert_close(torch.autograd.grad(loss, student), torch.autograd.grad(naive, student))


@pytest.mark.parametrize('label', [IGNORED, CLASSES, -1])
def test_positions_without_a_class_change_nothing(label: int) -> None:
    student, teacher, labels = _batch()
    labels[:, 0, 0] = label
    before = _loss(student, teacher, labels)
    (gradient,) = torch.autograd.grad(before, student)
    assert not gradient[:, :, 0, 0].any() and gradient[:, :, 1:].any()
    changed = student.detach().clone()
    changed[:, :, 0, 0] = 100.0
    torch.testing.assert_close(_loss(changed, teacher, labels), before)


# Masks of tokens (MasKD)


USUAL = (2, 8, 7, 9, 6)  # pictures, channels, height, width, tokens
EVERY_SHAPE = pytest.mark.parametrize(
    'shape', [USUAL, (2, 8, 1, 9, 6), (2, 8, 1, 1, 6), (1, 8, 7, 1, 6), (2, 8, 7, 9, 1), (2, 1, 7, 9, 6)], ids=str
)


def _masked(
    shape: tuple[int, ...] = USUAL, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, losses.Branch]:
    """Student (a leaf), teacher, tokens, branch."""
    n, c, h, w, t = shape
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    branch = losses.Branch(normal(c, c, 3, 3), normal(c), normal(t, c, 1, 1), normal(t))
    return normal(n, c, h, w).requires_grad_(), normal(n, c, h, w), normal(t, c), branch


@EVERY_SHAPE
@pytest.mark.parametrize('student_mask', [False, True])
@pytest.mark.parametrize('with_branch', [False, True])
def test_loss_equals_the_released_formula(shape: tuple[int, ...], with_branch: bool, student_mask: bool) -> None:
    student, teacher, tokens, branch = _masked(shape)
    results = []
    for function in (losses.masked_feature_loss, reference.maskd_loss):
        loss = function(
            student, teacher, tokens, branch if with_branch else None, student_mask=student_mask, eps=0.1, factor=0.5
        )
        results.append((loss, *torch.autograd.grad(3 * loss, student)))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-14)


@EVERY_SHAPE
def test_masks_equal_the_released_formulas(shape: tuple[int, ...]) -> None:
    """Values, and the gradients that learn the tokens: of tokens, branch and map."""
    x, upstream, tokens, branch = _masked(shape)
    tokens, branch = tokens.requires_grad_(), losses.Branch(*(part.requires_grad_() for part in branch))
    masks, expected_masks = losses.token_masks(tokens, x), reference.maskd_masks(tokens, x)
    weights, expected_weights = losses.mask_weights(branch, x), reference.maskd_mask_weights(x, *branch)
    torch.testing.assert_close(masks, expected_masks)
    torch.testing.assert_close(weights, expected_weights)
    for p, expected_p in ((weights, expected_weights), (None, None)):
        gated, expected = losses.gate(x, masks, p), reference.maskd_gate(x, expected_masks, expected_p)
        leaves = [x, tokens, *(branch if p is not None else ())]
        grads = torch.autograd.grad(gated, leaves, upstream, retain_graph=True)
        expected_grads = torch.autograd.grad(expected, leaves, upstream, retain_graph=True)
        torch.testing.assert_close((gated, *grads), (expected, *expected_grads))


def test_dice_equals_the_broadcast_formula() -> None:
    for count in (2, 6):
        masks = draw(2, count, 7, 9).sigmoid().requires_grad_()
        dices = losses.mask_dice(masks), reference.maskd_dice(masks)
        torch.testing.assert_close(*((dice, *torch.autograd.grad(dice, masks)) for dice in dices))
        torch.testing.assert_close(losses.mask_dice(masks.flatten(2)), losses.mask_dice(masks))


def test_dice_of_equal_disjoint_single_and_no_masks() -> None:
    rows = torch.eye(4).expand(2, 4, 4)
    assert losses.mask_dice(rows).item() == 0
    assert losses.mask_dice(rows[:, :1].expand(2, 3, 4)).item() == pytest.approx(1)
    assert losses.mask_dice(torch.zeros(2, 3, 4)).item() == 0
    for shape in ((2, 1, 5), (0, 3, 5)):
        masks = torch.ones(shape, requires_grad=True)
        losses.mask_dice(masks).backward()
        assert losses.mask_dice(masks).item() == 0 and not masks.grad.any()


def test_masks_without_area_count_nothing() -> None:
    """The released form divides 0 by 0."""
    student, teacher, tokens, branch = _masked(dtype=torch.float32)
    teacher, tokens = teacher.abs() + 1, tokens.clone()
    tokens[:] = -1e4
    for part in (None, branch):
        loss = losses.masked_feature_loss(student, teacher, tokens, part)
        loss.backward()
        assert loss.item() == 0 and not student.grad.any()
    tokens[0] = 0  # one mask of 1/2
    loss = losses.masked_feature_loss(student, teacher, tokens)
    torch.testing.assert_close(loss, losses.masked_feature_loss(student, teacher, tokens[:1]) / 6)


# Convolutions of masked maps


def _convolved(dtype: torch.dtype, *, cs: int = 5, ct: int = 24, height: int = 11, width: int = 13) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, cs, height, width), (ct, cs, 1, 1), (ct,), (ct, ct, 3, 3), (ct,)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


@pytest.mark.parametrize('kernel', [1, 3, 5])
def test_products_of_the_kept_positions_alone(kernel: int) -> None:
    """Taps beyond every border, and the output can be changed in place; a mask that is not bool goes the other way."""
    feat, align, bias, *_ = _convolved(torch.float64)
    weight = torch.randn(24, 24, kernel, kernel, dtype=torch.float64, requires_grad=True)
    parameters = [feat, align, bias, weight, torch.randn(24, dtype=torch.float64, requires_grad=True)]
    keep = losses.random_keep((2, 11, 13), 0.5, torch.Generator().manual_seed(1))
    keep[:, :, 0, 0] = keep[:, :, -1, -1] = True
    results = []
    for mask in (keep, keep.double()):
        output = losses.masked_align_conv(parameters[0], mask, *parameters[1:]).relu_()
        results.append([output.detach(), *torch.autograd.grad(output.square().sum(), parameters)])
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


def test_a_convolution_without_an_align() -> None:
    """The products of dropped positions are left out where they are many, and only with a mask that can be read."""
    feat, *_, weight, bias = _convolved(torch.float64, cs=24)
    for ratio in (0.75, 0.25):
        keep = losses.random_keep((2, 11, 13), ratio, torch.Generator().manual_seed(1))
        results = []
        for mask in (keep, keep.double()):
            output = losses.masked_conv(feat, mask, weight, bias)
            results.append([output, *torch.autograd.grad(output.square().sum(), [feat, weight, bias])])
        torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


def test_random_and_centre_masks() -> None:
    keep = losses.random_keep((10, 100, 100), 0.75, torch.Generator().manual_seed(0))
    assert keep.shape == (10, 1, 100, 100) and keep.dtype == torch.bool
    assert abs(keep.float().mean().item() - 0.25) < 0.01
    assert not torch.equal(keep[0], keep[1])
    keep = losses.centre_keep((2, 16, 32))
    expected = torch.ones(2, 1, 16, 32, dtype=torch.bool)
    expected[:, :, 5:10, 10:21] = False
    assert torch.equal(keep, expected)
