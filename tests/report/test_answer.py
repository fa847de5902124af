"""What the page answers: which scores it compares, and when it gives no verdict."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mmdistill_dense.apps.report.predictions import Use
from mmdistill_dense.apps.report.runs import compare
from mmdistill_dense.apps.report.scores import Answer, answer_section
from mmdistill_dense.apps.report.section import Numbers
from tests.report.test_runs import ALONE, DISTILLED, logged, run, suite

ITERATIONS = "\ntrain_cfg = dict(type='IterBasedTrainLoop', max_iters={})"
EPOCHS = '\ntrain_cfg = dict(by_epoch=True, max_epochs={})'


def answer(*folders: Path, metric: str | None = None, control: Path | None = None) -> Answer:
    return Answer(Numbers(compare(folders, control), metric))


def rows(found: Answer) -> dict[str, dict[str, str]]:
    table = found.table()
    return {row[0]: dict(zip(table.head, row, strict=True)) for row in table.rows}


def pair(root: Path, control: float, kd: float) -> None:
    """A suite of one seed with these results."""
    suite(root, seeds=(0,))
    for name, score in (('control', control), ('kd', kd)):
        result(root / 'runs' / name / 'seed0', score)


def result(folder: Path, score: float, **test: float) -> Path:
    content: dict[str, Any] = dict(score=score, metrics=dict(test=test))
    (folder / 'result.json').write_text(json.dumps(content), encoding='utf-8')
    return folder


def test_a_run_that_stopped_early_gets_no_verdict(tmp_path):
    kd = logged(run(tmp_path / 'kd', DISTILLED + ITERATIONS.format(400)), 45.0)
    alone = logged(run(tmp_path / 'alone', ALONE + ITERATIONS.format(400)), 41.0, 42.0, 50.0, 60.0)
    found = answer(kd, alone)
    (said,) = found.sentences()
    assert said.startswith(
        'Not compared: kd, seed 0 (iteration 100 of 400) with alone, seed 0 (iteration 400 of 400). Both must '
    )
    assert '--resume' in said
    assert rows(found)['kd']['gain'] == 'not compared, see above'
    assert [row['last evaluation'] for row in rows(found).values()] == ['iteration 400 of 400', 'iteration 100 of 400']


@pytest.mark.parametrize(('scores', 'constant', 'said'), [
    ((30.7, 30.7), ('kd', 'control'), 'Next: train longer: both students predict one class everywhere'),
    ((30.7, 30.7), ('kd',), 'Next: more seeds tell'),
    ((0.0, 0.0), (), 'Next: train longer: both students score 0.'),
])  # fmt: skip
def test_students_that_have_learned_nothing_are_told_to_train_longer(tmp_path, scores, constant, said):
    pair(tmp_path, *scores)
    uses = {name: Use(1_000_000, 8.0, name in constant) for name in ('kd', 'control', 'teacher')}
    assert Answer(Numbers(compare([tmp_path])), uses).sentences()[-1].startswith(said)


@pytest.mark.parametrize(
    ('length', 'kd', 'alone', 'compared'),
    [
        (ITERATIONS.format(200), 2, 2, True),
        (ITERATIONS.format(300), 2, 2, False),  # both stopped
        ('', 2, 3, False),
        ('', 2, 2, True),
    ],
)
def test_only_ended_runs_of_one_length_are_compared(tmp_path, length, kd, alone, compared):
    folders = [
        logged(run(tmp_path / 'kd', DISTILLED + length), *[66.0] * kd),
        logged(run(tmp_path / 'alone', ALONE + length), *[60.0] * alone),
    ]
    said = answer(*folders).sentences()
    assert said[0].startswith('Perhaps. kd scores 66.00' if compared else 'Not compared: kd, seed 0 (iteration 200')


def test_the_length_of_a_run_of_epochs_is_counted_in_epochs(tmp_path):
    folders = []
    for name, model, ends, steps in (('kd', DISTILLED, 2, 50), ('alone', ALONE, 2, 40), ('short', DISTILLED, 1, 50)):
        folder = run(tmp_path / name, model + EPOCHS.format(2))
        records = []
        for epoch in range(1, ends + 1):
            records.append(dict(loss=1.0, epoch=epoch, iter=steps * epoch, step=steps * epoch))
            records.append({'coco/bbox_mAP': 0.3, 'time': 0.1, 'step': epoch})
        file = folder / '20260101_000000' / 'vis_data' / 'scalars.json'
        file.write_text('\n'.join(map(json.dumps, records)), encoding='utf-8')
        folders.append(folder)
    said = answer(*folders).sentences()
    assert said[0].startswith('No sign of it. kd scores 0.300')  # by epochs, though the iterations differ
    assert said[-1].startswith('Not compared: short, seed 0 (epoch 1 of 2) with alone, seed 0 (epoch 2 of 2).')


def test_rows_of_a_suite_with_other_lengths_are_compared_by_their_test_scores(tmp_path):
    for name, model, length, score in (('control', ALONE, 2, 60.0), ('long', DISTILLED, 4, 65.0)):
        folder = run(tmp_path / 'runs' / name / 'seed0', model + ITERATIONS.format(100 * length))
        result(logged(folder, *[50.0] * length), score)
    found = answer(tmp_path)
    assert found.sentences()[0].startswith('Perhaps. long scores 65.00, the student alone 60.00: +5.00.')
    assert 'last evaluation' not in found.table().head


def test_a_chosen_metric_is_read_from_the_tests_of_a_suite(tmp_path):
    for name, model, accuracy in (('control', ALONE, 90.0), ('kd', DISTILLED, 80.0)):
        folder = run(tmp_path / 'runs' / name / 'seed0', model)
        logged(folder, dict(mIoU=1.0, mAcc=70.0))
        result(folder, 50.0, mIoU=50.0, mAcc=accuracy)
    found = answer(tmp_path, metric='mAcc')
    assert found.sentences()[0].startswith('No sign of it. kd scores 80.00, the student alone 90.00')
    assert found.table().caption.startswith('mAcc on the test split')
    for file in tmp_path.rglob('result.json'):
        file.write_text(json.dumps({**json.loads(file.read_text()), 'test_is_val': True}))
    assert answer(tmp_path, metric='mAcc').table().caption.startswith('mAcc on the validation split')
    assert rows(answer(tmp_path))['kd']['score'] == '50.00'


def test_a_suite_of_masks_shows_their_score_first(tmp_path):
    for name, model, score in (('control', ALONE, 50.0), ('kd', DISTILLED, 60.0)):
        folder = logged(
            run(tmp_path / 'runs' / name / 'seed0', model), *[{'coco/bbox_mAP': 0.9, 'coco/segm_mAP': 0.5}] * 2
        )
        result(folder, score, **{'coco/bbox_mAP': 0.9, 'coco/segm_mAP': score / 100})
        file = folder / 'result.json'
        file.write_text(json.dumps({**json.loads(file.read_text()), 'metric': 'coco/segm_mAP'}))
    found = answer(tmp_path)
    assert found.table().caption.startswith('Scores (coco/segm_mAP) on the test split')
    assert rows(found)['kd']['score'] == '60.00'
    assert found.numbers.metrics == ['coco/segm_mAP', 'coco/bbox_mAP']
    assert answer_section(found.numbers).items[1].title == 'coco/segm_mAP, val split'
    assert found.numbers.curves().items[0].title == 'coco/bbox_mAP, val split'


def test_a_chosen_metric_that_was_not_tested_is_read_from_the_logs(tmp_path):
    for name, model, accuracy in (('control', ALONE, 90.0), ('kd', DISTILLED, 80.0)):
        result(logged(run(tmp_path / 'runs' / name / 'seed0', model), dict(mIoU=1.0, mAcc=accuracy)), 50.0)
    found = answer(tmp_path, metric='mAcc')
    assert found.sentences()[0].startswith('No sign of it. kd scores 80.00')
    assert found.table().caption.startswith('mAcc of the last evaluation, val split')


def test_a_suite_and_a_control_elsewhere_are_compared_by_what_both_have(tmp_path):
    for name, model in (('control', ALONE), ('kd', DISTILLED)):
        result(logged(run(tmp_path / 'runs' / name / 'seed0', model), 45.0), 55.0)
    control = logged(run(tmp_path / 'elsewhere', ALONE), 42.0)
    found = answer(tmp_path / 'runs' / 'kd', control=control)
    assert found.sentences()[0].startswith('Perhaps. kd scores 45.00, the student alone 42.00')
    assert 'val split (no test score: elsewhere, seed 0)' in found.table().caption


def test_an_unfinished_row_leaves_the_test_scores_of_the_others(tmp_path):
    for name, model in (('control', ALONE), ('kd', DISTILLED), ('late', DISTILLED)):
        folder = logged(run(tmp_path / 'runs' / name / 'seed0', model), 45.0)
        if name != 'late':
            result(folder, 55.0)
    scores = {name: row['score'] for name, row in rows(answer(tmp_path)).items()}
    assert scores == dict(control='55.00', kd='55.00', late='none yet')


def test_box_ap_below_one_percent_in_a_suite_is_no_fraction(tmp_path):
    for name, model, score in (('control', ALONE, 0.4), ('kd', DISTILLED, 0.4), ('teacher', ALONE, 0.9)):
        folder = run(tmp_path / ('teacher' if name == 'teacher' else f'runs/{name}/seed0'), model)
        result(folder, score, **{'coco/bbox_mAP': score / 100})
    advice = answer(tmp_path).sentences()[1]
    assert advice.startswith('The teacher is only 0.5 points better')


def test_a_diverged_run_is_not_the_best(tmp_path):
    scores = dict(bad=math.nan, good=66.0)
    folders = [logged(run(tmp_path / name), score) for name, score in scores.items()]
    alone = logged(run(tmp_path / 'alone', ALONE), 60.0)
    assert answer(*folders, alone).sentences()[0].startswith('Perhaps. Best of 2 methods: good scores 66.00')
    assert answer(folders[0], alone).sentences()[0].startswith('No sign of it. bad scores nan')


@pytest.mark.parametrize(('gains', 'said'), [
    ((4.0, 4.1, 3.9), 'Yes. kd scores 44.00, the student alone 40.00: +4.00, 40% of the way to the teacher (50.00). '),
    ((4.0, -3.0, 1.0), 'Perhaps. kd scores 40.67'),
    ((12.0, 12.1, 11.9), 'Yes. kd scores 52.00, the student alone 40.00: +12.00, no less than the teacher (50.00). '),
    ((-4.0, -4.1, -3.9), 'No. kd scores 36.00, the student alone 40.00: -4.00. '),
    ((-4.0, 3.0, -1.0), 'No sign of it. kd scores 39.33'),
])  # fmt: skip
def test_the_answer_is_as_sure_as_the_seeds_allow(tmp_path, gains, said):
    folders = {tmp_path / f'runs/kd/seed{seed}': 40 + gain for seed, gain in zip((0, 2, 10), gains, strict=True)}
    folders |= {tmp_path / f'runs/control/seed{seed}': 40.0 for seed in (0, 2, 10)}
    folders[run(tmp_path / 'teacher')] = 50.0
    suite(tmp_path)
    for folder, score in folders.items():
        (folder / 'result.json').write_text(json.dumps(dict(score=score)), encoding='utf-8')
    answer, cost, after = Answer(Numbers(compare([tmp_path]))).sentences()
    assert answer.startswith(said)
    assert ('may be chance' in answer) == (said[:3] in ('Per', 'No '))
    assert cost == 'In use it costs nothing more: the checkpoint is the plain student.'
    words = {'Yes': 'use it', 'Per': 'longer training or more seeds', 'No.': 'another method', 'No ': 'another method'}
    assert words[said[:3]] in after


def test_the_cost_in_use_is_compared_with_the_teacher(tmp_path):
    pair(tmp_path, 40.0, 42.0)
    uses = {'kd': Use(1_000_000, 8.0), 'teacher': Use(3_500_000, 20.0)}
    found = Answer(Numbers(compare([tmp_path])), uses)
    assert found.sentences()[1].endswith('it has 3.5 times fewer parameters and 2.5 times its speed.')
    uses['teacher'] = Use(1_040_000, 7.2)
    assert found.sentences()[1].endswith('the plain student.'), 'no gain of 1.0 times is told'
    assert Answer(found.numbers, {'kd': uses['kd']}).sentences()[1].endswith('the plain student.')
    assert 'seeds: [0, 1, 2]' in found.sentences()[2], 'one seed'
    costs = {'parameters': '1.00 M', 'a picture': '8 ms'}
    assert rows(found)['kd'].items() >= costs.items()
    assert rows(found)['control']['parameters'] == ''


@pytest.mark.parametrize(
    ('teacher', 'alone', 'found'),
    [(44.0, 40.0, None), (43.96, 40.0, 'only 4.0 points better'), (40.0, 40.0, 'no better'), (0.41, 0.4, 'only 1.0')],
)
def test_a_teacher_that_is_hardly_better_is_named(tmp_path, teacher, alone, found):
    pair(tmp_path, alone, alone)
    result(run(tmp_path / 'teacher'), teacher)
    _, *advice, _, _ = answer(tmp_path).sentences()
    assert [found in one for one in advice] == [True] if found else not advice


def test_scores_around_one_percent_are_no_fractions(tmp_path):
    pair(tmp_path, 1.2, 0.9)
    result(run(tmp_path / 'teacher'), 1.7)
    assert 'only 0.5 points better' in ' '.join(answer(tmp_path).sentences())


def test_without_a_control_there_is_no_answer(tmp_path):
    assert Answer(Numbers(compare([run(tmp_path / 'x')]))).sentences() == []


def two_controls(root: Path, rate: float, *, test_is_val: bool = False) -> list[str]:
    """The sentences of a suite whose second control has this score on val; the first has 50 there."""
    rows = (('control', ALONE, 50.0, 51.0), ('control_x2', ALONE, rate, 49.0), ('kd', DISTILLED, 60.0, 55.0))
    for row, model, val, score in rows:
        metrics = {'val': {'mIoU': val}, 'test': {'mIoU': score}}
        content = dict(score=score, metric='mIoU', metrics=metrics, test_is_val=test_is_val)
        folder = run(root / 'runs' / row / 'seed0', model)
        (folder / 'result.json').write_text(json.dumps(content), encoding='utf-8')
    return answer(root).sentences()


def test_a_method_is_compared_with_the_better_student_alone_on_val(tmp_path):
    said = two_controls(tmp_path / 'rate', rate=52.0)[0]
    assert said.startswith(
        'Perhaps. kd scores 55.00, the better student alone (control_x2), chosen on val, 49.00: +6.00'
    )
    found = rows(answer(tmp_path / 'rate'))
    assert (found['control']['gain'], found['control_x2']['gain'], found['kd']['gain']) == ('', '', '+6.00')
    said = two_controls(tmp_path / 'usual', rate=48.0)[0]
    assert said.startswith('Perhaps. kd scores 55.00, the better student alone, chosen on val, 51.00: +4.00')


def test_a_control_that_was_chosen_on_the_pictures_of_the_gain_is_said_to_be(tmp_path):
    said = two_controls(tmp_path, rate=52.0, test_is_val=True)[0]
    assert (
        'the better student alone (control_x2), chosen on these validation pictures, which flatters it, 49.00' in said
    )


def test_scores_on_labels_that_were_changed_are_not_compared(tmp_path):
    stamps = {'control': 'a', 'kd': 'a', 'cwd': 'b'}
    for name, stamp in stamps.items():
        folder = result(run(tmp_path / 'runs' / name / 'seed0', ALONE if name == 'control' else DISTILLED), 50.0)
        content = json.loads((folder / 'result.json').read_text())
        (folder / 'result.json').write_text(json.dumps({**content, 'data': {'val': stamp, name: stamp}}))
    (said,) = answer(tmp_path).sentences()
    assert said.startswith('control seed 0 and cwd seed 0: label files were changed between these runs')
    result(tmp_path / 'runs/cwd/seed0', 50.0)
    assert answer(tmp_path).sentences()[0].startswith('No sign of it.'), 'results of before tell no stamps'


def test_further_test_sets_have_a_table_below_the_scores(tmp_path: Path) -> None:
    suite(tmp_path, seeds=(0, 1))
    for name, rain in (('control', (30.0, 31.0)), ('kd', (29.0, None))):
        for seed, score in enumerate(rain):
            sets = {'test': {'mIoU': 50.0}, 'val': {'mIoU': 50.0}, **({'rain': {'mIoU': score}} if score else {})}
            content = dict(score=50.0, metric='mIoU', metrics=sets)
            (tmp_path / f'runs/{name}/seed{seed}/result.json').write_text(json.dumps(content), encoding='utf-8')
    found = answer(tmp_path).further_sets()
    assert found is not None and found.head == ['network', 'rain']
    assert sorted(found.rows) == [['control', '30.50'], ['kd', '29.00 (-1.00)']]
    for file in tmp_path.rglob('result.json'):
        file.write_text(json.dumps(dict(score=50.0, metrics={'test': {}})), encoding='utf-8')
    assert answer(tmp_path).further_sets() is None
