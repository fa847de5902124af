"""Measure steps beside the control's, for a table and for a budget."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmdistill_dense.apps.commands.training import StopBeforeTraining, build_runner, learning_distillers
from mmdistill_dense.apps.inspect import step_cost
from mmdistill_dense.apps.recipes.compose import unknown
from mmdistill_dense.apps.suite import configs, lengths, plan
from mmdistill_dense.apps.suite.definition import Definition
from mmdistill_dense.apps.suite.job import Report, learning_of, machine
from mmdistill_dense.apps.suite.lengths import unit_of
from mmdistill_dense.apps.suite.plan import CONTROL
from mmdistill_dense.apps.suite.reader import Reader
from mmdistill_dense.config.resolve import is_distill_model, teachers_of
from mmdistill_dense.distillers.maskd.token_distiller import TokenDistiller
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.devices import device_of
from mmdistill_dense.utils.files import read_json, write_json
from mmdistill_dense.utils.validate import size_text


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
    for one in learning_distillers(runner.model):
        short = min(most, one.learn.max_iters)
        left += one.learn.max_iters - short
        one.learn = replace(one.learn, max_iters=short)
    return left


# For a table


@dataclass(frozen=True)
class CostSettings:
    """The key ``cost`` of a definition."""

    device: str  # ``'cpu'`` or ``'cuda'``
    batch: int | None  # the pictures of a measured step; ``None`` for the recipe's batch of one process
    size: step_cost.Size | None  # of the picture for the GFLOPs; ``None`` for that of a test picture
    repeats: int  # the number of timed steps


def cost_settings(definition: Definition) -> CostSettings:
    reader = Reader(definition.cost, definition.path, 'cost')
    reader.only(CostSettings.__dataclass_fields__)
    device = reader.get('device', str, device_of(None))
    if device not in ('cpu', 'cuda') or (device == 'cuda' and not torch.cuda.is_available()):
        raise reader.error('device', f"must be 'cpu', or 'cuda' where torch sees a GPU; got {device!r}")
    size = reader.get('size', list, None)
    if size is not None and (len(size) != 2 or not all(type(side) is int and side > 0 for side in size)):
        raise reader.error('size', f'must be [height, width], got {size!r}')
    repeats = reader.count('repeats', step_cost.REPEATS) or step_cost.REPEATS
    return CostSettings(device, reader.count('batch', None), (size[0], size[1]) if size else None, repeats)


def measure_costs(definition: Definition, only: Sequence[str] = ()) -> None:
    """Measure and print the costs of all or some rows, except those measured with today's configs and settings."""
    how, runs, failed = cost_settings(definition), _first_runs(definition), []
    if wrong := [name for name in only if name not in runs]:
        raise ValueError(f'{definition.path}: --only: {unknown("row", wrong[0], runs)}')
    if definition.threads:
        torch.set_num_threads(definition.threads)
    for name in only or runs:
        try:
            print(f'{name:12s} {_measured_cost(definition, runs[name], how)}', flush=True)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            failed.append(name)
            print(f'{name:12s} FAILED: {error}', flush=True)
    if failed:
        raise RuntimeError(f'{definition.path}: the costs of {", ".join(failed)} could not be measured')


def _measured_cost(definition: Definition, run: plan.Run, how: CostSettings) -> str:
    if run.choice is None:
        return 'waits for its search: `mmdistill suite run` first'
    config, file = plan.config_of(definition, run), definition.out / 'cost' / f'{run.name}.json'
    # what a measurement depends on
    key: dict[str, Any] = {'config_hash': plan.hash_of(definition, run), 'torch': torch.__version__}
    if run.name == CONTROL:
        key |= {'size': list(how.size) if how.size else None}
    else:  # a schedule depends on the length
        key |= {'batch': how.batch, 'repeats': how.repeats, 'iterations': step_cost.run_length(config)}
        key |= machine(how.device == 'cuda')
    content = read_json(file)
    if content is not None and content.get('key') == key:
        return f'{_cost_said(content)}, kept from before'
    if run.name == CONTROL:
        content = step_cost.student_cost(config, how.size)
    else:
        content = step_cost.step_cost(config, how.device, how.batch, how.repeats)
    write_json(file, {'key': key, **content})
    return _cost_said(content)


def read_costs(definition: Definition) -> dict[str, dict[str, Any]]:
    """Return the costs of today's configs by name, each with the settings that it was measured with."""
    found = {}
    for name, run in _first_runs(definition).items():
        content = None if run.choice is None else read_json(definition.out / 'cost' / f'{name}.json')
        if content is not None and content['key']['config_hash'] == plan.hash_of(definition, run):
            found[name] = content
    return found


def _first_runs(definition: Definition) -> dict[str, plan.Run]:
    """The first run of the control and of each row with distillers. Another start does not change the step."""
    first, methods = definition.seeds[0], definition.methods
    runs = [run for run in plan.runs(definition) if run.kind == 'run' and run.seed == first]
    return {run.name: run for run in runs if run.name == CONTROL or methods[run.name].distils}


def _cost_said(content: Mapping[str, Any]) -> str:
    if 'student' in content:
        size = size_text(content['test_size'])
        return f'{content["student"]["parameters"]:,} parameters, {content["student"]["gflops"]:.3g} GFLOPs at {size}'
    return f'{content["ratio"]:.2f} times the step of the control, {content["memory"]["extra"] / 2**20:+.1f} MiB'


# For a budget


LEAST = 9  # timed turns of both steps


def measure_budget(definition: Definition) -> None:
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
    how, config = cost_settings(definition), configs.row_config(definition, name)
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
    options = configs.row_config(definition, name).model.get('distillers', {}).values()
    kinds = [(DISTILLERS.get(one.type) if isinstance(one.type, str) else one.type, one) for one in options]
    return any(issubclass(kind, TokenDistiller) and not one.get('tokens') for kind, one in kinds)


def _learning_seconds(config: Config) -> float:
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
