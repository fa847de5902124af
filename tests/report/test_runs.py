"""Which folders are runs, their controls and logs, and what the page answers about them."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from mmdistill_dense.apps.report.predictions import NetworkCost
from mmdistill_dense.apps.report.runs import compare, find_runs, read_log
from mmdistill_dense.apps.report.scores import Answer, EvalPoint
from mmdistill_dense.apps.report.section import curves_section
from mmdistill_dense.apps.suite.plan import RUNS_FILE, Run, read_list, write_list

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


def logged(folder: Path, *scores: float | dict[str, float], interval: int = 100) -> Path:
    """A run with a training record and an evaluation at every 100th iteration; mIoU where no metric is named."""
    records = []
    for number, score in enumerate(scores, 1):
        actual = score if isinstance(score, dict) else {'mIoU': score}
        records.append(dict(loss=1.0, iter=interval * number, step=interval * number, time=0.1))
        records.append({**actual, 'time': 0.1, 'step': interval * number})
    write(folder, '20260101_000000', *records)
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


def test_a_suite_is_read_as_its_newest_start_lists_it(tmp_path):
    root, teacher = suite(tmp_path / 'a', ('kd', 'left'), (0, 1)), run(tmp_path / 'a' / 'teacher', ALONE)
    run(root / 'runs' / 'kd' / 'seeds')
    assert {run.name for run in find_runs(root)} == {'control', 'kd', 'left'}, 'no list'
    paths = [f'runs/{name}/seed{seed}' for name in ('control', 'kd') for seed in (0, 1)]
    (root / RUNS_FILE).write_text(json.dumps({'runs': ['teacher', *paths, 'starts/x/seed0']}), encoding='utf-8')
    assert len(before := find_runs(root)) == 4, 'without the row that left'
    runs = [Run(path.split('/')[1], int(path[-1]), root / path, teacher) for path in paths]
    write_list(root, [Run('teacher', 0, teacher), *runs])
    assert find_runs(root) == before and read_list(root)[1:] == runs and compare([root]).teacher.folder == teacher
    assert [run.name for run in find_runs(root / 'runs' / 'left')] == ['left', 'left'], 'asked for by its folder'


def test_runs_without_distillers_are_controls(tmp_path):
    folders = [run(tmp_path / 'x'), run(tmp_path / 'y', ALONE)]
    for control, names in ((None, (['x'], ['y'])), (run(tmp_path / 'z'), (['x', 'y'], ['z']))):
        actual = compare(folders, control)
        assert ([control.name for control in actual.runs], [control.name for control in actual.controls]) == names


def test_names_grow_until_they_are_unique(tmp_path):
    folders = ['lr01/kd/toy_seg', 'lr1/kd/toy_seg', 'lr1/cwd/toy_seg', 'kd', 'x']
    actual = compare([run(tmp_path / folder) for folder in folders])
    assert actual.names == ['lr01/kd/toy_seg', 'lr1/kd/toy_seg', 'lr1/cwd/toy_seg', 'kd', 'x']
    same = [run(tmp_path / 'a' / name / 'seed0').parent for name in ('runs/kd', 'kd')]  # a suite's and a plain one
    assert compare(same).names == [str(folder) for folder in same]


def test_the_config_is_that_of_the_training(tmp_path):
    folder = run(tmp_path / 'x', seed=3)
    (folder / '20260101_000000' / 'vis_data' / 'scalars.json').write_text('{"loss": 1}', encoding='utf-8')
    later = folder / '20270101_000000' / 'vis_data' / 'config.py'
    later.parent.mkdir(parents=True)
    later.write_text('randomness = dict(seed=99)', encoding='utf-8')
    assert find_runs(folder)[0].seed == 3
    # A shorter training in the folder of a longer one leaves the old file with the larger number.
    other = tmp_path / 'other'
    folder = run(other / 'x')
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


def test_a_given_teacher_is_no_control(tmp_path):
    teacher = logged(run(tmp_path / 'teaching', ALONE), 75.0)
    kd = logged(run(tmp_path / 'kd', teacher=str(teacher / 'iter_8.pth')), 66.0)
    alone = logged(run(tmp_path / 'alone', ALONE), 60.0)
    for control in (None, alone):
        actual = compare([kd, alone, teacher], control)
        assert [control.name for control in actual.controls] == ['alone']
        assert [run.name for run in actual.runs] == ['kd']
        assert actual.teacher is not None and actual.teacher.folder == teacher
        out = Answer(actual).sentences()[0]
        assert 'kd scores 66.00, the student alone 60.00: +6.00, 40% of the way to the teacher (75.00)' in out


def test_two_controls_of_one_seed_are_refused(tmp_path):
    kd, first_run, other = run(tmp_path / 'kd'), run(tmp_path / 'one', ALONE), run(tmp_path / 'other', ALONE)
    with pytest.raises(ValueError, match=r"one' and .*other' are both controls of seed 0: .* by --control"):
        compare([kd, first_run, other])
    assert [control.name for control in compare([kd, first_run, other], first_run).controls] == ['one']
    assert len(compare([kd, first_run, run(tmp_path / 'third', ALONE, seed=1)]).controls) == 2
    drawn = [run(tmp_path / name, ALONE, None) for name in ('drawn', 'too')]
    assert [control.name for control in compare([kd, *drawn]).controls] == ['drawn', 'too']


def test_each_suite_is_compared_with_its_own_control(tmp_path):
    for name in 'ab':
        suite(tmp_path / name)
    actual = compare([tmp_path / 'a/runs/kd/seed2', tmp_path / 'b/runs/kd/seed0'])
    folders = [control.folder.relative_to(tmp_path).as_posix() for control in actual.controls]
    assert folders == ['a/runs/control/seed2', 'b/runs/control/seed0']
    assert [run.seed for run in find_runs(tmp_path / 'a/runs/kd')] == [0, 2, 10], 'by number'
    whole = compare([tmp_path / 'a'])
    assert [whole.control_of(run).seed for run in whole.runs_of('kd')] == [0, 2, 10]
    other = tmp_path / 'other'
    for name, alone in (('a', 40.0), ('b', 50.0)):
        suite(other / name, seeds=(0,))
        for method, score in (('control', alone), ('kd', alone + 2)):
            result(other / name / 'runs' / method / 'seed0', score)
    actual = compare([other / 'a', other / 'b', run(other / 'x')])
    answer = Answer(actual)
    gains = {row.name: row.gain and row.gain.mean for row in answer.verdict.rows if row.control}
    assert gains == {'a/kd': 2.0, 'b/kd': 2.0, 'x': None}
    assert actual.control_of(actual.runs_of('x')[0]) is None  # which one?


# Logs of mmengine: restarts, evaluations, values of hooks


def write(folder: Path, stamp: str, *records: dict, cut: str = '') -> None:
    file = folder / stamp / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('\n'.join(map(json.dumps, records)) + cut, encoding='utf-8')


def write_start_config(folder: Path, stamp: str, resume: bool) -> None:
    file = folder / stamp / 'vis_data' / 'config.py'
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'model = dict()\nresume = {resume}\n', encoding='utf-8')


def test_evaluations_stand_at_the_end_of_their_epochs(tmp_path):
    write(tmp_path, '1', *(dict(loss=9.0, lr=1, iter=i, step=i, time=0.2) for i in (1, 2, 3)), cut='\n{"loss": 1')
    write(tmp_path, '2', *(dict(loss=5.0, lr=1, iter=i, step=i, time=0.4) for i in (3, 4)))
    log = read_log(tmp_path)
    assert [*log.terms['loss'].items()] == [(1, 9), (2, 9), (3, 5), (4, 5)]
    assert set(log.terms) == {'loss'}
    assert log.seconds == 0.2
    train = [dict(loss=1.0, lr=1, epoch=e, iter=50 * e, step=50 * e) for e in (1, 2)]
    other = tmp_path / 'other'
    write(other, '1', *train, {'coco/bbox_mAP': 0.3, 'time': 0.1, 'data_time': 0.1, 'step': 2})
    log = read_log(other)
    assert [*log.metrics['coco/bbox_mAP']] == [100]
    assert 'coco/bbox_mAP' not in log.terms


def test_values_of_hooks_are_neither_losses_nor_a_training(tmp_path):
    """They hold their iteration, as those of training steps do. A start that was killed after a probe has no losses."""
    probe = {'monitor/knn.miou': 30.0, 'iter': 0, 'step': 0}
    write(tmp_path, '20260101_000000', probe, dict(loss=1.0, iter=2, step=2), {**probe, 'iter': 2, 'step': 2})
    write(tmp_path, '20260102_000000', {**probe, 'monitor/knn.miou': 20.0})
    for stamp in ('20260101_000000', '20260102_000000'):
        write_start_config(tmp_path, stamp, resume=False)
    log = read_log(tmp_path)
    assert set(log.terms) == {'loss'} and not log.metrics


def test_a_new_training_in_the_folder_replaces_the_old_one(tmp_path):
    for stamp, ends in (('20260101_000000', (1000, 2000)), ('20260102_000000', (500, 1000))):
        scores = [{'mIoU': step / 50, 'time': 1, 'step': step} for step in ends]
        write(tmp_path, stamp, *(dict(loss=1.0, iter=step, step=step) for step in ends), *scores)
        write_start_config(tmp_path, stamp, resume=False)
    write_start_config(tmp_path, '20260103_000000', resume=False)  # a test
    assert [*read_log(tmp_path).metrics['mIoU']] == [500, 1000]
    assert [*read_log(tmp_path).terms['loss']] == [500, 1000]
    write_start_config(tmp_path, '20260102_000000', resume=True)
    assert [*read_log(tmp_path).metrics['mIoU']] == [500, 1000, 2000]


# What the page answers: which scores it compares, and when it gives no verdict

ITERATIONS = "\ntrain_cfg = dict(type='IterBasedTrainLoop', max_iters={})"
EPOCHS = '\ntrain_cfg = dict(by_epoch=True, max_epochs={})'


def answer(*folders: Path, metric: str | None = None, control: Path | None = None) -> Answer:
    return Answer(compare(folders, control), metric)


def rows(found: Answer) -> dict[str, dict[str, str]]:
    table = found.table()
    return {row[0]: dict(zip(table.head, row, strict=True)) for row in table.rows}


def row(root: Path, name: str, *scores: Any, length: int | None = None, seed: int = 0) -> Path:
    """A run of a suite, with these scores in its log."""
    text = ALONE if name.startswith('control') else DISTILLED
    folder = root / 'teacher' if name == 'teacher' else root / f'runs/{name}/seed{seed}'
    return logged(run(folder, text + (ITERATIONS.format(length) if length else ''), seed), *scores)


def pair(root: Path, control: float, kd: float) -> None:
    """A suite of one seed with these results."""
    result(row(root, 'control'), control)
    result(row(root, 'kd'), kd)


def test_runs_of_other_seeds_are_told(tmp_path):
    alone = logged(run(tmp_path / 'alone', ALONE), 60.0)
    for seed in (None, 1):
        kd = logged(run(tmp_path / f'kd {seed}', DISTILLED, seed), 66.0)
        (sentence,) = answer(kd, alone).sentences()
        assert sentence.startswith(f'Not compared: kd {seed}') and 'randomness=dict(seed=0)' in sentence
        assert not answer(kd).sentences()


@pytest.mark.parametrize(('length', 'kd', 'alone', 'compared'), [
    (ITERATIONS.format(200), 2, 2, True),
    (ITERATIONS.format(300), 2, 2, False),  # both stopped
    ('', 2, 3, False),
    ('', 2, 2, True),
])  # fmt: skip
def test_only_ended_runs_of_one_length_are_compared(tmp_path, length, kd, alone, compared):
    folders = [
        logged(run(tmp_path / 'kd', DISTILLED + length), *[66.0] * kd),
        logged(run(tmp_path / 'alone', ALONE + length), *[60.0] * alone),
    ]
    out = answer(*folders).sentences()
    assert out[0].startswith('Perhaps. kd scores 66.00' if compared else 'Not compared: kd, seed 0 (iteration 200')
    assert 'folder of work dirs seed0, seed1' in out[-1] or not compared, 'there is no suite.yaml'
    assert compared or ('--resume' in out[0] and rows(answer(*folders))['kd']['gain'] == 'not compared, see above')
    assert not EvalPoint('iteration', 200, 200).matches(EvalPoint('iteration', 200, 300)), 'one has ended'
    for file in tmp_path.rglob('scalars.json'):  # as mmengine logs evaluations of iterations by default
        file.write_text(re.sub(r'("mIoU".* )\d+}', r'\g<1>0}', file.read_text()))
    assert answer(*folders).sentences() == out


@pytest.mark.parametrize(('length', 'of'), [(EPOCHS.format(2), ' of 2'), ('', '')])
def test_the_length_of_a_run_of_epochs_is_counted_in_epochs(tmp_path, length, of):
    folders = []
    for name, model, ends, steps in (('kd', DISTILLED, 2, 50), ('alone', ALONE, 2, 40), ('short', DISTILLED, 1, 50)):
        folder = run(tmp_path / name, model + length)
        records = []
        for epoch in range(1, ends + 1):
            records.append(dict(loss=1.0, epoch=epoch, iter=steps * epoch, step=steps * epoch))
            records.append({'coco/bbox_mAP': 0.3, 'time': 0.1, 'step': epoch})
        write(folder, '20260101_000000', *records)
        folders.append(folder)
    out = answer(*folders).sentences()
    assert out[0].startswith('No sign of it. kd scores 0.300')  # by epochs, though the iterations differ
    assert out[-1].startswith(f'Not compared: short, seed 0 (epoch 1{of}) with alone, seed 0 (epoch 2{of}).')


@pytest.mark.parametrize('where', ['test', 'val', 'log'])
def test_a_chosen_metric_is_read_from_the_tests(tmp_path, where):
    for name, accuracy in (('control', 90.0), ('kd', 80.0)):
        folder = row(tmp_path, name, dict(mIoU=1.0, mAcc=accuracy if where == 'log' else 70.0))
        test = {} if where == 'log' else dict(mIoU=50.0, mAcc=accuracy)
        result(folder, 50.0, dict(test_is_val=where == 'val'), **test)
    actual = answer(tmp_path, metric='mAcc')
    alone = '90.00' if where != 'log' else ''
    assert actual.sentences()[0].startswith(f'No sign of it. kd scores 80.00, the student alone {alone}')
    ends = {'test': 'on the test split', 'val': 'on the validation split', 'log': 'of the last evaluation, val split'}
    assert actual.table().caption.startswith(f'mAcc {ends[where]}')
    assert rows(answer(tmp_path))['kd']['score'] == '50.00'


def test_a_suite_of_masks_shows_their_score_first(tmp_path):
    for name, score in (('control', 50.0), ('kd', 60.0)):
        scores = {'coco/bbox_mAP': 0.9, 'coco/segm_mAP': score / 100}
        folder = row(tmp_path, name, *[{'coco/bbox_mAP': 0.9, 'coco/segm_mAP': 0.5}] * 2)
        result(folder, score, dict(metric='coco/segm_mAP'), **scores)
    actual = answer(tmp_path)
    assert actual.table().caption.startswith('Scores (coco/segm_mAP) on the test split')
    assert rows(actual)['kd']['score'] == '60.00'
    assert actual.metrics == ['coco/segm_mAP', 'coco/bbox_mAP']
    assert actual.section().items[1].layout.meta['title'] == 'coco/segm_mAP, val split'
    section = curves_section(actual.comparison, actual.metrics[1:])
    assert section.items[0].layout.meta['title'] == 'coco/bbox_mAP, val split'
    row(tmp_path, 'late', {'coco/segm_mAP': 0.45})  # an unfinished row leaves the test scores of the others
    scores = {name: row['score'] for name, row in rows(answer(tmp_path)).items()}
    assert scores == dict(control='50.00', kd='60.00', late='none yet')


def test_a_diverged_method_is_not_the_best(tmp_path):
    folders = [logged(run(tmp_path / name), score) for name, score in (('bad', math.nan), ('good', 66.0))]
    alone = logged(run(tmp_path / 'alone', ALONE), 60.0)
    assert answer(*folders, alone).sentences()[0].startswith('Perhaps. good scores 66.00')
    assert not answer(folders[0], alone).sentences(), 'NaN is no score'


@pytest.mark.parametrize(('gains', 'out'), [
    ((4.0, 4.1, 3.9), 'Yes. kd scores 44.00, the student alone 40.00: +4.00, 40% of the way to the teacher (50.00). '),
    ((4.0, -3.0, 1.0), 'Perhaps. kd scores 40.67'),
    ((12.0, 12.1, 11.9), 'Yes. kd scores 52.00, the student alone 40.00: +12.00, no less than the teacher (50.00). '),
    ((-4.0, -4.1, -3.9), 'No. kd scores 36.00, the student alone 40.00: -4.00. '),
    ((-4.0, 3.0, -1.0), 'No sign of it. kd scores 39.33'),
])  # fmt: skip
def test_the_answer_is_as_sure_as_the_seeds_allow(tmp_path, gains, out):
    for seed, gain in zip((0, 2, 10), gains, strict=True):
        for name, score in (('kd', 40 + gain), ('control', 40.0)):
            result(row(tmp_path, name, seed=seed), score)
    result(row(tmp_path, 'teacher'), 50.0)
    actual = Answer(compare([tmp_path]))
    actual.costs = dict(kd=NetworkCost(2, 3.0), teacher=NetworkCost(10, 12.0))
    answer, cost, after = actual.sentences()
    assert answer.startswith(out)
    assert ('may be chance' in answer) == (out[:3] in ('Per', 'No '))
    more = 'Compared with the teacher it has 5.0 times fewer parameters and 4.0 times its speed.'
    assert cost == f'In use it costs nothing more: the checkpoint is the plain student. {more}'
    words = {'Yes': 'use it', 'Per': 'longer training or more seeds', 'No.': 'another method', 'No ': 'another method'}
    assert words[out[:3]] in after


@pytest.mark.parametrize(('teacher', 'alone', 'kd', 'found'), [
    (44.0, 40.0, 40.0, None),
    (43.96, 40.0, 40.0, 'only 4.0 points better'),
    (40.0, 40.0, 40.0, 'no better'),
    (0.41, 0.4, 0.4, 'only 0.0'),  # a suite's own scores are in percent
])  # fmt: skip
def test_a_teacher_that_is_hardly_better_is_named(tmp_path, teacher, alone, kd, found):
    pair(tmp_path, alone, kd)
    result(row(tmp_path, 'teacher'), teacher)
    _, *advice, _, _ = answer(tmp_path).sentences()
    assert [found in sentence for sentence in advice] == [True] if found else not advice


def test_scores_on_labels_that_were_changed_are_not_compared(tmp_path):
    for name, stamp in {'control': 'a', 'kd': 'a', 'cwd': 'b'}.items():
        result(row(tmp_path, name), 50.0, dict(data={'val': stamp, name: stamp}))
    (sentence,) = (actual := answer(tmp_path)).sentences()
    assert sentence.startswith('control seed 0 and cwd seed 0: label files were changed between these runs')
    assert rows(actual)['cwd']['gain'] == ''
    result(tmp_path / 'runs/cwd/seed0', 50.0)
    assert answer(tmp_path).sentences()[0].startswith('No sign of it.'), 'results of before tell no stamps'


def test_further_test_sets_have_a_table_below_the_scores(tmp_path: Path) -> None:
    """A suite's scores of detectors are in percent, mmdet's metrics are not; mmseg's mIoU of 1 to 100 is."""
    for name, ap, rain in (('control', 0.0, 0.3), ('kd', 0.26, 0.325)):
        sets = {'test': {'bbox_mAP': ap}, 'rain': {'bbox_mAP': rain}}
        result(row(tmp_path, name), 100 * ap, dict(metric='bbox_mAP', metrics=sets))
    actual = answer(tmp_path).further_sets()
    assert actual is not None and sorted(actual.rows) == [['control', '30.00 –'], ['kd', '32.50 +2.50']]
    for file in tmp_path.rglob('result.json'):
        result(file.parent, 50.0)
    assert answer(tmp_path).further_sets() is None


def test_runs_with_drawn_seeds_are_never_a_pair(tmp_path: Path) -> None:
    kd, alone = (logged(run(tmp_path / name, model, None), 60.0) for name, model in (('kd', DISTILLED), ('a', ALONE)))
    actual = answer(kd, logged(alone, 60.0, 60.0))
    assert actual.verdict.row('kd').gain is None and not actual.unpaired
    assert (rows(actual)['kd']['seeds'], rows(actual)['kd']['gain']) == ('drawn', 'no control of its seed')
    for folder in (logged(run(tmp_path / 'kd7', DISTILLED, 7), 61.0), logged(run(tmp_path / 'a7', ALONE, 7), 60.0)):
        assert answer(kd, alone, folder).verdict.row('kd').gain is None
    assert answer(tmp_path / 'kd7', tmp_path / 'a7', alone).verdict.row('kd7').gain.mean == 1.0


def test_the_teachers_score_is_of_the_same_pictures(tmp_path):
    data = "\nval_dataloader = dict(dataset=dict(type='CityscapesDataset', data_root='{}'))"
    teacher = logged(run(tmp_path / 'teacher', ALONE + data.format('a')), 40.0, 50.0, 30.0)
    file = str(teacher / 'best_mIoU_iter_200.pth')
    for root, score in (('a/', 50.0), ('b', None)):
        folders = [
            logged(run(tmp_path / root / name, model + data.format(root), teacher=file), 45.0 + len(name))
            for name, model in (('kd', DISTILLED), ('alone', ALONE))
        ]
        assert answer(*folders).teacher == score
        other = answer(folders[0], tmp_path / 'a' / 'alone').sentences()[1]
        assert other.startswith('val_dataloader of kd, seed 0 and alone, seed 0 names other pictures') == (root == 'b')
    other = logged(run(tmp_path / 'other', ALONE + data.format('a')), 20.0)
    kd = run(tmp_path / 'second', DISTILLED + data.format('a'), teacher=str(other / 'iter_100.pth'))
    first = tmp_path / 'a/kd', tmp_path / 'a/alone'
    assert answer(*first, logged(kd, 46.0)).teacher is None, 'each of two teachers leads its own students'


def test_suites_of_two_teachers_metrics_or_splits_share_no_claim(tmp_path):
    suites = [tmp_path / name for name in 'ab']
    for suite, score in zip(suites, (60.0, 90.0), strict=True):
        pair(suite, 50.0, 55.0)
        result(row(suite, 'teacher'), score)
    assert answer(suites[0]).teacher == 60.0 and answer(*suites).teacher is None
    result(suites[1] / 'teacher', 60.0)
    assert answer(*suites).teacher == 60.0
    for key, values in {'metric': ('mIoU', 'mAcc'), 'test_is_val': (False, True)}.items():
        for suite, value in zip(suites, values, strict=True):
            result(suite / 'runs/kd/seed0', 55.0, {key: value})
        with pytest.raises(ValueError, match='scored differently .* by '):
            answer(*suites)
        result(suites[1] / 'runs/kd/seed0', 55.0)


def test_a_detector_has_the_precision_of_each_class(tmp_path: Path) -> None:
    for name, cat, dog in (('control', 0.5, 0.25), ('kd', 0.45, 0.5)):
        for seed in (0, 1):
            actual = {'coco/bbox_mAP': 0.4, 'coco/cat_precision': cat + seed / 10, 'coco/dog_precision': dog}
            metrics = dict(metric='coco/bbox_mAP', metrics=dict(test=actual, val=actual))
            result(row(tmp_path, name, seed=seed), 40.0, metrics)
    sheet = answer(tmp_path).class_precisions()
    assert sheet is not None and sheet.head == ['class', 'control', 'kd', 'gain']
    assert sheet.rows == [['dog', '25.0', '50.0', '+25.0'], ['cat', '55.0', '50.0', '-5.0']]
    assert answer(tmp_path / 'runs/control').class_precisions() is None
