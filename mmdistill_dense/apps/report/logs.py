"""Read mmengine's logs: values over a run, and scores by class."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

_RESUMES = re.compile(r'^resume\s*=(?!\s*(?:False|None)\b)', re.MULTILINE)


def starts_of(folder: Path) -> list[Path]:
    """Return the folders that the newest training of a work dir wrote, the oldest start first.

    A start that trained and did not resume is a new training: the folders before it belong to another one.
    """
    files = [*folder.glob('*/vis_data/*'), *folder.glob('*/*.log')]
    starts = sorted({folder / file.relative_to(folder).parts[0] for file in files})  # named by the time of their start
    trained = [place for place, start in enumerate(starts) if _trained(start)]
    return starts[max((place for place in trained if _is_new(starts[place])), default=0) :]


def start_records(start: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a start's ``vis_data/scalars.json``; none without the file."""
    file = config_file(start).with_name('scalars.json')
    for line in file.read_text(encoding='utf-8').splitlines() if file.is_file() else []:
        try:
            record = json.loads(line)
        except ValueError:  # cut off by a kill
            continue
        if isinstance(record, dict):
            yield record


def of_training(record: Mapping[str, Any]) -> bool:
    """Tell whether mmengine wrote a record about training steps; hooks write others with an iteration."""
    return 'iter' in record and not record.keys().isdisjoint(('loss', 'lr', 'time'))


def config_file(start: Path) -> Path:
    """Return where the runner writes the config of a start."""
    return start / 'vis_data' / 'config.py'


def _trained(start: Path) -> bool:
    return any(of_training(record) for record in start_records(start))


def _is_new(start: Path) -> bool:
    """Tell whether a start did not resume. mmengine writes ``resume = True`` into the config of one that did."""
    file = config_file(start)
    return file.is_file() and not _RESUMES.search(file.read_text(encoding='utf-8'))


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
    """The values of one run."""

    terms: dict[str, Series]  # values of training steps: losses, shares, accuracies
    metrics: dict[str, Series]  # values of evaluations
    others: dict[str, Series]  # values that hooks logged at other times
    seconds: float | None  # median wall time of an iteration; ``None`` if not logged
    memory: float | None  # largest GPU memory in MiB, ``None`` on a CPU
    epochs: dict[float, float]  # the epoch by its last logged iteration; empty for a run that counts iterations alone


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
