"""The benchmarks: a step is taken apart without being changed, losses are compared with the released ones."""

import json
from collections import Counter
from pathlib import Path
from unittest import mock

import pytest
import torch
from mmengine.config import Config

from mmdistill_dense.apps.inspect import step_cost
from mmdistill_dense.apps.inspect.step_cost import Timing
from tests import toys
from tools.benchmark import command, compare_losses, on_device, step
from tools.benchmark.command import composed
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


@pytest.mark.soak
@pytest.mark.parametrize('kind', ['retinanet', 'faster_rcnn'])
def test_a_detector(kind: str) -> None:
    """MasKD has random tokens, and by then the student's masks; the control inherits nothing."""
    distillers = {'maskd': {'type': 'MasKD', 'student_mask_from': 5}}
    options = {'student': toys.det_net(kind), 'teacher': toys.det_teacher(kind, 8), 'inherit': [('neck', 'neck')]}
    config = run_config('mmdet', distillers=distillers, **options)
    cost = step.measure_step(config, batch=3, repeats=1, image_size=(64, 96))
    assert (cost.batch, cost.size) == (3, (64, 96)) and cost.teacher_weights.endswith('.pth')
    assert list(cost.adapters) == ['maskd']


@pytest.mark.soak
def test_a_distiller_alone_gives_its_gradients() -> None:
    steps = step.prepare_steps(run_config(distillers={'afdcd': BOTH['afdcd']}))
    (alone, _), real, asked = step._parts(steps.distilled), torch.autograd.grad, []
    with mock.patch.object(torch.autograd, 'grad', lambda *a, **kw: asked.append(real(*a, **kw))):
        alone['afdcd']()
    student = steps.distilled.network
    parameters = list(student.distillers.parameters())
    steps.distilled.wrapper.zero_grad()
    losses = student.loss(steps.inputs, student.data_preprocessor(steps.distilled.data, True)['data_samples'])
    sum(value for name, value in losses.items() if name.startswith('distill.') and 'loss' in name).backward()
    torch.testing.assert_close(list(asked[0][-len(parameters) :]), [parameter.grad for parameter in parameters])
    assert 'step' not in vars(student.distillers['afdcd'])


def test_both_steps_have_the_weights_of_one_student() -> None:
    """Else NMS and sampled RoIs of random weights would take other times, and steps on noise end in infinities."""
    steps = step.prepare_steps(run_config(distillers=BOTH))
    control, distilled = (step.network.state_dict() for step in (steps.control, steps.distilled))
    assert all(torch.equal(value, distilled[name]) for name, value in control.items())
    before = [parameter.clone() for parameter in steps.control.network.parameters()]
    steps.control()
    assert all(torch.equal(*pair) for pair in zip(before, steps.control.network.parameters(), strict=True))


@pytest.mark.soak
def test_a_random_teacher_is_calibrated() -> None:
    """Its preprocessor would pad to the crop that it trains on."""
    config = run_config(distillers=BOTH, teacher=toys.seg_net(width=16, allow_random=True))
    for size in ((32, 96), (128, 64)):
        steps = step.prepare_steps(config, image_size=size)
        assert steps.size == size
        features = steps.teachers[0](steps.inputs)['backbone[-1]'][0]
        assert float(features.std()) > 0.1, 'statistics of the batch, not those of the start'


def test_a_ratio_counts_the_teacher() -> None:
    control, teacher, distilled, first_row, two = (Timing(median, 0, 100) for median in (4.0, 2.0, 13.0, 3.0, 1.0))
    cost = step.StepCost(1, (8, 8), 'random', control, teacher, distilled, {}, {'a': first_row, 'b': two}, 0, 0)
    assert cost.overhead == 13 / (4 + 2) and cost.without_adapters == (13 - 3 - 1) / (4 + 2)
    epochs = Config({'train_cfg': {'max_epochs': 3}, 'train_dataloader': {'batch_size': 2}})
    assert step_cost.run_length(Config({'train_cfg': {'max_iters': 7}})) == 7
    assert step_cost.run_length(epochs) == step_cost.DEFAULT_ITERATIONS
    assert step_cost.run_length(epochs, pictures=40, processes=4) == 3 * 5


@pytest.mark.parametrize('schedule', [
    dict(stop_at=6), pytest.param(dict(ramp_down=(0, 1.0)), marks=pytest.mark.soak),
    pytest.param(dict(stop_at=0.5), marks=pytest.mark.soak), pytest.param(dict(warmup=0.1), marks=pytest.mark.soak),
])  # fmt: skip
def test_a_scheduled_distiller_works_in_the_step_that_is_timed(schedule: dict) -> None:
    """Also where MasKD's student masks begin later than another distiller ends."""
    maskd = {'type': 'MasKD', 'student_tap': 'backbone[3]', 'student_mask_from': 9}
    steps = step.prepare_steps(run_config(distillers={'kd': {'type': 'LogitKD', 'schedule': schedule}, 'maskd': maskd}))
    assert all(distiller.weight() > 0 for distiller in steps.distilled.network.distillers.values())
    assert steps.distilled.network.distillation.state.max_iters == step_cost.DEFAULT_ITERATIONS


@pytest.mark.parametrize(('distillers', 'text'), [
    pytest.param({'kd': {'type': 'LogitKD'}, 'off': {'type': 'LogitKD', 'schedule': {'stop_at': 0}}},
                 r'distillers\.off is off at the start of the run by its schedule', marks=pytest.mark.soak),
    ({}, 'has no teacher and distillers'),
])  # fmt: skip
def test_a_step_without_a_distiller_is_not_timed(distillers: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        step.prepare_steps(run_config(distillers=distillers))


def test_a_step_that_took_less_than_its_parts_is_no_measurement() -> None:
    """0.649 s of a distilled step beside 0.641 of the control's and 0.499 of the teacher: it was the control's."""
    times = {'control': Timing(0.641, 0.63, 0.66), 'teacher': Timing(0.499, 0.49, 0.51)}
    times['distilled'] = Timing(0.649, 0.6, 0.7)
    with pytest.raises(RuntimeError, match=r'step took 0\.649 .*\(control and teacher\).* 0\.569 is not a measurement'):
        step.check_whole(times, 'distilled', ['control', 'teacher'])
    step.check_whole(times, 'distilled', ['control'])
    # A little less; much less, but not in every turn; of a single turn.
    for seconds in (Timing(1.05, 1.04, 1.06), Timing(0.9, 0.8, 1.2), Timing(0.9, 0.9, 0.9)):
        step.check_whole({**times, 'distilled': seconds}, 'distilled', ['control', 'teacher'])


# The losses that are compared: each is the released formula, and its row is complete

ROWS = {'afdcd': 4, 'maskd': 3, 'pcd': 1}


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.torch, 'set_num_threads', lambda threads: None)


@pytest.mark.soak
def test_the_command_keeps_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ['--size', 'small', '--repeats', '1', '--device', 'cpu', '--json', str(tmp_path / 'out')]
    command.main(['losses', '--method', *ROWS, *options])
    printed = capsys.readouterr().out
    rows = json.loads((tmp_path / 'out' / 'losses.json').read_text())['figures']
    assert Counter(row['method'] for row in rows) == ROWS
    assert len({(row['method'], row['name']) for row in rows}) == len(rows)
    for row in rows:
        assert f'| {row["method"]} | {row["name"]} |' in printed
        assert 0 < row['ours_error'] < 1e-4 and row['result_bytes'] <= row['ours_bytes'] < row['released_bytes']
    assert '- pcd: 16 pictures, 256 channels of 7x7, keys 16384' in printed


def test_a_row_prints_the_ratios() -> None:
    own_timing, released = Timing(0.5, 0.1, 1.0), Timing(20.0, 1.0, 100.0)
    row = compare_losses.Row('kd', 'scores', own_timing, released, 2**20, 8 * 2**20, 2**19, 1e-7, 2e-7)
    table = compare_losses.as_markdown([row])
    assert '| kd | scores |' in table and '| **40x** | 8.0 | 1.0 | **0.12** | 0.5 | 2.0e-07 | 1.0e-07 |' in table
    with pytest.raises(SystemExit, match='^--size of maskd must be one of detection, small, got cityscapes$'):
        command.main(['losses', '--method', 'maskd', '--size', 'cityscapes'])


@pytest.mark.parametrize('method', [*sorted({*METHODS} - {'pcd'}), pytest.param('pcd', marks=pytest.mark.soak)])
def test_ours_is_the_released_formula(method: str) -> None:
    """Values and gradients in float64, or the comparison would mean nothing; at small sizes rows are complete."""
    for case in METHODS[method].cases(METHODS[method].sizes['small']):
        own_pass, released = (compare_losses.one_pass(f, case, torch.float64)() for f in (case.ours, case.released))
        torch.testing.assert_close(own_pass, released, rtol=1e-6, atol=1e-9)
        for level in zip(*case.inputs, *case.constants, strict=True):
            level = [x.double() for x in level]
            torch.testing.assert_close(case.ours(*level), case.released(*level), rtol=1e-9, atol=1e-12)
        if method not in ROWS:  # those show less memory too, and the command measures them
            row = compare_losses.measure(method, case, 3)
            assert row.name == case.name and 0 < row.ours_error < 1e-4
            assert row.result_bytes <= row.ours_bytes and row.ours_time.median > 0


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


# Methods on a device: a row of a method on the CPU, and what a section makes of rows


def test_a_step_on_the_cpu_equals_itself(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(on_device, 'SIDE', 64)
    config = composed(on_device.SEG, 'cwd')
    config.merge_from_dict({'model.teacher.checkpoint': 'random.pth'})
    row = on_device.measure(config, 'cpu')
    assert row['difference'] == 0 and {'loss', 'distill.cwd.loss_cwd'} <= row['losses'].keys()
    assert (row['waits_control'], row['waits_distilled']) == (0, 0)  # only a GPU warns
    whole = {'difference': 1e-7, 'bf16': None, 'fp16': 0.5, 'waits_control': 3, 'waits_distilled': 5}
    rows = {'cwd:a': {**whole, 'places_distilled': {'head.py:7': 2}}, 'kd:a': {'error': 'RuntimeError: two devices'}}
    section = on_device.section(rows, 'methods', 'cpu', 'a command')
    assert '| cwd:a | 1.0e-07 | refused | 5.0e-01 | 3 | 5 |' in section.markdown
    assert '| kd:a | RuntimeError: two devices |' in section.markdown
    assert json.loads(section.save(tmp_path).read_text())['figures'] == rows
