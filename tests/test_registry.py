"""Classes by their names."""

import subprocess
import sys


def test_a_class_of_the_user_counts_before_a_shipped_one_of_its_name() -> None:
    code = """
from mmdistill_dense import DISTILLERS, Distiller

@DISTILLERS.register_module(force=True)
class CWD(Distiller):
    pass

assert DISTILLERS.get('CWD') is CWD and DISTILLERS.module_dict['CWD'] is CWD and DISTILLERS.get('PKD')
"""
    subprocess.run([sys.executable, '-c', code], check=True)
