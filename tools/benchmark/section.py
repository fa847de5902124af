"""One part of the benchmark: its figures, as a table and as a picture, and the machine that they are from."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mmdistill_dense.analysis.timing import Timing


@dataclass(frozen=True)
class Chart:
    """What a picture shows: a bar per label from 0 to its median, with its range.

    Attributes:
        unit: Below the axis.
        bars: By label: median, lowest, highest.
        mark: A value to draw a line at, such as the goal.
    """

    unit: str
    bars: Mapping[str, tuple[float, float, float]]
    mark: float | None = None

    @classmethod
    def of(cls, unit: str, timings: Mapping[str, Timing]) -> Chart:
        """Return the chart of some timings."""
        return cls(unit, {name: (t.median, t.low, t.high) for name, t in timings.items()})


@dataclass(frozen=True)
class Section:
    """What one measurement gives.

    Attributes:
        name: Of the files, ``teacher_retinanet``.
        title: One line.
        markdown: Tables and what has to be said about them.
        figures: Everything that was measured, for programs.
        chart: The picture, if there is one.
        machine: Of :func:`machine`.
        command: How to get it again.
    """

    name: str
    title: str
    markdown: str
    figures: Any
    machine: str
    command: str
    chart: Chart | None = None

    def save(self, folder: Path) -> Path:
        """Write the section as ``<folder>/<name>.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f'{self.name}.json'
        path.write_text(json.dumps(asdict(self), indent=1) + '\n', encoding='utf-8')
        return path

    @classmethod
    def read(cls, path: Path) -> Section:
        """Return the section of a file that :meth:`save` wrote.

        Raises:
            ValueError: For another file.
        """
        content = json.loads(path.read_text(encoding='utf-8'))
        if not isinstance(content, dict) or not {'markdown', 'machine'} <= content.keys():
            raise ValueError(f'{path} was not written by tools/benchmark.py')
        chart = content.pop('chart')
        return cls(**content, chart=chart and Chart(**chart))


def machine(device: str) -> str:
    """Return device, threads, clock, version and load of the machine, in words."""
    if torch.device(device).type == 'cuda':
        unit, clock = torch.cuda.get_device_name(), 'time between two events of the device'
    else:
        unit, clock = _processor(), 'process CPU time'
    busy = f'load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores'
    return f'{unit}, torch {torch.__version__}, {torch.get_num_threads()} thread(s), {clock}, {busy}'


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return f'{names[0]} ({platform.machine()})' if names else platform.machine()


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)
