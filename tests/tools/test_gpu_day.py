"""benchmarks/gpu_day.sh: the parts are measured one after the other, and the status tells a part that failed."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A stand-in for python3, which measures in no time.
FAKE = f"""#!{sys.executable} -S
import json, os, pathlib, sys
words = sys.argv[1:]
if words[:1] == ['-']:
    text = sys.stdin.read()
    if 'import torch' in text:
        sys.exit(0)
    os.execv({sys.executable!r}, [{sys.executable!r}, '-c', text, *words[1:]])
if '--json' in words:
    name = words[words.index('--name') + 1] if '--name' in words else 'losses'
    name = f'step_{{name}}' if words[1] == 'step' else name
    section = json.dumps(dict(markdown=name, figures={{}}))
    pathlib.Path(words[words.index('--json') + 1], name + '.json').write_text(section)
    sys.exit(name == 'losses')
"""


def test_a_failed_part_is_told_by_the_status(tmp_path):
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin/python3').write_text(FAKE)
    (tmp_path / 'bin/python3').chmod(0o755)
    variables = {**os.environ, 'PATH': f'{tmp_path / "bin"}:{os.environ["PATH"]}', 'DEVICE': 'cuda'}
    words = ['bash', ROOT / 'benchmarks/gpu_day.sh', tmp_path / 'out', tmp_path / 'nothing']
    parts = {**variables, 'ONLY': 'step_seg losses pretrain_pcd'}
    done = subprocess.run(words, env=parts, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and 'not whole: losses: status 1' in done.stdout + done.stderr
    rows = json.loads((tmp_path / 'out/gpu_day.json').read_text())['parts']
    assert len(rows) == 3 and [name for name, row in rows.items() if row['status'] != 0] == ['losses']
