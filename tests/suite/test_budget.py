"""``budget``: rows of equal compute. Their lengths, what is scaled, what is measured, and what the table says of it."""

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.suite import lengths, plan, price
from mmdistill_dense.apps.suite.definition import Definition, load
from mmdistill_dense.apps.suite.job import perform
from mmdistill_dense.apps.suite.lengths import scale_run
from mmdistill_dense.apps.suite.rows import collect
from mmdistill_dense.utils.files import read_json
from tests import toys
from tests.suite import tiny
from tests.suite.test_table import lines_of
from tools.docs.beside import compute

PINNED = dict(steps=12, ratios=dict(kd=2.0))
OTHER = 'has not been measured: run `mmdistill suite budget'


def defined(**changes: Any) -> Definition:
    return load(tiny.write(Path(), **{'budget': PINNED, **changes}))


def config_of(definition: Definition, name: str) -> Config:
    return plan.config_of(definition, next(run for run in plan.runs(definition) if run.name == name))


# Lengths


def test_each_row_gets_the_iterations_that_fit() -> None:
    methods = {'kd': {}, 'equal': {'method': 'kd', 'budget': False}, 'heavy': {'method': 'kd'}}
    budget = dict(PINNED, ratios=dict(kd=2.0, heavy=1.3), extra=dict(heavy=3))
    definition = defined(methods=methods, budget=budget)
    names = ('control', 'control_2x', 'kd', 'equal', 'heavy')
    assert tuple(definition.methods) == names[1:], 'twice the steps is always a row'
    found = {name: config_of(definition, name).train_cfg.max_iters for name in names}
    assert found == dict(control=12, control_2x=24, kd=6, equal=12, heavy=7)
    twice, once = (config_of(definition, name) for name in ('control_2x', 'control'))
    assert twice.model == once.model and not twice.model.get('distillers')
    warm, falling = twice.param_scheduler
    assert warm.end == falling.begin == 8, 'the share of the warm-up stays: 2 of 6'


def test_the_hash_holds_the_length() -> None:
    def hash_of(**changes: Any) -> str:
        definition = defined(**changes)
        return plan.hash_of(definition, next(run for run in plan.runs(definition) if run.name == 'kd'))

    plain = hash_of(budget=None, iters=6)
    assert hash_of() == plain, '12 / 2 iterations are those of the definition without a budget'
    assert hash_of(budget=dict(PINNED, ratios=dict(kd=3.0))) != plain


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        (dict(budget=dict(ratios={})), 'budget.steps: missing'),
        (dict(budget=dict(PINNED, steps=0)), 'budget.steps: must be at least 1, got 0'),
        (dict(budget=dict(PINNED, stesp=3)), 'budget.stesp: unknown key. Close: steps'),
        (dict(budget=dict(steps=9, ratios=dict(kd=0))), 'budget.ratios.kd: must be above 0'),
        (dict(budget=dict(steps=9, ratios=dict(kd='x'))), "budget.ratios.kd: must be a number of at least 0, got 'x'"),
        (dict(budget=dict(steps=9, extra=dict(control_2x=1))), 'budget.extra.control_2x: is no row .* such rows: kd'),
        (dict(methods=dict(control_2x={}, kd={})), 'methods.control_2x: a name .* are reserved'),
        (dict(budget=None, methods=dict(kd=dict(budget=False))), 'methods.kd.budget: the definition has no budget'),
    ],
)
def test_mistakes_are_named(changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        defined(**changes)


@pytest.mark.parametrize(
    ('budget', 'said'),
    [
        (dict(steps=12), f'the step of kd {OTHER} .*or pin budget.ratios.kd'),
        (
            dict(PINNED, extra=dict(kd=12)),
            'leaves no iteration for kd: one takes .* 2.00 steps .* as long as 12. Give budget.steps 14 or more',
        ),
    ],
)
def test_a_length_that_cannot_be(budget: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config_of(defined(budget=budget), 'kd')


def test_epochs_are_whole() -> None:
    options = {'train_dataloader.batch_size': 2}
    budget = dict(steps=60, ratios=dict(kd=1.25))
    common = dict(control='toy_det', teacher=None, options=options, checkpoint_every=None)
    with pytest.raises(ValueError, match='the recipe counts epochs, .* or pin budget.per_epoch'):
        config_of(defined(**common, budget=budget), 'kd')
    definition = defined(**common, budget=dict(budget, per_epoch=10))
    assert [config_of(definition, name).train_cfg.max_epochs for name in ('control', 'control_2x', 'kd')] == [6, 12, 4]
    assert lengths.length_of(definition, 'kd', config_of(definition, 'kd')) == (4, 8)
    assert [one.end for one in config_of(definition, 'control').param_scheduler] == [60, 6], '30 steps in 3 epochs'
    twice = dict(common, methods={'kd': {}, 'more': {'data': [{}, {}]}}, budget=dict(budget, per_epoch=10))
    with pytest.raises(ValueError, match='methods.more.data: the recipe counts epochs, which are of another length'):
        config_of(defined(**twice), 'more')
    with pytest.raises(ValueError, match='kd gets 48 iterations, less than an epoch of 50'):
        config_of(defined(**common, budget=dict(budget, per_epoch=50)), 'kd')


# Scaling


def run_of(**changes: Any) -> Config:
    schedule = dict(warmup=10, ramp_down=[20, 0.5], stop_at=90)
    distiller = dict(
        type='MasKD',
        schedule=schedule,
        balance=dict(ratio=3, until=25),
        student_mask_from=40,
        learn=dict(max_iters=100),
    )
    parts = dict(
        train_cfg=dict(max_iters=100, val_interval=30),
        param_scheduler=[dict(type='MultiStepLR', begin=0, end=100, by_epoch=False, milestones=[60, 90], gamma=0.1)],
        optim_wrapper=dict(clip_grad=dict(max_norm=100), accumulative_counts=1),
        default_hooks=dict(checkpoint=dict(interval=100), distill=dict(skip_nonfinite=3)),
        model=dict(distillers=dict(one=distiller)),
    )
    return Config({**parts, **changes})


def test_all_that_counts_steps_is_scaled_and_listed() -> None:
    config = run_of()
    assert scale_run(config, 50) == [
        'train_cfg.max_iters 100 -> 50',
        'train_cfg.val_interval 30 -> 15',
        'param_scheduler.0.end 100 -> 50',
        'param_scheduler.0.milestones [60, 90] -> [30, 45]',
        'model.distillers.one.schedule.warmup 10 -> 5',
        'model.distillers.one.schedule.ramp_down [20, 0.5] -> [10, 0.5]',
        'model.distillers.one.schedule.stop_at 90 -> 45',
        'model.distillers.one.balance.until 25 -> 12',
        'model.distillers.one.student_mask_from 40 -> 20',
    ]
    again = run_of()
    assert scale_run(again, 100) == [] and again.to_dict() == run_of().to_dict()
    assert scale_run(run_of(param_scheduler=dict(end=100)), 1)[1:3] == [
        'train_cfg.val_interval 30 -> 1',
        'param_scheduler.end 100 -> 1',
    ]


@pytest.mark.parametrize(('old', 'milestones', 'new', 'found'), [
    (12, [8, 11], 6, [4, 5]), (12, [8, 11], 5, [3, 4]), (24, [16, 22], 6, [4, 5]), (12, [8, 11], 24, [16, 22]),
])  # fmt: skip
def test_the_last_drop_of_the_rate_stays_inside_the_run(old: int, milestones: list, new: int, found: list) -> None:
    """At the very end nothing would be trained with it."""
    steps = dict(type='MultiStepLR', begin=0, end=old, by_epoch=True, milestones=milestones)
    config = run_of(train_cfg=dict(max_epochs=old), param_scheduler=steps, model=dict(distillers={}))
    scale_run(config, new)
    assert config.param_scheduler.milestones == found


def test_a_cosine_ends_where_it_falls_to_its_least() -> None:
    cosine = dict(type='CosineAnnealingLR', begin=5, end=30, T_max=25)
    config = run_of(train_cfg=dict(max_epochs=30), param_scheduler=[cosine], model=dict(distillers={}))
    scale_run(config, 15)
    (one,) = config.param_scheduler
    assert (one.begin, one.end, one.T_max) == (2, 15, 13)


def test_the_start_of_pictures_without_labels_is_scaled() -> None:
    config = run_of()
    config.model.unlabelled = dict(data_root='more', start=30)
    assert 'model.unlabelled.start 30 -> 15' in scale_run(config, 50)


@pytest.mark.parametrize(
    ('changes', 'key'),
    [
        (dict(default_hooks=dict(ema=dict(begin_iter=30))), 'default_hooks.ema.begin_iter=30'),
        (dict(train_cfg=dict(max_iters=100, dynamic_intervals=[[80, 5]])), 'train_cfg.dynamic_intervals.0.0=80'),
        (dict(param_scheduler=dict(type='Own', period=100)), 'param_scheduler.period=100'),
        (dict(custom_hooks=[dict(type='PipelineSwitchHook', switch_epoch=80)]), 'custom_hooks.0.switch_epoch=80'),
        (dict(model=dict(distillers=dict(one=dict(type='Own', from_iter=100)))), 'model.distillers.one.from_iter=100'),
        (dict(default_hooks=dict(own=dict(end=100))), 'default_hooks.own.end=100'),
    ],
)
def test_a_length_under_another_key_is_refused(changes: dict, key: str) -> None:
    with pytest.raises(ValueError, match=f'{key} looks like a length in a run of 100'):
        scale_run(run_of(**changes), 50)


# Measuring


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps that were not run: the distilled one takes 1.5 of the student's 2 seconds more. The list counts them."""
    turns: list[int] = []

    def cost(config: Config, device: str, batch: int | None, repeats: int) -> dict[str, Any]:
        turns.append(repeats)
        seconds = dict(control=dict(median=2.0, low=1.9, high=2.1), distilled=dict(median=3.5, low=3.0, high=4.0))
        return dict(seconds=seconds, ratio=1.75, batch=2, teacher_weights='random')

    monkeypatch.setattr(price.step_cost, 'step_cost', cost)
    return turns


def test_steps_are_measured_once(measured: list[int], capsys: pytest.CaptureFixture) -> None:
    methods = {'kd': {}, 'pinned': {'method': 'kd'}, 'free': {'method': 'kd', 'budget': False}}
    file = tiny.write(Path(), methods=methods, budget=dict(steps=14, ratios=dict(pinned=2.0)))
    assert main(['suite', 'budget', str(file)]) == 0
    said = capsys.readouterr().out
    assert 'kd           8 iterations; step 1.75 (1.50-2.00), before training 0 steps' in said
    assert 'train_cfg.max_iters 6 -> 8' in said and 'control_2x   28 iterations' in said
    content = read_json(Path('out/budget.json'))
    assert content is not None and set(content['rows']) == {'kd'} and measured == [9], 'at least 9 turns'
    assert content['rows']['kd']['price'] == dict(ratio=1.75, low=1.5, high=2.0, extra=0.0)
    assert {'device', 'threads', 'torch', 'config_hash'} <= set(content['rows']['kd'])
    assert main(['suite', 'budget', str(file)]) == 0 and measured == [9]
    found = load(file)
    assert [config_of(found, name).train_cfg.max_iters for name in ('kd', 'pinned', 'free')] == [8, 7, 14]
    tiny.write(Path(), methods={'kd': {'options': {'temperature': 2.0}}}, budget=dict(steps=14))
    assert main(['suite', 'budget', str(file)]) == 2
    assert 'rows.kd was measured with config' in capsys.readouterr().err and measured == [9]


def test_iterations_of_an_epoch_are_counted_once(measured: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    options = {'train_dataloader.batch_size': 3, 'train_dataloader.dataset.num_images': 20}
    common = dict(control='toy_det', teacher=None, options=options, checkpoint_every=None)
    file = tiny.write(Path(), **common, budget=dict(steps=28, ratios=dict(kd=2.0)))
    assert main(['suite', 'budget', str(file)]) == 0
    content = read_json(Path('out/budget.json'))
    assert content is not None and content['per_epoch'] == 7
    assert [config_of(load(file), name).train_cfg.max_epochs for name in ('control', 'kd')] == [4, 2]
    monkeypatch.setattr(price.Runner, 'build_dataloader', None)
    assert main(['suite', 'budget', str(file)]) == 0, 'nothing is read again'


def test_without_a_budget_there_is_nothing_to_measure(capsys: pytest.CaptureFixture) -> None:
    assert main(['suite', 'budget', str(tiny.write(Path()))]) == 2
    assert 'budget: missing; e.g. budget: {steps: 2400}' in capsys.readouterr().err


# All of it


@pytest.mark.soak
def test_a_suite_of_equal_compute(capsys: pytest.CaptureFixture) -> None:
    """Measured, trained and shown. Times on a shared machine say nothing here, so none is asserted."""
    short = {'learn.max_iters': 4, 'learn.save_interval': 4}
    file = tiny.write(Path(), methods={'maskd': {'settings': 'auto', 'options': short}}, budget=dict(steps=48))
    assert main(['suite', 'list', str(file)]) == 2 and OTHER in capsys.readouterr().err
    with toys.unformatted():
        assert main(['suite', 'budget', str(file)]) == 0
        definition = load(file)
        assert lengths.price_of(definition, 'maskd')['extra'] > 0
        for run in plan.runs(definition):
            perform(definition, run)
    results = plan.results(definition)
    assert set(results['maskd'][0]['spent']) == {'train', 'prepare'} and set(results['control'][0]['spent']) == {
        'train'
    }
    found = {name: results[name][0]['iterations'] for name in ('control', 'control_2x', 'maskd')}
    assert found == dict(control=48, control_2x=96, maskd=lengths.iterations_of(definition, 'maskd'))
    (line,) = lines_of(compute(collect(definition)), 'maskd')
    assert line[-4] == str(found['maskd']) and line[-1].rstrip(' †').endswith('%')
