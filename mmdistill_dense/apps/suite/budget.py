"""The key ``budget`` of a definition: rows of equal compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mmdistill_dense.apps.suite.reader import Reader

TWICE = 'control_2x'  # the row of the student alone with twice the steps, which every budget has


@dataclass(frozen=True)
class Budget:
    """What every row may use."""

    steps: int  # training steps of the student alone
    ratios: Mapping[str, float]  # pinned step ratios by row: the time of its step over that of the student alone
    extra: Mapping[str, float]  # pinned costs before training by row, in steps of the student alone
    per_epoch: int | None  # pinned iterations of an epoch, for recipes that count epochs


def read_budget(top: Reader) -> Budget | None:
    """Read the key; ``None`` where the definition has none."""
    if top.raw.get('budget') is None:
        return None
    inner = top.inner('budget')
    inner.only(Budget.__dataclass_fields__)
    if inner.get('steps', int) < 1:
        raise inner.error('steps', f'must be at least 1, got {inner.raw["steps"]}')
    ratios, extra = _numbers(inner, 'ratios'), _numbers(inner, 'extra')
    for name, ratio in ratios.items():
        if ratio <= 0:
            raise inner.error(f'ratios.{name}', f'must be above 0, got {ratio}')
    return Budget(inner.raw['steps'], ratios, extra, inner.count('per_epoch', None))


def check_rows(top: Reader, budget: Budget, distilling: Mapping[str, bool]) -> None:
    """Refuse pinned numbers of rows that need none."""
    inner = top.inner('budget')
    for key in ('ratios', 'extra'):
        for name in getattr(budget, key):
            if not distilling.get(name):
                there = ', '.join(row for row, distils in distilling.items() if distils) or 'none'
                raise inner.error(f'{key}.{name}', f'is no row that distils within the budget; such rows: {there}')


def _numbers(inner: Reader, key: str) -> dict[str, float]:
    found = inner.get(key, dict, {})
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise inner.error(f'{key}.{name}', f'must be a number of at least 0, got {value!r}')
    return {str(name): float(value) for name, value in found.items()}
