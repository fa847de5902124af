"""The benchmarks: a step is taken apart without being changed, losses are compared with the released ones."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmdistill_dense.apps.inspect import step_cost
from mmdistill_dense.apps.inspect.step_cost import Timing
from tests import toys
from tools.benchmark import command, compare_losses, step
from tools.benchmark.loss_cases import METHODS


def run_config(scope: str = 'mmseg', **options) -> Config:
    """A config of toys that a step can be built from."""
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
    shared = dict(default_scope=scope, train_dataloader=dict(batch_size=2), optim_wrapper=wrapper)
    return Config(dict(model=toys.model_config(**options), **shared))


BOTH = {'kd': {'type': 'LogitKD'}, 'afdcd': {'type': 'AfDCD', 'pool_size': 0}}


@pytest.fixture(scope='module')
def cost() -> step.StepCost:
    return step.measure_step(run_config(distillers=BOTH), repeats=1)


def test_it_takes_a_step_apart(cost: step.StepCost, tmp_path: Path) -> None:
    assert (cost.batch, cost.size, cost.teacher_weights) == (2, (64, 64), 'random')
    assert list(cost.alone) == ['kd', 'afdcd'] and list(cost.adapters) == ['afdcd'], 'logit KD has no adapters'
    assert 0 < cost.control_memory < cost.distilled_memory, 'at toy size a projector is not nothing'
    table = step.as_markdown({'both': cost})
    assert f'**{cost.overhead:.3f}** | {cost.without_adapters:.3f} |' in table
    row, extra = table.splitlines()[2], (cost.distilled_memory - cost.control_memory) / 2**20
    assert row.startswith('| both |') and row.endswith(f'| {extra:+.0f} |')
    section = step.section({'a': cost, 'b': cost}, 'seg', 'cpu', 'command')
    assert list(section.figures) == ['a', 'b'] and section.name == 'step_seg'
    assert section.title == 'Step seg, 2 of 64x64' and section.figures['a']['overhead'] == cost.overhead
    assert json.loads(section.save(tmp_path).read_text())['markdown'] == section.markdown


def test_a_ratio_counts_the_teacher() -> None:
    control, teacher, distilled, first_row, two = (Timing(median, 0, 100) for median in (4.0, 2.0, 13.0, 3.0, 1.0))
    cost = step.StepCost(1, (8, 8), 'random', control, teacher, distilled, {}, {'a': first_row, 'b': two}, 0, 0)
    assert cost.overhead == 13 / (4 + 2) and cost.without_adapters == (13 - 3 - 1) / (4 + 2)
    epochs = Config({'train_cfg': {'max_epochs': 3}, 'train_dataloader': {'batch_size': 2}})
    assert step_cost.run_length(Config({'train_cfg': {'max_iters': 7}})) == 7
    assert step_cost.run_length(epochs) == step_cost.DEFAULT_ITERATIONS
    assert step_cost.run_length(epochs, pictures=40, processes=4) == 3 * 5


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.torch, 'set_num_threads', lambda threads: None)


@pytest.mark.parametrize('method', [*sorted({*METHODS} - {'pcd'}), pytest.param('pcd', marks=pytest.mark.soak)])
def test_ours_is_the_released_formula(method: str) -> None:
    """Values and gradients in float64, or the comparison would mean nothing."""
    for case in METHODS[method].cases(METHODS[method].sizes['small']):
        own_pass, released = (compare_losses.one_pass(f, case, torch.float64)() for f in (case.ours, case.released))
        torch.testing.assert_close(own_pass, released, rtol=1e-6, atol=1e-9)
        for level in zip(*case.inputs, *case.constants, strict=True):
            level = [x.double() for x in level]
            torch.testing.assert_close(case.ours(*level), case.released(*level), rtol=1e-9, atol=1e-12)


@pytest.mark.soak
def test_step_command_measures_several_methods(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / name for name in ('one.py', 'two.py')]
    for file in files:
        run_config(teacher=toys.seg_teacher()).dump(str(file))
    options = ['--name', 'toy', '--repeats', '1', '--device', 'cpu', '--json', str(tmp_path / 'out')]
    command.main(['step', '--config', *map(str, files), *options])
    figures = json.loads((tmp_path / 'out' / 'step_toy.json').read_text())['figures']
    assert list(figures) == ['one', 'two'] and figures['one']['overhead'] > 0
    out = capsys.readouterr().out
    assert 'one: ' in out and '| one |' in out and '| two |' in out
