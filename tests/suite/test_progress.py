"""What a run tells while it goes on."""

import errno
import json
from pathlib import Path

import pytest

from mmdistill_dense.apps.suite import job
from mmdistill_dense.apps.suite import pool as progress
from mmdistill_dense.apps.suite.job import Report


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [(0, '0 s'), (59.6, '1 min 00 s'), (61, '1 min 01 s'), (3660, '1 h 01 min'), (-5, '0 s')],
)
def test_clock(seconds: float, text: str) -> None:
    assert progress.clock(seconds) == text


def test_the_last_evaluation_is_told(tmp_path: Path) -> None:
    report = Report(tmp_path, 'abc')
    report.metric, report.scale = 'coco/bbox_mAP', 100.0
    report.tell(True, phase='training', iteration=5, iterations=10, began=0.0, loss=1.5)
    report.after_val_epoch(None, {'coco/bbox_mAP': 0.3124, 'other': 1.0})
    report.after_val_epoch(None, {'other': 1.0})
    state = json.loads((tmp_path / 'state.json').read_text())
    assert state['val'] == {'count': 1, 'value': pytest.approx(31.24)}


def test_progress_that_cannot_be_written_ends_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report(tmp_path, 'abc')

    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, 'Input/output error')

    monkeypatch.setattr(job, 'write_json', broken)
    report.tell(True, iteration=3)
    report.tell(True, iteration=4)
    monkeypatch.undo()
    report.tell(True, iteration=5)
    assert json.loads((tmp_path / 'state.json').read_text())['iteration'] == 5


def test_an_evaluation_is_word_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report(tmp_path, 'abc')
    before = json.loads((tmp_path / 'state.json').read_text())['time']
    report.written = -job.EVERY
    report.after_val_iter(None, 0)
    assert json.loads((tmp_path / 'state.json').read_text())['time'] > before
