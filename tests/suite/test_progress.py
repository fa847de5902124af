"""The time that is left, and lines where there is no terminal."""

import errno
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from mmdistill_dense.apps.suite import job
from mmdistill_dense.apps.suite import pool as progress
from mmdistill_dense.apps.suite.job import Report
from mmdistill_dense.apps.suite.plan import Run
from tests.suite import tiny


def run(name: str, seed: int = 0, folder: Path = Path()) -> Run:
    return Run(name, seed, folder / name / f'seed{seed}')


def test_nothing_known_nothing_said() -> None:
    assert progress.time_left({}, {run('kd'): {'seconds': 3.0, 'iteration': 0}}, [run('kd', 1)], 2) is None
    assert progress.time_left({run('kd'): 1.0}, {}, [], 2) == 0


def test_runs_take_as_long_as_others_of_their_name() -> None:
    minutes = {run('kd'): 1.0, run('control'): 3.0}
    assert progress.time_left(minutes, {}, [run('kd', 1)], 1) == 60
    assert progress.time_left(minutes, {}, [run('kd', 1), run('control', 1)], 1) == 240
    assert progress.time_left(minutes, {}, [run('kd', 1), run('control', 1)], 2) == 180  # not shorter than one run
    assert progress.time_left(minutes, {}, [run('new')], 1) == 120


def test_running_ones_are_counted_by_what_is_done() -> None:
    state = {'seconds': 40.0, 'began': 10.0, 'first': 0, 'iteration': 25, 'iterations': 100}
    assert progress.time_left({}, {run('kd'): state}, [], 1) == 90
    assert progress.time_left({}, {run('kd'): state}, [run('control')], 1) == 90 + 130
    resumed = {'seconds': 1000.0, 'began': 990.0, 'first': 80, 'iteration': 90, 'iterations': 100}
    assert progress.time_left({}, {run('kd'): resumed}, [], 1) == 10
    assert progress.time_left({run('kd', 5): 1.0}, {run('kd'): {'seconds': 90.0}}, [], 1) == 0


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [(None, '?'), (0, '0 s'), (59.6, '1 min 00 s'), (61, '1 min 01 s'), (3660, '1 h 01 min'), (-5, '0 s')],
)
def test_clock(seconds: float | None, text: str) -> None:
    assert progress.clock(seconds) == text


def test_plain_lines_tell_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, 'TOLD_EVERY', 0.0)
    first, second, third = (run('kd', seed, tmp_path) for seed in range(3))
    tiny.write_result(first.folder, 41.234, minutes=2.0)
    second.folder.mkdir(parents=True)
    state = dict(phase='training', iteration=50, iterations=200, loss=1.5, seconds=60.0, began=10.0, first=0)
    console = Console(width=200, force_terminal=False)
    board = progress.Board(console, [first, second, third], 1)
    with console.capture() as captured:
        board.started(second)
        (second.folder / 'state.json').write_text(json.dumps(state))
        board.ended(first, None)
        board.ended(third, 'ended with code 1\nmore')
        board.tick([second], [third])
    text = captured.get()
    assert 'kd seed 1: starts' in text
    assert 'kd seed 0: 41.23 on test after 2 min 00 s' in text
    assert 'kd seed 2: FAILED (ended with code 1)' in text
    assert 'kd seed 1  50/200  loss 1.500  2 min 30 s left' in text
    assert '1 of 3 done, 1 waiting, 5 min 15 s left' in text


def test_an_interrupted_run_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was done after it is done again, and is not told as done."""
    monkeypatch.setattr(progress, 'TOLD_EVERY', 0.0)
    one = run('kd', 0, tmp_path)
    one.folder.mkdir(parents=True)
    for name in ('iter_25', 'iter_50'):
        torch.save({}, one.folder / f'{name}.pth')
    state = dict(phase='training', iteration=63, iterations=100, loss=1.5, seconds=60.0, began=10.0, first=0)
    (one.folder / 'state.json').write_text(json.dumps(state))
    console = Console(width=200, force_terminal=False)
    board = progress.Board(console, [one], 1)
    with console.capture() as captured:
        board.started(one)
        board.tick([one], [])
        (one.folder / 'state.json').write_text(json.dumps({**state, 'iteration': 51, 'first': 50}))
        board.tick([one], [])
    text = captured.get()
    assert 'kd seed 0: goes on from iter_50.pth' in text
    assert '63' not in text and 'kd seed 0  starting' in text and 'kd seed 0  51/100' in text


def test_the_last_evaluation_is_told(tmp_path: Path) -> None:
    report = Report(tmp_path, 'abc')
    report.metric, report.scale = 'coco/bbox_mAP', 100.0
    report.tell(True, phase='training', iteration=5, iterations=10, began=0.0, loss=1.5)
    report.after_val_epoch(None, {'coco/bbox_mAP': 0.3124, 'other': 1.0})
    report.after_val_epoch(None, {'other': 1.0})
    state = json.loads((tmp_path / 'state.json').read_text())
    assert state['val'] == {'count': 1, 'value': pytest.approx(31.24)}
    assert 'loss 1.500  val 31.24' in progress.progress_of(run('kd'), state)


def test_the_learning_before_a_training_is_told_with_its_own_time(tmp_path: Path) -> None:
    """50 of 200 steps in 30 seconds: 90 are left."""
    report = Report(tmp_path, 'abc')
    report.tell(True, phase='preparing')
    assert progress.progress_of(run('maskd'), report.state) == 'maskd seed 0  preparing'
    for done in range(1, 51):
        report.after_prepare_iter(None, done, 200)
    prepared = {**report.state['prepared'], 'began': 10.0}
    state = {**report.state, 'prepared': prepared, 'seconds': 40.0}
    assert (prepared['first'], prepared['iteration']) == (0, 50)
    assert progress.progress_of(run('maskd'), state) == 'maskd seed 0  preparing 50/200  1 min 30 s left of it'
    report.after_prepare_iter(None, 1, 80)  # the next distiller
    assert (report.state['prepared']['first'], report.state['prepared']['iterations']) == (0, 80)
    assert progress.time_left({}, {run('maskd'): state}, [], 1) is None, 'the training itself has not begun'


def test_progress_that_cannot_be_written_ends_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report(tmp_path, 'abc')

    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, 'Input/output error')

    monkeypatch.setattr(job, 'write_json', broken)
    report.tell(True, iteration=3)
    report.tell(True, iteration=4)
    monkeypatch.undo()
    report.tell(True, iteration=5)
    assert json.loads((tmp_path / 'state.json').read_text())['iteration'] == 5


def test_an_evaluation_is_word_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report(tmp_path, 'abc')
    before = json.loads((tmp_path / 'state.json').read_text())['time']
    report.written = -job.EVERY
    report.after_val_iter(None, 0)
    assert json.loads((tmp_path / 'state.json').read_text())['time'] > before
