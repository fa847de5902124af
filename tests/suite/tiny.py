"""A suite of CPU seconds on generated pictures."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from mmdistill_dense.apps.suite import plan
from mmdistill_dense.apps.suite.definition import Definition, load_suite
from tests.engine.processes import environment

HOLD = """
import sys
from pathlib import Path
from mmdistill_dense.utils.files import owned
with owned(Path(sys.argv[1]), 'x'):
    print('held', flush=True)
    sys.stdin.read()
"""
SMALL = {'val_dataloader.dataset.num_images': 6, 'test_dataloader.dataset.num_images': 6}


def content(iters: int = 6, batch: int = 2, **changes: Any) -> dict[str, Any]:
    """A definition: the toy pair in ``iters`` iterations of ``batch`` pictures, its teacher in 2 of 2."""
    loop = {'train_cfg.max_iters': iters, 'train_cfg.val_interval': iters, 'train_dataloader.batch_size': batch}
    rate = {'param_scheduler.0.end': 2, 'param_scheduler.1.begin': 2}
    short = {'train_cfg.max_iters': 2, 'train_cfg.val_interval': 2, 'train_dataloader.batch_size': 2}
    return {
        'title': 'Tiny',
        'out': 'out',
        'control': 'toy_seg',
        'teacher': {'config': 'teachers/toy_seg', 'options': {**short, **SMALL}},
        'methods': {'kd': {}},
        'seeds': [0],
        'options': {**loop, **rate, **SMALL},
        'workers': 0,
        'threads': 1,
        'checkpoint_every': 2,
        **changes,
    }


def write(folder: Path, iters: int = 6, batch: int = 2, **changes: Any) -> Path:
    """The definition as a file in a folder; a value of ``None`` leaves a key out."""
    path = folder / 'tiny.yaml'
    filled = {key: value for key, value in content(iters, batch, **changes).items() if value is not None}
    path.write_text(yaml.safe_dump(filled, sort_keys=False))
    return path


def defined(**changes: Any) -> Definition:
    """The definition, written into the working folder."""
    return load_suite(write(Path(), **changes))


def of_two(**changes: Any) -> Definition:
    return defined(**{'seeds': [0, 1], 'methods': {'kd': {}, 'afdcd': {}}, **changes})


def write_result(folder: Path, score: float, **more: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    metrics = {split: {'mIoU': score} for split in ('val', 'test')}
    words = dict(score=score, metric='mIoU', metrics=metrics, config_hash='abc', minutes=1.0, checkpoint='iter_2.pth')
    (folder / 'result.json').write_text(json.dumps({**words, **more}))


def run_of(definition: Definition, name: str) -> plan.Run:
    return next(run for run in plan.runs(definition) if name in (run.title, run.name))


@contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another process work in a folder, until its input closes."""
    words, pipe = [sys.executable, '-c', HOLD, str(folder)], subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, env=environment()) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == 'held\n'
        yield process
        process.stdin.close()


def alive(pid: int) -> bool:
    """Whether a process runs, also one that its parent has not looked at."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False
