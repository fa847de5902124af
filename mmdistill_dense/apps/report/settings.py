"""How the runs of a comparison were set: what the methods compared, and what differs from the control."""

from __future__ import annotations

from functools import partial
from typing import Any

from mmdistill_dense.apps.report.runs import Comparison, TrainedRun
from mmdistill_dense.apps.report.section import Missing, Section, Sheet
from mmdistill_dense.config.values import flat
from mmdistill_dense.weights.strict_load import read_checkpoint

_BESIDE = (  # folders and logging; the pipelines are part of the data sets
    *('work_dir', 'experiment_name', 'launcher', 'resume', 'load_from', 'log_level', 'visualizer', 'vis_backends'),
    *('distillers', 'train_pipeline', 'val_pipeline', 'test_pipeline'),
)
_LONG = 160  # characters of a printed value


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


def compared_table(run: TrainedRun) -> Sheet:
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
    return Sheet(caption, ['distiller', 'method', "student's tap", "teacher's tap", 'settings'], rows)


def settings_table(run: TrainedRun, control: TrainedRun) -> Sheet:
    own, other = flat(run.config.to_dict()), flat(control.config.to_dict())
    rows = []
    for key in dict.fromkeys([*other, *own]):
        values = other.get(key, _NONE), own.get(key, _NONE)
        if key.split('.')[0] not in _BESIDE and values[0] != values[1]:
            rows.append([key, *map(_shown, values)])
    caption = f'{run.title} against {control.title}'
    return Sheet(caption, ['key', control.title, run.title], rows or [['nothing differs', '', '']])


_NONE = object()


def _shown(value: Any) -> str:
    text = '–' if value is _NONE else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= _LONG else text[: _LONG - 1] + '…'
