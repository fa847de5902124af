"""What a table of equal compute shows in addition: lengths, step ratios, and the compute that was used."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from mmdistill_dense.apps.suite import configs, lengths
from mmdistill_dense.apps.suite.definition import TWICE
from mmdistill_dense.apps.suite.lengths import unit_of
from mmdistill_dense.apps.suite.plan import CONTROL, TEACHER
from mmdistill_dense.apps.suite.rows import Row, Table

NEAR = 0.05  # of the budget
HEAD = ('iterations', 'passes', 'step ratio', 'compute')
_NONE = '–'


@dataclass(frozen=True)
class Used:
    """What a row has used; ``None`` for what is not known."""

    iterations: int | None  # of each of its runs
    passes: float | None  # over the data
    compute: float | None  # mean time of its runs, learning included, over that of the student alone
    planned: float | None  # what ``compute`` should be; ``None`` for a row outside of the budget

    @property
    def outside(self) -> bool:
        """Whether the row missed its budget by more than 5 %."""
        return bool(self.compute and self.planned and abs(self.compute / self.planned - 1) > NEAR)


def used(table: Table, row: Row) -> Used:
    """Return what a row has used."""
    results = list(row.results.values())
    iterations = results[0]['iterations'] if results else None
    pictures = results[0].get('pictures') if results else None
    batch = configs.batch_of(configs.control_config(table.definition)) * (
        results[0].get('processes', 1) if results else 1
    )
    alone, own = _seconds(table.row(CONTROL)), _seconds(row)
    method = table.definition.methods.get(row.name)
    planned = 2.0 if row.name == TWICE else 1.0 if method is None or method.budget else None
    return Used(
        iterations,
        iterations * batch / pictures if iterations and pictures else None,
        own / alone if own and alone else None,
        planned,
    )


def cells(table: Table, row: Row) -> list[str]:
    """Return the cells of :data:`HEAD`."""
    if row.name == TEACHER:
        return [_NONE] * len(HEAD)
    found, price = used(table, row), lengths.price_of(table.definition, row.name)
    spread = f' ({price["low"]:.2f}-{price["high"]:.2f})' if 'low' in price else ''
    method = table.definition.methods.get(row.name)
    ratio = f'{price["ratio"]:.2f}{spread}' if method is None or method.budget else _NONE
    mark = ' †' if found.outside else ''
    return [
        _NONE if found.iterations is None else str(found.iterations),
        _NONE if found.passes is None else f'{found.passes:.3g}',
        ratio,
        _NONE if found.compute is None else f'{found.compute:.0%}{mark}',
    ]


def notes(table: Table) -> list[str]:
    """Return how to read these columns; names the rows that missed their budget."""
    definition = table.definition
    if definition.budget is None:
        return []
    lines = [
        f'Equal compute: each row has the time of {definition.budget.steps} training steps of the student alone, '
        f'{TWICE} twice as many. iterations = (steps - extra) / step ratio; extra is the learning before training. '
        'Not counted: training of the teacher and pre-training of a start, validation, loading. Equal time is not '
        'equal memory, and a budget in which the student alone still climbs favours it.',
        f'step ratio: distilled step / step of the student alone, {_origin(table)}. compute: time of the training '
        'steps and of learning in the runs, mean over seeds, over that of the student alone.',
    ]
    if free := [method.name for method in definition.methods.values() if not method.budget]:
        lines.append(f'With the iterations of the student alone, at any cost: {", ".join(free)}.')
    outside = [(row.name, one) for row in table.rows if row.name != TEACHER and (one := used(table, row)).outside]
    if outside:
        told = ', '.join(f'{name} {one.compute:.0%} of {one.planned:.0%}' for name, one in outside)
        lines.append(f'† used more or less than {NEAR:.0%} beside its budget: {told}.')
    if unused := _unused(table):
        lines.append(f'Epochs are whole; iterations that are left of the budget: {unused}.')
    return lines


def _unused(table: Table) -> str:
    config = configs.control_config(table.definition)
    if unit_of(config) == 'max_iters':
        return ''
    left = {row.name: lengths.length_of(table.definition, row.name, config)[1] for row in table.rows[1:]}
    return ', '.join(f'{name} {count}' for name, count in left.items())


def _origin(table: Table) -> str:
    budget, rows = table.definition.budget, lengths.measured(table.definition)['rows']
    assert budget is not None, 'of a table of equal compute'
    said = dict.fromkeys(
        f'{one["device"]}, {one["threads"]} thread(s), median and range of {one["turns"]} turns'
        for name, one in rows.items()
        if name in table.definition.methods and name not in budget.ratios
    )
    pinned = [f'pinned: {", ".join(budget.ratios)}'] if budget.ratios else []
    return '; '.join([*said, *pinned]) or 'not measured'


def _seconds(row: Row) -> float | None:
    found = [sum(result['spent'].values()) for result in row.results.values() if result.get('spent')]
    return fmean(found) if found else None
