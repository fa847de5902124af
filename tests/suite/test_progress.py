"""What a run tells while it goes on."""

import errno
import json
from pathlib import Path

import pytest

from mmdistill_dense.apps.suite import job
from mmdistill_dense.apps.suite import pool as progress
from mmdistill_dense.apps.suite.job import Progress


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [(0, '0 s'), (59.6, '1 min 00 s'), (61, '1 min 01 s'), (3660, '1 h 01 min'), (-5, '0 s')],
)
def test_clock(seconds: float, text: str) -> None:
    assert progress.clock(seconds) == text


def test_progress_that_cannot_be_written_ends_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Progress(tmp_path, 'abc')

    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, 'Input/output error')

    monkeypatch.setattr(job, 'write_json', broken)
    report.tell(True, iteration=3)
    report.tell(True, iteration=4)
    monkeypatch.undo()
    report.tell(True, iteration=5)
    assert json.loads((tmp_path / 'state.json').read_text())['iteration'] == 5


def test_an_evaluation_is_word_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Progress(tmp_path, 'abc')
    before = json.loads((tmp_path / 'state.json').read_text())['time']
    report.written = -job.EVERY
    report.after_val_iter(None, 0)
    assert json.loads((tmp_path / 'state.json').read_text())['time'] > before
