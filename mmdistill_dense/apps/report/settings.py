"""What a comparison cost and how its runs were set."""

from __future__ import annotations

from functools import partial
from typing import Any

from mmdistill_dense.apps.report.runs import Comparison, TrainedRun
from mmdistill_dense.apps.report.section import Missing, Numbers, Section, Table
from mmdistill_dense.config.values import flat
from mmdistill_dense.weights.strict_load import read_checkpoint

# folders and logging; pipelines are also part of the data sets
_BESIDE = ('work_dir', 'experiment_name', 'launcher', 'resume', 'load_from', 'log_level', 'visualizer', 'vis_backends')
_COPIES = ('distillers', 'train_pipeline', 'val_pipeline', 'test_pipeline')
_LONG = 160  # characters of a printed value
NONE = '–'


def settings_section(comparison: Comparison) -> Section:
    """Return a table for each method: keys whose values differ from its control's."""
    section = Section('settings', 'Settings', 'Every key of the whole config that differs from the control.')
    for name in comparison.names:
        run = comparison.of(name)[0]
        if run.distillers:
            section.attempt(partial(compared_table, run))
        control = comparison.control_of(run)
        if control is not None:
            section.attempt(partial(settings_table, run, control))
    if not comparison.controls:
        section.reasons.append('No control to compare with: give one with --control.')
    elif not comparison.runs:
        section.reasons.append('All runs are controls: there is nothing to compare.')
    return section


def compared_table(run: TrainedRun) -> Table:
    """Return what the distillers of a run compared, from its checkpoint: also what ``'auto'`` chose."""
    if run.checkpoint is None:
        raise Missing(f'What {run.title} compared is left out: it has no checkpoint.')
    told = read_checkpoint(run.checkpoint).get('meta', {}).get('distill', {}).get('distillers', {})
    rows = [
        [name, one['type'], student, teacher, '' if place else one.get('settings', '')]
        for name, one in told.items()
        for place, (student, teacher) in enumerate(one.get('taps', ()))
    ]
    networks = [run.model.get('student', {}).get('cfg'), *(one.get('cfg') for one in run.teachers.values())]
    names = ' and '.join(str(one) for one in networks if one)
    caption = f'What {run.name} compared{f" in {names}" if names else ""}'
    return Table(caption, ['distiller', 'method', "student's tap", "teacher's tap", 'settings'], rows)


def settings_table(run: TrainedRun, control: TrainedRun) -> Table:
    own, other = flat(run.config.to_dict()), flat(control.config.to_dict())
    rows = []
    for key in dict.fromkeys([*other, *own]):
        first = key.split('.')[0]
        if first not in _BESIDE + _COPIES and own.get(key, _NONE) != other.get(key, _NONE):
            rows.append([key, _shown(other.get(key, _NONE)), _shown(own.get(key, _NONE))])
    caption = f'{run.title} against {control.title}'
    return Table(caption, ['key', control.title, run.title], rows or [['nothing differs', '', '']])


_NONE = object()


def _shown(value: Any) -> str:
    text = '–' if value is _NONE else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= _LONG else text[: _LONG - 1] + '…'


def cost_section(numbers: Numbers) -> Section:
    """Return time and memory, from the logs."""
    section = Section('costs', 'Costs', 'The time in the runs depends on what else the machine did.')
    section.attempt(lambda: _cost_table(numbers))
    return section


def _cost_table(numbers: Numbers) -> Table:
    comparison = numbers.comparison
    rows = {run: _cost_row(run, numbers, comparison.control_of(run)) for run in comparison.students}
    if not any(any(row.values()) for row in rows.values()):
        raise Missing('No costs: the runs logged no time.')
    head = [name for name in next(iter(rows.values())) if any(row[name] for row in rows.values())]
    cells = [[run.title, *(row[name] or '–' for name in head)] for run, row in rows.items()]
    return Table('Costs of each run', ['run', *head], cells)


def _cost_row(run: TrainedRun, numbers: Numbers, control: TrainedRun | None) -> dict[str, str]:
    log = numbers.logs[run]
    own, alone = log.seconds, numbers.logs[control].seconds if control else None
    minutes = (run.result or {}).get('minutes')
    return {
        's / iteration': f'{own:.3g}' if own else '',
        'against the control': f'{own / alone:.2f} x' if own and alone else '',
        'minutes, with tests': f'{minutes:.1f}' if minutes else '',
        'GPU memory': f'{log.memory:.0f} MiB' if log.memory else '',
    }


def step_ratio(run: TrainedRun, numbers: Numbers) -> float | None:
    """Return the time of a training step over the control's, of the logs."""
    control = numbers.comparison.control_of(run)
    own, alone = numbers.logs[run].seconds, numbers.logs[control].seconds if control else None
    return own / alone if own and alone else None
