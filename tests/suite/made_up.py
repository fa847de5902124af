"""A definition on disk with results that nobody trained."""

import hashlib
from pathlib import Path
from typing import Any

from mmdistill_dense.apps.suite import plan
from mmdistill_dense.apps.suite.definition import Definition, load_suite
from mmdistill_dense.utils.files import write_json

RECEIPT = dict(config='mmdistill_dense::x.py', file='iter_9.pth', sha256='ab' * 32, matched=9, total=10, ignored=1)
CONTROL = {0: 40.0, 1: 41.0, 2: 42.5}
DEFINITION = """
title: Made up
out: {out}
control: toy_seg
methods:
  kd: {{}}
  heavy: {{method: kd, options: {{loss_weight: 5}}}}
seeds: [0, 1, 2]
"""


def definition(folder: Path, more: str = '', text: str = DEFINITION) -> Definition:
    """Write and read a definition of toy_seg with two methods and three seeds."""
    path = folder / 'suite.yaml'
    path.write_text(text.format(out=folder / 'out') + more)
    return load_suite(path)


def hash_of(suite: Definition, run: plan.Run, *_: Any) -> str:
    """A stand-in for ``plan.hash_of`` that reads no configs."""
    method = suite.methods.get(run.name)
    text = repr((suite.control.stem, dict(suite.options), method and dict(method.options), run.name))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def finish(suite: Definition, name: str, scores: dict[int, float], **changes: Any) -> None:
    """Write results of a method's runs."""
    for run in plan.runs(suite):
        if run.name == name and run.seed in scores:
            write_json(run.folder / 'result.json', {**result(suite, run, scores[run.seed]), **changes})


def result(suite: Definition, run: plan.Run, score: float) -> dict[str, Any]:
    """What a finished run leaves, as ``suite.job`` writes it."""
    made = dict(name=run.name, seed=run.seed, config_hash=plan.hash_of(suite, run), shares={})
    made['teacher'] = None if run.name in ('control', 'teacher') else RECEIPT
    on = dict(versions={'torch': '2.0', 'mmengine': '1.0'}, device='CPU x86_64', threads=1, restarts=0)
    scores = {'test': {'mIoU': score, 'aAcc': 80.0}, 'val': {'mIoU': score + 1}}
    words = dict(metrics=scores, test_is_val=False, score=score, metric=suite.metric, checkpoint='iter_9.pth')
    return {**made, **on, **words, 'iterations': 9, 'seconds_per_iteration': 0.25, 'minutes': 1.0}


def lines_of(text: str, first: str) -> list[list[str]]:
    """The cells of the lines of Markdown whose first cell is given."""
    actual = [line.strip('|').split(' | ') for line in text.splitlines() if line.startswith(f'| {first} |')]
    return [[cell.strip() for cell in line] for line in actual]
