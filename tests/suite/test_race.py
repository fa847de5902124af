"""Races: what is planned, what the scores decide, that a rung goes on to the same bits; and whole ones, also killed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.suite import configs, execute, job, plan, price, race, race_plan
from mmdistill_dense.apps.suite.definition import Definition, Race, load
from mmdistill_dense.apps.suite.plan import CONTROL, TEACHER
from mmdistill_dense.apps.suite.race_plan import LONG, Price
from mmdistill_dense.utils.files import read_json, write_json
from tests import toys
from tests.engine.processes import ROOT, environment
from tests.suite import tiny

PRICES = {
    TEACHER: Price(10, 1, 100, 5, 1, 5),
    CONTROL: Price(10, 1, 200, 5, 4, 5),
    'kd': Price(10, 1.25, 200, 5, 4, 5),
    'cwd': Price(110, 2, 200, 5, 4, 5),
}
ROWS: dict[str, dict[str, Any]] = {'kd': {}, 'cwd': {}}


def written(
    hours: float = 2, prices: Mapping[str, Price] = PRICES, **options: Any
) -> tuple[Definition, dict[str, Any]]:
    """A planned race whose rates are 1 and 2, of a definition on disk."""
    options = {'hours': hours, 'rates': [1, 2], **options}
    definition = load(tiny.write(Path(), methods=ROWS, race=options))
    assert definition.race is not None
    record = race_plan.planned(definition, definition.race, ROWS, prices)
    record['given'] = {**execute._own(definition, definition.race), 'asked': []}
    write_json(definition.out / 'race.json', record)
    return load(definition.path), record


def ended(definition: Definition, row: str, val: float, seed: int = 0, minutes: float = 1, part: bool = False) -> None:
    """A run that has ended, at its rung or whole."""
    place = definition.out / (TEACHER if row == TEACHER else f'runs/{row}/seed{seed}')
    place.mkdir(parents=True, exist_ok=True)
    result = {'metrics': {'val': {'mIoU': val}}, 'score': val, 'minutes': minutes, 'checkpoint': 'iter_4.pth'}
    (place / ('rung.json' if part else 'result.json')).write_text(json.dumps(result))


def decided(
    definition: Definition, record: dict[str, Any], failed: Mapping[str, str] | None = None, **scores: float
) -> Definition:
    """Give the runs of the present stage their scores, by row or row_seed, and decide; return the next definition."""
    stage = race.stage_of(definition, record)
    assert stage is not None
    for run in stage.runs:
        value = scores.get(f'{run.name}_{run.seed}', scores.get(run.name))
        if value is not None:
            ended(definition, run.name, value, run.seed, part=run.until < 1)
    race.settle(definition, record, stage, failed or {})
    write_json(definition.out / 'race.json', record)
    return load(definition.path)


def again(definition: Definition, hours: float) -> dict[str, Any]:
    """The race goes on, with other hours."""
    assert definition.race is not None
    return execute._planned(definition, replace(definition.race, hours=hours), (), {})


def rated(teacher: float = 60, **options: Any) -> tuple[Definition, dict[str, Any]]:
    """A race whose rate is that of the recipe."""
    definition, record = written(**options)
    definition = decided(definition, record, teacher=teacher, control=40, alone_x2=30)
    return decided(definition, record, control=45, alone_x2=31), record


def names(definition: Definition, record: dict[str, Any]) -> list[str]:
    stage = race.stage_of(definition, record)
    return [] if stage is None else [run.title for run in stage.runs if run.result is None]


# --- what is planned


def test_seconds_of_a_training_are_those_of_its_parts() -> None:
    price = Price(start=10, step=2, steps=100, evaluation=5, evaluations=4, test=7)
    assert price.seconds() == race_plan._PROCESS + 10 + 200 + 4 * 5 + 5 + 7
    assert price.seconds(0.5) == race_plan._PROCESS + 10 + 100 + 2 * 5 + 5
    assert price.seconds(0.5, begun=True) == race_plan._PROCESS + 100 + 2 * 5 + 5 + 7
    assert price.seconds(1, length=3) - price.seconds() == 400


@pytest.mark.parametrize(('jobs', 'seconds'), [(1, 60), (2, 30), (3, 30), (9, 30)])
def test_works_side_by_side_take_as_long_as_the_fullest_place(jobs: int, seconds: float) -> None:
    assert race_plan.makespan([30, 20, 10], jobs) == seconds


def test_the_longest_race_that_fits_is_planned() -> None:
    """Less time for one training first, then fewer methods, no longer training, fewer rates, no second seed."""
    definition = load(tiny.write(Path(), methods=ROWS))
    found, needed = [], 0.0
    for minutes in range(200, 0, -1):
        try:
            record = race_plan.planned(definition, Race(minutes / 60, rates=(1, 2, 4)), ROWS, PRICES)
        except ValueError as error:
            took = f'the teacher, the student alone and one method take {math.ceil(needed / 360) / 10:g} hours. Give'
            assert 'too few for a race: ' in str(error) and took in str(error)
            with pytest.raises(ValueError, match='too few for a race: the student alone and one method take'):
                race_plan.planned(definition, Race(0.01), ROWS, {CONTROL: PRICES[CONTROL], 'kd': PRICES['kd']})
            break
        needed = sum(record['estimate'].values())
        assert needed <= 60 * minutes and record['rung'] == 0.5
        size = [*record['methods']], record['long'], record['rates'], record['second']
        if size not in found:
            found.append(size)
    both, one, rates = ['kd', 'cwd'], ['kd'], [1, 2, 4]
    assert found == [
        (both, 6, rates, 2),
        (both, 4, rates, 2),
        (both, 3, rates, 2),
        (both, 2.7, rates, 2),
        (both, None, rates, 2),
        (one, None, rates, 2),
        (one, None, [1, 2], 2),
        (one, None, [1, 2], 1),
        (one, None, [1], 1),
    ]


def test_methods_that_a_race_adds_see_the_pictures_without_labels_too() -> None:
    more = {'data_root': 'more', 'ratio': 2}
    definition = load(tiny.write(Path(), methods={'kd': {'unlabelled': more}}))
    asked, rows = execute.rows_for(definition, ())
    assert asked == {'kd'} and 'pcd' in rows and all(row['unlabelled'] == more for row in rows.values())
    assert 'unlabelled' not in execute.rows_for(load(tiny.write(Path())), ())[1]['pcd']


def test_one_method_alone_is_compared_with_more_time_too() -> None:
    definition = load(tiny.write(Path(), methods={'kd': {}}))
    record = race_plan.planned(definition, Race(9), {'kd': {}}, PRICES)
    assert record['long'] and [*record['methods']] == ['kd']
    told = ' '.join(race_plan.lines(record))
    assert 'times as long; if that pays, the best method too, before second seeds' in told
    assert race_plan.planned(definition, Race(9), {}, PRICES)['long'] is None, 'no method'


def test_the_estimate_is_a_sum_by_hand() -> None:
    size = race_plan.Size((1, 2, 4), ('kd', 'cwd'), 3.0, 2)
    found = race_plan.estimate(Race(1, (1, 2, 4), keep=2), size, PRICES, 1, 0.5)
    control, kd, cwd = PRICES[CONTROL], PRICES['kd'], PRICES['cwd']
    assert found['rates'] == PRICES[TEACHER].seconds() + 3 * control.seconds(0.5)
    assert found['methods'] == control.seconds(0.5, 3) + kd.seconds(0.5) + cwd.seconds(0.5)
    assert found['rate'] == 2 * control.seconds(0.5, begun=True)
    assert found['finish'] == control.seconds(0.5, 3, begun=True) + cwd.seconds(0.5, begun=True)
    assert found['seeds'] == control.seconds(1, 3) + cwd.seconds() + kd.seconds() + control.seconds()
    both = race_plan.estimate(Race(1, (1, 2, 4), keep=2), replace(size, both=True), PRICES, 1, 0.5)
    assert found['longer'] == 0 and both['longer'] == cwd.seconds(1, 3)
    assert both['seeds'] == cwd.seconds(1, 3) + control.seconds(1, 3) + cwd.seconds() + control.seconds()


def test_the_student_alone_gets_the_time_of_the_teacher_and_of_the_slowest_method() -> None:
    _, record = written(hours=1.2)
    alone, slowest, teacher = (PRICES[name].seconds() for name in (CONTROL, 'cwd', TEACHER))
    assert record['long'] == round((slowest + teacher) / alone, 1) > 2
    assert record['rows'][LONG] == {'length': record['long'], 'rate': 1}


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'rung': 0.25}, 'race.rung: must be at least 0.5'),
        ({'rates': [1, 1]}, 'race.rates: must be different factors'),
        ({'hour': 3}, 'race.hour: unknown key. Close: hours'),
        ({'hours': 0}, 'race.hours: must be a factor above 0'),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load(tiny.write(Path(), race={'hours': 1, **options}))


@pytest.mark.parametrize('key', ['budget', 'grid'])
def test_a_race_sets_lengths_and_rates_alone(key: str) -> None:
    given = {'budget': {'steps': 5}, 'grid': {'kd': {'loss_weight': [1, 2]}, 'seeds': [0]}}[key]
    with pytest.raises(ValueError, match=f'race: does not go with {key}'):
        load(tiny.write(Path(), race={'hours': 1}, **{key: given}))


# --- rates and rungs


def test_a_row_may_have_a_rate_of_its_own() -> None:
    definition = load(tiny.write(Path(), methods={'fast': {'rate': 3}, 'kd': {'rate': 0.5}}))
    alone, fast, kd = (
        configs.control_config(definition),
        *(configs.method_config(definition, definition.methods[name]) for name in ('fast', 'kd')),
    )
    rate = alone.optim_wrapper.optimizer.lr
    assert (fast.optim_wrapper.optimizer.lr, kd.optim_wrapper.optimizer.lr) == (3 * rate, 0.5 * rate)
    ends = [[one.get('eta_min', 0) for one in config.param_scheduler] for config in (alone, fast)]
    assert ends[1] == [3 * one for one in ends[0]] and not fast.model.get('distillers') and kd.model.distillers


def test_every_optimizer_gets_the_rate() -> None:
    def wrapper(rate: float) -> dict[str, Any]:
        return dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=rate))

    config = Config(dict(optim_wrapper=dict(constructor='Own', one=wrapper(1.0), two=wrapper(2.0))))
    configs.scale_rate(config, 2, 'here')
    assert [config.optim_wrapper[name].optimizer.lr for name in ('one', 'two')] == [2.0, 4.0]
    kinds = dict(PolyLR='lr', PolyMomentum='momentum', CosineAnnealingParamScheduler='weight_decay')
    ends = [dict(type=kind, param_name=name, eta_min=0.5) for kind, name in kinds.items()]
    config.param_scheduler = [*ends, dict(type='PolyMomentum', eta_min=0.5), dict(type='PolyLR', eta_min=0.5)]
    configs.scale_rate(config, 2, 'here')
    assert [one.eta_min for one in config.param_scheduler] == [1.0, 0.5, 0.5, 0.5, 1.0]
    with pytest.raises(ValueError, match=r'here: optim_wrapper.optimizer has no lr'):
        configs.scale_rate(Config(dict(optim_wrapper=dict(optimizer=dict(type='Prodigy')))), 2, 'here')


@pytest.mark.parametrize(
    ('loop', 'share', 'place'),
    [
        (dict(max_iters=100, val_interval=10), 0.5, 50),
        (dict(max_iters=100, val_interval=30), 0.5, 60),
        (dict(max_iters=100, val_interval=60), 0.5, 60),
        (dict(max_iters=100, val_interval=100), 0.5, None),
        (dict(max_iters=100, val_interval=10, val_begin=71), 0.5, 80),
        (dict(max_epochs=12), 0.5, 6),
        (dict(max_epochs=12), 1, None),
    ],
)
def test_a_rung_is_an_evaluation(loop: dict[str, int], share: float, place: int | None) -> None:
    assert job.rung_of(Config(dict(train_cfg=loop)), share) == place


def test_without_an_interval_evaluations_are_those_of_mmengine() -> None:
    found = [job.evaluated_every(Config(dict(train_cfg={unit: 2000}))) for unit in ('max_iters', 'max_epochs')]
    assert found == [1000, 1]


def perform(definition: Definition, title: str, until: float = 1) -> dict[str, Any]:
    run = next(run for run in plan.runs(definition) if run.title == title)
    with toys.unformatted():
        return job.perform(definition, replace(run, until=until))


def test_a_rung_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it was killed before its test: the checkpoint of the rung is there, and is only tested."""
    states, rungs = [], []
    for name in ('whole', 'parts', 'killed'):
        place = tmp_path / name
        place.mkdir()
        monkeypatch.chdir(place)
        path = tiny.write(Path(), iters=6)
        text = path.read_text().replace('val_interval: 6', 'val_interval: 2')
        text = text.replace('checkpoint_every: 2', 'checkpoint_every: 3')
        if name == 'killed':  # a recipe that saves at its end alone
            text = text.replace('checkpoint_every: 3\n', '').replace(
                'options:\n  train_cfg', 'options:\n  default_hooks.checkpoint.interval: -1\n  train_cfg'
            )
        path.write_text(text)
        definition = load(path)
        if name != 'whole':
            with pytest.MonkeyPatch.context() as patch:
                if name == 'killed':
                    patch.setattr(job, 'take_weights_from', lambda *_: 1 / 0)
                    with pytest.raises(ZeroDivisionError):
                        perform(definition, 'control seed 0', 0.5)
            rungs.append(perform(definition, 'control seed 0', 0.5))
            assert not (definition.out / 'runs/control/seed0/result.json').is_file()
        result = perform(definition, 'control seed 0')
        file = definition.out / 'runs/control/seed0' / result['checkpoint']
        states.append(torch.load(file, weights_only=False)['state_dict'])
    assert not toys.differing(states[0], states[1]) and not toys.differing(states[0], states[2])
    assert rungs[0]['iterations'] == rungs[1]['iterations'] == 4 and rungs[0]['metrics'] == rungs[1]['metrics']
    assert rungs[0]['score'] == rungs[0]['metrics']['val']['mIoU'] and rungs[0]['checkpoint'] == 'iter_4.pth'


def test_a_rung_of_epochs_is_their_end() -> None:
    hook = job._StopAtRung(2)
    runner: Any = SimpleNamespace(
        hooks=[], iter=500, epoch=0, train_loop=EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    )
    hook.after_train_iter(runner)
    hook.after_train_epoch(runner)
    runner.epoch = 1
    with pytest.raises(job._RungReachedError):
        hook.after_train_epoch(runner)


def test_a_price_is_measured_and_nothing_stays() -> None:
    definition = load(tiny.write(Path(), iters=6, methods={'kd': {}, 'maskd': {'settings': 'auto'}}))
    before = set(Path().rglob('*'))
    found = {
        name: price.price_of(configs.method_config(definition, definition.methods[name])) for name in ('kd', 'maskd')
    }
    assert set(Path().rglob('*')) == before
    assert all(one.steps == 6 and one.evaluations == 1 and 0 < one.step < 9 for one in found.values())
    assert price._between([1, 3, 6, 8]) == 2 and price._between([5]) == 0
    assert all(one.step > 0 and one.evaluation > 0 and one.test > 0 for one in found.values())
    assert found['maskd'].start > found['kd'].start + 1  # 2000 iterations of its tokens


# --- what the scores decide


def test_the_best_rate_at_the_end_is_that_of_all_that_follow() -> None:
    """In the middle it is not told yet which of two that are alike will be."""
    definition, record = written(rates=(1, 2, 4))
    rows = (CONTROL, 'alone_x2', 'alone_x4')
    assert names(definition, record) == ['teacher', *(f'{row} seed 0 to 50%' for row in rows)]
    definition = decided(definition, record, teacher=60, control=41, alone_x2=42, alone_x4=39)
    assert names(definition, record) == ['alone_x2 seed 0', 'control seed 0'] and 'rate' not in record
    definition = decided(definition, record, control=46, alone_x2=44)
    assert (record['best'], record['rate']) == (CONTROL, 1)
    assert names(definition, record) == [f'{row} seed 0 to 50%' for row in (LONG, 'kd', 'cwd')]
    definition, record = written(hours=3)
    definition = decided(definition, record, control=40, alone_x2=42)
    definition = decided(definition, record, control=43, alone_x2=45)
    assert {name: method.rate for name, method in definition.methods.items()} == dict.fromkeys(definition.methods, 2)


@pytest.mark.parametrize(
    ('teacher', 'told'),
    [(43, 'worse on val'), (44, 'lead on val is -1.00 points'), (48, 'lead on val is 3.00 points'), (50, '')],
)
def test_what_the_teacher_leads_by_is_said(teacher: float, told: str) -> None:
    definition, record = rated(teacher)
    assert (told in record['told'][-1]) if told else len(record['told']) == 2
    assert ('kd seed 0 to 50%' in names(definition, record)) == (teacher > 43)


@pytest.mark.parametrize(
    ('hours', 'long', 'fixed', 'length'),
    [
        (2, None, [], 6),
        (2, 2.7, [], 6),
        (0.26, None, [], 3),
        (0.12, 2.7, [], 2.7),
        (0.12, None, [], None),
        (2, None, [CONTROL], None),
    ],
)
def test_a_poor_teacher_leaves_its_time_to_the_student_alone(
    hours: float, long: float | None, fixed: list[str], length: float | None
) -> None:
    definition, record = written()
    definition = decided(definition, record, teacher=30, control=40, alone_x2=30)
    record.update(hours=hours, long=long, fixed=fixed)
    definition = decided(definition, record, control=45, alone_x2=31)
    assert record['long'] == length
    assert (
        ('times as long' in record['told'][-1]) == (f'{length or 0:g} times' in record['told'][-1]) == (length != long)
    )
    assert record['rows'].get(LONG) == ({'length': length, 'rate': 1} if length else None)
    assert names(definition, record) == ([f'{LONG} seed 0 to 50%'] if length else [])


def test_the_best_are_kept_and_the_student_alone_always() -> None:
    definition, record = rated(keep=2, hours=1.2)
    definition = decided(definition, record, alone_long=41, kd=43, cwd=44)
    assert record['kept'] == ['cwd', 'kd', CONTROL] and 'Stopped: alone_long.' in record['told'][-1]
    assert names(definition, record) == ['cwd seed 0', 'kd seed 0']  # the student alone has ended


def test_the_longer_training_goes_on_where_time_is_kept_for_that_of_a_method() -> None:
    definition, record = rated(keep=1, hours=2)
    definition = decided(definition, record, alone_long=41, kd=43, cwd=44)
    assert record['kept'] == ['cwd', LONG, CONTROL] and 'Stopped: kd.' in record['told'][-1]


def finished(lead: float, second: float | None = None, **options: Any) -> tuple[Definition, dict[str, Any]]:
    """A race to its last decision: kd leads the student alone by ``lead``, with its second seed by ``second``."""
    definition, record = rated(**options)
    definition = decided(definition, record, alone_long=40, kd=41, cwd=39)
    definition = decided(definition, record, alone_long=44, kd=45 + lead, cwd=43)
    if 'winner' not in record:
        definition = decided(definition, record, kd=45 + (lead if second is None else second), control=45)
    return definition, record


@pytest.mark.parametrize(
    ('lead', 'second', 'winner'), [(4.0, 4.0, 'kd'), (1.0, 1.0, CONTROL), (-3.0, -3.0, CONTROL), (9.0, -7.0, CONTROL)]
)
def test_a_method_wins_only_by_more_than_chance(lead: float, second: float, winner: str) -> None:
    _, record = finished(lead, second)
    assert record['winner'] == winner
    assert record['margin'] > 1 and ('chance' in record['told'][-1]) == (lead + second > 0)


def test_a_method_must_beat_the_student_alone_for_longer_too() -> None:
    _, record = lengthened(long=50, kd=51, without='fits')
    assert record['winner'] == LONG and record['lead'] == 1


@pytest.mark.parametrize(('long', 'winner'), [(50.5, LONG), (48.9, 'kd')])
def test_a_longer_training_is_left_out_only_if_it_is_beaten_by_more_than_chance(
    long: float, winner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two methods end at 51. With one seed each, chance gives a difference of 1.98."""
    monkeypatch.setattr(race, 'longer_row', lambda record, name: None)
    definition, record = rated()
    definition = decided(definition, record, alone_long=43, kd=44, cwd=42)
    definition = decided(definition, record, alone_long=long, kd=51, cwd=51)
    assert (LONG in record['finalists']) == (winner == LONG)
    decided(definition, record, alone_long=50, kd=51, cwd=50, control=45)
    assert record['winner'] == winner


def lengthened(
    long: float = 52, kd: float = 49, cwd: float = 41, without: str = '', **options: Any
) -> tuple[Definition, dict[str, Any]]:
    """A race whose first seeds have ended: the student alone for longer at ``long``, for the usual time at 45.

    ``without='fits'`` leaves no time for anything, ``'_begin_longer'`` none for a method with more time.
    """
    definition, record = rated(hours=4, **options)
    definition = decided(definition, record, alone_long=43, kd=44, cwd=44)
    with pytest.MonkeyPatch.context() as patch:
        if without:
            patch.setattr(race, without, lambda *_: False)
        return decided(definition, record, alone_long=long, kd=kd, cwd=cwd), record


def test_the_best_method_gets_more_time_if_that_pays_for_the_student_alone() -> None:
    definition, record = lengthened()
    assert names(definition, record) == ['kd_long seed 0'] and 'winner' not in record
    assert record['told'][-1] == '6 times the training pays for the student alone: kd gets as much.'
    row = definition.methods['kd_long']
    assert (row.method, row.length, row.rate) == ('kd', record['long'], 1)
    definition = decided(definition, record, kd_long=55)
    assert names(definition, record) == [f'{row} seed 1' for row in ('kd_long', LONG, CONTROL)]
    definition = decided(definition, record, kd_long=55, alone_long=52, control=45)
    assert (record['winner'], record['lead']) == ('kd_long', 3)
    told = '2 seeds: kd_long 55.00, alone_long 52.00, control 45.00 on val. kd_long wins, by 3.00'
    assert told in record['told'][-1]
    assert names(definition, record) == ['kd_long seed 2', 'alone_long seed 2'], 'it must keep its lead over that row'
    definition = decided(definition, record, kd_long=40, alone_long=60)
    assert record['winner'] == LONG
    assert names(definition, record) == ['control seed 2'], 'that of the other has ended'


@pytest.mark.parametrize('kd_long', [52.75, 48])
def test_a_method_with_more_time_must_beat_the_student_alone_by_more_than_chance(kd_long: float) -> None:
    definition, record = lengthened()
    definition = decided(definition, record, kd_long=kd_long)
    assert record['finalists'] == (['kd_long', LONG, CONTROL] if kd_long > 52 else [LONG, 'kd', CONTROL])
    definition = decided(definition, record, kd_long=kd_long, kd=49, alone_long=52, control=45)
    assert record['winner'] == LONG
    told = 'alone_long wins.' if kd_long == 48 else 'kd_long leads alone_long by 0.75, which chance gives'
    assert told in record['told'][-1]
    assert names(definition, record) == ['alone_long seed 2', 'control seed 2']


def test_a_method_with_more_time_must_beat_that_of_the_usual_time() -> None:
    definition, record = lengthened(long=48, kd=52)
    definition = decided(definition, record, kd_long=50)
    assert record['finalists'] == ['kd', 'kd_long', CONTROL, LONG]
    decided(definition, record, kd_long=50, alone_long=48, kd=52, control=45)
    assert record['winner'] == 'kd' and 'kd wins, by 4.00' in record['told'][-1]


@pytest.mark.parametrize('options', [{'long': 46}, {'kd': 44}, {'teacher': 40}, {'fixed': True}, {'without': 'fits'}])
def test_no_method_gets_more_time_where_that_does_not_pay(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More time gave little, no method is better than the student alone, it cannot be longer, or time is short."""
    if options.pop('fixed', False):
        monkeypatch.setattr(race, 'longer_row', lambda record, name: None)
    definition, record = lengthened(**options)
    assert 'longer' not in record and 'finalists' in record
    if 'without' in options:
        assert names(definition, record) == [] and record['winner'] == LONG
        told = [*record['told']]
        assert '6 times the training pays for the student alone: more hours would tell whether it does for kd.' in told
        race.give_hours(definition, record, 19)
        write_json(definition.out / 'race.json', record)
        assert names(load(definition.path), record) == ['kd_long seed 0']
        assert record['told'][:-1] == told and 'kd gets as much' in record['told'][-1]


def test_a_method_with_more_time_that_fails_is_left_out() -> None:
    definition, record = lengthened()
    definition = decided(definition, record, {'kd_long seed 0': 'no memory'})
    assert record['failed'] == {'kd_long': 'no memory'}
    assert names(definition, record) == ['alone_long seed 1', 'kd seed 1', 'control seed 1']


def test_side_by_side_a_method_with_more_time_gets_two_seeds() -> None:
    definition, record = written(hours=4)
    record['jobs'] = 2
    definition = decided(definition, record, teacher=60, control=40, alone_x2=30)
    definition = decided(definition, record, control=45, alone_x2=31)
    definition = decided(definition, record, alone_long=43, kd=44, cwd=44)
    definition = decided(definition, record, alone_long=52, kd=49, cwd=41)
    assert names(definition, record) == ['kd_long seed 0', 'kd_long seed 1']
    definition = decided(definition, record, kd_long=55)
    assert names(definition, record) == ['alone_long seed 1', 'control seed 1']


def test_a_score_that_is_no_number_gives_no_method_more_time() -> None:
    _, record = lengthened(long=math.nan)
    assert 'longer' not in record


def test_what_a_method_with_more_time_costs_is_that_of_the_method() -> None:
    _, record = lengthened()
    assert race_plan.part_seconds(record, 'kd_long') == PRICES['kd'].seconds(1, record['long'])
    assert race_plan.part_seconds(record, LONG, 0.5) == PRICES[CONTROL].seconds(0.5, record['long'])
    record['methods']['kd_long'] = {}
    record['fixed'] = ['cwd']
    assert race_plan.longer_row(record, 'kd') is race_plan.longer_row(record, 'cwd') is None


def settled(definition: Definition, record: dict[str, Any], **scores: float) -> tuple[Definition, dict[str, Any]]:
    """As :func:`decided`, by the function that asks whether another process has decided already."""
    write_json(definition.out / 'race.json', record)
    stage = race.stage_of(definition, record)
    assert stage is not None
    for run in stage.runs:
        if run.result is None and run.name in scores:
            ended(definition, run.name, scores[run.name], run.seed, part=run.until < 1)
    record = execute._settled(definition, record, stage, {})
    return load(definition.path), record


def test_a_winner_that_loses_its_lead_does_not_stop_the_race() -> None:
    """Both pairs of rows need the third seed, so there are two stages of one name."""
    definition, record = lengthened()
    for _ in range(2):
        definition, record = settled(definition, record, kd_long=55, alone_long=52, control=45)
    assert record['winner'] == 'kd_long'
    for _ in range(9):
        if race.stage_of(definition, record) is None:
            break
        definition, record = settled(definition, record, kd_long=40, alone_long=52, control=45)
    assert race.stage_of(definition, record) is None and record['over'] and record['winner'] == LONG
    assert names(definition, record) == [] and record['more'] == len(record['seeds'])


def test_a_method_that_is_second_wins_if_the_one_with_more_time_loses() -> None:
    definition, record = lengthened(long=48, kd=52)
    for _ in range(2):
        definition = decided(definition, record, kd_long=53, kd=52, alone_long=48, control=45)
    assert record['winner'] == 'kd_long'
    decided(definition, record, kd_long=43, alone_long=48)
    assert record['winner'] == 'kd' and set(record['scores']) == {'kd', 'kd_long', LONG, CONTROL}


def test_further_seeds_are_those_of_the_better_student_alone() -> None:
    definition, record = rated(hours=9)
    definition = decided(definition, record, alone_long=43, kd=44, cwd=42)
    definition = decided(definition, record, alone_long=46, kd=50, cwd=41)
    definition = decided(definition, record, alone_long=46, kd=50, control=45)
    assert (record['winner'], record['alone']) == ('kd', LONG)
    assert names(definition, record) == ['kd seed 2', 'alone_long seed 2']
    definition = decided(definition, record, kd=40, alone_long=47)
    assert record['winner'] == LONG and names(definition, record) == ['control seed 2']
    decided(definition, record, control=60)
    assert record['winner'] == CONTROL, 'the student alone is judged again as well'


def test_a_second_seed_that_fails_is_tried_again() -> None:
    definition, record = lengthened()
    definition = decided(definition, record, kd_long=70)
    definition = decided(definition, record, {'kd_long seed 1': 'no memory'}, alone_long=52, control=45)
    assert record['winner'] == 'kd_long' and not record['failed'] and '1 seed: kd_long 70.00' in record['told'][-1]
    assert names(definition, record) == ['kd_long seed 1']


def test_more_hours_give_the_second_seeds_that_there_was_no_time_for() -> None:
    definition, record = rated()
    definition = decided(definition, record, alone_long=40, kd=41, cwd=39)
    record.update(hours=0.1, pace=[1e6, 1e6])
    definition = decided(definition, record, alone_long=44, kd=46, cwd=43)
    assert record['winner'] == CONTROL and 'No time is left for a second seed.' in record['told']
    record = again(definition, 50)
    assert names(definition, record) == ['kd seed 1', 'control seed 1']
    assert len({*record['told']}) == len(record['told'])


def test_without_time_no_candidate_is_begun() -> None:
    definition, record = written()
    definition = decided(definition, record, teacher=60, control=40, alone_x2=30)
    record.update(hours=0.05, pace=[1e6, 1e6])
    definition = decided(definition, record, control=45, alone_x2=31)
    assert record['left_out'] == dict.fromkeys(('cwd', 'kd', LONG), 'no time is left for it')
    assert record['told'][-1] == f'No time is left for cwd, kd, {LONG}: more hours may try more.'
    assert names(definition, record) == []
    for _ in range(2):
        definition = decided(definition, record)
    assert record['winner'] == CONTROL and race.stage_of(definition, record) is None


def test_candidates_that_no_time_was_left_for_are_tried_with_more_hours() -> None:
    """What has ended stays, and takes no time again: kd is not among the best in the middle."""
    definition, record = written(keep=1)
    definition = decided(definition, record, teacher=60, control=40, alone_x2=30)
    record.update(hours=0.12, pace=[1e6, 1e6], long=None)
    definition = decided(definition, record, control=45, alone_x2=31)
    assert [*record['left_out']] == ['cwd'] and names(definition, record) == ['kd seed 0 to 50%']
    definition = decided(definition, record, kd=41)
    definition = decided(definition, record, kd=50)
    record = again(definition, 0.14)
    assert 'cwd' in record['left_out'] and record['winner'] == 'kd', 'they are still too few'
    record = again(definition, 9)
    definition = load(definition.path)
    assert names(definition, record) == ['cwd seed 0 to 50%'] and not record['left_out'] and 'winner' not in record
    assert record['told'][-1] == 'In 9 h there is time for cwd.'
    definition = decided(definition, record, cwd=42)
    assert record['kept'] == ['cwd', CONTROL, 'kd'] and names(definition, record) == ['cwd seed 0']
    definition = decided(definition, record, cwd=60)
    assert names(definition, record) == ['cwd seed 1', 'kd seed 1', 'control seed 1']
    played(definition, record, cwd=60, kd=50, control=45)
    assert record['winner'] == 'cwd'


def test_candidates_are_taken_back_also_beside_a_method_that_had_more_time() -> None:
    definition, record = lengthened()
    record['left_out']['cwd'] = 'no time is left for it'
    for file in definition.out.glob('runs/cwd/seed0/*.json'):
        file.unlink()
    record['kept'].remove('cwd')
    definition = decided(definition, record, kd_long=70)
    record = again(definition, 50)
    definition = load(definition.path)
    assert names(definition, record) == ['cwd seed 0 to 50%']
    definition = decided(definition, record, cwd=46)
    assert names(definition, record) == ['cwd seed 0']
    decided(definition, record, cwd=90)
    assert record['finalists'][:2] == ['cwd', 'kd_long']


def test_the_stage_under_way_ends_in_fewer_hours_too() -> None:
    definition, record = written()
    definition = decided(definition, record, teacher=60, control=40, alone_x2=30)
    stage = race.stage_of(definition, record)
    record = again(definition, 0.005)
    assert race.stage_of(definition, record) == stage
    assert record['told'][-1].startswith('0.005 h in place of 2: the stage under way still ends')


def test_fewer_hours_leave_out_candidates_that_wait() -> None:
    definition, record = rated()
    write_json(definition.out / 'race.json', {**record, 'pace': [1e6, 1e6]})
    record = again(definition, 0.25)
    assert names(definition, record) == ['alone_long seed 0 to 50%', 'kd seed 0 to 50%']
    assert 'No time is left for cwd: more hours may try more.' in record['told']


def test_a_candidate_that_is_being_trained_stays_in_fewer_hours() -> None:
    definition, record = rated()
    write_json(definition.out / 'race.json', {**record, 'pace': [1e6, 1e6]})
    write_json(definition.out / 'runs/cwd/seed0/state.json', {'seconds': 5.0})
    record = again(definition, 0.25)
    assert 'cwd' not in record['left_out'] and 'cwd seed 0 to 50%' in names(definition, record)


def test_fewer_hours_withdraw_what_has_not_begun() -> None:
    definition, record = lengthened()
    record = again(definition, 0.1)
    assert 'longer' not in record and race.stage_of(definition, record) is None
    assert not any('kd gets as much' in told for told in record['told'])
    record = again(definition, 9)
    assert names(load(definition.path), record) == ['kd_long seed 0'] and 'kd gets as much' in record['told'][-1]


def played(definition: Definition, record: dict[str, Any], **scores: float) -> Definition:
    """The race to its end, with all its seeds."""
    while race.stage_of(definition, record) is not None:
        definition = decided(definition, record, **scores)
    return definition


def test_all_seeds_count_where_more_hours_give_a_method_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """cwd has a better first seed than kd, but kd wins over all seeds. That of kd_long is better than both."""
    definition, record = lengthened(long=50, kd=50.5, cwd=51, without='_begin_longer')
    definition = played(definition, record, alone_long=48, kd=56, cwd=44, control=45)
    assert record['winner'] == 'kd' and len(record['scores']['kd']) == 5
    with monkeypatch.context() as patch:
        patch.setattr(race, '_begin_longer', lambda *_: False)
        assert again(definition, 10)['winner'] == 'kd'
    record = again(definition, 30)
    definition = load(definition.path)
    assert names(definition, record) == ['kd_long seed 0'] and 'winner' not in record
    decided(definition, record, kd_long=52)
    assert {'kd', 'kd_long', 'cwd', LONG} <= {*record['finalists']}


def test_hours_given_while_second_seeds_are_trained_count() -> None:
    definition, record = lengthened(without='_begin_longer')
    assert names(definition, record) == ['alone_long seed 1', 'kd seed 1', 'control seed 1']
    record = again(definition, 50)
    assert names(load(definition.path), record) == ['kd_long seed 0']


def test_a_script_for_slurm_knows_a_row_that_more_hours_bring() -> None:
    definition, _ = lengthened(without='fits')
    text = definition.path.read_text()
    definition.path.write_text(text.replace('hours: 4', 'hours: 19'))
    assert [run.title for run in execute.runs_to_do(definition.path) if not run.result] == ['kd_long seed 0']


@pytest.mark.parametrize(
    ('row', 'there'),
    [
        ({'start': 'voc'}, {'start': 'voc'}),
        ({'rate': 3}, {'rate': 3}),
        ({'method': 'cwd', 'variant': 'feature'}, {'method': 'cwd', 'variant': 'feature'}),
        ({'config': './kd.py'}, {'config': './kd.py'}),
        ({'config': 'toy_seg'}, None),
    ],
)
def test_rows_of_any_kind_may_be_longer(row: dict[str, Any], there: dict[str, Any] | None) -> None:
    _, record = written()
    record['methods'] = {'mine': row}
    assert (race_plan.longer_row(record, 'mine') == 'mine_long') is (there is not None)
    if there is not None:
        record['longer'] = {'row': 'mine_long', 'of': 'mine'}
        expected = {'rate': 1, **there, 'length': record['long']}
        assert race_plan.rows_of(record)['mine_long'] == expected
        assert race_plan.rows_of({**record, 'methods': {'mine': {**row, 'length': 0.02}}})['mine_long']['length'] > 0
    assert race_plan.longer_row({**record, 'methods': {'alone': {}}}, 'alone') is None


@pytest.mark.parametrize(('kind', 'count', 'ends'), [('finish', 1, False), ('finish', 2, True), ('more 2', 2, False)])
def test_one_candidate_that_fails_ends_no_race(kind: str, count: int, ends: bool) -> None:
    definition, _ = written()
    stage = race.Stage(kind, tuple(plan.runs(definition)[:count]))
    assert execute._all_failed(stage, {run.title: 'no memory' for run in stage.runs}) is ends


@pytest.mark.parametrize('written_down', [True, False])
def test_another_recipe_is_no_part_of_the_race(written_down: bool) -> None:
    """A result of another config is refused before a score of it counts; --rerun-changed plans anew."""
    definition, _ = rated()
    ended(definition, CONTROL, 45)
    file = definition.out / 'runs/control/seed0/result.json'
    file.write_text(json.dumps({**json.loads(file.read_text()), 'config_hash': 'of before'}))
    with pytest.raises(ValueError, match='control seed 0: .* was made with config of before'):
        again(definition, 2)
    with pytest.raises(ValueError, match='was made with config of before'):
        execute.runs_to_do(definition.path)
    if not written_down:  # `mmdistill run --hours` began it
        tiny.write(Path(), methods=ROWS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, 'price_of', lambda config: PRICES['kd'])
        command = ['suite', 'run', str(definition.path), '--only', 'kd', '--plan', '--rerun-changed']
        assert main(command) == 0
    planned = read_json(definition.out / 'race.json')
    assert planned is not None and planned['spent'] == {} and 'rate' not in planned


def test_what_was_trained_before_is_free_also_for_a_race_that_is_planned_anew() -> None:
    definition, record = rated()
    definition = decided(definition, record, alone_long=43, kd=44, cwd=45)
    again, record = written()
    again = decided(again, record, teacher=60)
    again = decided(again, record)
    decided(again, record)
    assert record['spent'] == {'rates': 0, 'rate': 0, 'methods': 0}


def test_the_speed_is_that_of_runs_that_ended() -> None:
    """Not of the slowest ones that the plan expects; one that failed has taken time, and has no price."""
    definition, record = written(rates=[1])
    price, teacher = (PRICES[name] for name in (CONTROL, TEACHER))
    ended(definition, TEACHER, 60, minutes=2 * teacher.seconds() / 60)
    ended(definition, CONTROL, 40, minutes=2 * price.seconds(0.5) / 60, part=True)
    decided(definition, record)
    assert race_plan.slower(record) == pytest.approx(2)
    assert race_plan.left(record) == pytest.approx(7200 - 2 * (teacher.seconds() + price.seconds(0.5)))


def test_minutes_to_the_middle_are_counted_once() -> None:
    definition, record = written(rates=(1,))
    ended(definition, TEACHER, 60, minutes=9)
    ended(definition, CONTROL, 40, minutes=3, part=True)
    definition = decided(definition, record)
    ended(definition, CONTROL, 45, minutes=8)
    decided(definition, record)
    assert record['spent'] == {'rates': 60 * (9 + 3), 'rate': 60 * (8 - 3)}


def test_what_has_ended_takes_no_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    definition, record = rated()
    asked: list[list[float]] = []
    monkeypatch.setattr(race, 'fits', lambda record, works: bool(asked.append([*works])) or True)
    decided(definition, record, alone_long=30, kd=41, cwd=20)
    assert record['kept'] == ['kd', CONTROL, LONG]
    assert asked == [[race_plan.part_seconds(record, row, begun=True) for row in ('kd', LONG)]]


def test_chance_is_judged_by_the_seeds_at_hand_and_by_our_own_runs() -> None:
    """Pooled by hand: 4 degrees of freedom of 1.4 points, and one of each row with two seeds."""
    _, record = finished(6.0, 2.0)  # kd: 51, 47; the student alone: 45, 45
    expected = ((4 * 1.4**2 + 8.0 + 0.0) / (4 + 2)) ** 0.5
    assert race.noise(record['scores']) == pytest.approx(expected)
    assert record['margin'] == pytest.approx(expected)  # sqrt(2 / 2 seeds)
    assert record['lead'] == pytest.approx(4.0) and record['winner'] == 'kd'


def test_what_is_left_of_the_time_goes_to_more_seeds_of_the_winner() -> None:
    definition, record = finished(4.0, hours=4)
    assert names(definition, record) == ['kd seed 2', 'control seed 2']
    for seed in (2, 3, 4):
        assert record['more'] == seed
        definition = decided(definition, record, kd=50 + seed % 4, control=45)
    assert names(definition, record) == [] and race.best_seed(definition, record) == 3


def test_a_winner_that_chance_chose_loses_to_the_student_alone_by_more_seeds() -> None:
    definition, record = finished(4.0, hours=4)
    definition = decided(definition, record, kd=40, control=47)  # seed 2: the means are 46 and 45.67
    assert record['winner'] == CONTROL and '3 seeds: kd 46.00, control 45.67 on val. kd leads' in record['told'][-1]
    assert names(definition, record) == ['control seed 3']


def test_time_that_is_gone_ends_it_and_more_hours_go_on() -> None:
    definition, record = finished(4.0, hours=4)
    record['hours'] = 0.1
    definition = decided(definition, record, kd=50, control=45)
    assert names(definition, record) == []
    record = again(definition, 4)
    assert record['hours'] == 4 and names(definition, record) == ['kd seed 3', 'control seed 3']
    assert names(definition, again(definition, 0.01)) == [], 'less time begins nothing'


def test_a_further_seed_that_failed_is_tried_again_with_more_hours() -> None:
    definition, record = finished(4.0, hours=4)
    definition = decided(definition, record, {'kd seed 2': 'out of memory'}, control=45)
    assert names(definition, record) == []
    record = again(definition, 6)
    assert names(definition, record) == ['kd seed 2'], 'that of the other has ended'
    ended(definition, 'kd', 50, 2)
    stage = race.stage_of(definition, record)
    assert stage is not None
    record = execute._settled(definition, record, stage, {})
    assert names(definition, record) == ['kd seed 3', 'control seed 3'], 'it goes on'


def test_the_time_of_what_failed_is_spent_and_that_before_the_race_is_not() -> None:
    definition = load(tiny.write(Path(), methods=ROWS))
    ended(definition, TEACHER, 60, minutes=50)
    definition, record = written()
    run = next(run for run in plan.runs(definition) if run.title == 'alone_x2 seed 0')
    run.folder.mkdir(parents=True)
    (run.folder / 'state.json').write_text(json.dumps({'seconds': 600.0}))
    decided(definition, record, {'alone_x2 seed 0 to 50%': 'no memory'}, control=40)
    assert record['spent']['rates'] == 600.0 + 60.0


def test_trainings_that_take_longer_than_expected_leave_out_what_does_not_fit() -> None:
    definition, record = rated(hours=2)
    record['spent']['rates'] = 6700.0  # nearly two hours in place of minutes
    record['pace'] = [1e6, 1e6]
    definition = decided(definition, record, alone_long=43, kd=44, cwd=45)
    assert record['kept'] == ['cwd', CONTROL]
    definition = decided(definition, record, cwd=50)
    assert 'No time is left for a second seed.' in record['told'] and record['winner'] == 'cwd'


def test_a_candidate_that_fails_is_left_out() -> None:
    definition, record = written()
    definition = decided(definition, record, {'alone_x2 seed 0 to 50%': 'loss is NaN\nlog'}, teacher=60, control=40)
    assert record['failed'] == {'alone_x2': 'loss is NaN'} and names(definition, record) == ['control seed 0']
    definition = decided(definition, record, control=45)
    assert record['best'] == CONTROL
    definition = decided(definition, record, {'kd seed 0 to 50%': 'no memory'}, alone_long=41, cwd=42)
    assert 'kd seed 0' not in names(definition, record)
    definition = decided(definition, record, alone_long=41, cwd=50)
    definition = decided(definition, record, {'cwd seed 1': 'disk'}, control=46, alone_long=40)
    assert record['winner'] == 'cwd' and 'cwd' not in record['failed']  # by the seed that both have
    assert names(definition, record) == ['cwd seed 1']  # once more
    assert any('without kd: no memory' in line for line in race_plan.lines(record))


@pytest.mark.parametrize('lost', [TEACHER, CONTROL])
def test_without_teacher_or_student_alone_it_ends(lost: str) -> None:
    definition, record = written(rates=(1,))
    scores = {TEACHER: 60.0, CONTROL: 40.0}
    del scores[lost]
    title = TEACHER if lost == TEACHER else 'control seed 0 to 50%'
    with pytest.raises(RuntimeError, match='the race ends'):
        decided(definition, record, {title: 'no data'}, **scores)


def test_a_score_that_is_no_number_is_the_lowest() -> None:
    definition, record = written()
    decided(definition, record, teacher=60, control=float('nan'), alone_x2=3)
    assert record['rivals'] == ['alone_x2', CONTROL]


# --- whole races


RACE = {'hours': 0.5, 'rates': [1, 2], 'keep': 1}


def small(folder: Path, **more: Any) -> Path:
    options = {**tiny.content(8)['options'], 'train_cfg.val_interval': 2}
    own = {'race': RACE, 'methods': {'kd': {}}, 'options': options, 'checkpoint_every': 1, 'jobs': 2, **more}
    return tiny.write(folder, iters=8, **own)


def test_the_plan_alone_trains_nothing(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    path, measured = small(Path()), list[str]()

    def price_of(config: Config) -> Price:
        measured.append(','.join(config.model.get('distillers') or {}) or str(config.model.type))
        return PRICES['kd']

    monkeypatch.setattr(execute, 'price_of', price_of)
    assert main(['suite', 'run', str(path), '--only', 'kd', '--plan']) == 0
    assert 'expected: rates' in capsys.readouterr().out
    assert len(measured) == 3 and measured[2] == 'kd', 'the student alone, the teacher and the method'
    assert [file.name for file in Path('out').iterdir() if file.name != '.lock'] == ['race.json']
    assert main(['suite', 'slurm', str(path)]) == 0
    said = capsys.readouterr().out
    assert (
        'control --seed 0 --until 0.5' in said and 'alone_x2 --seed 0 --until 0.5' in said and 'kd --seed' not in said
    )


def test_what_is_priced_is_what_will_be_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows at their lengths, no teacher that is there, and a rung where the recipe evaluates next."""
    priced = dict[str, int]()

    def price_of(config: Config) -> Price:
        priced['kd' if config.model.get('distillers') else str(config.model.type)] = config.train_cfg.max_iters
        return PRICES['kd']

    monkeypatch.setattr(execute, 'price_of', price_of)
    path = small(Path(), methods={'kd': {'length': 3}})
    ended(load(path), TEACHER, 60)
    record = execute._planned(load(path), load(path).race, ['kd'], {})
    assert list(priced.values()) == [8, 24] and TEACHER not in record['prices']
    assert [execute.part_of(load(path), share) for share in (0.5, 0.6, 0.9)] == [0.5, 0.75, 1.0]
    assert record['estimate']['rates'] == PRICES['kd'].seconds(0.5), 'two at a time'


def test_a_race_that_has_begun_refuses_another_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[Any]()
    monkeypatch.setattr(execute, 'price_of', lambda config: PRICES['kd'])
    monkeypatch.setattr(execute, 'do_runs', lambda definition, runs, *rest, **named: calls.append(rest))
    path = small(Path())
    assert main(['suite', 'run', str(path), '--only', 'kd', '--rerun-changed']) == execute.INTERRUPTED
    assert main(['suite', 'run', str(path)]) == execute.INTERRUPTED, 'it goes on'
    assert [rest[0] for rest in calls] == [True, False]
    for changes, words in (
        ({'methods': {'kd': {'options': {'loss_weight': 7}}}}, 'methods: not as when the race in out was planned'),
        ({'seeds': [5]}, 'seeds: not as when'),
        ({'race': {'hours': 9, 'rates': [1, 2], 'keep': 2}}, 'race: not as when'),
    ):
        path = small(Path(), **changes)
        with pytest.raises(ValueError, match=words):
            execute.run_race(path, load(path).race)
    path = small(Path(), race={**RACE, 'hours': 9})
    given = Race(9, (1, 2), keep=1)
    assert execute.run_race(path) == execute.INTERRUPTED and load(path).race == given
    with pytest.raises(ValueError, match='--only, --method: not as when'):
        execute.run_race(path, methods=['cwd'])
    assert load(small(Path(), race=None)).race == given, 'a file without it: `run --hours` began it'


@pytest.mark.parametrize(
    ('options', 'words', 'more'),
    [(['--plan'], '--plan shows what a race will do', {'race': None}), (['--seeds', '9'], '--seeds: a race takes', {})],
)
def test_options_that_would_do_nothing_are_refused(
    options: list[str], words: str, more: dict[str, Any], capsys: pytest.CaptureFixture
) -> None:
    assert main(['suite', 'run', str(small(Path(), **more)), *options]) == 2
    assert words in capsys.readouterr().err


def test_a_race_runs_no_pretraining() -> None:
    starts = {'pre': {'pretrain': 'toy_pretrain'}}
    with pytest.raises(ValueError, match=r'methods.begun.start: a race runs no pre-training'):
        load(small(Path(), starts=starts, methods={'begun': {'method': 'kd', 'start': 'pre'}}))


def test_fractions_are_no_points() -> None:
    definition, record = written()
    with pytest.raises(ValueError, match='metric: no mIoU of the first candidates is above 1 .*set percent: true'):
        decided(definition, record, teacher=0.7, control=0.4, alone_x2=0.5)
    record['failed'].clear()
    decided(replace(definition, percent=True), record, teacher=0.7, control=0.4, alone_x2=0.5)
    assert record['rivals'] == ['alone_x2', CONTROL]


def test_slurm_decides_when_a_stage_has_ended(capsys: pytest.CaptureFixture) -> None:
    definition, _ = written()
    with pytest.raises(ValueError, match=r'has no plan yet. `mmdistill suite run'):
        execute.runs_to_do(tiny.write(Path(), out='other'))
    path = tiny.write(Path(), methods=ROWS, race={'hours': 2, 'rates': [1, 2]})
    for row, val in (('control', 40), ('alone_x2', 41)):
        ended(definition, row, val, part=True)
    first = ['teacher', 'control seed 0 to 50%', 'alone_x2 seed 0 to 50%']
    assert [run.title for run in execute.runs_to_do(path)] == first, 'the teacher is not there'
    ended(definition, TEACHER, 60)
    assert [run.title for run in execute.runs_to_do(path)] == ['alone_x2 seed 0', 'control seed 0']
    for row, val in (('control', 46), ('alone_x2', 45)):
        ended(definition, row, val)
    assert [run.title for run in execute.runs_to_do(path)] == [f'{row} seed 0 to 50%' for row in (LONG, 'kd', 'cwd')]
    assert capsys.readouterr().out == ''  # the script alone is printed


def test_runs_from_before_the_race_are_no_lead() -> None:
    """A seed that was trained whole has no score at the rung, perhaps another rate; others need those of all rows."""
    definition = load(tiny.write(Path(), methods=ROWS))
    for seed in (0, 6, 7, 8, 9):
        ended(definition, CONTROL, 70, seed)
    definition, record = written()
    assert record['seeds'] == [1, 2, 3, 4, 5]
    ended(definition, 'alone_x2', 90, seed=2, part=True)
    definition = decided(definition, record, teacher=80, control=40, alone_x2=41)
    assert record['rivals'] == ['alone_x2', CONTROL]
    assert 'control 40.00' in record['told'][0] and '41.00' in record['told'][0]


def test_a_given_teacher_takes_no_time_and_is_not_compared() -> None:
    prices = {name: price for name, price in PRICES.items() if name != TEACHER}
    _, record = written(hours=1.2, prices=prices)
    assert record['estimate']['rates'] == 2 * PRICES[CONTROL].seconds(0.5)
    assert record['long'] == round(PRICES['cwd'].seconds() / PRICES[CONTROL].seconds(), 1)
    _, record = rated(prices=prices)
    assert record['rate'] == 1 and len(record['told']) == 2


def test_a_schedule_that_cannot_be_longer_leaves_that_candidate_out() -> None:
    definition = load(tiny.write(Path(), methods=ROWS))
    record = race_plan.planned(definition, Race(9), ROWS, PRICES, {CONTROL: 'it has fixed intervals'})
    assert record['long'] is None and LONG not in record['rows'] and LONG not in race.candidates(record)


def test_why_it_cannot_be_longer_is_said(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, 'price_of', lambda config: PRICES['kd'])
    options = {**tiny.content(8)['options'], 'train_cfg.dynamic_intervals': [[6, 1]]}
    assert main(['suite', 'run', str(small(Path(), options=options)), '--only', 'kd', '--plan']) == 0
    assert 'without alone_long: ' in (said := capsys.readouterr().out) and 'train_cfg.dynamic_intervals' in said
    assert json.loads(Path('out/race.json').read_text())['fixed'] == [CONTROL, 'kd']


def test_no_time_is_kept_for_methods_that_cannot_be_longer() -> None:
    definition = load(tiny.write(Path(), methods=ROWS))
    record = race_plan.planned(definition, Race(9), ROWS, PRICES, dict.fromkeys(ROWS, 'it has fixed intervals'))
    assert record['long'] == 2.7 and not record['estimate']['longer']


def test_a_row_with_the_name_of_one_of_the_race_is_refused() -> None:
    path = small(Path(), methods={'alone_x2': {'method': 'kd'}})
    with pytest.raises(ValueError, match=r'methods\.alone_x2: a race has a row of this name'):
        execute.run_race(path, plan_only=True)


def test_a_race_planned_anew_meets_rows_of_other_lengths_only_when_it_decides() -> None:
    """The length of a row follows from its hours and from the teacher."""
    definition, record = written(hours=1.2)
    for row in (LONG, CONTROL):
        ended(definition, row, 40)
    file = definition.out / f'runs/{LONG}/seed0/result.json'
    file.write_text(json.dumps({**json.loads(file.read_text()), 'config_hash': 'of another length'}))
    assert execute._changed(definition, record) is None
    assert 'of another length' in str(execute._changed(definition, {**record, 'rate': 1}))


@pytest.mark.soak
@pytest.mark.parametrize(('iters', 'planted'), [(200, True), (2, False)])
def test_what_was_planted_wins(iters: int, planted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels without the shapes that the teacher knows, and a teacher that was hardly trained."""
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    monkeypatch.setattr(race_plan, 'MOST_SEEDS', 2)
    given = tiny.content(120, 4)
    seen = {f'{name}_dataloader.dataset.num_images': 24 for name in ('val', 'test')}
    teacher = {**given['teacher']['options'], **seen, 'train_dataloader.batch_size': 8}
    teacher |= {'train_cfg.max_iters': iters, 'train_cfg.val_interval': iters}
    options = {**given['options'], **seen, 'train_cfg.val_interval': 60}
    if planted:
        steps = ('mmdistill_dense.LoadShapes', 'tests.suite.tiny.NoShapes', 'PackSegInputs')
        options['train_dataloader.dataset.pipeline'] = [{'type': step} for step in steps]
    given.update(
        race={**RACE, 'keep': 2},
        methods={'kd': {'options': {'loss_weight': 10}}},
        teacher={**given['teacher'], 'options': teacher},
        options=options,
        checkpoint_every=60,
    )
    path = tiny.write(Path(), **given)
    assert main(['suite', 'run', str(path), '--only', 'kd']) == 0
    record = json.loads(Path('out/race.json').read_text())
    assert (record['winner'] == 'kd') == planted == ('poor_teacher' not in record)
    assert planted or record['winner'] in (CONTROL, LONG, 'alone_x2')


@pytest.mark.soak
def test_kills_in_each_phase_change_nothing(tmp_path: Path) -> None:
    """Scores, decisions and weights of a race that was killed again and again are those of one that was not."""
    ends = {}
    for name in ('whole', 'killed'):
        place = tmp_path / name
        place.mkdir()
        path = small(place)
        command = [sys.executable, '-m', 'mmdistill_dense', 'suite', 'run', path.name, '--only', 'kd']
        seen: set[str] = set()
        for _ in range(12 if name == 'killed' else 1):
            process = subprocess.Popen(command, cwd=place, env=environment(), stdout=subprocess.PIPE, text=True)
            if name == 'killed':
                _kill_in_a_new_phase(process, place / 'out/race.json', seen)
            out, _ = process.communicate(timeout=600)
            if process.returncode == 0:
                break
        assert process.returncode == 0, out
        record = json.loads((place / 'out/race.json').read_text())
        told = {key: record[key] for key in ('best', 'kept', 'finalists', 'winner', 'scores', 'told')}
        weights = torch.load(next((place / 'out/runs/control/seed0').glob('iter_8.pth')), weights_only=False)
        ends[name] = told, weights['state_dict']
    assert ends['whole'][0] == ends['killed'][0] and len(seen) >= 3
    assert not toys.differing(ends['whole'][1], ends['killed'][1])


def _kill_in_a_new_phase(process: subprocess.Popen[str], file: Path, seen: set[str]) -> None:
    """Kill a race some time after it reached a stage in which it was not killed yet; none after its last one."""
    while process.poll() is None:
        stages = json.loads(file.read_text())['spent'] if file.is_file() else {}
        now = next(reversed(stages), 'begun' if file.is_file() else '')
        if now and now not in seen and not now.startswith('more'):
            seen.add(now)
            time.sleep(6)
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
            return
        time.sleep(0.2)
