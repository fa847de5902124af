"""No command prints what mmseg and mmdet say while they are imported."""

import subprocess
import sys

import pytest

from mmdistill_dense.__main__ import COMMANDS
from tests.docs_blocks import ROOT

NOTE = 'Could not import'  # a part of mmseg or mmdet that is not installed
MODULES = [['-m', 'mmdistill_dense'], *(['-m', 'mmdistill_dense', name] for name in COMMANDS)]
TOOLS = ('demo', 'results')  # for developers: no command of the program


def printed(*command: str) -> str:
    """The standard output of a new process; the note is in neither of its outputs."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
    assert NOTE not in done.stdout + done.stderr
    return done.stdout


@pytest.mark.soak
def test_a_script_for_slurm_is_the_script_alone() -> None:
    script = printed('-m', 'mmdistill_dense', 'suite', 'slurm', str(ROOT / 'benchmarks/toy.yaml'))
    assert script.startswith('#!/bin/sh\n')


@pytest.mark.soak
@pytest.mark.parametrize('words', [*MODULES, *([f'tools/{tool}.py'] for tool in TOOLS)], ids=' '.join)
def test_a_command_begins_with_its_own_words(words: list[str]) -> None:
    command = words if words[0] == '-m' else [str(ROOT / words[0])]
    assert printed(*command, '--help').startswith('usage: ')
