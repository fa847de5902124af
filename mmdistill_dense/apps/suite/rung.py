"""Train a run to a rung: a point of its schedule at which it is judged, and from which it may go on."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmdistill_dense.apps.suite.lengths import unit_of
from mmdistill_dense.engine.resume import latest_checkpoint


def rung_of(config: Config, share: float) -> int | None:
    """Return the first evaluation at or after a share of a run, in its unit; ``None`` for its end."""
    loop, unit = config.train_cfg, unit_of(config)
    every = loop.get('val_interval') or (1 if unit == 'max_epochs' else 1000)
    place = every * math.ceil(max(share * loop[unit], loop.get('val_begin', 1)) / every)
    return place if place < loop[unit] else None


def train_to(runner: Runner, folder: Path, rung: int) -> None:
    """Train up to a rung, whose checkpoint is then the last one; nothing if it is there, after a kill in the test."""
    found = latest_checkpoint(folder)
    if found is None or int(found.stem.rpartition('_')[2]) < rung:
        runner.register_hook(_StopAtRung(rung))
        with suppress(_RungReachedError):
            runner.train()


class _RungReachedError(Exception):
    """Ends a training."""


class _StopAtRung(Hook):
    priority = 'LOWEST'  # after the hook that saves

    def __init__(self, rung: int) -> None:
        self.rung = rung

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if runner.iter + 1 >= self.rung and not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise _RungReachedError

    def after_train_epoch(self, runner: Runner) -> None:
        if runner.epoch + 1 >= self.rung and isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise _RungReachedError
