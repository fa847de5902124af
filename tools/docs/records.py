"""The complete results of published runs, ``docs/results/<suite>.jsonl``. A suite can continue from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdistill_dense.apps.suite import plan
from mmdistill_dense.apps.suite.definition import Definition
from mmdistill_dense.apps.suite.plan import Run
from mmdistill_dense.utils.files import owned, write_json, write_text
from tools.docs.curve import curve_of
from tools.docs.scores import FOLDER

LOG = 'published/vis_data/scalars.json'  # log of evaluations in a run's folder

Record = Mapping[str, Any]


def file_of(definition: Definition, root: Path) -> Path:
    """Return the file with the records of a suite."""
    return root / FOLDER / f'{definition.path.stem}.jsonl'


def records_text(definition: Definition, root: Path) -> str:
    """Return a line per finished run: its folder in the suite, its result, its scores on val by step.

    Raises:
        ValueError: If published runs of today's configs are missing in the suite's folder: they would be lost.
    """
    lines, lost = [], []
    published = read(file_of(definition, root))
    for run in plan.runs(definition):
        if run.result is not None:
            lines.append(json.dumps(_record(definition, run)))
        elif _fits(definition, run, published.get(plan.place_of(definition, run))):
            lost.append(run.title)
    if lost:
        raise ValueError(
            f'{file_of(definition, root)} holds runs that {definition.out} does not: {", ".join(lost)}. `python '
            f'tools/results.py restore {definition.path}` puts them there; remove the file to publish without them.'
        )
    return ''.join(f'{line}\n' for line in lines)


def _record(definition: Definition, run: Run) -> Record:
    result = run.result
    return {
        'run': plan.place_of(definition, run),
        'result': result,
        'curve': {str(step): value for step, value in curve_of(run.folder, definition.metric).items()},
    }


def record_of(definition: Definition, run: Run, published: Mapping[str, Record]) -> Record | None:
    """Return the record of a finished run, else the published one of its config; ``None`` without both."""
    if run.result is not None:
        return _record(definition, run)
    there = published.get(plan.place_of(definition, run))
    return there if _fits(definition, run, there) else None


def _fits(definition: Definition, run: Run, record: Record | None) -> bool:
    if record is None:
        return False
    return record['result'].get('config_hash') == plan.hash_of(definition, run)


def read(file: Path) -> dict[str, Record]:
    """Return the records of a file by the run's folder; nothing without a file.

    Raises:
        ValueError: For a line that is no record.
    """
    found: dict[str, Record] = {}
    for number, line in enumerate(file.read_text(encoding='utf-8').splitlines() if file.is_file() else (), 1):
        try:
            record = json.loads(line)
            found[record['run']] = {'result': dict(record['result']), 'curve': dict(record['curve'])}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f'{file}, line {number}: no record of a run ({error!r})') from error
    return found


def main(definition: Definition, root: Path) -> None:
    """Restore published results into the suite's folder, and print which. Existing runs stay as they are.

    ``suite.py run`` then does only the other runs. A restored teacher or pre-training has no weights, and is trained
    again if a run needs them.

    Raises:
        FileNotFoundError: If nothing is published under this name.
        RuntimeError: If another process runs the suite.
    """
    file = file_of(definition, root)
    if not file.is_file():
        raise FileNotFoundError(f'{file}: no published runs; `results.py publish` writes them')
    with owned(definition.out, f'suite {definition.title!r}'):
        for line in _restore(definition, read(file)):
            print(line)


def _restore(definition: Definition, published: Mapping[str, Record]) -> list[str]:
    restored, there, changed = [], [], []
    left = set(published)
    for run in plan.runs(definition):
        record = published.get(plan.place_of(definition, run))
        if record is None:
            continue
        left.discard(plan.place_of(definition, run))
        if run.result is not None or run.state:
            there.append(run.title)
        elif not _fits(definition, run, record):
            changed.append(run.title)
        else:
            _write(definition, run, record)
            restored.append(run.title)
    told = {
        'restored': restored,
        'begun or finished here already, left as they are': there,
        'left out, made with another config than the definition gives now': changed,
        'left out, no runs of the definition': sorted(left),
    }
    return [f'{len(runs)} {what}: {", ".join(runs)}' for what, runs in told.items() if runs]


def _write(definition: Definition, run: Run, record: Record) -> None:
    lines = [json.dumps({definition.metric: value, 'step': int(step)}) for step, value in record['curve'].items()]
    if lines:
        write_text(run.folder / LOG, '\n'.join(lines) + '\n')
    write_json(run.folder / 'result.json', record['result'])
