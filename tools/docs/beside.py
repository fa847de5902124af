"""``results.py beside``: what stands beside a suite's table, published results and the compute that was used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from mmdistill_dense.apps.suite import configs, lengths
from mmdistill_dense.apps.suite.definition import TWICE, Definition, Method
from mmdistill_dense.apps.suite.plan import CONTROL, TEACHER
from mmdistill_dense.apps.suite.rows import Row, Table, collect, own_data
from mmdistill_dense.apps.suite.table import NONE, gain_cell, head_lines, line, row_title, score_cell
from mmdistill_dense.config.values import flat
from tools.docs.targets import Target, targets_of

# settings that do not change what a published result was trained with
HARMLESS = ('data_root', 'num_workers', 'persistent_workers')
LABELS = ('val_evaluator.ann_file', 'test_evaluator.ann_file')
BATCH = 'train_dataloader.batch_size'
NEAR = 0.05  # of the budget
COMPUTE = ('iterations', 'passes', 'step ratio', 'compute')


def main(definition: Definition) -> None:
    """Print both tables, as far as they apply."""
    table = collect(definition)
    print('\n\n'.join(filter(None, [published(table), compute(table)])))


def published(table: Table) -> str:
    """Return the table of published results, with their sources; or why there is none."""
    definition = table.definition
    students = [result for row in table.rows if row.name != TEACHER for result in row.results.values()]
    if changed := changes_of_the_recipe(definition, next((one.get('processes') for one in students), None)):
        return f'Published results are not shown: this suite changes the recipe ({", ".join(changed)}).'
    targets = {name: targets_of_row(definition, method) for name, method in definition.methods.items()}
    sources = dict.fromkeys(_source(target) for found in targets.values() for target in found)
    numbers = {name: place for place, name in enumerate(sources, 1)}
    if not numbers:
        return 'Nothing is published for these rows on this recipe.'
    lines = _head(table, ('published: alone', 'published', 'published: gain'))
    lines += [_line(row, _cells(targets.get(row.name, []), numbers)) for row in table.rows]
    note = (
        "Published numbers are of the authors' code and networks, which differ from those of mmseg and mmdet: compare "
        'gains, not scores.'
    )
    return '\n'.join([*lines, '', note, '', *(f'- [{place}] {name}' for name, place in numbers.items())])


def targets_of_row(definition: Definition, method: Method) -> list[Target]:
    """Return the published results of a row that is a shipped method without options, settings and start of its own."""
    if method.method is None or method.options or method.start or method.settings or own_data(method):
        return []
    return targets_of(method.method, definition.control.stem, definition.metric, method.variant)


def changes_of_the_recipe(definition: Definition, processes: int | None = None) -> tuple[str, ...]:
    """Return the options of a suite by which its recipe differs from the published one.

    The folders of the data and the number of loader processes do not count. Nor does the batch of one process, if all
    processes together have the batch that belongs to the recipe's learning rate. By default there are
    ``slurm.processes`` processes.
    """
    options = flat(definition.options)
    changed = [key for key in options if key.rpartition('.')[2] not in HARMLESS and key not in LABELS]
    if definition.budget is not None:
        changed.append(f'budget.steps={definition.budget.steps}')
    whole = (configs.read(definition.control).get('auto_scale_lr') or {}).get('base_batch_size')
    if whole is None:
        return tuple(changed)
    processes = processes or definition.slurm.get('processes', 1)
    one = configs.batch_of(configs.control_config(definition))
    changed = [key for key in changed if key != BATCH]
    if one * processes != whole:
        changed.append(f'{processes} process(es) x {BATCH}={one} instead of {whole} pictures a step')
    return tuple(changed)


def _cells(targets: Sequence[Target], numbers: Mapping[str, int]) -> list[str]:
    def cell(values: Iterable[str]) -> str:
        return '; '.join(values) or NONE

    return [
        cell(NONE if t.student is None else f'{t.student:.2f}' for t in targets),
        cell(f'{t.value:.2f} [{numbers[_source(t)]}]' for t in targets),
        cell(NONE if t.gain is None else f'{t.gain:+.2f}' for t in targets),
    ]


def _source(target: Target) -> str:
    return target.source + ('' if target.teacher is None else f'; teacher {target.teacher:.2f}')


def _head(table: Table, more: Sequence[str]) -> list[str]:
    return head_lines(['', table.definition.metric, 'gain', *more])


def _line(row: Row, more: Sequence[str]) -> str:
    return line([row_title(row), score_cell(row), gain_cell(row), *more])


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
    first = next(iter(row.results.values()), {})
    iterations, pictures = first.get('iterations'), first.get('pictures')
    batch = configs.batch_of(configs.control_config(table.definition)) * first.get('processes', 1)
    alone, own = _seconds(table.row(CONTROL)), _seconds(row)
    method = table.definition.methods.get(row.name)
    return Used(
        iterations,
        iterations * batch / pictures if iterations and pictures else None,
        own / alone if own and alone else None,
        2.0 if row.name == TWICE else 1.0 if method is None or method.budget else None,
    )


def _seconds(row: Row) -> float | None:
    found = [sum(result['spent'].values()) for result in row.results.values() if result.get('spent')]
    return fmean(found) if found else None


def compute(table: Table) -> str:
    """Return the table of what rows of equal compute have used, and how to read it; nothing without a budget."""
    definition = table.definition
    if definition.budget is None:
        return ''
    lines = _head(table, COMPUTE)
    lines += [_line(row, compute_cells(table, row)) for row in table.rows if row.name != TEACHER]
    notes = [
        f'Each row has the time of {definition.budget.steps} training steps of the student alone, {TWICE} twice as '
        'many. iterations = (steps - extra) / step ratio; extra is the learning before training. Not counted: training '
        'of the teacher and pre-training of a start, validation, loading. Equal time is not equal memory, and a budget '
        'in which the student alone still climbs favours it.',
        f'step ratio: distilled step / step of the student alone, {_origin(table)}. compute: time of the training '
        'steps and of learning in the runs, mean over seeds, over that of the student alone.',
    ]
    if free := [method.name for method in definition.methods.values() if not method.budget]:
        notes.append(f'With the iterations of the student alone, at any cost: {", ".join(free)}.')
    outside = [(row.name, one) for row in table.rows if row.name != TEACHER and (one := used(table, row)).outside]
    if outside:
        told = ', '.join(f'{name} {one.compute:.0%} of {one.planned:.0%}' for name, one in outside)
        notes.append(f'† used more or less than {NEAR:.0%} beside its budget: {told}.')
    if unused := _unused(table):
        notes.append(f'Epochs are whole; iterations that are left of the budget: {unused}.')
    return '\n'.join([*lines, '', *(f'- {note}' for note in notes)])


def compute_cells(table: Table, row: Row) -> list[str]:
    """Return the cells of :data:`COMPUTE`."""
    found, price = used(table, row), lengths.price_of(table.definition, row.name)
    spread = f' ({price["low"]:.2f}-{price["high"]:.2f})' if 'low' in price else ''
    method = table.definition.methods.get(row.name)
    mark = ' †' if found.outside else ''
    return [
        NONE if found.iterations is None else str(found.iterations),
        NONE if found.passes is None else f'{found.passes:.3g}',
        f'{price["ratio"]:.2f}{spread}' if method is None or method.budget else NONE,
        NONE if found.compute is None else f'{found.compute:.0%}{mark}',
    ]


def _unused(table: Table) -> str:
    config = configs.control_config(table.definition)
    if lengths.unit_of(config) == 'max_iters':
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
