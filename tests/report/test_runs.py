"""Which folders are runs, their names, their controls, their teacher, and what their logs hold."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mmdistill_dense.apps.report.runs import Comparison, TrainedRun, compare, find_runs, read_log
from mmdistill_dense.apps.report.scores import Answer
from mmdistill_dense.apps.report.section import COLOURS, Numbers, colour_of

DISTILLED = "model = dict(type='mmdistill_dense.DistillModel', distillers=dict(kd=dict(type='LogitKD')))"
ALONE = "model = dict(type='mmdistill_dense.DistillModel')"


def run(folder: Path, model: str = DISTILLED, seed: int | None = 0, teacher: str = '') -> Path:
    """A folder as a runner leaves it."""
    file = folder / '20260101_000000' / 'vis_data' / 'config.py'
    file.parent.mkdir(parents=True)
    text = f'{model}\nrandomness = dict(seed={seed})\n'
    if teacher:
        text += f"model['teacher'] = dict(type='X', checkpoint={teacher!r})\n"
    file.write_text(text, encoding='utf-8')
    return folder


def logged(folder: Path, *scores: float | dict[str, float], every: int = 100) -> Path:
    """A run with a training record and an evaluation at every 100th iteration; mIoU where no metric is named."""
    records = []
    for place, score in enumerate(scores, 1):
        found = score if isinstance(score, dict) else {'mIoU': score}
        records.append(dict(loss=1.0, iter=every * place, step=every * place, time=0.1))
        records.append({**found, 'time': 0.1, 'step': every * place})
    file = folder / '20260101_000000' / 'vis_data' / 'scalars.json'
    file.write_text('\n'.join(map(json.dumps, records)), encoding='utf-8')
    return folder


def result(folder: Path, score: float, more: dict[str, Any] | None = None, **test: float) -> Path:
    """Write what a suite leaves of a run: its score, that of the test split by metric, and ``more`` keys."""
    content = dict(score=score, metrics=dict(test=test)) | (more or {})
    (folder / 'result.json').write_text(json.dumps(content), encoding='utf-8')
    return folder


def suite(root: Path, methods: tuple[str, ...] = ('kd',), seeds: tuple[int, ...] = (0, 2, 10)) -> Path:
    for name in ('control', *methods):
        for seed in seeds:
            run(root / 'runs' / name / f'seed{seed}', ALONE if name == 'control' else DISTILLED, seed)
    return root


def test_a_suite_a_method_and_a_run_are_found(tmp_path):
    root = suite(tmp_path)
    assert len(find_runs(root)) == len(find_runs(root / 'runs')) == 6
    assert [one.seed for one in find_runs(root / 'runs' / 'kd')] == [0, 2, 10]
    assert [one.title for one in find_runs(root / 'runs' / 'kd' / 'seed2')] == ['kd, seed 2']


def test_the_suites_control_of_the_same_seed_is_taken(tmp_path):
    found = compare([suite(tmp_path) / 'runs' / 'kd' / 'seed2'])
    assert [one.title for one in found.controls] == ['control, seed 2']
    assert found.control_of(found.runs[0]).title == 'control, seed 2'
    for seed in (0, 2, 10):
        for name, val in (('control', 0.5), ('control_x2', 0.6)):
            folder = tmp_path / 'runs' / name / f'seed{seed}'
            folder = folder if name == 'control' else run(folder, ALONE, seed)
            result(folder, 1.0, {'metric': 'mIoU', 'metrics': {'val': {'mIoU': val}}})
    found = compare([tmp_path / 'runs' / 'kd' / 'seed2'])
    assert found.control_of(found.runs[0]).title == 'control_x2, seed 2', 'the rate is not the gain of the method'
    shutil.rmtree(tmp_path / 'runs' / 'control_x2')
    whole = compare([tmp_path])
    assert [whole.control_of(one).title for one in whole.runs] == [f'control, seed {seed}' for seed in (0, 2, 10)]


def test_of_plain_folders_those_without_distillers_are_controls_unless_one_is_given(tmp_path):
    folders = [run(tmp_path / 'x'), run(tmp_path / 'y', ALONE)]
    for control, names in ((None, (['x'], ['y'])), (run(tmp_path / 'z'), (['x', 'y'], ['z']))):
        found = compare(folders, control)
        assert ([one.name for one in found.runs], [one.name for one in found.controls]) == names


def test_a_row_without_distillers_is_no_control(tmp_path):
    root = suite(tmp_path / 'a')
    run(root / 'runs' / 'other_start' / 'seed0', ALONE)
    inherits = run(tmp_path / 'inherits', ALONE[:-1] + ", inherit=[('neck', 'neck')])")
    found = compare([root, inherits])
    assert {one.name for one in found.controls} == {'control'}
    assert {one.name for one in found.runs} == {'kd', 'other_start', 'inherits'}


def test_runs_of_the_same_name_stay_apart(tmp_path):
    one, other = suite(tmp_path / 'a'), suite(tmp_path / 'b')
    found = compare([one, other, run(tmp_path / 'p' / 'kd'), run(tmp_path / 'q' / 'c')])
    assert set(found.names) == {'a/control', 'b/control', 'a/kd', 'b/kd', 'p/kd', 'c'}
    assert all(len(found.of(name)) == 3 for name in ('a/kd', 'b/kd'))


def test_names_grow_until_they_are_unique_and_only_seed_and_a_number_is_the_folder_of_a_seed(tmp_path):
    folders = ['lr01/kd/toy_seg', 'lr1/kd/toy_seg', 'lr1/cwd/toy_seg', 'kd', 'x']
    found = compare([run(tmp_path / folder) for folder in folders])
    assert found.names == ['lr01/kd/toy_seg', 'lr1/kd/toy_seg', 'lr1/cwd/toy_seg', 'kd', 'x']
    same = [run(tmp_path / 'a' / place / 'seed0').parent for place in ('runs/kd', 'kd')]  # a suite's and a plain one
    assert compare(same).names == [str(folder) for folder in same]
    found = compare([run((tmp_path / '1') / name) for name in ('seeds_kd', 'seeds_cwd', 'seed_new')])
    assert found.names == ['seeds_kd', 'seeds_cwd', 'seed_new']
    with pytest.raises(ValueError, match='is no work dir'):
        find_runs(tmp_path / '1')


def test_seeds_without_a_suite_are_one_method(tmp_path):
    for seed in (0, 1):
        run(tmp_path / 'kd' / f'seed{seed}', seed=seed)
        run(tmp_path / 'alone' / f'seed{seed}', ALONE, seed)
    for folders in ([tmp_path / 'kd', tmp_path / 'alone'], [tmp_path]):
        found = compare(folders)
        assert [one.title for one in found.students] == ['alone, seed 0', 'alone, seed 1', 'kd, seed 0', 'kd, seed 1']


def test_a_test_in_the_same_folder_does_not_replace_the_config(tmp_path):
    folder = run(tmp_path / 'x', seed=3)
    (folder / '20260101_000000' / 'vis_data' / 'scalars.json').write_text('{"loss": 1}', encoding='utf-8')
    later = folder / '20270101_000000' / 'vis_data' / 'config.py'
    later.parent.mkdir(parents=True)
    later.write_text('randomness = dict(seed=99)', encoding='utf-8')
    assert find_runs(folder)[0].seed == 3


def test_the_checkpoint_is_the_one_that_was_written_last(tmp_path):
    """A shorter training in the folder of a longer one leaves the old file with the larger number."""
    folder = run(tmp_path / 'x')
    for name in ('iter_2000.pth', 'iter_1000.pth'):
        torch.save({}, folder / name)
    pointer = folder / 'last_checkpoint'
    texts = {'/moved/from/iter_1000.pth': 'iter_1000.pth', '': 'iter_2000.pth', 'gone': 'iter_2000.pth'}
    for text, name in texts.items():
        pointer.write_text(text, encoding='utf-8')
        assert find_runs(folder)[0].checkpoint == folder / name
    pointer.unlink()
    assert find_runs(folder)[0].checkpoint == folder / 'iter_2000.pth'
    torch.save({}, folder / 'weights_iter_9.pth')  # of a suite that keeps the weights alone
    (folder / 'result.json').write_text('{"checkpoint": "weights_iter_9.pth"}', encoding='utf-8')
    assert find_runs(folder)[0].checkpoint == folder / 'weights_iter_9.pth'


def test_colours_and_dashes_tell_many_methods_apart():
    methods = [TrainedRun(Path(f'm{place}'), f'm{place}') for place in range(2 * COLOURS)]
    found = Comparison(tuple(methods), (TrainedRun(Path('c'), 'control'),))
    looks = [colour_of(found, name) for name in found.names]
    assert len(set(looks)) == len(methods) + 1


def test_a_given_teacher_is_no_control_and_one_that_was_distilled_itself_stays_a_run(tmp_path):
    teacher = logged(run(tmp_path / 'teaching', ALONE), 75.0)
    kd = logged(run(tmp_path / 'kd', teacher=str(teacher / 'iter_8.pth')), 66.0)
    alone = logged(run(tmp_path / 'alone', ALONE), 60.0)
    for control in (None, alone):
        found = compare([kd, alone, teacher], control)
        assert [one.name for one in found.controls] == ['alone']
        assert [one.name for one in found.runs] == ['kd']
        assert found.teacher is not None and found.teacher.folder == teacher
        said = Answer(Numbers(found)).sentences()[0]
        assert 'kd scores 66.00, the student alone 60.00: +6.00, 40% of the way to the teacher (75.00)' in said
    first = run((tmp_path / '1') / 'first')
    found = compare(
        [run((tmp_path / '1') / 'second', teacher=str(first / 'iter_8.pth')), first, run((tmp_path / '1') / 'c', ALONE)]
    )
    assert [one.name for one in found.runs] == ['second', 'first']


def test_two_controls_of_one_seed_are_refused(tmp_path):
    kd, one, other = run(tmp_path / 'kd'), run(tmp_path / 'one', ALONE), run(tmp_path / 'other', ALONE)
    with pytest.raises(ValueError, match=r"one' and .*other' are both controls of seed 0: .* by --control"):
        compare([kd, one, other])
    assert [control.name for control in compare([kd, one, other], one).controls] == ['one']
    assert len(compare([kd, one, run(tmp_path / 'third', ALONE, seed=1)]).controls) == 2
    drawn = [run(tmp_path / name, ALONE, None) for name in ('drawn', 'too')]
    assert [control.name for control in compare([kd, *drawn]).controls] == ['drawn', 'too']


def test_each_suite_is_compared_with_its_own_control_of_the_seeds_that_are_asked_for(tmp_path):
    for name in 'ab':
        suite(tmp_path / name)
    found = compare([tmp_path / 'a/runs/kd/seed2', tmp_path / 'b/runs/kd/seed0'])
    places = [one.folder.relative_to(tmp_path).as_posix() for one in found.controls]
    assert places == ['a/runs/control/seed2', 'b/runs/control/seed0']
    for name, alone in (('a', 40.0), ('b', 50.0)):
        suite((tmp_path / '1') / name, seeds=(0,))
        for method, score in (('control', alone), ('kd', alone + 2)):
            result((tmp_path / '1') / name / 'runs' / method / 'seed0', score)
    found = compare([(tmp_path / '1') / 'a', (tmp_path / '1') / 'b', run((tmp_path / '1') / 'x')])
    answer = Answer(Numbers(found))
    assert {name: gain and gain.mean for name, gain in answer.gains.items()} == {'a/kd': 2.0, 'b/kd': 2.0, 'x': None}
    assert found.control_of(found.of('x')[0]) is None  # which one?


# Logs of mmengine: restarts, evaluations, values of hooks


def write(folder: Path, stamp: str, *records: dict, cut: str = '') -> None:
    file = folder / stamp / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text('\n'.join(map(json.dumps, records)) + cut, encoding='utf-8')


def begin(folder: Path, stamp: str, resume: bool) -> None:
    """Write the config of a start."""
    file = folder / stamp / 'vis_data' / 'config.py'
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'model = dict()\nresume = {resume}\n', encoding='utf-8')


def test_a_restart_goes_on_and_replaces_what_it_repeats(tmp_path):
    write(tmp_path, '1', *(dict(loss=9.0, lr=1, iter=i, step=i, time=0.2) for i in (1, 2, 3)), cut='\n{"loss": 1')
    write(tmp_path, '2', *(dict(loss=5.0, lr=1, iter=i, step=i, time=0.4) for i in (3, 4)))
    found = read_log(tmp_path)
    assert found.terms['loss'].steps == [1, 2, 3, 4]
    assert found.terms['loss'].values == [9, 9, 5, 5]
    assert set(found.terms) == {'loss'}
    assert found.seconds == 0.2


def test_values_of_hooks_are_neither_losses_nor_a_training(tmp_path):
    """They hold their iteration, as those of training steps do. A start that was killed after a probe has no losses."""
    probe = {'monitor/knn.miou': 30.0, 'iter': 0, 'step': 0}
    write(tmp_path, '20260101_000000', probe, dict(loss=1.0, iter=2, step=2), {**probe, 'iter': 2, 'step': 2})
    write(tmp_path, '20260102_000000', {**probe, 'monitor/knn.miou': 20.0})
    for stamp in ('20260101_000000', '20260102_000000'):
        begin(tmp_path, stamp, resume=False)
    found = read_log(tmp_path)
    assert set(found.terms) == {'loss'} and not found.metrics
    write(tmp_path / 'alone', '1', dict(value=0.5, step=7))
    found = read_log(tmp_path / 'alone')
    assert not found.terms and not found.metrics


def test_a_new_training_in_the_folder_replaces_the_old_one(tmp_path):
    for stamp, ends in (('20260101_000000', (1000, 2000)), ('20260102_000000', (500, 1000))):
        scores = [{'mIoU': step / 50, 'time': 1, 'step': step} for step in ends]
        write(tmp_path, stamp, *(dict(loss=1.0, iter=step, step=step) for step in ends), *scores)
        begin(tmp_path, stamp, resume=False)
    begin(tmp_path, '20260103_000000', resume=False)  # a test
    assert read_log(tmp_path).metrics['mIoU'].steps == [500, 1000]
    assert read_log(tmp_path).terms['loss'].steps == [500, 1000]
    begin(tmp_path, '20260102_000000', resume=True)
    assert read_log(tmp_path).metrics['mIoU'].steps == [500, 1000, 2000]


def test_evaluations_between_epochs_stand_at_the_epochs_last_iteration(tmp_path):
    train = [dict(loss=1.0, lr=1, epoch=e, iter=50 * e, step=50 * e) for e in (1, 2)]
    write(tmp_path, '1', *train, {'coco/bbox_mAP': 0.3, 'time': 0.1, 'data_time': 0.1, 'step': 2})
    found = read_log(tmp_path)
    assert found.metrics['coco/bbox_mAP'].steps == [100]
    assert 'coco/bbox_mAP' not in found.terms
