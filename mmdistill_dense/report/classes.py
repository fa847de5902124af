"""Scores by class: bars beside the control, and a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from mmdistill_dense.report.charts import bar_chart, colour_of, legend_of
from mmdistill_dense.report.logs import Log, class_tables
from mmdistill_dense.report.numbers import Numbers
from mmdistill_dense.report.section import Chart, Missing, Section, Table
from mmdistill_dense.report.trained_run import TrainedRun

MOST = 20
Figures = Mapping[str, float]


def class_section(numbers: Numbers) -> Section:
    """Return bars of the classes that the methods change most, and a table of all classes."""
    section = Section('classes', 'Classes')
    section.attempt(lambda: list(_items(numbers)))
    section.items, section.more = section.items[:1], section.items[1:]
    section.legend = legend_of(numbers.comparison, lines=False) if section.items else []
    return section


def _items(numbers: Numbers) -> tuple[Chart, Table]:
    comparison = numbers.comparison
    tables = {run: _found(run, numbers.logs[run]) for run in comparison.students}
    if comparison.teacher is not None:
        tables[comparison.teacher] = _found(comparison.teacher, numbers.teacher_log)
    splits = [split for found in tables.values() for split in found]
    if not splits:
        raise Missing(
            'No figures per class: the logs hold no table of classes. mmseg always prints one; for detection set '
            'val_evaluator.classwise=True.'
        )
    split = max(('test', 'val'), key=splits.count)  # test if both are equal
    means = _means({run: found[split] for run, found in tables.items() if split in found})
    controls = {run.name for run in comparison.controls}
    alone = next((means[name] for name in means if name in controls), {})
    classes = list(dict.fromkeys(one for found in tables.values() for one in found.get(split, ())))
    shown = _most_changed(classes, means, alone)
    what = 'AP' if numbers.metric and 'mAP' in numbers.metric else 'IoU'
    title = f'{what} of each class, {split} split'
    if len(shown) < len(classes):
        title += f' ({len(shown)} of {len(classes)} classes: those that {"changed" if alone else "differ"} most)'
    colours = {name: colour_of(comparison, name)[0] for name in means}
    rows = [
        [one, *(_cell(found.get(one), None if name in controls else alone.get(one)) for name, found in means.items())]
        for one in classes
    ]
    table = Table(f'{what} of each class, {split} split; in brackets: against the control', ['class', *means], rows)
    return bar_chart(title, shown, means, colours), table


def _found(run: TrainedRun, log: Log | None) -> dict[str, dict[str, float]]:
    """Return percent by split and class, from the log file or from the metrics per class of CocoMetric."""
    suffix = '_precision'
    named = {
        name.removesuffix(suffix).rpartition('/')[2]: 100 * series.last
        for name, series in (log.metrics if log else {}).items()
        if name.endswith(suffix)
    }
    return {'val': named} if named else class_tables(run.folder)


def _means(figures: Mapping[TrainedRun, Figures]) -> dict[str, dict[str, float]]:
    """Return the mean over seeds by name and class. A class without a figure, as one that does not occur, has none."""
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(run.name for run in figures):
        seeds = [own for run, own in figures.items() if run.name == name]
        known: dict[str, list[float]] = {}
        for one, value in (item for own in seeds for item in own.items()):
            if math.isfinite(value):
                known.setdefault(one, []).append(value)
        found[name] = {one: fmean(values) for one, values in known.items()}
    return found


def _most_changed(classes: Sequence[str], means: Mapping[str, Figures], alone: Figures) -> list[str]:
    """Return the classes with the largest change over the control; without one, with the largest differences."""

    def change(one: str) -> float:
        known = [found[one] for found in means.values() if one in found]
        if not alone:
            return max(known, default=0.0) - min(known, default=0.0)
        return max((abs(value - alone[one]) for value in known), default=0.0) if one in alone else 0.0

    kept = set(sorted(classes, key=change, reverse=True)[:MOST])
    return [one for one in classes if one in kept]


def _cell(value: float | None, alone: float | None) -> str:
    if value is None:
        return '–'
    return f'{value:.1f}' if alone is None else f'{value:.1f} ({value - alone:+.1f})'
