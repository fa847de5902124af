"""MGD: masks, the formula by hand, real networks of both tasks, resume."""

import doctest

import pytest
import torch
import torch.nn.functional as F

from mmdistill_dense.distillers import MGD, mgd
from mmdistill_dense.distillers.base import RunState
from tests import toys
from tests.distillers.case import DistillerCase

TAP = 'backbone[3]'


class TestMGD(DistillerCase):
    option = dict(type='MGD', student_tap=TAP, mask_ratio=0.75, alpha=2e-4)


class TestMeanOfEqualChannels(DistillerCase):
    """Where the channels agree there is no align."""

    option = dict(type='MGD', student_tap='decode_head.conv_seg', mask_ratio=0.5, alpha=1.0, reduction='mean')
    student = teacher = (2, 7, 8, 8)

    def test_no_align(self) -> None:
        assert sum(p.numel() for p in self.make().parameters()) == 2 * (9 * 7 * 7 + 7)


def _distiller(shapes=((1, 3, 6, 5), (1, 4, 6, 5)), seed=0, **options):
    torch.manual_seed(0)
    distiller = MGD(TAP, **options)
    distiller.setup(*({TAP: [torch.Size(shape)]} for shape in shapes))
    distiller.state = RunState(iteration=3, max_iters=10, seed=seed)
    return distiller.double()


def _maps(batch=4):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(batch, c, 6, 5, generator=generator, dtype=torch.float64) for c in (3, 4))


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


def test_masks_differ_by_iteration_level_seed_and_rank_and_come_again():
    x = torch.zeros(2, 3, 16, 16)
    masks = []
    for level, progress in [
        (0, RunState(iteration=3, seed=1)),
        (1, RunState(iteration=3, seed=1)),
        (0, RunState(iteration=4, seed=1)),
        (0, RunState(iteration=3, seed=2)),
        (0, RunState(iteration=3, seed=1, rank=1)),
    ]:
        distiller = _distiller()
        distiller.state = progress
        masks.append(distiller._mask(x, level))
        assert torch.equal(masks[-1], distiller._mask(x, level))
    assert all(not torch.equal(a, b) for i, a in enumerate(masks) for b in masks[:i])


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


def test_a_step_of_a_detector_reaches_neck_and_backbone():
    distillers = dict(mgd=dict(type='MGD'))
    model = toys.ready(toys.build(toys.model_config(toys.det_net(), toys.det_teacher(), distillers), scope='mmdet'))
    assert len(model.distillers['mgd'].parts) == 5
    losses = toys.losses_of(model, toys.det_batch())
    toys.total({name: value for name, value in losses.items() if name.startswith('distill.')}).backward()
    trained = {name.split('.')[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained == {'backbone', 'neck', 'distillers'}
    assert all(p.grad is not None and p.grad.any() for p in model.distillers.parameters())


@pytest.mark.soak
def test_a_resumed_run_draws_the_masks_it_would_have_drawn(tmp_path):
    option = toys.model_config(toys.seg_net(), toys.seg_teacher(), dict(mgd=dict(TestMGD.option)))
    toys.train(tmp_path / 'whole', option, iters=4)
    toys.train(tmp_path / 'parts', option, iters=2)
    runner = toys.run_config(tmp_path / 'parts', option, iters=4)
    runner.resume = True
    toys.train(None, runner)
    whole, parts = (torch.load(tmp_path / name / 'iter_4.pth', weights_only=False) for name in ('whole', 'parts'))
    for key in ('state_dict', 'distillers'):
        assert not toys.differing(whole[key], parts[key])


def test_example():
    assert doctest.testmod(mgd).failed == 0


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(mask_ratio=1.0), r'mask_ratio must be a number in \[0, 1\), got 1\.0'),
        (dict(alpha=0), 'alpha must be > 0, got 0'),
        (dict(reduction='none'), "reduction must be one of 'sum', 'mean', got 'none'"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(ValueError, match=words):
        MGD(**options)


def test_vectors_are_refused():
    with pytest.raises(ValueError, match=r'gives \(3,\) .*no map \(C, H, W\).*; tap a backbone stage'):
        _distiller(shapes=((1, 3), (1, 3)))
