"""What is said about the end of the control's training."""

import json
from pathlib import Path

import pytest

from mmdistill_dense.apps.suite import plan
from mmdistill_dense.apps.suite.definition import Definition
from tests.suite import made_up
from tools.docs import curve


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Definition:
    monkeypatch.setattr(plan, 'hash_of', made_up.hash_of)
    suite = made_up.definition(tmp_path)
    made_up.finish(suite, 'control', made_up.CONTROL)
    return suite


def log(folder: Path, scores: dict[int, float], start: str = '1') -> None:
    """What mmengine leaves of a run's evaluations."""
    file = folder / start / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
    lines = [{'loss': 1.0, 'step': 1}, *({'mIoU': score, 'step': step} for step, score in scores.items())]
    file.write_text('\n'.join(map(json.dumps, lines)) + '\n{"mIoU": 9')


def test_the_last_quarter_of_the_control_is_told(suite: Definition) -> None:
    """Gains 0.5 and 0.25: mean 0.375, sd 0.17678."""
    runs = {run.seed: run.folder for run in plan.runs(suite) if run.name == 'control'}
    log(runs[0], {200: 30.0, 600: 39.0})
    log(runs[0], {600: 39.5, 800: 40.0}, start='2')  # went on after a stop
    log(runs[1], {600: 40.0, 800: 40.25})
    text = curve.sentence(suite)
    assert text.startswith(
        'The student alone has flattened: in the last quarter it gains +0.38 ± 0.18 over 2 seeds in mIoU'
    )
    assert '(iteration 600 to 800; flat is below 0.5)' in text


def test_a_control_that_still_improves_is_named(suite: Definition) -> None:
    run = next(run for run in plan.runs(suite) if run.name == 'control')
    log(run.folder, {400: 30.0, 800: 33.0})
    text = curve.sentence(suite)
    assert 'still improves: since the evaluation before three quarters it gains +3.00 (one seed)' in text


@pytest.mark.parametrize('scores', [{}, {800: 40.0}, {700: 39.0, 800: 40.0}, {0: 40.0}])
def test_one_evaluation_says_nothing_about_the_end(scores: dict, suite: Definition) -> None:
    log(next(run for run in plan.runs(suite) if run.name == 'control').folder, scores)
    assert 'It is unknown whether' in curve.sentence(suite)
