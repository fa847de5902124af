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
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, env={**os.environ, **variables}
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_a_plain_loop_trains_and_goes_on(tmp_path: Path) -> None:
    """Called again, it has nothing left to train, and the same scores."""
    options = 'plain_loop.py', '--pictures', '4', '--steps'
    whole = run(EXAMPLES / options[0], *options[1:], '6', '--out', tmp_path / 'whole')
    scores = dict(re.findall(r'^(\w+): ([\d.]+) mIoU', whole, re.M))
    assert set(scores) == {'teacher', 'alone', 'kd'} and all(0 < float(one) < 100 for one in scores.values())
    saved = torch.load(tmp_path / 'whole/kd.pth', weights_only=True)
    plain = torch.load(tmp_path / 'whole/alone.pth', weights_only=True)
    assert saved['step'] == 6 and saved['state_dict'].keys() == plain['state_dict'].keys()
    again = run(EXAMPLES / options[0], *options[1:], '6', '--out', tmp_path / 'whole')
    assert dict(re.findall(r'^(\w+): ([\d.]+) mIoU', again, re.M)) == scores and 'step' not in again
