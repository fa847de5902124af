"""Read mmengine's logs: values over a run, and scores by class."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mmdistill_dense.report.log_starts import of_training, start_records, starts_of

# about the runner, not about the training
BESIDE = ('lr', 'base_lr', 'momentum', 'data_time', 'time', 'memory', 'iter', 'epoch', 'step', 'eta')
_TABLE = re.compile(r'^\|\s*(?:Class|category)\s*\|.*$', re.IGNORECASE)
_FRACTIONS = ('ap', 'map')
_SCORES = ('iou', *_FRACTIONS)  # names of columns in tables of classes
_END = re.compile(r'\b(?:Iter|Epoch)\((val|test)\)[^/]*\[\s*(\d+)/\2\]')  # of an evaluation, at its last picture


@dataclass
class Series:
    """One logged value over a run; ``steps`` are iterations."""

    steps: list[float]
    values: list[float]

    @property
    def last(self) -> float:
        """The newest value."""
        return self.values[-1]


@dataclass(frozen=True)
class Log:
    """The values of one run.

    Attributes:
        terms: Values of training steps: losses, shares, accuracies.
        metrics: Values of evaluations.
        others: Values that hooks logged at other times.
        seconds: Median wall time of an iteration; ``None`` if not logged.
        memory: Largest GPU memory in MiB, ``None`` on a CPU.
        epochs: The epoch by its last logged iteration; empty for a run that counts iterations alone.
    """

    terms: dict[str, Series]
    metrics: dict[str, Series]
    others: dict[str, Series]
    seconds: float | None
    memory: float | None
    epochs: dict[float, float]


def read_log(folder: Path) -> Log:
    """Read ``vis_data/scalars.json`` of a work folder: of the newest training, see :func:`starts_of`.

    Where several starts of a training overlap, the last one counts.
    """
    found = list(records(folder))
    training = [record for record in found if of_training(record)]
    ends = {record['epoch']: record['iter'] for record in training if 'epoch' in record}
    terms: dict[str, dict[float, float]] = {}
    metrics: dict[str, dict[float, float]] = {}
    others: dict[str, dict[float, float]] = {}
    for record in found:
        evaluated = 'iter' not in record and 'time' in record
        kind = terms if of_training(record) else metrics if evaluated else others
        step = record.get('iter', record.get('step'))
        for name, value in record.items():
            if name not in BESIDE and step is not None and isinstance(value, (int, float)):
                # an evaluation between epochs is logged under the number of the epoch
                kind.setdefault(name, {})[ends.get(step, step) if evaluated else step] = float(value)
    times = [record['time'] for record in training if 'time' in record]
    held = [record['memory'] for record in training if 'memory' in record]
    return Log(
        _series(terms),
        _series(metrics),
        _series(others),
        median(times) if times else None,
        max(held, default=None),
        {last: epoch for epoch, last in ends.items()},
    )


def _series(found: dict[str, dict[float, float]]) -> dict[str, Series]:
    return {name: Series(sorted(values), [values[step] for step in sorted(values)]) for name, values in found.items()}


def records(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of ``vis_data/scalars.json`` of all starts of a run."""
    for start in starts_of(folder):
        yield from start_records(start)


def class_tables(folder: Path) -> dict[str, dict[str, float]]:
    """Return percent by split and class of the last evaluations: IoU of mmseg, AP of mmdet.

    mmseg returns only means, so the classes are read from the log file: the last table before each ``val`` and
    ``test`` line. mmdet prints one for Pascal VOC, and for COCO with ``classwise``.
    """
    found: dict[str, dict[str, float]] = {}
    for file in (file for start in starts_of(folder) for file in sorted(start.glob('*.log'))):
        table: dict[str, float] = {}
        names: list[str] = []
        for line in file.read_text(encoding='utf-8', errors='replace').splitlines():
            if _TABLE.match(line):
                table, names = {}, _names(_cells(line))
            elif names and line.startswith('|'):
                table.update(_row(_cells(line), names))
            elif not line.startswith('+') and table and (split := _END.search(line)):
                found[split[1]], table, names = table, {}, []
    return found


def _names(head: list[str]) -> list[str]:
    """Return the names of the columns per class. mmdet puts several classes into a row."""
    again = [place for place, name in enumerate(head) if place and name == head[0]]
    return head[: again[0]] if again else head


def _row(cells: list[str], names: list[str]) -> Iterator[tuple[str, float]]:
    """Yield each class of a row with its IoU or AP, else its first score, in percent.

    mmseg writes nan for a class that does not occur. A row with empty cells is the mean below the table of VOC.
    """
    column = next((place for place, name in enumerate(names) if name.lower() in _SCORES), 1)
    factor = 1.0 if names[column].lower() not in _FRACTIONS else 100.0
    for start in range(0, len(cells) - len(names) + 1, len(names)):
        own = cells[start : start + len(names)]
        with contextlib.suppress(ValueError):
            if all(own):
                yield own[0], factor * float(own[column])


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip('|').split('|')]
