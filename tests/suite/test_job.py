"""One run: what it writes, that it goes on exactly, and what it refuses; a pre-training and what starts from it."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config

from mmdistill_dense.apps.suite import job, plan, pool
from mmdistill_dense.apps.suite.actions import train_all
from mmdistill_dense.apps.suite.definition import Definition, load_suite
from mmdistill_dense.apps.suite.job import Progress
from mmdistill_dense.apps.training import build_runner
from mmdistill_dense.utils.files import read_json, write_json
from tests import toys
from tests.suite import tiny
from tests.suite.tiny import run_of

METHODS = {'kd': {}, 'none': {'method': 'kd', 'options': {'loss_weight': 0}}}
SETS: dict[str, dict] = {'same': {}, 'others': {'seed': 77}}  # of painted shapes


def execute_run(definition: Definition, title: str, **options: Any) -> dict[str, Any]:
    return job.execute_run(definition, run_of(definition, title), **options)


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a suite of which teacher and kd were run without interruption."""
    folder = tmp_path_factory.mktemp('whole')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        definition = load_suite(tiny.write(Path(), methods=METHODS, test_sets=SETS))
        execute_run(definition, 'teacher')
        execute_run(definition, 'kd seed 0')
    return folder


@pytest.fixture
def definition(whole: Path, monkeypatch: pytest.MonkeyPatch) -> Definition:
    monkeypatch.chdir(whole)
    return load_suite(whole / 'tiny.yaml')


def test_result_tells_what_was_run(definition: Definition) -> None:
    result = plan.results(definition)['kd'][0]
    assert result['config_hash'] == plan.hash_of(definition, run_of(definition, 'kd seed 0'))
    assert result['score'] == result['metrics']['test']['mIoU'] > 0
    assert result['metrics']['val']['mIoU'] > 0 and not result['test_is_val']
    assert list(result['metrics']) == ['test', 'val', 'same', 'others'], 'further sets, in their order'
    assert result['metrics']['same'] == result['metrics']['test'] != result['metrics']['others']
    assert (result['name'], result['seed'], result['iterations'], result['restarts']) == ('kd', 0, 6, 0)
    assert (definition.out / 'runs/kd/seed0' / result['checkpoint']).is_file()
    assert result['processes'] == run_of(definition, 'kd seed 0').state['processes'] == 1
    assert result['teacher']['file'] == 'iter_2.pth' and len(result['teacher']['sha256']) == 64
    assert 0 < result['shares']['kd'] < 1
    assert result['seconds_per_iteration'] > 0 and result['minutes'] > 0
    assert {*map(len, result['data'].values())} == {12, 29}, 'the labels of each data set; further sets with options'
    assert [name for name in result['data'] if name.startswith('test_sets.')] == ['test_sets.same', 'test_sets.others']
    assert {'torch', 'mmengine', 'mmcv', 'mmseg', 'mmdistill_dense'} <= result['versions'].keys()
    config = plan.config_of(definition, run_of(definition, 'kd seed 0'))
    assert not job._tests_val(config)
    config.test_dataloader = config.val_dataloader
    assert job._tests_val(config), 'one split for both is tested once'
    teacher = plan.results(definition)['teacher'][0]
    assert teacher['iterations'] == 2 and teacher['teacher'] is None and teacher['shares'] == {}


def test_a_finished_run_is_not_repeated(definition: Definition, tmp_path: Path) -> None:
    files = {path: path.stat().st_mtime_ns for path in (definition.out / 'runs').rglob('*') if path.name != '.lock'}
    assert execute_run(definition, 'kd seed 0') == plan.results(definition)['kd'][0]
    assert files == {path: path.stat().st_mtime_ns for path in files}
    folder = definition.out / 'runs/kd/seed0'
    expected, copied = folder / 'result.json', tmp_path / 'result.json'
    expected.rename(copied)
    before = (folder / 'iter_6.pth').stat().st_mtime_ns
    try:
        actual = execute_run(definition, 'kd seed 0')
    finally:
        copied.replace(expected)
    assert actual['metrics'] == plan.results(definition)['kd'][0]['metrics']
    assert (folder / 'iter_6.pth').stat().st_mtime_ns == before


@pytest.mark.soak
def test_weights_alone_are_kept(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    definition = load_suite(tiny.write(Path(), methods={'mgd': {}}, keep='weights'))
    for title in ('teacher', 'mgd seed 0'):  # the student reads the teacher's weights
        execute_run(definition, title)
        (file,) = run_of(definition, title).folder.glob('*.pth')
        result = run_of(definition, title).result
        assert file.name == result['checkpoint'] and result['checkpoint'].startswith('weights_iter_')
        assert torch.load(file, weights_only=False).keys() == {'meta', 'state_dict'}
    assert not plan.unfinished(definition, [run_of(definition, 'mgd seed 0')])
    scores = [read_json(folder / 'out/teacher/result.json')['score'] for folder in (whole, tmp_path)]
    assert scores[0] == scores[1]


class Stop(Exception):
    """Stands for a kill."""


def stopping(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Let the training stop after an iteration, after the hooks that save."""
    tell = Progress.after_train_iter

    def stop(self: Progress, runner: Any, *args: Any, **kwargs: Any) -> None:
        tell(self, runner, *args, **kwargs)
        if runner.iter + 1 == at:
            raise Stop

    monkeypatch.setattr(Progress, 'after_train_iter', stop)


def test_stopped_run_goes_on_to_the_same_bits(
    definition: Definition, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And passes over a file as a kill in the middle of writing leaves it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'teacher').symlink_to(whole / 'out' / 'teacher')
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stopping(patch, 4)
        execute_run(definition, 'kd seed 0')
    folder = tmp_path / 'out/runs/kd/seed0'
    assert read_json(folder / 'state.json')['phase'] == 'training' and not (folder / 'result.json').exists()
    write_json(folder / 'state.json', read_json(folder / 'state.json') | {'seconds': 1e3})
    file = folder / 'iter_4.pth'
    file.write_bytes(file.read_bytes()[:1000])
    (folder / 'last_checkpoint').write_text('')
    actual, expected = execute_run(definition, 'kd seed 0'), read_json(whole / 'out/runs/kd/seed0/result.json')
    same = ('metrics', 'score', 'config_hash', 'shares', 'checkpoint', 'teacher')
    assert {key: actual[key] for key in same} == {key: expected[key] for key in same}
    assert actual['restarts'] == 1 and read_json(folder / 'state.json')['seconds'] > 1e3
    first, second = (
        torch.load(root / 'out/runs/kd/seed0/iter_6.pth', weights_only=False)['state_dict']
        for root in (tmp_path, whole)
    )
    assert not toys.differing(first, second)


def test_a_suite_of_which_a_run_failed_ends_with_1(definition: Definition, monkeypatch: pytest.MonkeyPatch) -> None:
    for failed in ({}, {'none seed 0': 'ended with code 1'}):
        monkeypatch.setattr(pool.Pool, 'execute', lambda *_, failed=failed: failed)
        assert train_all(definition) == len(failed)


def test_changed_config_is_refused_with_its_keys(definition: Definition, whole: Path, tmp_path: Path) -> None:
    changed = load_suite(tiny.write(tmp_path, methods=METHODS, iters=8))
    text = r'kd seed 0: out/runs/kd/seed0 was made with another config .*train_cfg\.max_iters'
    with pytest.raises(ValueError, match=text):
        execute_run(changed, 'kd seed 0')


def test_an_unfinished_run_of_another_config_is_refused(definition: Definition, tmp_path: Path) -> None:
    run = replace(run_of(definition, 'kd seed 0'), folder=tmp_path)
    (tmp_path / 'state.json').write_text(json.dumps({'config_hash': '0123456789abcdef'}))
    plan.check_unchanged(definition, [run])
    torch.save({'state_dict': {}}, tmp_path / 'iter_2.pth')
    with pytest.raises(ValueError, match='was made with another config'):
        plan.check_unchanged(definition, [run])
    (tmp_path / 'state.json').write_text(json.dumps({'config_hash': plan.hash_of(definition, run)}))
    plan.check_unchanged(definition, [run])


@pytest.mark.soak
def test_the_averaged_weights_are_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was killed between its last iteration and its result gives the same scores."""
    monkeypatch.chdir(tmp_path)
    average = {'default_hooks.ema': {'type': 'EMAHook', 'momentum': 0.01, 'update_buffers': True}}
    definition = load_suite(tiny.write(Path(), options={**tiny.content()['options'], **average}))
    first, folder = execute_run(definition, 'control seed 0'), tmp_path / 'out/runs/control/seed0'
    (folder / 'result.json').unlink()
    assert execute_run(definition, 'control seed 0')['metrics'] == first['metrics']
    config = Config.fromfile(folder / 'run.py')
    config.load_from, config.work_dir = str(folder / 'iter_6.pth'), str(tmp_path / 'alone')
    runner = build_runner(config)
    val, test = job.single_numbers(runner.val()), job.single_numbers(runner.test())
    assert first['metrics'] == {'val': val, 'test': test} and val != test
    (folder / 'result.json').unlink()
    monkeypatch.setattr(job, '_tests_val', lambda config: True)
    assert execute_run(definition, 'control seed 0')['metrics'] == {'val': val, 'test': val}
    raw = torch.load(folder / 'iter_6.pth', weights_only=False)
    key = next(key for key in raw['state_dict'] if key.endswith('.weight'))
    assert not torch.equal(raw['state_dict'][key], raw['ema_state_dict'][f'module.{key}']), 'else nothing is shown'


def test_the_rank_is_known_before_there_is_a_group(definition: Definition, monkeypatch: pytest.MonkeyPatch) -> None:
    words = dict(SLURM_PROCID=3, SLURM_NTASKS=8, OMPI_COMM_WORLD_RANK=2, OMPI_COMM_WORLD_SIZE=4, RANK=1, WORLD_SIZE=2)
    for name, value in words.items():
        monkeypatch.setenv(name, str(value))
    ranks_of_launcher = dict(none=(0, 1), pytorch=(1, 2), slurm=(3, 8), mpi=(2, 4))
    assert {launcher: job.rank_and_size(launcher) for launcher in ranks_of_launcher} == ranks_of_launcher

    def stop(*args: Any) -> None:
        raise Stop

    monkeypatch.setattr(job, '_train', stop)
    with pytest.raises(Stop):
        job.execute_run(definition, run_of(definition, 'control seed 0'), 'pytorch')
    assert not (definition.out / 'runs/control').exists()


def test_missing_predecessor_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match='kd seed 0 needs results that are not there yet: out/teacher'):
        execute_run(load_suite(tiny.write(tmp_path)), 'kd seed 0')


def test_first_weights_have_a_stamp(definition: Definition, tmp_path: Path) -> None:
    module, file, run = toys.nn.Identity(), tmp_path / 'first.pth', run_of(definition, 'kd seed 0')
    file.write_text('a')
    module.init_cfg = [dict(type='Pretrained', checkpoint=str(file))]
    runners: Any = [SimpleNamespace(model=toys.nn.Identity(), cfg={'load_from': str(file)})]
    runners += [SimpleNamespace(model=module, cfg={}), SimpleNamespace(model=toys.nn.Identity(), cfg={})]
    before = [job.start_stamps(run, runner) for runner in runners]
    assert before[0] == before[1] and [*before[0]] == [f'start {file}', 'start of kd'] and not before[2]
    file.write_text('b')
    assert not {*before[0].items()} & {*job.start_stamps(run, runners[0]).items()}


def test_the_score_is_in_percent(tmp_path: Path) -> None:
    definition = load_suite(tiny.write(tmp_path, metric='coco/bbox_mAP', percent=True))
    assert plan.score_of(definition, {'test': {'coco/bbox_mAP': 0.25}, 'val': {'coco/bbox_mAP': 0.5}}) == 25.0
    assert plan.score_of(definition, {'test': {}, 'val': {}}) == 0.0, 'mmdet, where nothing is found'
    with pytest.raises(KeyError, match=r"metric='coco/bbox_mAP' is not in the result of the test: mIoU, aAcc"):
        plan.score_of(definition, {'test': {'mIoU': 1.0, 'aAcc': 2.0}})


def test_given_teacher_is_tested_alone(
    definition: Definition, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / 'work_dirs/demo/teacher/iter_700.pth'
    file.parent.mkdir(parents=True)
    file.symlink_to(whole / 'out/teacher/iter_2.pth')
    suite = load_suite(tiny.write(tmp_path, teacher=None, test_teacher=True, test_sets=SETS))
    actual = execute_run(suite, 'teacher')
    expected = read_json(whole / 'out/teacher/result.json')
    assert actual['metrics'] == expected['metrics'] and actual['iterations'] == 0 and actual['checkpoint'] is None
    assert not list((tmp_path / 'out/teacher').glob('*.pth'))
    options = {**tiny.content()['options'], 'model.teacher.checkpoint': 'other.pth'}
    other = tiny.write(tmp_path, teacher=None, test_teacher=True, options=options)
    with pytest.raises(ValueError, match='teacher: .* was made with another config .*its teacher'):
        plan.check_unchanged(load_suite(other), plan.runs(load_suite(other))[:1])


@pytest.mark.soak
def test_a_checkpoint_is_saved_by_time_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between those of the config, which here saves at the end alone; a run with other labels does not go on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job, 'SAVE_INTERVAL', 0.0)
    definition = load_suite(tiny.write(Path(), methods={'kd': {}}, checkpoint_every=1000))
    folder = run_of(definition, 'control seed 0').folder
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stopping(patch, 2)
        execute_run(definition, 'control seed 0')
    assert (folder / 'iter_2.pth').is_file()
    state = read_json(folder / 'state.json')
    write_json(folder / 'state.json', {**state, 'labels': 'others'})
    for _ in range(2):
        with pytest.raises(ValueError, match='was begun with other label files'):
            execute_run(definition, 'control seed 0')
    write_json(folder / 'state.json', state)
    assert execute_run(definition, 'control seed 0')['restarts'] == 1
