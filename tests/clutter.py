"""Writes into a clone what a user leaves there: every file that guides and configs name and the project does not hold.

``python -m tests.clutter [FOLDER]`` writes into the folder (default: this clone) and leaves alone what is there. A test
that reads one of these files fails, or gives another result than in a fresh clone; ``make test`` must pass beside them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.docs_blocks import GUIDES, ROOT
from tests.every_config import every, name_of

# `work_dirs/demo/teacher/iter_700.pth`, `data/cityscapes`; and files without a folder: `my_pair.py`, `tokens.pth`
NAMED = re.compile(
    r'(?<![\w./-])(?:(?:work_dirs|data)(?:/[\w+.-]*[\w+])+|[A-Za-z][\w-]*\.(?:py|yaml|pth|sh|json|html|csv|jpg|onnx|safetensors)\b)'
)
TEXT = 'raise SystemExit("a file of the user was read")\n'


def names() -> set[str]:
    """The names of a user's files in guides and configs, and of what the demo, each config and each suite write."""
    configs = [*ROOT.glob('configs/**/*.py'), *ROOT.glob('benchmarks/*.yaml')]
    texts = [path.read_text(encoding='utf-8').replace('{{ fileDirname }}/', '') for path in [*GUIDES, *configs]]
    return {*(name for text in texts for name in NAMED.findall(text)), *_runs()}


def _runs() -> Iterator[str]:
    for name in ('teacher', 'alone_seed0', 'distilled_seed0'):
        for demo in ('demo', 'demo_det'):
            yield f'work_dirs/{demo}/{name}/last_checkpoint'
    yield 'work_dirs/demo/log.txt'
    for path in every():
        yield f'work_dirs/{name_of(path)}/last_checkpoint'
        yield f'work_dirs/{name_of(path)}/tokens/maskd.pth'
    for path in ROOT.glob('benchmarks/*.yaml'):
        for file in ('teacher/state', 'teacher/result', 'runs/control/seed0/result', 'cost/control'):
            yield f'work_dirs/suites/{path.stem}/{file}.json'


def write(folder: Path) -> list[Path]:
    """Write them into a clone; returns the new files. A name without an ending is a folder with one file."""
    written = []
    for name in sorted(names(), key=lambda name: ('.' in Path(name).name, name)):
        path = folder / name if '.' in Path(name).name or 'last_' in name else folder / name / 'log.txt'
        if not path.exists() and not (path.parent.exists() and not path.parent.is_dir()):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(TEXT, encoding='utf-8')
            written.append(path)
    return written


if __name__ == '__main__':
    clone = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    print(f'{len(write(clone))} files written into {clone}')
