"""Each example is run whole."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / 'examples'
pytestmark = pytest.mark.soak


def run(*words: str | Path, **variables: str) -> str:
    """What a program prints; it must end well."""
    command, environment = [sys.executable, *map(str, words)], {**os.environ, **variables}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_a_plain_loop_trains(tmp_path: Path) -> None:
    """Called again, it has nothing left to train, and the same scores."""
    words = EXAMPLES / 'plain_loop.py', '--pictures', '4', '--steps', '6', '--out', tmp_path
    printed, again = run(*words), run(*words)
    scores, same = (dict(re.findall(r'^(\w+): ([\d.]+) mIoU', text, re.M)) for text in (printed, again))
    assert set(scores) == {'teacher', 'alone', 'kd'} and all(0 < float(score) < 100 for score in scores.values())
    saved, plain = (torch.load(tmp_path / f'{name}.pth', weights_only=True) for name in ('kd', 'alone'))
    assert saved['step'] == 6 and saved['state_dict'].keys() == plain['state_dict'].keys()
    assert same == scores and 'step' not in again
    other = subprocess.run([sys.executable, *map(str, words), '--seed', '1'], capture_output=True, text=True)
    assert other.returncode == 1 and '[6, 0], not [6, 1]: give another --out' in other.stderr


def test_a_package_of_ones_own_passes_its_test() -> None:
    folder = EXAMPLES / 'own_method'
    words = '-q', '-p', 'no:cacheprovider', '--rootdir', folder, folder / 'tests'
    assert '7 passed, 1 skipped' in run('-m', 'pytest', *words, PYTHONPATH=f'{folder}:{EXAMPLES.parent}')
