"""The check for compiled operations: silent with them, one line with the remedy without."""

import sys
from types import SimpleNamespace

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


@pytest.mark.parametrize(('package', 'told'), [
    ('onedl-mmcv', 'make setup'), ('mmcv', "--no-build-isolation.* 'mmcv>=2.1,<2.2'"), ('mmcv-lite', 'uninstall it'),
])  # fmt: skip
def test_the_remedy_is_that_of_the_installed_package(package: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fork would be installed over the upstream package, beside its mmseg and mmdet."""
    monkeypatch.setitem(sys.modules, 'mmcv._ext', None)
    monkeypatch.setattr(ops_check, 'distributions', lambda: [SimpleNamespace(metadata={'Name': package})])
    with pytest.raises(RuntimeError, match=told) as caught:
        ops_check.require_ops()
    assert ('onedl' in str(caught.value)) == (package == 'onedl-mmcv')
