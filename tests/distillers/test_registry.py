"""Classes by their names."""

import sys

from mmdistill_dense import DISTILLERS, Distiller
from tests.gloo import start


def register(_: int) -> None:
    """Register two classes in a process that has loaded neither method."""
    assert not {f'mmdistill_dense.distillers.{name}' for name in ('cwd', 'logit_kd', 'roi_head_kd')} & {*sys.modules}

    @DISTILLERS.register_module(force=True)
    class CWD(Distiller):
        pass

    @DISTILLERS.register_module()
    class LogitKD(Distiller):  # which files of other methods import
        pass

    assert DISTILLERS.get('RoIHeadKD') and DISTILLERS.get('LogitKD') is LogitKD
    assert DISTILLERS.get('CWD') is CWD and DISTILLERS.module_dict['CWD'] is CWD and DISTILLERS.get('PKD')


def test_a_class_of_the_user_counts_before_a_shipped_one_of_its_name() -> None:
    start(register, processes=1)
