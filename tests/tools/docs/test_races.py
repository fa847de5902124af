"""Races replayed on results that were made up."""

import json
from pathlib import Path

import pytest

from mmdistill_dense.apps.suite import plan
from mmdistill_dense.apps.suite.definition import Definition
from mmdistill_dense.utils.files import write_json
from tests.suite import made_up
from tools.docs.records import LOG
from tools.docs.results_command import main

ROWS = """
title: Made up
out: {out}
control: toy_seg
methods: {{alone_2x: {{length: 2}}, kd: {{}}, heavy: {{method: kd}}, cwd: {{}}, fitnet: {{}}}}
seeds: [0, 1]
"""
# By row and seed: val in the middle, val at the end, test.
SCORES = {
    'control': {0: (30, 40, 40), 1: (30, 40, 42)},
    'alone_2x': {0: (33, 41, 41), 1: (33, 41, 41)},
    'kd': {0: (35, 50, 50), 1: (35, 50, 52)},
    'heavy': {0: (34, 45, 44), 1: (36, 45, 44)},
    'cwd': {0: (20, 60, 55), 1: (20, 60, 55)},  # the best, and so late that a race stops it
    'fitnet': {0: (32, 44, 40), 1: (32, 44, 40)},
}


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Definition:
    monkeypatch.setattr(plan, 'hash_of', made_up.hash_of)
    definition = made_up.definition(tmp_path, text=ROWS)
    for run in plan.runs(definition):
        middle, val, test = SCORES[run.name][run.seed]
        length = 4 if run.name == 'alone_2x' else 2
        result = made_up.result(definition, run, test)
        write_json(run.folder / 'result.json', {**result, 'metrics': {**result['metrics'], 'val': {'mIoU': val}}})
        curve = [{'mIoU': middle, 'step': length // 2}, {'mIoU': val, 'step': length}]
        (run.folder / LOG).parent.mkdir(parents=True)
        (run.folder / LOG).write_text('\n'.join(map(json.dumps, curve)))
    return definition


def races(definition: Definition, *more: str) -> int:
    return main(['races', str(definition.path), '--root', str(definition.path.parent), *more])


def test_a_late_row_is_the_regret(suite: Definition, capsys: pytest.CaptureFixture[str]) -> None:
    """kd has 51 on test in the mean, cwd 55, the student alone 41."""
    assert races(suite) == 0
    said = capsys.readouterr().out
    assert '| 0, 1 | kd, heavy, alone_long | kd | 51.00 | 4.00 |' in said
    assert '| 1, 0 | heavy, kd, alone_long | kd | 51.00 | 4.00 |' in said
    assert 'Best on test, mean of 2 seeds: cwd 55.00; student alone 41.00.' in said
    assert 'Mean regret 4.00, largest 4.00; from worst to best row 15.00 points.' in said


def test_no_method_of_a_replay_gets_more_time(suite: Definition, capsys: pytest.CaptureFixture[str]) -> None:
    """More time brings the student alone 5 points on val; no such run of a method is there."""
    for run in plan.runs(suite):
        if run.name == 'alone_2x':
            result = json.loads((run.folder / 'result.json').read_text())
            write_json(run.folder / 'result.json', {**result, 'metrics': {**result['metrics'], 'val': {'mIoU': 45}}})
            curve = [{'mIoU': 33, 'step': 2}, {'mIoU': 45, 'step': 4}]
            (run.folder / LOG).write_text('\n'.join(map(json.dumps, curve)))
    assert races(suite) == 0
    assert '| 0, 1 | kd, heavy, alone_long | kd | 51.00 | 4.00 |' in capsys.readouterr().out


def test_candidates_can_be_named(suite: Definition, capsys: pytest.CaptureFixture[str]) -> None:
    assert races(suite, '--only', 'heavy', 'fitnet') == 0
    assert '| 0, 1 | heavy, fitnet | heavy | 44.00 | 0.00 |' in capsys.readouterr().out
    assert races(suite, '--only', 'cdw') == 1
    assert 'races: --only cdw: the rows are alone_2x, kd, heavy, cwd, fitnet' in capsys.readouterr().err


def test_what_a_race_needs_is_told(suite: Definition, capsys: pytest.CaptureFixture[str]) -> None:
    run = next(run for run in plan.runs(suite) if (run.name, run.seed) == ('kd', 1))
    (run.folder / LOG).write_text('{"mIoU": 50, "step": 2}')
    assert races(suite) == 1
    assert 'kd has no score on val in the middle of its schedule' in capsys.readouterr().err
    (run.folder / 'result.json').unlink()
    assert races(suite) == 1
    assert 'two seeds with a run of every row are needed' in capsys.readouterr().err
