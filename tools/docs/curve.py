"""Tell from the logs whether the student alone was trained long enough: its gain on val in the last quarter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from mmdistill_dense.apps.report.runs import records
from mmdistill_dense.apps.suite import configs, plan
from mmdistill_dense.apps.suite.definition import Definition
from mmdistill_dense.apps.suite.rows import summarise

FLAT = 0.5  # percentage points in the last quarter
LAST, NEAR = 0.75, 0.7  # the last quarter of a run begins between these


def curve_of(folder: Path, metric: str, factor: float = 1.0) -> dict[int, float]:
    """Return a run's scores on val, times ``factor``, by iteration, or by epoch if its log counts epochs."""
    logged = (record for record in records(folder) if metric in record and 'step' in record)
    return {int(record['step']): float(record[metric]) * factor for record in logged}


def last_quarter(curve: Mapping[int, float]) -> tuple[int, int] | None:
    """Return the last step in the first three quarters, and the last of all; ``None`` without both."""
    end = max(curve, default=0)
    start = max((step for step in curve if step <= LAST * end), default=None)
    return None if start is None or end == 0 else (start, end)


def sentence(definition: Definition) -> str:
    """Describe the gain of the control on val in its last quarter, averaged over its finished seeds."""
    factor = 100.0 if definition.percent else 1.0
    gains: dict[tuple[int, int], list[float]] = {}
    for run in plan.runs(definition):
        if run.name == plan.CONTROL and run.result is not None:
            curve = curve_of(run.folder, definition.metric, factor)
            between = last_quarter(curve)
            if between is not None:
                gains.setdefault(between, []).append(curve[between[1]] - curve[between[0]])
    if not gains:
        return (
            'It is unknown whether the student alone has flattened: the logs have no evaluation at or before three '
            'quarters of the run.'
        )
    return ' '.join(_said(definition, *between, values) for between, values in gains.items())


def _said(definition: Definition, start: int, end: int, values: list[float]) -> str:
    found = summarise(values)
    assert found is not None
    unit = 'epoch' if 'max_epochs' in configs.read(definition.control).train_cfg else 'iteration'
    spread = f' ± {found.sd:.2f} over {found.n} seeds' if found.sd is not None else ' (one seed)'
    state = 'has flattened' if found.mean < FLAT else 'still improves' if math.isfinite(found.mean) else 'has diverged'
    part = (
        'in the last quarter it gains' if start >= NEAR * end else 'since the evaluation before three quarters it gains'
    )
    return (
        f'The student alone {state}: {part} {found.mean:+.2f}{spread} in {definition.metric} on val ({unit} {start} to '
        f'{end}; flat is below {FLAT}).'
    )
