"""Whether the student alone has been trained to the end: what its last quarter gains on val, from the runs' logs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from mmdistill_dense.suite.definition.definition import Definition
from mmdistill_dense.suite.plan import configs, plan
from mmdistill_dense.suite.table.paired import summarise

FLAT = 0.5  # percentage points in the last quarter
LAST, NEAR = 0.75, 0.7  # of the run; how early a last quarter may begin


def curve_of(folder: Path, metric: str, factor: float = 1.0) -> dict[int, float]:
    """Return a run's scores on val by iteration (epoch, where its log counts them).

    A run that was stopped has a log for every start; a line that a kill cut off is passed over.

    Args:
        folder: Of the run.
        metric: Key of the evaluator.
        factor: From its unit to percent.
    """
    found = {}
    for file in sorted(folder.glob('*/vis_data/scalars.json')):
        for line in file.read_text(encoding='utf-8').splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if metric in entry and 'step' in entry:
                found[int(entry['step'])] = float(entry[metric]) * factor
    return found


def last_quarter(curve: Mapping[int, float]) -> tuple[int, int] | None:
    """Return the last step at or before three quarters and the last of all; ``None`` where there are not both."""
    end = max(curve, default=0)
    start = max((step for step in curve if step <= LAST * end), default=None)
    return None if start is None or end == 0 else (start, end)


def sentence(definition: Definition) -> str:
    """Say what the control gained on val in its last quarter, on average over its finished seeds."""
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
            'Whether the student alone has flattened is not known: no evaluation at or before three quarters is logged.'
        )
    return ' '.join(_said(definition, *between, values) for between, values in gains.items())


def _said(definition: Definition, start: int, end: int, values: list[float]) -> str:
    found = summarise(values)
    assert found is not None
    unit = 'epoch' if 'max_epochs' in configs.read(definition.control).train_cfg else 'iteration'
    spread = f' ± {found.sd:.2f} over {found.n} seeds' if found.sd is not None else ' (one seed)'
    state = 'has flattened' if found.mean < FLAT else 'still climbs' if math.isfinite(found.mean) else 'has diverged'
    part = 'its last quarter gains' if start >= NEAR * end else 'since the evaluation before three quarters it gains'
    return (
        f'The student alone {state}: {part} {found.mean:+.2f}{spread} in {definition.metric} on val ({unit} {start} to '
        f'{end}; flat is below {FLAT}).'
    )
