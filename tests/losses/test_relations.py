"""Relations within a picture: pairs of positions (SKD) and class prototypes (IFVD)."""

import pytest
import torch
from torch import Tensor

from mmdistill_dense.losses import pairwise_distance, prototype_distance
from tests.distillers.steps import draw
from tools.benchmark import reference

# positions, channels of student and teacher: the first is cheaper by positions, the second by channels
SHAPES = pytest.mark.parametrize(('size', 'c_s', 'c_t'), [((2, 3), 4, 9), ((5, 4), 2, 3)])


def _maps(size: tuple[int, int], c_s: int, c_t: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    return draw(batch, c_s, *size).requires_grad_(), draw(batch, c_t, *size, seed=1)


@SHAPES
def test_equals_the_released_formula_with_its_gradient(size: tuple[int, int], c_s: int, c_t: int) -> None:
    student, teacher = _maps(size, c_s, c_t)
    loss, naive = pairwise_distance(student, teacher), reference.skd(student, teacher)
    torch.testing.assert_close(loss, naive)
    torch.testing.assert_close(torch.autograd.grad(loss, student), torch.autograd.grad(naive, student))


def test_with_few_channels_no_matrix_of_positions_is_kept() -> None:
    student, teacher = (x.detach().float() for x in _maps((32, 32), 4, 8, batch=1))
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        loss = pairwise_distance(student.requires_grad_(), teacher)
    loss.backward()
    assert max(sizes) <= 32 * 32 * 8, 'the maps themselves are the largest'


CLASSES = 4
IGNORED = 255


def _batch() -> tuple[Tensor, Tensor, Tensor]:
    labels = torch.randint(0, CLASSES, (2, 3, 4), generator=torch.Generator().manual_seed(0))
    labels[:, 0, 0] = IGNORED
    return *_maps((3, 4), 3, 5), labels


def _loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return prototype_distance(student, teacher, labels, num_classes=CLASSES)


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
