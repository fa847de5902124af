"""What a comparison cost and how its runs were set: settings that differ, and what a race tried, stopped and took."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mmdistill_dense.apps.report.runs import Comparison, TrainedRun, read_log
from mmdistill_dense.apps.report.section import COLOURS, Line, Missing, Numbers, Section, Table, line_chart
from mmdistill_dense.apps.suite.definition import RACE
from mmdistill_dense.apps.suite.plan import CONTROL, RUNG
from mmdistill_dense.apps.suite.race import of_common_seeds
from mmdistill_dense.apps.suite.race_plan import LONG, alone_row, base_of
from mmdistill_dense.config.values import flat
from mmdistill_dense.utils.files import read_json
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
    """Return time, memory and size, from the logs and from ``mmdistill suite cost``."""
    section = Section(
        'costs',
        'Costs',
        'The time in the runs depends on what else the machine did; mmdistill suite cost measures a step in turns with '
        'the control’s.',
    )
    section.attempt(lambda: _cost_table(numbers))
    comparison = numbers.comparison
    if not any(_measured(run) for run in comparison.students):
        section.reasons.append('Step and extra memory are left out: no suite has measured them (mmdistill suite cost).')
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
    cost = _measured(run)
    size, memory = cost.get('student') or {}, cost.get('memory') or {}
    minutes = (run.result or {}).get('minutes')
    return {
        's / iteration': f'{own:.3g}' if own else '',
        'against the control': f'{own / alone:.2f} x' if own and alone else '',
        'minutes, with tests': f'{minutes:.1f}' if minutes else '',
        'GPU memory': f'{log.memory:.0f} MiB' if log.memory else '',
        'step, measured': f'{cost["ratio"]:.2f} x' if 'ratio' in cost else '',
        'extra memory': f'{memory["extra"] / 2**20:+.1f} MiB' if 'extra' in memory else '',
        'parameters': f'{size["parameters"]:,}' if size else '',
        'GFLOPs': f'{size["gflops"]:.3g}' if size else '',
    }


def step_ratio(run: TrainedRun, numbers: Numbers) -> float | None:
    """Return the time of a training step over the control's: as a suite measured it, else of the logs."""
    measured = _measured(run).get('ratio')
    if measured is not None:
        return float(measured)
    control = numbers.comparison.control_of(run)
    own, alone = numbers.logs[run].seconds, numbers.logs[control].seconds if control else None
    return own / alone if own and alone else None


def _measured(run: TrainedRun) -> dict[str, Any]:
    if run.suite is None:
        return {}
    found = read_json(run.suite / 'cost' / f'{run.folder.parent.name}.json') or {}
    measured, trained = ((one or {}).get('config_hash') for one in (found.get('key'), run.result))
    return {} if measured and trained and measured != trained else found


# A race


def race_section(suite: Path, metric: str | None) -> Section | None:
    """Return the section; ``None`` for a suite without a race."""
    record = read_json(suite / RACE)
    if record is None:
        return None
    about = 'Scores are those on val, by which the race was decided. Rate and length: over those of the recipe.'
    section = Section(
        'race', 'The race', about, lead=[*record['told'], *_bought(suite, record), *_on_test(suite, record)]
    )
    section.attempt(lambda: _table(suite, record))
    section.attempt(lambda: _curves(suite, record, metric))
    return section


def rows_of_race(record: Mapping[str, Any]) -> list[str]:
    long, longer = [LONG] if record['long'] else [], record.get('longer')
    return [*map(alone_row, record['rates']), *long, *([longer['row']] if longer else []), *record['methods']]


def students_alone(suite: Path | None) -> list[str]:
    """Return the rows of a race that no teacher teaches; none without a race."""
    record = read_json(suite / RACE) if suite else None
    return [row for row in rows_of_race(record) if base_of(record, row)[0] not in record['methods']] if record else []


def _results(suite: Path, row: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The result of a row at its rung, empty if it has none, and those at its end."""
    folders = sorted((suite / 'runs' / row).glob('seed*'))
    rungs = [found for folder in folders if (found := read_json(folder / RUNG))]
    ends = [found for folder in folders if (found := read_json(folder / 'result.json'))]
    return (rungs or [{}])[0], ends


def _on_test(suite: Path, record: Mapping[str, Any]) -> list[str]:
    """Say whether the test pictures prefer another finalist than the winner by more than chance gives on val."""
    ends = {row: _results(suite, row)[1] for row in record.get('scores', {})}
    scores = {row: {one.get('seed'): one['score'] for one in each} for row, each in ends.items()}
    count, means = of_common_seeds(scores)
    if 'winner' not in record or not count or any(one.get('test_is_val') for each in ends.values() for one in each):
        return []
    best, winner = next(iter(means)), record['winner']
    if means[best] - means[winner] <= record['margin']:
        return []
    return [
        f'On test, {best} has {means[best]:.2f} and {winner} {means[winner]:.2f}: the validation pictures are not like '
        'those of test. A race sees them alone, so let them be like the pictures that you will use.'
    ]


def _table(suite: Path, record: Mapping[str, Any]) -> Table:
    head = ['candidate', 'rate', 'length', f'at {record["rung"]:.0%}', 'at the end, by seed', 'minutes', '']
    rows = []
    raced = rows_of_race(record)
    for row in raced:
        given, (rung, ends) = record['rows'].get(row, {}), _results(suite, row)
        seeds = ', '.join(f'{score:.2f}' for score in record.get('scores', {}).get(row, {}).values())
        # a run's minutes at its end hold those to its rung
        minutes = sum(one['minutes'] for one in ends) or rung.get('minutes', 0.0)
        at = f'{rung["score"]:.2f}' if rung else NONE
        cells = [f'{given.get("rate", 1):g}', f'{given.get("length", 1):g}', at, seeds or NONE, f'{minutes:.1f}']
        rows.append([row, *cells, _fate(record, row, bool(rung), bool(ends))])
    rows += [[row, *[NONE] * 5, f'left out: {why}'] for row, why in record['left_out'].items() if row not in raced]
    return Table('Candidates', head, rows)


def _fate(record: Mapping[str, Any], row: str, begun: bool, ended: bool) -> str:
    for what in ('failed', 'left_out'):
        if row in record[what]:
            return f'{what.replace("_", " ")}: {record[what][row]}'
    if row == record.get('winner'):
        return 'wins'
    if ended:
        return 'trained to the end'
    return f'stopped at {record["rung"]:.0%}' if begun else 'not begun'


def _curves(suite: Path, record: Mapping[str, Any], metric: str | None) -> Any:
    lines = []
    for place, row in enumerate(rows_of_race(record)):
        folder = suite / 'runs' / row / f'seed{record["seeds"][0]}'
        log = read_log(folder) if folder.is_dir() else None
        if log and metric in log.metrics:
            colour = 'control' if row == CONTROL else f'run-{place % COLOURS}'
            lines.append(Line(row, row, log.metrics[metric], colour))
    if not lines:
        raise Missing('No curves of the candidates: none was evaluated yet.')
    return line_chart(f'{metric} of all candidates, first seed, val split', lines, wide=True)


def _bought(suite: Path, record: Mapping[str, Any]) -> list[str]:
    if 'winner' not in record:
        return []
    said, (first, _), (best, _) = [], _results(suite, CONTROL), _results(suite, record['best'])
    if first and best and record['best'] != CONTROL:
        gain = best['score'] - first['score']
        said.append(f'The learning rate bought {gain:+.2f} (at {record["rung"]:.0%} of the training).')
    _, means = of_common_seeds({row: record['scores'].get(row, {}) for row in (LONG, record['best'])})
    if record['alone'] == LONG and means:
        said.append(f'More time bought the student alone {means[LONG] - means[record["best"]]:+.2f} (at the end).')
    if base_of(record, record['winner'])[0] in record['methods']:
        said.append(f'The teacher bought {record["lead"]:+.2f} on top (at the end).')
    return said
