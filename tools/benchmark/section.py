"""One part of the benchmark: the measurement as a table and as figures, and its machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mmdistill_dense.utils.files import write_json

Failure = dict[str, str]  # the row of what failed: its 'error'


@dataclass(frozen=True)
class Section:
    """The result of one measurement: tables as Markdown, the figures for programs, and how it was measured.

    The first word of its name, as ``step_seg``, is the subcommand.
    """

    name: str
    title: str
    markdown: str
    figures: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    machine: str
    command: str

    def __str__(self) -> str:
        return f'## {self.title}\n\n{self.markdown}\n\n{self.machine}. `{self.command}`\n'

    @property
    def failed(self) -> bool:
        rows = self.figures.values() if isinstance(self.figures, Mapping) else self.figures
        return any('error' in row for row in rows)

    def save(self, folder: Path) -> Path:
        """Write the section as ``<folder>/<name>.json``."""
        path = folder / f'{self.name}.json'
        write_json(path, asdict(self))
        return path


def machine(device: str) -> str:
    """Return device, threads, clock, version and load of the machine, in words."""
    if torch.device(device).type == 'cuda':
        unit, clock = torch.cuda.get_device_name(device), 'time between two events of the device'
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
