"""CanKD against its formula, position by position."""

import pytest
import torch
from torch import Tensor

from mmdistill_dense.distillers import CanKD
from mmdistill_dense.losses import instance_distance, linear_read
from tests.distillers.steps import draw, set_up
from tools.benchmark import reference


def naive(part: torch.nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    """With all scores, H W x N of them, as released."""

    def one(conv: torch.nn.Conv2d, x: Tensor) -> Tensor:
        return torch.einsum('oc,bchw->bohw', conv.weight[:, :, 0, 0], x) + conv.bias[:, None, None]

    key, value = (
        one(conv, teacher)[..., : height // 2 * 2, : width // 2 * 2]
        .unflatten(3, (-1, 2))
        .unflatten(2, (-1, 2))
        .amax((3, 5))
        for conv in (part.phi, part.g)
        for height, width in [teacher.shape[2:]]
    )
    read = one(part.out, reference.cankd_read(one(part.theta, student), key, value))
    mean, variance = read.mean((0, 2, 3), keepdim=True), read.var((0, 2, 3), correction=0, keepdim=True)
    read = (read - mean) / (variance + part.norm.eps).sqrt() * part.norm.weight[:, None, None]
    read = read + part.norm.bias[:, None, None]
    both = []
    for x in (student + read, teacher):
        mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
        both.append((x - mean) / (variance + 1e-5).sqrt())
    return ((both[0] - both[1]) ** 2).mean()


@pytest.mark.parametrize('size', [(4, 6), (5, 3), (2, 2)])
def test_the_naive_formula(size: tuple[int, int]) -> None:
    made = set_up(CanKD, [(4, *size), (6, *size)])
    student, teacher = draw(2, 4, *size).requires_grad_(), draw(2, 6, *size, seed=1)
    first = made({'tap': [student]}, {'tap': [teacher]}, None)['loss_cankd']
    torch.testing.assert_close(first, instance_distance(made.aligns[0](student), teacher))  # nothing is read at first
    first.backward()
    assert made.parts[0].norm.weight.grad.any() and not made.parts[0].theta.weight.grad.any()
    torch.nn.init.constant_(made.parts[0].norm.weight, 0.7)
    found = made({'tap': [student]}, {'tap': [teacher]}, None)['loss_cankd']
    expected = naive(made.parts[0], made.aligns[0](student), teacher)
    torch.testing.assert_close(found, expected)
    given = [student, *made.parameters()]
    for ours, theirs in zip(*(torch.autograd.grad(x, given) for x in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-6)


def test_the_gradients() -> None:
    maps = [draw(2, 3, 4, 3, seed=seed).requires_grad_() for seed in range(3)]
    assert torch.autograd.gradcheck(linear_read, maps)
    assert torch.autograd.gradcheck(lambda x: instance_distance(x, maps[1].detach()), maps[0])


def test_sides_of_one_position_are_not_pooled() -> None:
    made = set_up(CanKD, [(4, 1, 5), (6, 1, 5)])
    assert made({'tap': [draw(2, 4, 1, 5)]}, {'tap': [draw(2, 6, 1, 5)]}, None)['loss_cankd'] > 0


def test_one_position_has_a_gradient_of_zero_for_each_parameter() -> None:
    """Processes wait for the gradients of all of them."""
    made = set_up(CanKD, [(4, 2, 2), (4, 2, 2)])
    student, teacher = torch.randn(2, 1, 4, 1, 1, dtype=torch.float64)
    read = made.parts[0](student, teacher)
    assert torch.equal(read, student)
    read.sum().backward()
    assert all(one.grad is not None and not one.grad.any() for one in made.parts[0].parameters())
