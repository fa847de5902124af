"""MGD: masks, the formula by hand, real networks of both tasks, resume."""

import pytest
import torch
import torch.nn.functional as F

from mmdistill_dense.distillers import MGD
from tests.distillers.steps import draw, set_up

TAP = 'backbone[3]'


def _distiller(*shapes, **options):
    return set_up(MGD, shapes or [(3, 6, 5), (4, 6, 5)], tap=TAP, **options)


def _maps(batch=4):
    return draw(batch, 3, 6, 5), draw(batch, 4, 6, 5, seed=1)


def _loss(distiller, student, teacher):
    return distiller({TAP: [student]}, {TAP: [teacher]}, None)['loss_mgd']


@pytest.mark.parametrize('reduction', ['sum', 'mean'])
def test_equals_the_formula(reduction):
    distiller = _distiller(alpha=0.5, reduction=reduction)
    student, teacher = _maps()
    aligned = torch.einsum('oc,bchw->bohw', distiller.aligns[0].weight[..., 0, 0], student)
    aligned = aligned + distiller.aligns[0].bias[:, None, None]
    keep = distiller._mask(student, 0)
    assert set(keep.unique().tolist()) == {0.0, 1.0} and keep.shape == (4, 1, 6, 5)
    first, _, second = distiller.parts[0]
    hidden = F.conv2d(aligned * keep, first.weight, first.bias, padding=1).clamp(min=0)
    generated = F.conv2d(hidden, second.weight, second.bias, padding=1)
    total = sum((g - t) ** 2 for g, t in zip(generated.flatten().tolist(), teacher.flatten().tolist(), strict=True))
    expected = 0.5 * total / (4 if reduction == 'sum' else teacher.numel())
    assert _loss(distiller, student, teacher).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('ratio', [0.0, 0.45, 0.75])
def test_a_share_of_the_positions_is_dropped(ratio):
    distiller = _distiller(mask_ratio=ratio)
    keep = distiller._mask(torch.zeros(4, 3, 100, 100), 0)
    assert keep.mean().item() == pytest.approx(1 - ratio, abs=0.01)


def test_the_student_sees_the_gradient_of_kept_positions_alone():
    distiller = _distiller()
    student, teacher = _maps()
    _loss(distiller, student.requires_grad_(), teacher).backward()
    seen = student.grad.abs().sum(1, keepdim=True) > 0
    assert torch.equal(seen, distiller._mask(student, 0).bool())


@pytest.mark.parametrize('reduction', ['sum', 'mean'])
def test_a_batch_is_the_mean_of_its_halves(reduction, monkeypatch):
    distiller = _distiller(reduction=reduction)
    student, teacher = _maps()
    keep = distiller._mask(student, 0)
    monkeypatch.setattr(distiller, '_mask', lambda x, level: part)
    values = []
    for rows in (slice(0, 4), slice(0, 2), slice(2, 4)):
        part = keep[rows]
        values.append(_loss(distiller, student[rows], teacher[rows]))
    torch.testing.assert_close(values[0], (values[1] + values[2]) / 2)


def test_vectors_are_refused():
    with pytest.raises(ValueError, match=r'gives \(3,\) .*no map \(C, H, W\).*; tap a backbone stage'):
        _distiller((3,), (3,))
