"""Classes by their names."""

import subprocess
import sys


def test_a_class_of_the_user_counts_before_a_shipped_one_of_its_name() -> None:
    code = """
from mmdistill_dense import DISTILLERS, Distiller

@DISTILLERS.register_module(force=True)
class CWD(Distiller):
    pass

@DISTILLERS.register_module()
class LogitKD(Distiller):  # which files of other methods import
    pass

assert DISTILLERS.get('RoIHeadKD') and DISTILLERS.get('LogitKD') is LogitKD
assert DISTILLERS.get('CWD') is CWD and DISTILLERS.module_dict['CWD'] is CWD and DISTILLERS.get('PKD')
"""
    subprocess.run([sys.executable, '-c', code], check=True)
