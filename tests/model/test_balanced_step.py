"""A step of balanced distillers: what it measures, against plain backward passes, and that nothing else changes."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from mmdistill_dense.distillers.feature import FeatureDistiller
from mmdistill_dense.engine.loss_guard import loss_scale
from mmdistill_dense.registry import DISTILLERS
from tests import toys

KD, MIMIC = dict(type='LogitKD'), dict(type='MaskedMimic')
PCD = dict(type='PCD', queue_size=8, num_pixels=16)


@DISTILLERS.register_module()
class Untaught(FeatureDistiller):
    """A term without a gradient, and a number that is no loss."""

    def loss(self, student, teacher, level):
        return {'loss_untaught': (0 * student).sum() + 1, 'size': student.square().mean()}


def built(scope='mmseg', student=None, teacher=None, **distillers):
    model = toys.distilled(
        scope, student=student or toys.seg_net('fcn'), teacher=teacher or toys.seg_teacher('fcn'), distillers=distillers
    )
    balanced = [one for one in model.distillers.values() if one.balancer is not None]
    for one in balanced:
        one.balancer.start(1200, len(balanced))
        one.state.max_iters = 1200
    return model


def step(model, batch=None, iteration=0):
    """The losses of one training step, as the hook prepares it."""
    for one in model.distillers.values():
        one.state.iteration = iteration
        if one.balancer is not None:
            one.balancer.begin(iteration, one.schedule.factor(iteration, 1200), one.key)
    return toys.losses_of(model, batch)


def vector(loss, parameters):
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    dense = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
    return torch.cat([g.flatten() for g in dense])


def part(losses, start):
    """The sum of some losses: those of the task, or those of one distiller."""
    return toys.total({k: v for k, v in losses.items() if (k.startswith(start) if start else 'distill.' not in k)})


def gradients(model, batch, names):
    """The gradients at the backbone of the task and of distillers of weight 1, from a plain step."""
    losses = toys.losses_of(model, batch)
    own = {k: v for k, v in losses.items() if not k.startswith('distill.')}
    parts = [own, *({k: v for k, v in losses.items() if k.startswith(f'distill.{name}.')} for name in names)]
    return [vector(toys.total(one), list(model.backbone.parameters())) for one in parts]


@pytest.mark.parametrize('scope', ['mmseg', 'mmdet'])
def test_norms_ratios_and_cosines_are_those_of_plain_backward_passes(scope):
    if scope == 'mmseg':
        pair = dict(student=toys.seg_net('fcn'), teacher=toys.seg_teacher('fcn'))
        options, batch = dict(kd=KD, mimic=MIMIC, at=dict(type='AT', student_tap='backbone[2]')), toys.seg_batch()
    else:
        pair = dict(student=toys.det_net(), teacher=toys.det_teacher())
        options = {name: dict(type='PKD', student_tap=tap) for name, tap in dict(a='neck', b='backbone[2]').items()}
        batch = toys.det_batch()
    plain = built(scope, **pair, **options).double()
    ratios = dict(zip(options, (3.0, 0.5, 10.0), strict=False))
    model = built(scope, **pair, **{name: dict(one, balance=ratios[name]) for name, one in options.items()}).double()
    model.load_state_dict(plain.state_dict())
    model.distillers.load_state_dict(plain.distillers.state_dict())
    task, *own = gradients(plain, batch, options)
    losses = step(model, batch)
    measured = model.distillation.measured
    total = 0
    for (name, one), g in zip(model.distillers.items(), own, strict=True):
        (tried,) = one.balancer.tries
        assert tried.task == pytest.approx(float(task.norm()), rel=1e-9)
        assert tried.own == pytest.approx(float(g.norm()), rel=1e-9)
        weight = ratios[name] * float(task.norm() / g.norm())
        assert one.weight() == pytest.approx(weight, rel=1e-9)
        assert losses[f'distill.{name}.weight'].item() == pytest.approx(weight, rel=1e-6)
        assert measured[f'distill.{name}.ratio'] == pytest.approx(ratios[name], rel=1e-9)
        pulled = vector(part(losses, f'distill.{name}.loss'), list(model.backbone.parameters()))
        assert float(pulled.norm() / task.norm()) == pytest.approx(ratios[name], rel=1e-6)
        total = total + pulled
    assert measured['distill.ratio'] == pytest.approx(float(total.norm() / task.norm()), rel=1e-6)
    for (first, a), (second, b) in itertools.combinations(zip(options, own, strict=True), 2):
        expected = float(a @ b / a.norm() / b.norm())
        assert measured[f'distill.{first}.cosine.{second}'] == pytest.approx(expected, rel=1e-7, abs=1e-9)


def test_a_measured_step_changes_no_gradient_and_no_grad():
    options = dict(kd=dict(KD, schedule=dict(warmup=4)), mimic=MIMIC)
    balanced = built(**{name: dict(one, balance=2.0) for name, one in options.items()})
    losses = step(balanced)
    assert all(p.grad is None for p in balanced.parameters())
    toys.total(losses).backward()
    weights = {name: one.balancer.weight for name, one in balanced.distillers.items()}
    assert weights['kd'] > 0 and balanced.distillers['kd'].weight() == weights['kd'] / 4
    pinned = built(**{name: dict(one, loss_weight=weights[name]) for name, one in options.items()})
    toys.total(step(pinned)).backward()
    first, second = ({n: p.grad for n, p in m.named_parameters() if p.grad is not None} for m in (balanced, pinned))
    assert first and not toys.differing(first, second)


def test_only_planned_steps_are_measured_and_none_without_balance():
    """Outside of a run, in check, the benchmark and the diagnosis, an unmeasured model has weight 1."""
    model, plain = built(kd=dict(KD, balance=2.0), mimic=dict(MIMIC, loss_weight=0.5)), built(kd=KD)
    before = toys.losses_of(model)['distill.kd.loss_kd']
    assert torch.equal(before, toys.losses_of(plain)['distill.kd.loss_kd'])
    assert not model.distillers['kd'].balancer.tries
    for iteration in range(5):
        losses = step(model, iteration=iteration)
        assert 'distill.kd.weight' in losses and 'distill.mimic.weight' not in losses
    assert [one.iteration for one in model.distillers['kd'].balancer.tries] == [0, 2, 4]
    assert 'distill.ratio' not in model.distillation.measured, 'of one distiller it would say the same twice'
    own = {'decode.loss_ce', 'decode.acc_seg', 'aux.loss_ce', 'aux.acc_seg'}
    assert set(step(plain)) == own | {'distill.kd.loss_kd', 'distill.kd.share'}


def test_an_empty_queue_is_weight_0_until_it_is_filled():
    model = built(pcd=dict(PCD, balance=2.0, student_tap='backbone[3]', queue_init='empty'))
    losses = step(model)
    (tried,) = model.distillers['pcd'].balancer.tries
    assert tried.own == 0 and losses['distill.pcd.loss_off'] == 0
    losses['distill.pcd.loss_off'].backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.distillers.parameters() if p.requires_grad)
    assert 'distill.pcd.loss_off' in step(model, iteration=1)
    assert step(model, iteration=2)['distill.pcd.weight'] > 0


def test_a_factor_of_0_skips_the_work_and_the_teacher():
    model = built(kd=dict(KD, balance=2.0, schedule=dict(stop_at=300)))
    step(model, iteration=0)
    model.distillers['kd'].balancer._hold('kd')
    ran = []
    model.distillers['kd'].register_forward_hook(lambda *_: ran.append('terms'))
    toys.teacher_of(model).network.register_forward_hook(lambda *_: ran.append('teacher'))
    toys.teacher_of(model).network.backbone.register_forward_hook(lambda *_: ran.append('teacher'))
    assert step(model, iteration=299)['distill.kd.weight'] > 0 and ran
    ran.clear()
    assert step(model, iteration=300)['distill.kd.weight'] == 0 and not ran


def test_a_distiller_without_a_gradient():
    bad = dict(type='Untaught', student_tap='backbone[3]', align='conv', balance=2.0)
    model = built(bad=bad, kd=dict(KD, balance=1.0))
    step(model)
    measured, one = model.distillation.measured, pytest.approx(1.0)
    assert measured == {'distill.bad.ratio': 0.0, 'distill.kd.ratio': one, 'distill.ratio': one}
    with pytest.raises(RuntimeError, match=r'distillers\.bad gives no gradient at the backbone'):
        step(model, iteration=max(model.distillers['bad'].balancer.plan))


def test_a_frozen_backbone_is_measured_at_neck_and_heads():
    model = built(kd=dict(KD, balance=2.0), student=toys.seg_net('fcn', backbone=dict(frozen_stages=4)))
    for parameter in model.backbone.parameters():
        parameter.requires_grad_(False)
    losses = step(model)
    heads = [p for n, p in model.named_parameters() if not n.startswith(('backbone.', 'distillers.'))]
    (tried,) = model.distillers['kd'].balancer.tries
    assert tried.task == pytest.approx(float(vector(part(losses, ''), heads).norm()), rel=1e-5)
    assert losses['distill.kd.weight'] == pytest.approx(2.0 * tried.task / tried.own)


def test_no_task_no_ratio():
    model = built(kd=dict(KD, balance=2.0))
    model.decode_head.loss_by_feat = lambda *_, **__: {}
    model.auxiliary_head.loss_by_feat = lambda *_, **__: {}
    with pytest.raises(ValueError, match=r'distillers\.kd\.balance: the student has no own loss'):
        step(model)


@pytest.mark.parametrize('precision', [torch.float32, torch.bfloat16])
def test_the_loss_scale_of_half_precision_is_divided_out(precision):
    found = []
    for scale in (1.0, 2.0**14):
        model = built(kd=dict(KD, balance=2.0), mimic=dict(MIMIC, balance=3.0))
        model.distillation.state.loss_scale = scale
        with torch.autocast('cpu', torch.bfloat16, enabled=precision == torch.bfloat16):
            losses = step(model)
        toys.total(losses).backward()
        found.append([*(one.balancer.tries[0] for one in model.distillers.values())])
    for one, other in zip(*found, strict=True):
        assert other == pytest.approx(one, rel=1e-5)


def test_an_overflow_by_the_loss_scale_is_dropped():
    model = built(kd=dict(KD, balance=2.0))
    model.distillation.state.loss_scale = 2.0**140
    losses = step(model)
    assert not math.isfinite(model.distillers['kd'].balancer.tries[0].task)
    assert losses['distill.kd.weight'] == 0 and toys.total(losses).isfinite() and not model.distillation.measured
    toys.total(losses).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_the_scale_is_that_of_the_runs_scaler():
    class Runner:
        optim_wrapper = nn.Module()

    assert loss_scale(Runner) == 1.0
    Runner.optim_wrapper.loss_scaler = torch.amp.GradScaler('cpu', init_scale=8.0)
    assert loss_scale(Runner) == 8.0


def test_copies_have_measurements_of_their_own():
    model = built(kd=dict(KD, balance=2.0))
    step(model)
    other = copy.deepcopy(model)
    other.distillation.started = True
    step(other, iteration=2)
    assert len(model.distillers['kd'].balancer.tries) == 1 and len(other.distillers['kd'].balancer.tries) == 2
    assert other.distillation.measured is not model.distillation.measured
