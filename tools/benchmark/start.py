"""What it takes to start: imports, and the time from a command to the end of the first iteration."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdistill_dense.analysis.timing import Timing
from mmdistill_dense.model import build
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.recipes.compose import configs
from mmdistill_dense.recipes.named import read_config
from mmdistill_dense.registry import MODELS
from tools.benchmark.section import Chart, Section, machine, table

IMPORTS = {
    'torch': 'import torch',
    'torch, mmdistill_dense': 'import torch, mmdistill_dense',
    'torch, mmengine.runner, mmseg.models': 'import torch, mmengine.runner, mmseg.models',
    'the same, mmdistill_dense.model': 'import torch, mmengine.runner, mmseg.models, mmdistill_dense.model',
}
BEYOND = {
    'torch, mmdistill_dense': 'torch',
    'the same, mmdistill_dense.model': 'torch, mmengine.runner, mmseg.models',
}
COMMANDS = {
    'tools/train.py': lambda config: [sys.executable, str(_tool('train.py')), config],
    'mim train mmseg': lambda config: [sys.executable, '-m', 'mim', 'train', 'mmseg', config],
}
REST = 'afterwards: end, loader processes, mim'
NOTE = (
    'CPU seconds of the process, medians (range); wall seconds in brackets. The control is the same command on the '
    'student alone, and the last row what runs after the step and beside the process that trains.'
)


@dataclass(frozen=True)
class Start:
    """CPU and wall seconds of each stretch between the command and the end of the first step."""

    command: str
    stretches: dict[str, tuple[float, float]]

    @property
    def total(self) -> tuple[float, float]:
        """CPU and wall seconds in all."""
        cpu, wall = (sum(pair[k] for pair in self.stretches.values()) for k in range(2))
        return cpu, wall


def _tool(name: str) -> Path:
    return configs().parent / 'tools' / name


def measure_imports(repeats: int = 3) -> dict[str, Timing]:
    """Return CPU seconds of new interpreters that import and end, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for turn in range(repeats + 1):
        for name, code in IMPORTS.items():
            taken = _cpu_of([sys.executable, '-c', code], os.environ)
            if turn:  # the first fills the disk's cache
                seconds[name].append(taken)
    return {name: Timing(median(s), min(s), max(s)) for name, s in seconds.items()}


def _cpu_of(command: Sequence[str], environment: Mapping[str, str], cwd: Path | None = None) -> float:
    begin = _children()
    done = subprocess.run(command, capture_output=True, text=True, env=dict(environment), cwd=cwd, check=False)
    if done.returncode:
        raise RuntimeError(f'{" ".join(command)} failed: {done.stderr[-2000:]}')
    return _children() - begin


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure_start(leaf: Path, command: str, distilled: bool = True) -> Start:
    """Run one iteration of a leaf by a command, and return where the time went.

    Args:
        leaf: The config, of one unnamed teacher, which gets a file of random weights.
        command: A key of ``COMMANDS``.
        distilled: Keep the distillers; else the student alone is trained.

    Raises:
        RuntimeError: When the command fails; holds the end of what it wrote.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = _timed_config(leaf, folder, distilled)
        marks = folder / 'marks.json'
        begin = time.time()
        environment = {**os.environ, 'START_CLOCK': str(marks), 'START_CLOCK_BEGIN': str(begin)}
        whole = _cpu_of(COMMANDS[command](str(config)), environment, folder)
        wall = time.time() - begin
        found = json.loads(marks.read_text(encoding='utf-8'))
    stretches, before = {}, (0.0, 0.0)
    for mark, (cpu, at) in found.items():
        stretches[mark] = cpu - before[0], at - before[1]
        before = cpu, at
    stretches[REST] = whole - before[0], wall - before[1]
    return Start(command, stretches)


def _timed_config(leaf: Path, folder: Path, distilled: bool) -> Path:
    config = Config.fromfile(leaf)
    init_default_scope(config.get('default_scope', 'mmseg'))
    if distilled:
        config.model.teacher.checkpoint = str(folder / 'teacher.pth')
        torch.save(FrozenTeacher(config.model.teacher).build().state_dict(), config.model.teacher.checkpoint)
    else:
        config.model.distillers = {}
    imports = {'imports': ['tools.benchmark.start_clock'], 'allow_failed_imports': False}
    config.custom_imports = imports
    config.custom_hooks = [*config.get('custom_hooks', []), {'type': 'StartClock'}]
    config.train_cfg = {'type': 'IterBasedTrainLoop', 'max_iters': 1}
    config.work_dir = str(folder / 'run')
    for part in ('val_cfg', 'val_dataloader', 'val_evaluator', 'test_cfg', 'test_dataloader', 'test_evaluator'):
        config[part] = None
    config.default_hooks.checkpoint = None
    path = folder / 'timed.py'
    config.dump(str(path))
    return path


@dataclass(frozen=True)
class Construction:
    """Seconds to build a distilled model: the student alone, and what comes on top, of which the dry run."""

    name: str
    student: float
    distilled: float
    dry_run: float


def measure_construction(config_file: Path) -> Construction:
    """Return how long a config's model takes to be built, CPU seconds, everything imported before."""
    config = read_config(config_file)
    init_default_scope(config.get('default_scope', 'mmseg'))
    MODELS.build(Config({'model': {**config.model, 'distillers': {}, 'inherit': ()}}).model)  # imports
    student = _seconds(lambda: MODELS.build(Config({'model': {**config.model, 'distillers': {}, 'inherit': ()}}).model))
    dry: list[float] = []
    usual = build.trace_pair

    def timed(*args: Any) -> Any:
        results: list[Any] = []
        dry.append(_seconds(lambda: results.append(usual(*args))))
        return results[0]

    build.trace_pair = timed  # type: ignore[assignment]
    try:
        whole = _seconds(lambda: MODELS.build(Config({'model': config.model}).model))
    finally:
        build.trace_pair = usual
    return Construction(config_file.stem, student, whole, sum(dry))


def _seconds(work: Any) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


@dataclass(frozen=True)
class StartCost:
    """All of it."""

    imports: dict[str, Timing]
    starts: dict[str, Start]
    constructions: list[Construction]


def measure(leaf: Path, constructed: Sequence[Path] = (), repeats: int = 3) -> StartCost:
    """Measure imports, both commands on a leaf and on its student alone, and constructions.

    Args:
        leaf: As for :func:`measure_start`.
        constructed: Configs for :func:`measure_construction`.
        repeats: Of the imports, which come first and fill the disk's cache.
    """
    imports = measure_imports(repeats)
    runs = [(command, distilled) for command in COMMANDS for distilled in (True, False)]
    starts = {_named(*run): measure_start(leaf, *run) for run in runs}
    return StartCost(imports, starts, [measure_construction(path) for path in constructed])


def _named(command: str, distilled: bool) -> str:
    return f'{command}, {"distilled" if distilled else "control"}'


def as_markdown(cost: StartCost) -> str:
    """Return the tables."""
    rows = []
    for name, timing in cost.imports.items():
        beyond = BEYOND.get(name)
        more = f'**{timing.median - cost.imports[beyond].median:+.2f}** beyond {beyond}' if beyond else ''
        rows.append([name, str(timing), more])
    parts = [table(['import', 'CPU s', ''], rows)]
    names = list(dict.fromkeys(mark for start in cost.starts.values() for mark in start.stretches))
    lines = [[name, *(_cell(start.stretches.get(name)) for start in cost.starts.values())] for name in names]
    lines.append(['**in all**', *(f'**{_cell(start.total)}**' for start in cost.starts.values())])
    if cost.starts:
        parts.append(table(['from the command to the first iteration', *cost.starts], lines))
    lines = [
        [one.name, f'{one.student:.2f}', f'{one.distilled:.2f}', f'**{one.dry_run:.2f}**'] for one in cost.constructions
    ]
    if lines:
        parts.append(table(['construction, CPU s', 'student alone', 'distilled', 'of which dry run'], lines))
    return '\n\n'.join([*parts, NOTE])


def _cell(pair: tuple[float, float] | None) -> str:
    return f'{pair[0]:.2f} ({pair[1]:.2f})' if pair else ''


def section(cost: StartCost, command: str) -> Section:
    """Return the measurement as a part of the benchmark."""
    bars = {name: (start.total[0],) * 3 for name, start in cost.starts.items()}
    return Section(
        'start', 'Start', as_markdown(cost), asdict(cost), machine('cpu'), command, Chart('CPU seconds', bars)
    )
