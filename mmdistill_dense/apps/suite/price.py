"""Measure what a training will take: its start, its steps with their loading, its evaluations."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdistill_dense.apps.commands.training import build_runner
from mmdistill_dense.apps.suite.lengths import unit_of
from mmdistill_dense.apps.suite.race import Price
from mmdistill_dense.config.resolve import is_distill_model, teachers_of
from mmdistill_dense.distillers.maskd.maskd import MasKD
from mmdistill_dense.model.distill_model import distillers_of
from mmdistill_dense.utils.distributed import unwrap

STEPS = 6  # timed, after two that are not
PICTURES = 6  # evaluated


class _EnoughError(Exception):
    """Ends a run that was started to measure its beginning."""


class _Timer(Hook):
    """Notes the times of steps and of what distillers learn; ends the run after enough steps."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.learnt: list[float] = []

    def after_prepare_iter(self, runner: Runner, done: int, whole: int) -> None:
        self.learnt.append(time.monotonic())

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self.steps.append(time.monotonic())
        if len(self.steps) > STEPS + 1:
            raise _EnoughError


def price_of(config: Config) -> Price:
    """Train a few steps of a config, evaluate a few pictures, and return its price."""
    began, timer = time.monotonic(), _Timer()
    with trial(config) as runner:
        learning = shortened(runner, STEPS)
        runner.register_hook(timer)
        with contextlib.suppress(_EnoughError):
            runner.train()
        start = timer.steps[0] - began + _between(timer.learnt) * learning
        evaluation, test = _evaluation(runner)
    loop, unit = config.train_cfg, unit_of(config)
    steps = loop[unit] * (len(runner.train_dataloader) if unit == 'max_epochs' else 1)
    evaluations = max(loop[unit] // loop.get('val_interval', 1), 1)
    return Price(start, _between(timer.steps[1:] or timer.steps), steps, evaluation, evaluations, test)


@contextlib.contextmanager
def trial(config: Config) -> Iterator[Runner]:
    """Give a runner in a folder that is then removed, with random teachers: the suite may train them later."""
    for option in teachers_of(config.model).values() if is_distill_model(config.model) else ():
        option.update(checkpoint=None, allow_random=True)
    with tempfile.TemporaryDirectory() as folder:
        # mmengine keeps visualizer and logger by name, with their folder
        config.update(work_dir=folder, experiment_name=Path(folder).name, visualizer=None)
        yield build_runner(config)


def shortened(runner: Runner, most: int) -> int:
    """Let distillers learn a few iterations before the training; return those that this leaves out."""
    left = 0
    for one in distillers_of(unwrap(runner.model)).values():
        if isinstance(one, MasKD) and one.tokens is None:
            short = min(most, one.learn.max_iters)
            left += one.learn.max_iters - short
            one.learn = replace(one.learn, max_iters=short)
    return left


def _between(times: list[float]) -> float:
    """The usual time between two of them; 0 for fewer."""
    return statistics.median([later - sooner for sooner, later in pairwise(times)] or [0.0])


def _evaluation(runner: Runner) -> tuple[float, float]:
    """The seconds of val and of test, from some pictures of val."""
    loader, test = runner.val_loop.dataloader, runner.build_dataloader(runner.cfg.test_dataloader)
    runner.model.eval()
    times = [time.monotonic()]
    with torch.no_grad():
        for batch in islice(loader, PICTURES):
            runner.model.val_step(batch)
            times.append(time.monotonic())
    each = _between(times[1:]) if len(times) > 2 else _between(times)
    same = runner.cfg.test_dataloader == runner.cfg.val_dataloader
    return each * len(loader), 0.0 if same else each * len(test)
