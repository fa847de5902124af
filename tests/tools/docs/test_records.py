"""The records of published runs: a suite whose folder is gone goes on from them."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mmdistill_dense.apps.suite import plan, preflight
from mmdistill_dense.apps.suite.definition import Definition
from mmdistill_dense.utils.atomic import write_text
from tests.suite import made_up
from tools.docs import publish, records, results_command
from tools.docs.check_results import disagreements

CURVE = '{"mIoU": 30.0, "step": 6}\n{"loss": 1.0, "step": 7}\n{"mIoU": 40.5, "step": 9}\n'
FILES = ('README.md', 'docs/results.md', 'docs/results/suite.csv', 'docs/results/suite.jsonl')


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Definition:
    """Two of three seeds of two rows, published."""
    monkeypatch.setattr(plan, 'hash_of', made_up.hash_of)
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
