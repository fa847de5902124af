"""Published results, ``configs/<method>/published.yml``: what others measured with the same recipe and method."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

REQUIRED = {'recipe', 'metric', 'method', 'source', 'date'}
OPTIONAL = {'student', 'teacher', 'variant'}
BOXES, MASKS = 'coco/bbox_mAP', 'coco/segm_mAP'
# the evaluator's key by what papers and logs write
METRICS = {'mIoU': 'mIoU', 'box AP': BOXES, 'bbox_mAP': BOXES, BOXES: BOXES}
METRICS |= {'mask AP': MASKS, 'segm_mAP': MASKS, MASKS: MASKS}


@dataclass(frozen=True)
class Target:
    """One published result in percent."""

    recipe: str  # name of the recipe, as in ``control:NAME``
    metric: str  # key of the evaluator
    value: float  # score of the distilled student
    student: float | None  # score of the student alone, from the same source
    teacher: float | None  # score of the teacher, from the same source
    variant: str | None  # variant of the method options, ``None`` for the default ones
    source: str  # paper and table
    date: str  # year and, if known, month of the paper or of the repository's state


def read_targets(path: Path) -> list[Target]:
    """Read one file of published results."""
    entries = yaml.safe_load(path.read_text(encoding='utf-8')) or []
    if not isinstance(entries, list):
        raise ValueError(f'{path}: must be a list of published results, got {type(entries).__name__}')
    return [_target(entry, f'{path}, entry {index}') for index, entry in enumerate(entries, 1)]


def _target(entry: Any, where: str) -> Target:
    if not isinstance(entry, Mapping):
        raise ValueError(f'{where}: must be a mapping, got {entry!r}')
    missing, unknown = REQUIRED - set(entry), set(entry) - REQUIRED - OPTIONAL
    if missing or unknown:
        wrong = [f'no {", ".join(sorted(missing))}'] if missing else []
        wrong += [f'unknown {", ".join(sorted(unknown))}'] if unknown else []
        raise ValueError(f'{where}: {"; ".join(wrong)}; known: {", ".join(sorted(REQUIRED | OPTIONAL))}')
    if entry['metric'] not in METRICS:
        raise ValueError(f'{where}, metric: must be one of {", ".join(METRICS)}, got {entry["metric"]!r}')
    return Target(
        recipe=str(entry['recipe']),
        metric=METRICS[str(entry['metric'])],
        value=_score(entry['method'], f'{where}, method'),
        student=_score(entry['student'], f'{where}, student') if 'student' in entry else None,
        teacher=_score(entry['teacher'], f'{where}, teacher') if 'teacher' in entry else None,
        variant=entry.get('variant'),
        source=str(entry['source']),
        date=_date(entry['date'], f'{where}, date'),
    )


def _score(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 100:
        raise ValueError(f'{where}: must be a score in percent, got {value!r}')
    return float(value)


def _date(value: Any, where: str) -> str:
    if not re.fullmatch(r'20\d\d(-(0[1-9]|1[0-2]))?', str(value)):
        raise ValueError(f'{where}: must be a year or a year and month, as "2022-05", got {value!r}')
    return str(value)
