"""Runs with ``balance``: resumed to the bit, repeated with the printed weights, or refused."""

import functools
import json
import math
import re
from unittest import mock

import pytest
import torch

from mmdistill_dense.apps.inspect.gradients import diagnose
from mmdistill_dense.distillers.base import Distiller
from mmdistill_dense.model.balanced_step import balanced_place
from tests import toys
from tests.engine.resumption import half_on_the_cpu
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
    every = dict(default_hooks=dict(checkpoint=dict(interval=1)), log_level='INFO')
    return toys.run_config(folder, model, iters=iters, **toys.merged(every, changes))


def balance_of(path):
    return torch.load(path, weights_only=False).get('balance')


def logged(folder, ending):
    """Logged values by name, each by iteration."""
    (file,) = folder.glob('*/vis_data/scalars.json')
    found = {}
    for row in map(json.loads, file.read_text().splitlines()):
        for name, value in row.items():
            if name.startswith('distill.') and name.endswith(ending):
                found.setdefault(name, {})[row['step'] - 1] = value
    return found


USED = {}  # the weight of each distiller in each step of the run below


@functools.cache
def whole():
    """The folder of a run that was not interrupted."""
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


def test_it_is_measured_as_planned_held_and_logged():
    found = balance_of(whole() / f'iter_{ITERS}.pth')
    assert set(found) == {'kd', 'mimic'}
    assert [[one[0] for one in state['tries']] for state in found.values()] == [PLAN, PLAN]
    weights, ratios = logged(whole(), '.weight'), logged(whole(), 'ratio')
    assert set(weights) == {'distill.kd.weight', 'distill.mimic.weight'}
    assert set(ratios) == {'distill.kd.ratio', 'distill.mimic.ratio', 'distill.ratio'}
    assert all(list(values) == PLAN for values in ratios.values())
    assert all(list(values) == list(range(ITERS)) for values in weights.values())
    kd = weights['distill.kd.weight']
    held = kd[UNTIL] / (1 - UNTIL / ITERS)
    assert all(kd[i] == pytest.approx(held * (1 - i / ITERS), rel=1e-5) for i in range(UNTIL, ITERS))
    assert len({weights['distill.mimic.weight'][i] for i in range(UNTIL, ITERS)}) == 1
    for name, state in found.items():
        for i, task, own in state['tries']:
            ratio = weights[f'distill.{name}.weight'][i] * own / task
            assert ratios[f'distill.{name}.ratio'][i] == pytest.approx(ratio, rel=1e-5)
    said = log_of(whole())
    assert 'distillers.kd.balance: ratio 3, 8 measurements until iteration 12, gradients of backbone' in said
    assert said.count('to repeat without measuring') == 2


@pytest.mark.parametrize('start', [5, *(pytest.param(one, marks=pytest.mark.soak) for one in (UNTIL, 14))])
def test_a_resumed_run_is_equal_to_the_bit(tmp_path, start):
    resumed_alike(tmp_path, train, f'iter_{start}', f'iter_{ITERS}', whole())
    assert ('measured before' in log_of(tmp_path)) == (start > UNTIL)


@pytest.mark.soak
def test_the_printed_weights_repeat_it_from_there_on(tmp_path):
    printed = dict(re.findall(r'distillers\.(\w+): weight .* balance=None, loss_weight=(\S+)', log_of(whole())))
    pinned = {name: dict(one, balance=None, loss_weight=float(printed[name])) if name in printed else one
              for name, one in BALANCED.items()}  # fmt: skip
    start, last = f'iter_{UNTIL}.pth', f'iter_{ITERS}.pth'
    with pytest.raises(ValueError, match='balance kd: ratio 3 until 12, mimic: ratio 0.5 until 0.75'):
        resumed(tmp_path, start, pinned)
    resumed(tmp_path, start, pinned, default_hooks=dict(distill=dict(resume_changed=True)))
    assert not toys.differing(content(tmp_path / last), content(whole() / last))
    assert balance_of(tmp_path / last) is None


def test_measuring_changes_nothing_but_the_weights(tmp_path, monkeypatch):
    """A run without balance whose weights are those that were found, step by step."""
    expected = content(whole() / f'iter_{ITERS}.pth')
    assert len(USED) == ITERS * len(BALANCED)
    monkeypatch.setattr(Distiller, 'weight', lambda self: USED[self.name, self.state.iteration])
    plain = {name: {key: value for key, value in one.items() if key != 'balance'} for name, one in BALANCED.items()}
    toys.train(None, config(tmp_path, plain))
    assert not toys.differing(content(tmp_path / f'iter_{ITERS}.pth'), expected)


def test_another_ratio_is_another_run(tmp_path):
    other = {**BALANCED, 'kd': dict(BALANCED['kd'], balance=dict(ratio=6.0, until=UNTIL))}
    with pytest.raises(ValueError, match='differ in teachers, distillers'):
        resumed(tmp_path / 'a', 'iter_14.pth', other)
    resumed(tmp_path / 'b', 'iter_14.pth', other, default_hooks=dict(distill=dict(resume_changed=True)))
    before, after = (logged(folder, 'kd.weight')['distill.kd.weight'][15] for folder in (whole(), tmp_path / 'b'))
    assert after == pytest.approx(2 * before, rel=1e-3)


def test_a_diagnosis_uses_the_weights_of_the_checkpoint(tmp_path):
    (terms,) = diagnose(config(tmp_path), str(whole() / 'iter_14.pth'), batches=1)
    (fresh,) = diagnose(config(tmp_path), batches=1)
    norms = {term.name.split('.')[1] if '.' in term.name else 'task': term.pulls['backbone'].norm for term in terms}
    assert all(norms.values()) and set(norms) == {'task', *BALANCED}
    assert {term.name for term in fresh} == {term.name for term in terms}


def test_with_accumulated_gradients_a_part_is_measured(tmp_path):
    one = dict(kd=dict(type='LogitKD', balance=dict(ratio=3.0, until=4)))
    toys.train(None, config(tmp_path, one, iters=5, optim_wrapper=dict(accumulative_counts=2)))
    found, expected = (balance_of(folder / 'iter_5.pth')['kd'] for folder in (tmp_path, whole()))
    assert found['tries'][0] == expected['tries'][0], 'the first part is the first batch'
    assert [one[0] for one in found['tries']] == [0, 1, 2, 3] and found['unit'] > 0


@pytest.mark.soak
def test_float16_with_its_scaler(tmp_path):
    """The first scales overflow; a run that resumes measures the same."""
    half = dict(type='AmpOptimWrapper', dtype='bfloat16', loss_scale=dict(init_scale=2.0**127))
    heavy = toys.seg_net('fcn', decode_head=dict(loss_decode=dict(loss_weight=50.0)))
    changes = dict(student=heavy, optim_wrapper=dict(half, optimizer=dict(lr=1e-5)))
    with half_on_the_cpu():
        _, last = resumed_alike(tmp_path, functools.partial(train, **changes), 'iter_5', f'iter_{ITERS}')
    found = last['balance']
    valid = [math.isfinite(one[1]) for one in found['kd']['tries']]
    assert not valid[0] and all(valid[-4:]) and found['kd']['unit'] > 0
    weights = logged(tmp_path / 'a', 'kd.weight')['distill.kd.weight']
    assert weights[0] == 0 and weights[UNTIL - 1] > 0


def test_a_frozen_backbone_is_told():
    model = toys.distilled(
        student=toys.seg_net('fcn'), teacher=toys.seg_teacher('fcn'), distillers=dict(kd=BALANCED['kd'])
    )
    assert balanced_place(model)[0] == 'backbone'
    for parameter in model.backbone.parameters():
        parameter.requires_grad_(False)
    place, found = balanced_place(model)
    assert place == 'neck and heads, because the whole backbone is frozen'
    assert {id(one) for one in found} == {id(one) for name in ('decode_head', 'auxiliary_head')
                                          for one in getattr(model, name).parameters()}  # fmt: skip


CP = toys.seg_net('fcn', backbone=dict(with_cp=True))


@pytest.mark.parametrize(('balance', 'changes', 'words'), [
    (2.0, dict(compile=True), ': the model is compiled, so gradients of single losses cannot .*loss_weight'),
    (2.0, dict(activation_checkpointing=['backbone.layer4']), ': activations are recomputed .*loss_weight'),
    (2.0, dict(student=CP), ': activations are recomputed .*loss_weight'),
    (dict(ratio=2.0, until=0.75), {}, r'\.until=0\.75 is iteration 12, the schedule ends at 8'),
    (dict(ratio=2.0, until=9), {}, r'\.until=9 is iteration 9, the schedule ends at 8'),
])  # fmt: skip
def test_what_cannot_be_measured_is_refused_at_start(tmp_path, balance, changes, words):
    distillers = dict(kd=dict(type='LogitKD', balance=balance, schedule=dict(ramp_down=(0, 0.5), stop_at=10)))
    runner = toys.make_runner(tmp_path, config(tmp_path, distillers, **changes))
    with pytest.raises(ValueError, match=rf'model\.distillers\.kd\.balance{words}'):
        runner.train()
    assert not list(tmp_path.glob('*.pth'))


def test_pretraining_has_no_task(tmp_path):
    config = pretraining.config(tmp_path)
    config.model.distillers.pcd.balance = 2.0
    with pytest.raises(
        ValueError, match=r'model\.distillers\.pcd\.balance: the student has no task .*: set balance=None'
    ):
        toys.train(None, config)


def test_both_weights_are_refused_with_the_key_and_0_still_removes_one():
    """In the way that every control does it; the ratio of a base config stays."""
    both = dict(type='LogitKD', balance=2.0)
    with pytest.raises(ValueError, match=r'model\.distillers\.kd: loss_weight=1\.0 and balance=2\.0 exclude'):
        toys.build(toys.model_config(distillers=dict(kd=dict(both, loss_weight=1.0))))
    assert not hasattr(toys.build(toys.model_config(distillers=dict(kd=dict(both, loss_weight=0)))), 'distillation')
