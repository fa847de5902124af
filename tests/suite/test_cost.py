"""Figures of costs are measured once, and again when what they depend on changes."""

from pathlib import Path
from typing import Any

import pytest

from mmdistill_dense.apps.inspect import step_cost
from mmdistill_dense.apps.suite import plan, price
from mmdistill_dense.apps.suite.definition import Definition
from mmdistill_dense.utils.files import read_json
from tests.suite import made_up

GRID = 'grid: {heavy: {loss_weight: [1, 9]}, seeds: [7]}\n'


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is measured: the distillers' options and how; nothing is run."""
    seen: list[Any] = []

    def student(config: Any, size: Any) -> dict:
        seen.append(('control', size))
        return {'student': {'parameters': 7, 'gflops': 0.5}, 'test_size': [96, 128]}

    def step(config: Any, *how: Any) -> dict:
        seen.append((config.model.distillers.kd.get('loss_weight', 1), *how))
        return {'ratio': 1.5, 'memory': {'extra': 2**20}}

    monkeypatch.setattr(step_cost, 'student_cost', student)
    monkeypatch.setattr(step_cost, 'step_cost', step)
    return seen


def suite_of(folder: Path, settings: str = 'device: cpu', more: str = '') -> Definition:
    return made_up.definition(folder, f'threads: 1\ncost: {{{settings}}}\n{more}')


def test_every_row_is_measured_as_the_definition_says(
    tmp_path: Path, measured: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    price.measure_costs(suite_of(tmp_path, 'device: cpu, batch: 3, size: [64, 96], repeats: 2'))
    assert measured == [('control', (64, 96)), (1, 'cpu', 3, 2), (5, 'cpu', 3, 2)]
    said = capsys.readouterr().out
    assert '7 parameters, 0.5 GFLOPs at 96x128' in said and '1.50 times the step of the control, +1.0 MiB' in said


def test_what_was_measured_is_kept_and_read(
    tmp_path: Path, measured: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    suite = suite_of(tmp_path)
    price.measure_costs(suite)
    before = capsys.readouterr().out.splitlines()
    price.measure_costs(suite)
    assert len(measured) == 3
    assert capsys.readouterr().out.splitlines() == [f'{line}, kept from before' for line in before]
    found = price.read_costs(suite)
    assert list(found) == ['control', 'kd', 'heavy'] and found['kd']['ratio'] == 1.5
    assert found['kd']['key']['config_hash'] == plan.hash_of(suite, plan.runs(suite)[1])


def test_another_config_or_other_settings_are_measured_again(tmp_path: Path, measured: list[Any]) -> None:
    price.measure_costs(suite_of(tmp_path))
    price.measure_costs(suite_of(tmp_path, 'device: cpu, batch: 3'))
    assert len(measured) == 3 + 2  # the size of the control is no matter of the batch
    price.measure_costs(suite_of(tmp_path, 'device: cpu, batch: 3', 'options: {train_cfg.max_iters: 7}\n'))
    assert len(measured) == 3 + 2 + 3


def test_costs_of_another_config_are_not_read(tmp_path: Path, measured: list[Any]) -> None:
    price.measure_costs(suite_of(tmp_path))
    assert price.read_costs(suite_of(tmp_path, more='options: {train_cfg.max_iters: 7}\n')) == {}


def test_only_some_rows(tmp_path: Path, measured: list[Any]) -> None:
    suite = suite_of(tmp_path)
    price.measure_costs(suite, ['heavy'])
    assert list(price.read_costs(suite)) == ['heavy'] and len(measured) == 1
    with pytest.raises(ValueError, match="--only: row 'light': unknown. Known: control, heavy, kd"):
        price.measure_costs(suite, ['light'])


def test_a_method_whose_search_goes_on_waits(
    tmp_path: Path, measured: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    suite = suite_of(tmp_path, more=GRID)
    price.measure_costs(suite)
    assert list(price.read_costs(suite)) == ['control', 'kd']
    assert 'heavy        waits for its search' in capsys.readouterr().out
    assert read_json(suite.out / 'cost' / 'heavy.json') is None


def test_what_cannot_be_measured_is_named_behind_the_others(
    tmp_path: Path, measured: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = step_cost.step_cost

    def picky(config: Any, *how: Any) -> dict:
        if 'loss_weight' not in config.model.distillers.kd:
            raise ValueError('the map is too small')
        return step(config, *how)

    monkeypatch.setattr(step_cost, 'step_cost', picky)
    suite = suite_of(tmp_path)
    with pytest.raises(RuntimeError, match='the costs of kd could not be measured'):
        price.measure_costs(suite)
    assert list(price.read_costs(suite)) == ['control', 'heavy']
    assert 'kd           FAILED: the map is too small' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ('batchsize: 3', 'cost.batchsize: unknown key. Close: batch'),
        ('device: gpu', "cost.device: must be 'cpu', or 'cuda' where torch sees a GPU; got 'gpu'"),
        ('batch: 0', 'cost.batch: must be at least 1'),
        ('size: 512', 'cost.size: must be of type list'),
        ('size: [512]', r'cost.size: must be \[height, width\]'),
    ],
)
def test_wrong_settings_are_named(settings: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        price.measure_costs(suite_of(tmp_path, settings))
