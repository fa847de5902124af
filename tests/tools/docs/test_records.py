"""What is published beside the tables: the records of runs, the end of the control's training, gains in other pages."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mmdistill_dense.apps.suite import plan, preflight
from mmdistill_dense.apps.suite.definition import Definition
from mmdistill_dense.utils.files import write_text
from tests.suite import made_up
from tools.docs import curve, inline_results, publish, records, results_command
from tools.docs.check_results import disagreements
from tools.docs.scores import Line

CURVE = '{"mIoU": 30.0, "step": 6}\n{"loss": 1.0, "step": 7}\n{"mIoU": 40.5, "step": 9}\n'
FILES = ('README.md', 'docs/results.md', 'docs/results/suite.csv', 'docs/results/suite.jsonl')


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, 'hash_of', made_up.hash_of)


@pytest.fixture
def suite(tmp_path: Path) -> Definition:
    """Two of three seeds of two rows, published."""
    found = made_up.definition(tmp_path, 'teacher: toy_seg\n')
    made_up.finish(found, 'teacher', {0: 53.5}, checkpoint='iter_9.pth')
    write_text(found.out / 'teacher/iter_9.pth', 'weights')
    made_up.finish(found, 'control', {0: 40.0, 1: 41.0})
    made_up.finish(found, 'kd', {0: 43.0, 1: 43.5})
    write_text(found.out / 'runs/control/seed0/20260101/vis_data/scalars.json', CURVE)
    write_text(tmp_path / 'README.md', '# A\n\n<!-- results -->\n<!-- end of results -->\n')
    publish.main([found], tmp_path)
    return found


def written(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in FILES}


def test_a_restored_suite_is_published_to_the_same_bytes(
    suite: Definition, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = written(tmp_path)
    assert b'+10.50 (one seed)' in before['docs/results.md'], 'what the last third gave, from the log'
    elsewhere = replace(suite, out=tmp_path / 'new')
    records.main(elsewhere, tmp_path)
    assert capsys.readouterr().out.splitlines()[-1].startswith('5 restored: teacher, control seed 0, kd seed 0, ')
    publish.main([elsewhere], tmp_path)
    assert written(tmp_path) == before
    assert disagreements(tmp_path) == []


@pytest.mark.soak
def test_new_runs_join_those_that_were_published(suite: Definition, tmp_path: Path) -> None:
    elsewhere = replace(suite, out=tmp_path / 'new')
    made_up.finish(elsewhere, 'control', {1: 77.0, 2: 42.0})
    records.main(elsewhere, tmp_path)
    publish.main([elsewhere], tmp_path)
    found = records.read(records.file_of(suite, tmp_path))
    scores = {place: record['result']['score'] for place, record in found.items()}
    assert scores == {
        'teacher': 53.5,
        'runs/control/seed0': 40.0,
        'runs/control/seed1': 77.0,  # what lies in the folder is the newer one
        'runs/control/seed2': 42.0,
        'runs/kd/seed0': 43.0,
        'runs/kd/seed1': 43.5,
    }


def test_published_runs_are_not_dropped(suite: Definition, tmp_path: Path) -> None:
    before = written(tmp_path)
    shutil.rmtree(suite.out / 'runs/kd')
    with pytest.raises(
        ValueError, match=r'does not: kd seed 0, kd seed 1. `python tools/results.py restore .*suite.yaml'
    ):
        publish.main([suite], tmp_path)
    assert written(tmp_path) == before
    (tmp_path / FILES[-1]).unlink()
    publish.main([suite], tmp_path)
    assert len(records.read(tmp_path / FILES[-1])) == 3


@pytest.mark.soak
def test_runs_of_another_config_stay_away(
    suite: Definition, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = made_up.definition(
        tmp_path, 'teacher: toy_seg\n', made_up.DEFINITION.replace('kd: {{}}', 'kd: {{options: {{loss_weight: 2}}}}')
    )
    changed = replace(changed, out=tmp_path / 'new')
    records.main(changed, tmp_path)
    told = capsys.readouterr().out
    assert '2 left out, made with another config than the definition gives now: kd seed 0, kd seed 1' in told
    assert [run.title for run in plan.runs(changed) if run.result] == ['teacher', 'control seed 0', 'control seed 1']


@pytest.mark.soak
def test_a_teacher_without_weights_is_trained_again_where_they_are_needed(suite: Definition, tmp_path: Path) -> None:
    elsewhere = replace(suite, out=tmp_path / 'new')
    records.main(elsewhere, tmp_path)
    done = [run for run in plan.runs(elsewhere) if run.result is not None]
    assert preflight.unfinished(elsewhere, done) == [], 'nothing needs them'
    todo = preflight.unfinished(elsewhere, preflight.select(elsewhere, ['kd']))
    assert [run.title for run in todo] == ['teacher', 'kd seed 2']
    assert (elsewhere.out / 'replaced').is_dir()


@pytest.mark.soak
def test_bad_files_and_missing_ones_are_named(
    suite: Definition, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert results_command.main(['restore', str(suite.path), '--root', str(tmp_path / 'none')]) == 1
    assert 'no published runs; `results.py publish` writes them' in capsys.readouterr().err
    write_text(tmp_path / FILES[-1], '{"run": "teacher"}\n')
    assert results_command.main(['restore', str(suite.path), '--root', str(tmp_path)]) == 1
    assert "suite.jsonl, line 1: no record of a run (KeyError('result'))" in capsys.readouterr().err


@pytest.mark.soak
def test_records_of_other_scores_than_the_csv_are_found(suite: Definition, tmp_path: Path) -> None:
    text = (tmp_path / FILES[-1]).read_text()
    write_text(tmp_path / FILES[-1], text.replace('"score": 43.5', '"score": 44.5'))
    (told,) = disagreements(tmp_path)
    assert told.endswith('suite.jsonl: kd seed 1: 44.5 instead of 43.5')


# The end of the control's training


@pytest.fixture
def control(tmp_path: Path) -> Definition:
    suite = made_up.definition(tmp_path)
    made_up.finish(suite, 'control', made_up.CONTROL)
    return suite


def log(folder: Path, scores: dict[int, float], start: str = '1') -> None:
    """What mmengine leaves of a run's evaluations."""
    file = folder / start / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
    lines = [{'loss': 1.0, 'step': 1}, *({'mIoU': score, 'step': step} for step, score in scores.items())]
    file.write_text('\n'.join(map(json.dumps, lines)) + '\n{"mIoU": 9')


def test_the_last_quarter_of_the_control_is_told(control: Definition) -> None:
    """Gains 0.5 and 0.25: mean 0.375, sd 0.17678."""
    runs = {run.seed: run.folder for run in plan.runs(control) if run.name == 'control'}
    log(runs[0], {200: 30.0, 600: 39.0})
    log(runs[0], {600: 39.5, 800: 40.0}, start='2')  # went on after a stop
    log(runs[1], {600: 40.0, 800: 40.25})
    text = curve.sentence(control)
    assert text.startswith(
        'The student alone has flattened: in the last quarter it gains +0.38 ± 0.18 over 2 seeds in mIoU'
    )
    assert '(iteration 600 to 800; flat is below 0.5)' in text


def test_a_control_that_still_improves_is_named(control: Definition) -> None:
    run = next(run for run in plan.runs(control) if run.name == 'control')
    log(run.folder, {400: 30.0, 800: 33.0})
    text = curve.sentence(control)
    assert 'still improves: since the evaluation before three quarters it gains +3.00 (one seed)' in text


@pytest.mark.parametrize('scores', [{}, {800: 40.0}, {700: 39.0, 800: 40.0}, {0: 40.0}])
def test_one_evaluation_says_nothing_about_the_end(scores: dict, control: Definition) -> None:
    log(next(run for run in plan.runs(control) if run.name == 'control').folder, scores)
    assert 'It is unknown whether' in curve.sentence(control)


# Gains inside of other pages, behind their marks

PAGE = Path('docs/choosing.md')
SCORES = {
    'one': {
        'control': {0: Line(40.0, 'a', {}), 1: Line(41.0, 'a', {})},
        'kd': {0: Line(42.0001, 'b', {}), 1: Line(42.9999, 'b', {})},
        'cwd': {1: Line(40.5, 'c', {})},
    }
}


@pytest.mark.parametrize(
    ('mark', 'told'),
    [
        ('one kd', 'one: kd **+2.00** [+2.00, +2.00]'),
        ('one kd, one cwd', 'one: kd **+2.00** [+2.00, +2.00], cwd -0.50'),
        ('one cwd, two kd, one heavy', 'one: cwd -0.50'),
        ('two kd', 'not measured yet'),
    ],
)
@pytest.mark.parametrize(('before', 'after'), [('| a | ', ' | b |\n| c |'), ('So: ', '\nand more')])
def test_what_stands_behind_a_mark_is_written_anew(mark: str, told: str, before: str, after: str) -> None:
    text = f'{before}<!-- results: {mark} -->{{}}{after}'
    right = text.format(f' {told}')
    assert inline_results.filled(text.format(' an old gain of +9.99'), SCORES, PAGE) == right
    assert inline_results.filled(text.format(''), SCORES, PAGE) == inline_results.filled(right, SCORES, PAGE) == right


def test_a_mark_without_a_row_is_named() -> None:
    with pytest.raises(ValueError, match=r'choosing.md: <!-- results: one --> must hold pairs of a suite and a row'):
        inline_results.filled('<!-- results: one --> x\n', SCORES, PAGE)


def test_publishing_fills_pages_and_an_edited_gain_is_found(tmp_path: Path) -> None:
    suite = made_up.definition(tmp_path)
    made_up.finish(suite, 'control', made_up.CONTROL)
    made_up.finish(suite, 'kd', {0: 43.0, 1: 43.5, 2: 45.5})
    write_text(tmp_path / 'README.md', '<!-- results -->\n<!-- end of results -->\n')
    write_text(tmp_path / PAGE, '| KD | <!-- results: suite kd --> see there |\n')
    quoted = 'A mark is written as `<!-- results: suite kd -->` in a cell.\n'
    write_text(tmp_path / 'docs/other.md', quoted)
    publish.main([suite], tmp_path)
    text = (tmp_path / PAGE).read_text()
    assert text == '| KD | <!-- results: suite kd --> suite: kd **+2.83** [+2.12, +3.55] |\n'
    assert disagreements(tmp_path) == [] and (tmp_path / 'docs/other.md').read_text() == quoted
    write_text(tmp_path / PAGE, text.replace('2.83', '3.83'))
    assert disagreements(tmp_path) == ['docs/choosing.md: gains after <!-- results: ... --> differ from docs/results']
