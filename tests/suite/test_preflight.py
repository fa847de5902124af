"""What is found before the first run starts."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmdistill_dense.suite import plan, preflight
from mmdistill_dense.suite.definition import Definition, load
from tests.suite import tiny


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def defined(**changes: Any) -> Definition:
    return load(tiny.write(Path(), **{'seeds': [0, 1], 'methods': {'kd': {}, 'afdcd': {}}, **changes}))


def titles(runs: list[plan.Run]) -> list[str]:
    return [run.title for run in runs]


def test_selected_rows_come_with_what_they_need() -> None:
    grid = {'kd': {'loss_weight': [1, 2]}, 'seeds': [7]}
    searches = ['kd loss_weight=1 seed 7', 'kd loss_weight=2 seed 7']
    definition = defined(grid=grid)
    assert titles(preflight.select(definition)) == titles(plan.runs(definition))
    assert titles(preflight.select(definition, ['control'], [1])) == ['control seed 1']
    assert titles(preflight.select(definition, ['afdcd'], [0])) == ['teacher', 'afdcd seed 0']
    assert titles(preflight.select(definition, ['kd'], [1])) == ['teacher', *searches, 'kd seed 1']
    assert titles(preflight.select(definition, ['teacher'])) == ['teacher']
    assert titles(preflight.select(definition, [], [0])) == [
        'teacher',
        *searches,
        'control seed 0',
        'kd seed 0',
        'afdcd seed 0',
    ]


def test_unknown_rows_and_seeds_are_named() -> None:
    with pytest.raises(ValueError, match="--only: row 'afdc': unknown. Close: afdcd"):
        preflight.select(defined(), ['afdc'])
    with pytest.raises(ValueError, match=r'--seeds \[3\]: the definition has \[0, 1\]'):
        preflight.select(defined(), [], [3])


def finish(definition: Definition, title: str, config_hash: str | None = None) -> plan.Run:
    run = next(run for run in plan.runs(definition) if run.title == title)
    tiny.write_result(run.folder, 1.0, config_hash=config_hash or plan.hash_of(definition, run))
    return run


def test_finished_runs_are_left_out() -> None:
    definition = defined()
    finish(definition, 'control seed 1')
    found = preflight.unfinished(definition, plan.runs(definition))
    assert 'control seed 1' not in titles(found) and len(found) == len(plan.runs(definition)) - 1


def test_changed_runs_are_refused_or_put_away() -> None:
    definition = defined()
    run = finish(definition, 'kd seed 1', 'old')
    with pytest.raises(ValueError, match='kd seed 1: out/runs/kd/seed1 was made with config old, the definition now'):
        preflight.unfinished(definition, plan.runs(definition))
    for number in ('', '-2'):
        assert 'kd seed 1' in titles(preflight.unfinished(definition, plan.runs(definition), rerun_changed=True))
        kept = json.loads(Path(f'out/replaced/runs/kd/seed1-old{number}/result.json').read_text())
        assert kept['config_hash'] == 'old' and not run.folder.exists()
        finish(definition, 'kd seed 1', 'old')


def test_missing_data_are_named_with_their_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('MMDISTILL_DATA', 'nowhere')
    definition = defined(control='deeplabv3plus_mobilenetv2_to_r18w16_camvid', teacher=None, options=None)
    with pytest.raises(
        FileNotFoundError, match=r"train_dataloader\.dataset\.data_root = 'nowhere/camvid' does not exist"
    ):
        preflight.check(definition, plan.runs(definition))


def test_missing_teacher_is_named() -> None:
    definition = defined(teacher=None)
    with pytest.raises(FileNotFoundError, match=r'model\.teacher\.checkpoint=.*iter_1000\.pth.*no such file'):
        preflight.check(definition, plan.runs(definition))


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'los_weight': 3}, 'tiny.yaml: kd: .*los_weight'),
        ({'student_tap': 'decode_head.conf_seg'}, 'tiny.yaml: kd: .*conv_seg'),
    ],
)
def test_options_that_a_distiller_does_not_take_are_named_with_the_method(options: dict, said: str) -> None:
    definition = defined(methods={'kd': {'options': options}})
    with pytest.raises(ValueError, match=said):
        preflight.check(definition, plan.runs(definition))


def test_suite_without_mistakes_passes_before_its_teacher_and_searches_exist() -> None:
    definition = defined(grid={'kd': {'loss_weight': [1, 2]}, 'seeds': [7]})
    preflight.check(definition, plan.runs(definition))
