"""The starts of a training: which folders of a work dir belong to the newest training, and in which order."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

_RESUMES = re.compile(r'^resume\s*=(?!\s*(?:False|None)\b)', re.MULTILINE)
_QUARTER, _SLACK, _FARTHEST = 15 * 60, 2 * 60, 15 * 3600  # seconds


def starts_of(folder: Path) -> list[Path]:
    """Return the folders that the newest training of a work dir wrote, the oldest start first.

    A start that trained and did not resume is a new training: the folders before it belong to another one.
    """
    files = [*folder.glob('*/vis_data/*'), *folder.glob('*/*.log')]
    starts = _in_order({folder / file.relative_to(folder).parts[0] for file in files})
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


def _in_order(starts: set[Path]) -> list[Path]:
    """Sort folders by the time of their start.

    Their names hold the local time, which goes back by an hour in autumn. The config is written at the start, so the
    time of its file is better, unless a copy of the work dir has lost it.
    """
    named = sorted(starts, key=lambda start: start.name)
    times = [_written_at_start(start) for start in named]
    if None in times:
        return named
    return [start for _, start in sorted(zip(times, named, strict=True))]


def _written_at_start(start: Path) -> float | None:
    """Return the time of the config's file, if it is the time in the folder's name in any of the time zones."""
    try:
        named = datetime.strptime(start.name, '%Y%m%d_%H%M%S').replace(tzinfo=timezone.utc).timestamp()
        written = config_file(start).stat().st_mtime
    except (ValueError, OSError):
        return None
    shift = written - named
    later = (shift + _SLACK) % _QUARTER  # time zones differ by whole quarters of an hour
    return written if abs(shift) <= _FARTHEST and later <= 2 * _SLACK else None
