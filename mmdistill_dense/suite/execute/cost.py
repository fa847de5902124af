"""``suite.py cost``: measure the costs of each method once, and keep them in ``<out>/cost``."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmdistill_dense.analysis import step_cost
from mmdistill_dense.analysis.training_step import run_length
from mmdistill_dense.suite.definition.definition import Definition
from mmdistill_dense.suite.definition.reader import Reader
from mmdistill_dense.suite.plan import plan
from mmdistill_dense.utils.atomic import read_json, write_json


@dataclass(frozen=True)
class Settings:
    """The key ``cost`` of a definition.

    Attributes:
        device: ``'cpu'`` or ``'cuda'``.
        batch: The pictures of a measured step; ``None`` for the recipe's batch of one process.
        size: Height and width of the picture for the GFLOPs; ``None`` for the size of a test picture.
        repeats: The number of timed steps.
    """

    device: str
    batch: int | None
    size: step_cost.Size | None
    repeats: int


def settings(definition: Definition) -> Settings:
    """Read the key ``cost``."""
    reader = Reader(definition.cost, definition.path, 'cost')
    reader.only(Settings.__dataclass_fields__)
    device = reader.get('device', str, 'cuda' if torch.cuda.is_available() else 'cpu')
    if device not in ('cpu', 'cuda') or (device == 'cuda' and not torch.cuda.is_available()):
        raise reader.error('device', f"must be 'cpu', or 'cuda' where torch sees a GPU; got {device!r}")
    size = reader.get('size', list, None)
    if size is not None and (len(size) != 2 or not all(type(side) is int and side > 0 for side in size)):
        raise reader.error('size', f'must be [height, width], got {size!r}')
    repeats = reader.count('repeats', step_cost.REPEATS) or step_cost.REPEATS
    return Settings(device, reader.count('batch', None), (size[0], size[1]) if size else None, repeats)


def main(definition: Definition, only: Collection[str] | None = None) -> None:
    """Measure and print the costs of all or some rows, except those measured with today's configs and settings."""
    how = settings(definition)
    runs = _first_runs(definition)
    unknown = set(only or ()) - set(runs)
    if unknown:
        raise ValueError(f'{definition.path}: no {", ".join(sorted(unknown))}; known: {", ".join(runs)}')
    if definition.threads:
        torch.set_num_threads(definition.threads)
    failed = []
    for name in [name for name in runs if not only or name in only]:
        try:
            print(f'{name:12s} {_keep(definition, runs[name], how)}', flush=True)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            failed.append(name)
            print(f'{name:12s} FAILED: {error}', flush=True)
    if failed:
        raise RuntimeError(f'{definition.path}: the costs of {", ".join(failed)} could not be measured')


def _keep(definition: Definition, run: plan.Run, how: Settings) -> str:
    """Measure if necessary, and return the result as text."""
    if run.choice is None:
        return 'waits for its search: `suite.py run` first'
    key = _key(definition, run, how)
    content = read_json(_file(definition, run.name))
    if content is not None and content.get('key') == key:
        return f'{_said(content)}, kept from before'
    config = plan.config_of(definition, run)
    if run.name == plan.CONTROL:
        content = {'key': key, **step_cost.student_cost(config, how.size)}
    else:
        content = {'key': key, **step_cost.step_cost(config, how.device, how.batch, how.repeats)}
    write_json(_file(definition, run.name), content)
    return _said(content)


def read(definition: Definition) -> dict[str, dict[str, Any]]:
    """Return the costs of today's configs by name, each with the settings that it was measured with."""
    found = {}
    for name, run in _first_runs(definition).items():
        content = None if run.choice is None else read_json(_file(definition, name))
        if content is not None and content['key']['config_hash'] == plan.hash_of(definition, run):
            found[name] = content
    return found


def _first_runs(definition: Definition) -> dict[str, plan.Run]:
    """The first run of the control and of each row with distillers. Another start does not change the step."""
    first, methods = definition.seeds[0], definition.methods
    runs = [run for run in plan.runs(definition) if run.kind == 'run' and run.seed == first]
    return {run.name: run for run in runs if run.name == plan.CONTROL or methods[run.name].distils}


def _file(definition: Definition, name: str) -> Path:
    return definition.out / 'cost' / f'{name}.json'


def _key(definition: Definition, run: plan.Run, how: Settings) -> dict[str, Any]:
    """Everything that a measurement depends on."""
    same = {'config_hash': plan.hash_of(definition, run), 'torch': torch.__version__}
    if run.name == plan.CONTROL:
        return {**same, 'size': list(how.size) if how.size else None}
    device = torch.cuda.get_device_name() if how.device == 'cuda' else f'CPU {platform.machine()}'
    threads, length = torch.get_num_threads(), run_length(plan.config_of(definition, run))
    where = {'device': device, 'threads': threads, 'iterations': length}  # a schedule depends on the length
    return {**same, **where, 'batch': how.batch, 'repeats': how.repeats}


def _said(content: Mapping[str, Any]) -> str:
    if 'student' in content:
        size = 'x'.join(map(str, content['test_size']))
        return f'{content["student"]["parameters"]:,} parameters, {content["student"]["gflops"]:.3g} GFLOPs at {size}'
    return f'{content["ratio"]:.2f} times the step of the control, {content["memory"]["extra"] / 2**20:+.1f} MiB'
