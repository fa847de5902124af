"""A long step shows that it is at work."""

import time

import pytest

from mmdistill_dense.utils import process


def test_lines_come_until_the_step_ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(process, 'EVERY', 0.01)
    written = ''
    with process.heartbeat('exporting'):
        while written.count('exporting …') < 2:
            time.sleep(0.01)
            written += capsys.readouterr().err
    capsys.readouterr()
    time.sleep(0.05)
    assert capsys.readouterr().err == ''


def test_an_error_passes() -> None:
    with pytest.raises(KeyError), process.heartbeat('exporting'):
        raise KeyError
