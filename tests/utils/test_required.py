"""A missing mm* stack is answered with the command to run."""

import pytest

from mmdistill_dense.utils import required


def test_passes_with_the_stack() -> None:
    required.require_stack()


def test_names_what_is_missing_and_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(required, 'find_spec', lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'mmengine and mmcv. In its checkout run `make setup`'):
        required.require_stack()
