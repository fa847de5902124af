"""Marks in the life of a training process, up to its first iteration; imported by a config (``custom_imports``).

Seconds of this process since its start, by its own clock (CPU) and by the wall, are written to the file that the
environment variable ``START_CLOCK`` names, beside the wall time of the command in ``START_CLOCK_BEGIN``.
"""

from __future__ import annotations

import importlib
import json
import os
import time
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

MARKS: dict[str, tuple[float, float]] = {}


def mark(name: str) -> None:
    """Note the time."""
    MARKS[name] = time.process_time(), time.time() - float(os.environ.get('START_CLOCK_BEGIN', '0'))


@HOOKS.register_module(force=True)
class StartClock(Hook):
    """Marks where loading ends and where the first step does, and writes the marks."""

    priority = 'VERY_LOW'

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """The first batch is there."""
        if runner.iter == 0:
            mark('weights, data')

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """The first step is done."""
        if runner.iter == 0:
            mark('first step')
            Path(os.environ['START_CLOCK']).write_text(json.dumps(MARKS), encoding='utf-8')


def _import_all(scope: str) -> None:
    """Import what the registries would, one by one, while they build."""
    for part in ('models', 'datasets', 'engine', 'visualization', 'evaluation'):
        importlib.import_module(f'{scope}.{part}')
    mark(f'imports of {scope}')
    importlib.import_module('mmdistill_dense.model.distill_model')
    importlib.import_module('mmdistill_dense.engine')
    mark('imports of mmdistill_dense')


def _init(runner: Any, *args: Any, **options: Any) -> None:
    mark('command line')
    _import_all(options['default_scope'])
    _usual_init(runner, *args, **options)
    mark('optimizer, hooks')


def _build_model(runner: Any, model: Any) -> Any:
    mark('log, visualizer')
    built = _usual_build(runner, model)
    mark('networks')
    return built


_usual_init, _usual_build = Runner.__init__, Runner.build_model
Runner.__init__ = _init
Runner.build_model = _build_model
mark('interpreter, mmengine, config')
