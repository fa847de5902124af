"""benchmarks/gpu_day.sh: a signal ends it with one file of all that was measured."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import gpu_day

ROOT = Path(gpu_day.__file__).parents[1]


FAKE = f"""#!{sys.executable} -S
import json, os, pathlib, sys, time
words = sys.argv[1:]
if words[:1] == ['-']:
    text = sys.stdin.read()
    if 'import torch' in text:
        sys.exit()
    os.execv({sys.executable!r}, [{sys.executable!r}, '-c', text, *words[1:]])
if '--json' in words:
    kind, name = words[1], words[words.index('--name') + 1] if '--name' in words else 'losses'
    name = f'step_{{name}}' if kind == 'step' else name
    section = json.dumps(dict(markdown=name, figures={{}}))
    pathlib.Path(words[words.index('--json') + 1], name + '.json').write_text(section)
    time.sleep(60 if name == os.environ.get('LASTS') else 0)
"""


def call(folder: Path, **environment: str) -> subprocess.Popen[str]:
    """Start the script with a stand-in for python3, which measures in no time."""
    (folder / 'bin').mkdir(exist_ok=True)
    (folder / 'bin/python3').write_text(FAKE)
    (folder / 'bin/python3').chmod(0o755)
    variables = {**os.environ, 'PATH': f'{folder / "bin"}:{os.environ["PATH"]}', 'DEVICE': 'cuda', **environment}
    words = ['bash', ROOT / 'benchmarks/gpu_day.sh', folder / 'out', folder / 'nothing']
    return subprocess.Popen(words, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_signal_leaves_what_was_measured(tmp_path: Path) -> None:
    process = call(tmp_path, ONLY='step_seg step_det losses', LASTS='step_det')
    limit = time.monotonic() + 60
    while not (tmp_path / 'out/step_det.json').exists() and time.monotonic() < limit:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and 'stopped' in output
    rows = json.loads((tmp_path / 'out/gpu_day.json').read_text())['parts']
    assert {name: row['status'] for name, row in rows.items()} == {'step_seg': 0, 'step_det': 'stopped'}
    assert rows['step_det']['markdown'] == 'step_det'
    assert [file.name for file in (tmp_path / 'out').iterdir()] == ['gpu_day.json']
    again = call(tmp_path)
    assert 'holds results of an earlier call' in again.communicate(timeout=60)[0] and again.returncode == 2
