"""The check for compiled operations: silent with them, one line with the remedy without."""

import sys

import pytest
from mmengine.config import Config

import mmdistill_dense.ops_check as ops_check
from tests.test_packaging import ROOT


def test_passes_with_compiled_operations() -> None:
    ops_check.require_ops()


def test_detection_config_stops_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'mmcv._ext', None)
    monkeypatch.delitem(sys.modules, 'mmdistill_dense.ops_check')
    with pytest.raises(RuntimeError, match='make setup') as caught:
        Config.fromfile(ROOT / 'configs' / '_base_' / 'runtime_det.py')
    assert '\n' not in str(caught.value)
