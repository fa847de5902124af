"""``balance``: runs resumed to the bit, repeated with the printed weights, or refused; and what a step measures."""

import copy
import functools
import itertools
import json
import math
import re
from unittest import mock

import pytest
import torch

from mmdistill_dense.distillers.base import Distiller
from mmdistill_dense.distillers.feature import FeatureDistiller
from mmdistill_dense.model.balanced_step import balanced_place
from mmdistill_dense.registry import DISTILLERS
from tests import toys
from tests.faults.tools import content, log_of, resumed_alike
from tests.pretrain import runs as pretraining

ITERS, UNTIL = 16, 12
PLAN = [0, 2, 3, 4, 6, 8, 9, 11]
RAMP = dict(ramp_down=(0, 1.0))
BALANCED = dict(
    kd=dict(type='LogitKD', balance=dict(ratio=3.0, until=UNTIL), schedule=RAMP),
    mimic=dict(type='MaskedMimic', balance=dict(ratio=0.5, until=0.75), clip_max_norm=1.0),
    at=dict(type='AT', student_tap='backbone[2]', loss_weight=0.3),
)


def config(folder, distillers=BALANCED, iters=ITERS, student=None, **changes):
    """A run with dropout, a checkpoint every iteration, and its log."""
    student = student or toys.seg_net('fcn', dropout=0.1)
    model = toys.model_config(student, toys.seg_teacher('fcn'), distillers)
    each_step = dict(default_hooks=dict(checkpoint=dict(interval=1)), log_level='INFO')
    return toys.run_config(folder, model, iters=iters, **toys.merged(each_step, changes))


def balance_of(path):
    return torch.load(path, weights_only=False).get('balance')


def logged(folder, ending):
    (file,) = folder.glob('*/vis_data/scalars.json')
    actual = {}
    for row in map(json.loads, file.read_text().splitlines()):
        for name, value in row.items():
            if name.startswith('distill.') and name.endswith(ending):
                actual.setdefault(name, {})[row['step'] - 1] = value
    return actual


USED = {}  # the weight of each distiller in each step of the run below


@functools.cache
def whole():
    weighted = Distiller.weighted

    def noted(self, terms):
        USED[self.name, self.state.iteration] = self.weight()
        return weighted(self, terms)

    folder = toys.fresh_dir()
    with mock.patch.object(Distiller, 'weighted', noted):
        toys.train(None, config(folder))
    return folder


def train(folder, distillers=BALANCED, **changes):
    toys.train(None, config(folder, distillers, **changes))


def resumed(folder, start, distillers=BALANCED, **changes):
    train(folder, distillers, resume=True, load_from=str(whole() / start), **changes)


def test_it_is_measured_as_planned():
    actual = balance_of(whole() / f'iter_{ITERS}.pth')
    assert set(actual) == {'kd', 'mimic'}
    assert [[entry[0] for entry in state['tries']] for state in actual.values()] == [PLAN, PLAN]
    weights, ratios = logged(whole(), '.weight'), logged(whole(), 'ratio')
    assert set(weights) == {'distill.kd.weight', 'distill.mimic.weight'}
    assert set(ratios) == {'distill.kd.ratio', 'distill.mimic.ratio', 'distill.ratio'}
    assert all(list(values) == PLAN for values in ratios.values())
    assert all(list(values) == list(range(ITERS)) for values in weights.values())
    kd = weights['distill.kd.weight']
    held_weight = kd[UNTIL] / (1 - UNTIL / ITERS)
    assert all(kd[i] == pytest.approx(held_weight * (1 - i / ITERS), rel=1e-5) for i in range(UNTIL, ITERS))
    assert len({weights['distill.mimic.weight'][i] for i in range(UNTIL, ITERS)}) == 1
    for name, state in actual.items():
        for i, task, norm in state['tries']:
            ratio = weights[f'distill.{name}.weight'][i] * norm / task
            assert ratios[f'distill.{name}.ratio'][i] == pytest.approx(ratio, rel=1e-5)
    out = log_of(whole())
    assert 'distillers.kd.balance: ratio 3, 8 measurements until iteration 12, gradients of backbone' in out
    printed = dict(re.findall(r'(\w+): weight .* to repeat without .* balance=None, loss_weight=(\S+)', out))
    for name, weight in dict(kd=held_weight, mimic=weights['distill.mimic.weight'][UNTIL]).items():
        assert weight == pytest.approx(float(printed[name]), rel=1e-6), 'what is held, to the last digit'


@pytest.mark.parametrize('start', [5, *(pytest.param(start, marks=pytest.mark.soak) for start in (UNTIL, 14))])
def test_a_resumed_run_is_equal_to_the_bit(tmp_path, start):
    resumed_alike(tmp_path, train, f'iter_{start}', f'iter_{ITERS}', whole())
    assert ('measured before' in log_of(tmp_path)) == (start > UNTIL)


def test_measuring_changes_nothing_but_the_weights(tmp_path, monkeypatch):
    """A run without balance whose weights are those that were found, step by step."""
    expected = content(whole() / f'iter_{ITERS}.pth')
    assert len(USED) == ITERS * len(BALANCED)
    monkeypatch.setattr(Distiller, 'weight', lambda self: USED[self.name, self.state.iteration])
    plain = {name: {key: value for key, value in one.items() if key != 'balance'} for name, one in BALANCED.items()}
    toys.train(None, config(tmp_path, plain))
    last = tmp_path / f'iter_{ITERS}.pth'
    assert not toys.differing(content(last), expected) and balance_of(last) is None


def test_another_ratio_is_another_run(tmp_path):
    other = {**BALANCED, 'kd': dict(BALANCED['kd'], balance=dict(ratio=6.0, until=UNTIL))}
    with pytest.raises(ValueError, match=r'(?s)differ in teachers, distillers.*balance kd: ratio 3 until 12, mimic: '):
        resumed(tmp_path / 'a', 'iter_14.pth', other)
    resumed(tmp_path / 'b', 'iter_14.pth', other, default_hooks=dict(distill=dict(resume_changed=True)))
    before, after = (logged(folder, 'kd.weight')['distill.kd.weight'][15] for folder in (whole(), tmp_path / 'b'))
    assert after == pytest.approx(2 * before, rel=1e-3)


def test_a_weight_of_other_options_is_measured_anew(tmp_path):
    """From there on, also behind the window."""
    other, start = {**BALANCED, 'kd': dict(BALANCED['kd'], temperature=9.0)}, 14
    resumed(tmp_path, f'iter_{start}.pth', other, log_level='INFO')
    assert 'options or teachers of kd were changed since the checkpoint' in log_of(tmp_path)
    before, after = (balance_of(folder / f'iter_{ITERS}.pth') for folder in (whole(), tmp_path))
    assert after['mimic']['tries'][:3] == before['mimic']['tries'][:3], 'measured until here'
    assert after['kd']['tries'][0][0] == after['kd']['first'] == start
    assert logged(tmp_path, 'kd.weight')['distill.kd.weight'][start] > 0


CP = toys.seg_net('fcn', backbone=dict(with_cp=True))


@pytest.mark.parametrize(('balance', 'changes', 'words'), [
    (2.0, dict(compile=True), ': the model is compiled, so gradients of single losses cannot .*loss_weight'),
    (2.0, dict(activation_checkpointing=['backbone.layer4']), ': activations are recomputed .*loss_weight'),
    (2.0, dict(student=CP), ': activations are recomputed .*loss_weight'),
    (dict(ratio=2.0, until=0.75), {}, r'\.until=0\.75 is iteration 12, the schedule ends at 8'),
    (dict(ratio=2.0, until=9), {}, r'\.until=9 is iteration 9, the schedule ends at 8'),
    (2.0, None, ': the student has no task .*: set balance=None'),  # a pre-training
])  # fmt: skip
def test_what_cannot_be_measured_is_refused_at_start(tmp_path, balance, changes, words):
    distillers = dict(kd=dict(type='LogitKD', balance=balance, schedule=dict(ramp_down=(0, 0.5), stop_at=10)))
    cfg = pretraining.config(tmp_path) if changes is None else config(tmp_path, distillers, **changes)
    if changes is None:
        cfg.model.distillers.pcd.balance = balance
    with pytest.raises(ValueError, match=rf'model\.distillers\.(kd|pcd)\.balance{words}'):
        toys.make_runner(tmp_path, cfg).train()
    assert not list(tmp_path.glob('*.pth'))


# One step, against plain backward passes


KD, MIMIC = dict(type='LogitKD'), dict(type='MaskedMimic')
PCD = dict(type='PCD', queue_size=8, num_pixels=16)


@DISTILLERS.register_module()
class Untaught(FeatureDistiller):
    """A term without a gradient, and a number that is no loss."""

    def loss(self, student, teacher, level):
        return {'loss_untaught': (0 * student).sum() + 1, 'size': student.square().mean()}


def built(scope='mmseg', student=None, teacher=None, **distillers):
    pair = dict(student=student or toys.seg_net('fcn'), teacher=teacher or toys.seg_teacher('fcn'))
    model = toys.distilled(scope, **pair, distillers=distillers)
    balanced = [distiller for distiller in model.distillers.values() if distiller.balancer is not None]
    for distiller in balanced:
        distiller.balancer.start(1200, len(balanced))
        distiller.state.max_iters = 1200
    return model


def step(model, batch=None, iteration=0):
    """The losses of one training step, as the hook prepares it."""
    for distiller in model.distillers.values():
        distiller.state.iteration = iteration
        if distiller.balancer is not None:
            distiller.balancer.begin(iteration, distiller.schedule.factor(iteration, 1200), distiller.key)
    return toys.losses_of(model, batch)


def vector(loss, parameters):
    actual = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    dense = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, actual, strict=True)]
    return torch.cat([g.flatten() for g in dense])


def part(losses, start):
    """The sum of some losses: those of the task, or those of one distiller."""
    return toys.total({k: v for k, v in losses.items() if (k.startswith(start) if start else 'distill.' not in k)})


def gradients(model, batch, names):
    """The gradients at the backbone of the task and of distillers of weight 1, from a plain step."""
    losses = toys.losses_of(model, batch)
    task_losses = {k: v for k, v in losses.items() if not k.startswith('distill.')}
    parts = [task_losses, *({k: v for k, v in losses.items() if k.startswith(f'distill.{name}.')} for name in names)]
    return [vector(toys.total(part), list(model.backbone.parameters())) for part in parts]


@pytest.mark.sample(1)
@pytest.mark.parametrize('scope', ['mmseg', 'mmdet'])
def test_norms_are_those_of_plain_backward_passes(scope):
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
    task, *norms = gradients(plain, batch, options)
    losses = step(model, batch)
    measured = model.distillation.measured
    total = 0
    for (name, distiller), g in zip(model.distillers.items(), norms, strict=True):
        (tried,) = distiller.balancer.tries
        assert tried.task == pytest.approx(float(task.norm()), rel=1e-9)
        assert tried.method == pytest.approx(float(g.norm()), rel=1e-9)
        weight = ratios[name] * float(task.norm() / g.norm())
        assert distiller.weight() == pytest.approx(weight, rel=1e-9)
        assert losses[f'distill.{name}.weight'].item() == pytest.approx(weight, rel=1e-6)
        assert measured[f'distill.{name}.ratio'] == pytest.approx(ratios[name], rel=1e-9)
        pulled = vector(part(losses, f'distill.{name}.loss'), list(model.backbone.parameters()))
        assert float(pulled.norm() / task.norm()) == pytest.approx(ratios[name], rel=1e-6)
        total = total + pulled
    assert measured['distill.ratio'] == pytest.approx(float(total.norm() / task.norm()), rel=1e-6)
    for (first, a), (second, b) in itertools.combinations(zip(options, norms, strict=True), 2):
        expected = float(a @ b / a.norm() / b.norm())
        assert measured[f'distill.{first}.cosine.{second}'] == pytest.approx(expected, rel=1e-7, abs=1e-9)


def test_only_planned_steps_are_measured():
    """Outside of a run, in check and the benchmark, an unmeasured model has weight 1. Copies have
    measurements of their own."""
    model, plain = built(kd=dict(KD, balance=2.0), mimic=dict(MIMIC, loss_weight=0.5)), built(kd=KD)
    before = toys.losses_of(model)['distill.kd.loss_kd']
    assert torch.equal(before, toys.losses_of(plain)['distill.kd.loss_kd'])
    assert not model.distillers['kd'].balancer.tries
    other = copy.deepcopy(model)
    for iteration in range(5):
        losses = step(model, iteration=iteration)
        assert 'distill.kd.weight' in losses and 'distill.mimic.weight' not in losses
    step(other, iteration=2)
    tried, copied = ([entry.iteration for entry in each.distillers['kd'].balancer.tries] for each in (model, other))
    assert tried == [0, 2, 4] and copied == [2]
    assert other.distillation.measured is not model.distillation.measured
    assert 'distill.ratio' not in model.distillation.measured, 'of one distiller it would say the same twice'
    task_names = {'decode.loss_ce', 'decode.acc_seg', 'aux.loss_ce', 'aux.acc_seg'}
    assert set(step(plain)) == task_names | {'distill.kd.loss_kd', 'distill.kd.share'}


def test_an_empty_queue_is_weight_0_until_it_is_filled():
    model = built(pcd=dict(PCD, balance=2.0, student_tap='backbone[3]', queue_init='empty'))
    losses = step(model)
    (tried,) = model.distillers['pcd'].balancer.tries
    assert tried.method == 0 and losses['distill.pcd.loss_off'] == 0
    losses['distill.pcd.loss_off'].backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.distillers.parameters() if p.requires_grad)
    assert 'distill.pcd.loss_off' in step(model, iteration=1)
    assert step(model, iteration=2)['distill.pcd.weight'] > 0


def test_a_distiller_or_a_task_without_a_gradient():
    bad = dict(type='Untaught', student_tap='backbone[3]', align='conv', balance=2.0)
    model = built(bad=bad, kd=dict(KD, balance=1.0))
    step(model)
    measured, unit = model.distillation.measured, pytest.approx(1.0)
    assert measured == {'distill.bad.ratio': 0.0, 'distill.kd.ratio': unit, 'distill.ratio': unit}
    with pytest.raises(RuntimeError, match=r'distillers\.bad gives no gradient at the backbone'):
        step(model, iteration=max(model.distillers['bad'].balancer.plan))
    model = built(kd=dict(KD, balance=2.0))
    for head in (model.decode_head, model.auxiliary_head):
        head.loss_by_feat = lambda *_, **__: {}
    with pytest.raises(ValueError, match=r'distillers\.kd\.balance: the student has no own loss'):
        step(model)


def test_a_frozen_backbone_is_measured_at_its_neck():
    model = built(kd=dict(KD, balance=2.0), student=toys.seg_net('fcn', backbone=dict(frozen_stages=4)))
    model.backbone.requires_grad_(False)
    assert balanced_place(model)[0] == 'neck and heads, because the whole backbone is frozen'
    assert step(model)['distill.kd.weight'] > 0


@pytest.mark.sample(1)
@pytest.mark.parametrize('precision', [torch.float32, torch.bfloat16])
def test_the_loss_scale_is_divided_out(precision):
    actual = []
    for scale in (1.0, 2.0**14, 2.0**140):
        model = built(kd=dict(KD, balance=2.0), mimic=dict(MIMIC, balance=3.0))
        model.distillation.state.loss_scale = scale
        with torch.autocast('cpu', torch.bfloat16, enabled=precision == torch.bfloat16):
            losses = step(model)
        toys.total(losses).backward()
        actual.append([*(distiller.balancer.tries[0] for distiller in model.distillers.values())])
    for first_tries, other, overflown in zip(*actual, strict=True):
        assert other == pytest.approx(first_tries, rel=1e-5) and not math.isfinite(overflown.task)
    assert losses['distill.kd.weight'] == 0 and toys.total(losses).isfinite() and not model.distillation.measured
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
