"""``results.py beside``: published results beside a suite's table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mmdistill_dense.apps.suite import configs
from mmdistill_dense.apps.suite.definition import Definition, Method
from mmdistill_dense.apps.suite.plan import TEACHER
from mmdistill_dense.apps.suite.rows import Row, Table, collect, own_data
from mmdistill_dense.apps.suite.table import NONE, gain_cell, head_lines, line, row_title, score_cell
from mmdistill_dense.config.values import flat
from tools.docs.targets import Target, targets_of

# settings that do not change what a published result was trained with
HARMLESS = ('data_root', 'num_workers', 'persistent_workers')
LABELS = ('val_evaluator.ann_file', 'test_evaluator.ann_file')
BATCH = 'train_dataloader.batch_size'


def main(definition: Definition) -> None:
    """Print the table."""
    print(published(collect(definition)))


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
    """Return the published results of a row that is a shipped method without options and settings of its own."""
    if method.method is None or method.options or method.settings or own_data(method):
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
