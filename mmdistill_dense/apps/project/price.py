"""What the trainings of a project will take on this machine, from some timed steps."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mmdistill_dense.apps.check.context import Options
from mmdistill_dense.apps.check.run import check_config
from mmdistill_dense.apps.inspect.inference import predict_items
from mmdistill_dense.apps.inspect.step_cost import make_step
from mmdistill_dense.apps.project import SUITE
from mmdistill_dense.apps.suite import configs, plan
from mmdistill_dense.apps.suite.definition import load_suite
from mmdistill_dense.apps.suite.pool import clock
from mmdistill_dense.guards.findings import ERROR
from mmdistill_dense.networks.building import building_once
from mmdistill_dense.registry import DATASETS
from mmdistill_dense.utils.process import quiet

NIGHT = 12 * 3600.0  # seconds
_BATCH = 2  # pictures of a timed step: a whole batch may take minutes on a CPU
_TURNS = 2  # timed steps, after one that warms up
_LONG = 5.0  # seconds of a step whose first turn is enough
_TRIAL = 100  # steps of a training that is a trial, whose price nobody asks


@dataclass(frozen=True)
class Price:
    """Seconds of one training: all steps, and all validations with the test."""

    steps: float
    evaluations: float

    @property
    def seconds(self) -> float:
        return self.steps + self.evaluations


def price_lines(folder: Path) -> Iterator[str]:
    """Yield what all trainings of a project take here, and the length that fits a night if that is less."""
    with quiet():
        definition = load_suite(folder / SUITE)
        steps = configs.control_config(definition).train_cfg.max_iters
        if steps < _TRIAL:
            return
        trained = plan.trains_teacher(definition)
        runs = [run for run in plan.runs(definition) if trained or not run.is_teacher]
        run_configs = {name: plan.config_of(definition, run) for name, run in {run.name: run for run in runs}.items()}
    prices = dict[str, Price]()
    try:
        with quiet(), building_once():
            for name, config in run_configs.items():
                prices[name] = time_training(config)
    except Exception as error:  # whatever a network raises: `run` checks each row, and says what to do
        yield f'price    not known: {name} cannot be timed here: {error}'
        return
    total = sum(prices[run.name].seconds for run in runs)
    parts = ', '.join(f'{name} {clock(price.seconds)}' for name, price in prices.items())
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f'a CPU, {torch.get_num_threads()} threads'
    yield f'price    about {clock(total)} here ({device}), for {steps} steps each: {parts}'
    if total > NIGHT:
        evaluations = sum(prices[run.name].evaluations for run in runs)
        shorter = int(steps * (NIGHT - evaluations) / (total - evaluations)) // 100 * 100
        if shorter > 0:
            yield f'         more than a night: --iters {shorter} takes about {clock(NIGHT)}, and may train too little'


def time_training(config: Config) -> Price:
    """Time some steps of a config's training, and its validation, with random weights."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    batch = config.train_dataloader.batch_size
    timed = min(_BATCH, batch)
    options = Options(weights=False, device=device, batch=timed, val=0, cost=False, command=False)
    report = check_config(config, options, lambda stage: None)
    if report.stopped:
        raise RuntimeError(next(finding.message for finding in report.findings if finding.level == ERROR))
    context, loader = report.context, config.train_dataloader
    assert context.batch is not None, 'the check made one'
    step = _seconds(make_step(context.model, config, context.batch, fresh=True)) * batch / timed
    train, val = (DATASETS.build(config[f'{part}_dataloader'].dataset) for part in ('train', 'val'))
    loading = _seconds(lambda: train[0]) * batch / max(1, loader.num_workers)
    step = max(step, loading) if loader.num_workers else step + loading
    evaluated = 2 + config.train_cfg.max_iters // config.train_cfg.get('val_interval', config.train_cfg.max_iters)
    context.model.eval()
    predicting = 0.0 if context.tested is None else _seconds(partial(predict_items, context.model, [context.tested]))
    return Price(step * config.train_cfg.max_iters, evaluated * len(val) * predicting)


def _seconds(work: Callable[[], Any]) -> float:
    """Return the wall time of some work, without its first turn unless that was long."""
    for turns in (1, _TURNS):
        begin = time.perf_counter()
        for _ in range(turns):
            work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = (time.perf_counter() - begin) / turns
        if seconds > _LONG:
            break
    return seconds
