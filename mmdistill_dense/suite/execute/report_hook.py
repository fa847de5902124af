"""Write the progress of a run, and what it has computed, to a file that is complete at any time."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdistill_dense.utils.atomic import read_json, write_json

EVERY = 1.0  # seconds between two writes


def clock() -> float:
    """Return process CPU time; where there is a GPU, whose work it would not count, the time on the wall."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


class Report:
    """The file ``state.json`` in a run's folder. Of several processes, only one has ``write``."""

    def __init__(self, folder: Path, config_hash: str, processes: int = 1, write: bool = True) -> None:
        self.path = folder / 'state.json'
        before = read_json(self.path) or {}
        self.write = write
        self.before = float(before.get('seconds', 0.0))  # of earlier starts
        self.start = time.monotonic()
        self.written = -EVERY
        self.step_began = 0.0
        self.state: dict[str, Any] = {
            'config_hash': config_hash,
            'processes': processes,
            'restarts': int(before.get('restarts', -1)) + 1,
            'phase': 'starting',
            'iteration': 0,
            'iterations': None,
            'loss': None,
            'spent': before.get('spent') or {},
            'pid': os.getpid(),
            'host': socket.gethostname(),
        }
        self.tell(force=True)

    @property
    def seconds(self) -> float:
        """The seconds spent on the run, including earlier starts."""
        return self.before + time.monotonic() - self.start

    def count(self, work: str, seconds: float) -> None:
        """Add an iteration of some work, ``'train'`` or ``'prepare'``, with its seconds by :func:`clock`."""
        known = self.state['spent'].setdefault(work, {'iterations': 0, 'seconds': 0.0})
        known['iterations'] += 1
        known['seconds'] += seconds

    def spent(self, iterations: Mapping[str, int]) -> dict[str, float]:
        """Return the seconds of whole works, of which a restart may have repeated a part.

        Args:
            iterations: Of each work.
        """
        known = self.state['spent']
        return {
            work: whole * known[work]['seconds'] / known[work]['iterations']
            for work, whole in iterations.items()
            if work in known
        }

    @property
    def due(self) -> bool:
        """Whether the last write was at least ``EVERY`` seconds ago."""
        return time.monotonic() - self.written >= EVERY

    def tell(self, force: bool = False, **state: Any) -> None:
        """Update the state, and write it if the last write is long enough ago."""
        self.state.update(state)
        if self.write and (force or self.due):
            self.written = time.monotonic()
            write_json(self.path, {**self.state, 'seconds': self.seconds})


class ReportHook(Hook):
    """Reports the training to a :class:`Report`."""

    priority = 'LOWEST'

    def __init__(self, report: Report) -> None:
        self.report = report
        self.learning: float | None = None  # when the last iteration of token learning ended

    def after_prepare_iter(self, runner: Runner, done: int, whole: int) -> None:
        """Report a distiller that learns before the training."""
        if self.learning is not None and done > 1:
            self.report.count('prepare', clock() - self.learning)
        self.learning = clock()
        known = self.report.state.get('prepared')
        if known is None or done < known['iteration']:  # the first distiller, or the next one
            known = {'first': done - 1, 'began': self.report.seconds}
        self.report.tell(prepared={**known, 'iteration': done, 'iterations': whole})

    def before_train(self, runner: Runner) -> None:
        """Report that the distillers are ready and the training begins."""
        place = {'iteration': runner.iter, 'iterations': runner.max_iters}
        self.report.tell(True, phase='training', first=runner.iter, began=self.report.seconds, **place)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Start the clock of the step, after all other hooks."""
        self.report.step_began = clock()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Report the iteration and its loss."""
        if self.report.due:  # reading the loss waits for the GPU
            loss = (outputs or {}).get('loss')
            self.report.tell(iteration=runner.iter + 1, loss=None if loss is None else float(loss.detach()))


class StepClock(Hook):
    """Stops the clock of the step, before all other hooks: loading, saving and validation do not count."""

    priority = 'HIGHEST'

    def __init__(self, report: Report) -> None:
        self.report = report

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Add the step."""
        self.report.count('train', clock() - self.report.step_began)
