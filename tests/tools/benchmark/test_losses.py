"""The losses that are compared: each is the released formula, and its row is complete."""

import json
from pathlib import Path

import pytest
import torch

from mmdistill_dense.apps.inspect.step_cost import Timing
from tools.benchmark import command, compare_losses
from tools.benchmark.loss_cases import METHODS

ROWS = {
    'afdcd': [
        'contrast core, near convergence',
        'contrast core, at the start',
        'contrast with pooling',
        'align + first conv',
    ],
    'maskd': ['loss of all levels', 'branch alone, forward', 'gate and Dice, to the tokens'],
    'pcd': ['pixels against the queue'],
}
SAVES = set(ROWS)  # where small sizes show less memory too


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.torch, 'set_num_threads', lambda threads: None)


@pytest.mark.soak
def test_the_command_measures_and_keeps_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ['--size', 'small', '--repeats', '1', '--device', 'cpu', '--json', str(tmp_path / 'out')]
    command.main(['losses', '--method', *ROWS, *options])
    said = capsys.readouterr().out
    rows = json.loads((tmp_path / 'out' / 'losses.json').read_text())['figures']
    assert [(row['method'], row['name']) for row in rows] == [(key, name) for key in ROWS for name in ROWS[key]]
    for row in rows:
        assert f'| {row["method"]} | {row["name"]} |' in said
        assert 0 < row['ours_error'] < 1e-4 and row['result_bytes'] <= row['ours_bytes'] < row['released_bytes']
    assert '- pcd: 16 pictures, 256 channels of 7x7, keys 16384' in said


def test_a_size_of_another_method_is_refused() -> None:
    with pytest.raises(SystemExit, match='^--size of maskd must be one of detection, small, got cityscapes$'):
        command.main(['losses', '--method', 'maskd', '--size', 'cityscapes'])


@pytest.mark.parametrize('method', METHODS)
def test_every_size_is_described(method: str) -> None:
    sizes = METHODS[method].sizes
    assert 'small' in sizes and next(iter(sizes)) != 'small'
    assert all('channels' in str(size) for size in sizes.values())


def test_a_row_prints_the_ratios() -> None:
    ours, released = Timing(0.5, 0.1, 1.0), Timing(20.0, 1.0, 100.0)
    row = compare_losses.Row('kd', 'scores', ours, released, 2**20, 8 * 2**20, 2**19, 1e-7, 2e-7)
    table = compare_losses.as_markdown([row])
    assert '| kd | scores |' in table and '| **40x** | 8.0 | 1.0 | **0.12** | 0.5 | 2.0e-07 | 1.0e-07 |' in table


@pytest.mark.parametrize('method', [*sorted({*METHODS} - {'pcd'}), pytest.param('pcd', marks=pytest.mark.soak)])
def test_ours_is_the_released_formula(method: str) -> None:
    """Values and gradients in float64, or the comparison would mean nothing."""
    for case in METHODS[method].cases(METHODS[method].sizes['small']):
        ours, released = (compare_losses.one_pass(f, case, torch.float64)() for f in (case.ours, case.released))
        torch.testing.assert_close(ours, released, rtol=1e-6, atol=1e-9)
        for level in zip(*case.inputs, *case.constants, strict=True):
            level = [x.double() for x in level]
            torch.testing.assert_close(case.ours(*level), case.released(*level), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('method', sorted(set(METHODS) - SAVES))
def test_rows_are_complete(method: str) -> None:
    for case in METHODS[method].cases(METHODS[method].sizes['small']):
        row = compare_losses.measure(method, case, 3)
        assert row.name == case.name and 0 < row.ours_error < 1e-4
        assert row.result_bytes <= row.ours_bytes and row.ours_time.median > 0
