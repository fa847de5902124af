"""``mmdistill suite budget``: measure once what a step of each row costs, for rows of equal compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmdistill_dense.apps.commands.training import StopBeforeTraining
from mmdistill_dense.apps.inspect import step_cost
from mmdistill_dense.apps.suite import configs, lengths
from mmdistill_dense.apps.suite import preflight as cost
from mmdistill_dense.apps.suite.definition import Definition
from mmdistill_dense.apps.suite.job import Report, learning_of, machine
from mmdistill_dense.apps.suite.lengths import unit_of
from mmdistill_dense.apps.suite.plan import CONTROL
from mmdistill_dense.apps.suite.price import shortened, trial
from mmdistill_dense.distillers.maskd.maskd import MasKD
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.atomic import write_json

LEAST = 9  # timed turns of both steps


def main(definition: Definition) -> None:
    """Measure the rows that are neither pinned nor measured, write ``<out>/budget.json``, and print all lengths."""
    budget = definition.budget
    if budget is None:
        raise ValueError(f'{definition.path}: budget: missing; e.g. budget: {{steps: 2400}}')
    lengths.check_measured(definition, definition.methods)
    content = lengths.measured(definition)
    if definition.threads:
        torch.set_num_threads(definition.threads)
    control = configs.control_config(definition)
    if unit_of(control) == 'max_epochs' and not (budget.per_epoch or content.get('per_epoch')):
        init_default_scope(control.get('default_scope', 'mmengine'))
        content['per_epoch'] = len(Runner.build_dataloader(control.train_dataloader))
        write_json(lengths.measured_file(definition), content)
    for name, method in definition.methods.items():
        pinned = name in budget.ratios and (name in budget.extra or not _learns(definition, name))
        if lengths.needs_price(method) and not pinned and name not in content['rows']:
            content['rows'][name] = _measure(definition, name)
            write_json(lengths.measured_file(definition), content)  # each is kept if a later one fails
    for name in (CONTROL, *definition.methods):
        print(_said(definition, name), flush=True)


def _measure(definition: Definition, name: str) -> dict[str, Any]:
    how, config = cost.settings(definition), configs.row_config(definition, name)
    found = step_cost.step_cost(config, how.device, how.batch, max(LEAST, how.repeats))
    alone, distilled = found['seconds']['control'], found['seconds']['distilled']
    price = {'ratio': found['ratio'], 'low': distilled['low'] / alone['median']}
    price |= {'high': distilled['high'] / alone['median'], 'extra': 0.0}
    if _learns(definition, name):
        price['extra'] = _learning_seconds(config) / alone['median']
    where = {**machine(how.device == 'cuda'), 'torch': torch.__version__}
    turns = {'turns': max(LEAST, how.repeats), 'batch': found['batch'], 'teacher_weights': found['teacher_weights']}
    return {'config_hash': lengths.unscaled_hash(definition, name), 'price': price, **where, **turns}


def _learns(definition: Definition, name: str) -> bool:
    """Tell whether a row learns tokens before it trains."""
    options = configs.row_config(definition, name).model.get('distillers', {}).values()
    kinds = [(DISTILLERS.get(one.type) if isinstance(one.type, str) else one.type, one) for one in options]
    return any(issubclass(kind, MasKD) and not one.get('tokens') for kind, one in kinds)


def _learning_seconds(config: Config) -> float:
    """Return the time of all iterations of token learning, by the mean of the first ones."""
    with trial(config) as runner:
        report, whole = Report(Path(runner.work_dir), ''), {'prepare': learning_of(runner)}
        shortened(runner, LEAST + 1)
        runner.register_hook(StopBeforeTraining())
        runner.register_hook(report)
        runner.train()
    return report.spent(whole).get('prepare', 0.0)


def _said(definition: Definition, name: str) -> str:
    price, config = lengths.price_of(definition, name), configs.row_config(definition, name)
    length, left = lengths.length_of(definition, name, config)
    changed = lengths.fit(definition, name, config)
    spread = f' ({price["low"]:.2f}-{price["high"]:.2f})' if 'low' in price else ''
    unused = f', {left} iterations unused' if left else ''
    unit = unit_of(config).removeprefix('max_').replace('iters', 'iterations')
    return (
        f'{name:12s} {length} {unit}{unused}; step {price["ratio"]:.2f}{spread}, before training '
        f'{price["extra"]:.0f} steps\n{"":12s}   {", ".join(changed) or "as the recipe has it"}'
    )
