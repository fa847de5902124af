"""A folder to work in, as a user without a network would."""

from pathlib import Path

import pytest

from mmdistill_dense.apps.project import sides as fetched_weights


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, from which no address can be reached."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fetched_weights, 'reachable', lambda host: False)
    return tmp_path
