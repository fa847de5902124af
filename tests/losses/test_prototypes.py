import pytest
import torch
from torch import Tensor

from mmdistill_dense.losses import prototype_distance

CLASSES = 4
IGNORED = 255


def _batch(batch: int = 2, size: tuple[int, int] = (3, 4)) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(batch, c, *size, generator=generator, dtype=torch.float64) for c in (3, 5))
    labels = torch.randint(0, CLASSES, (batch, *size), generator=generator)
    labels[:, 0, 0] = IGNORED
    return student.requires_grad_(), teacher, labels


def _loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return prototype_distance(student, teacher, labels, num_classes=CLASSES)


def _naive(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Class by class, by means over masks and torch's cosine similarity."""
    total = student.sum() * 0
    for s, t, label in zip(student, teacher, labels, strict=True):
        for k in range(CLASSES):
            mask = label == k
            if mask.any():
                members = [x[:, mask] for x in (s, t)]
                cosines = [torch.cosine_similarity(x, x.mean(1, keepdim=True), dim=0) for x in members]
                total = total + (cosines[0] - cosines[1]).square().sum()
    return total / labels.numel()


def test_equals_classes_one_by_one_with_its_gradient() -> None:
    student, teacher, labels = _batch()
    loss, naive = _loss(student, teacher, labels), _naive(student, teacher, labels)
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


def test_a_position_alone_in_its_class_is_its_prototype() -> None:
    student, teacher, _ = _batch(size=(2, 2))
    assert _loss(student, teacher, torch.arange(4).reshape(1, 2, 2).expand(2, 2, 2)).item() == pytest.approx(0)


@pytest.mark.parametrize(
    ('part', 'words'),
    [
        (0, r'differ in batch or size: \(2, 3, 3, 3\) and \(2, 5, 3, 4\)'),
        (1, r'differ in batch or size: \(2, 3, 3, 4\) and \(2, 5, 3, 3\)'),
        (2, r'labels of shape \(2, 3, 3\) do not fit maps of \(2, 3, 3, 4\)'),
    ],
)
def test_other_sizes_are_refused(part: int, words: str) -> None:
    batch = list(_batch())
    batch[part] = batch[part][..., :-1]
    with pytest.raises(ValueError, match=words):
        _loss(*batch)
