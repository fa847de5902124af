"""The rows of a suite's table: each method's results, paired by seed with the control's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from mmdistill_dense.recipes.targets import Target, targets_of
from mmdistill_dense.suite.definition.definition import Definition, Method
from mmdistill_dense.suite.definition.reader import flat
from mmdistill_dense.suite.definition.starts import with_options
from mmdistill_dense.suite.execute import cost
from mmdistill_dense.suite.execute.job import check_unchanged
from mmdistill_dense.suite.plan import configs, plan
from mmdistill_dense.suite.table.paired import Gain, Summary, paired_gains, summarise

Results = Mapping[int, Mapping[str, Any]]
# settings that do not change what a published result was trained with
HARMLESS = ('data_root', 'num_workers', 'persistent_workers')
LABELS = ('val_evaluator.ann_file', 'test_evaluator.ann_file')
BATCH = 'train_dataloader.batch_size'


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        missing: The seeds that have not finished.
        gain: The gain over the control; ``None`` for teacher and control.
        cost: The costs from ``suite.py cost``, if measured.
        targets: The published results of this method with this recipe.
        distils: Whether it has distillers. Otherwise its step equals the control's.
    """

    name: str
    results: Results
    missing: tuple[int, ...] = ()
    gain: Gain | None = None
    cost: Mapping[str, Any] = field(default_factory=dict)
    targets: tuple[Target, ...] = ()
    distils: bool = True

    @property
    def scores(self) -> dict[int, float]:
        """The scores in percent, by seed."""
        return {seed: result['score'] for seed, result in sorted(self.results.items())}

    @property
    def summary(self) -> Summary | None:
        """Mean and spread over the seeds."""
        return summarise(list(self.scores.values()))

    @property
    def hashes(self) -> list[str]:
        """The distinct config hashes. :func:`collect` refuses a row with several."""
        return sorted({str(result['config_hash']) for result in self.results.values()})

    @property
    def seconds_per_iteration(self) -> float | None:
        """The median of each run, averaged over the runs."""
        return _mean(result.get('seconds_per_iteration') for result in self.results.values())

    @property
    def share(self) -> float | None:
        """The distillers' share of the total loss, averaged over the runs."""
        return _mean(sum(result['shares'].values()) for result in self.results.values() if result.get('shares'))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


@dataclass(frozen=True)
class Table:
    """A suite's table: teacher, control and methods, the searches as in ``plan``, and the changes of the recipe."""

    definition: Definition
    rows: tuple[Row, ...]
    searched: Mapping[str, Any] = field(default_factory=dict)
    chosen: Mapping[str, Any] = field(default_factory=dict)
    changed: tuple[str, ...] = ()

    @property
    def methods(self) -> tuple[Row, ...]:
        """The rows that are compared with the control."""
        return tuple(row for row in self.rows if row.name not in (plan.TEACHER, plan.CONTROL))

    def row(self, name: str) -> Row:
        """Return a row by its name; an empty one if there is none."""
        return next((row for row in self.rows if row.name == name), Row(name, {}))


def collect(definition: Definition) -> Table:
    """Read the results and costs so far."""
    chosen = plan.chosen(definition)
    # not those of rows whose search has not ended: they may be of another value
    results = {name: found for name, found in plan.results(definition).items() if chosen.get(name, '') is not None}
    _check_hashes(definition, results)
    _check_starts(definition, results)
    changed = changes_of_the_recipe(definition, _check_processes(results))
    costs = cost.read(definition)
    targets = {name: () if changed else _targets(definition, method) for name, method in definition.methods.items()}
    rows = make_rows(definition, results, costs, targets)
    return Table(definition, rows, plan.searched(definition), chosen, changed)


def make_rows(
    definition: Definition,
    results: Mapping[str, Results],
    costs: Mapping[str, Mapping[str, Any]],
    targets: Mapping[str, tuple[Target, ...]],
) -> tuple[Row, ...]:
    """Return the rows, from results by name and seed."""
    names = (plan.CONTROL, *definition.methods)
    scores = {name: Row(name, results.get(name, {})).scores for name in names}
    gains = paired_gains({name: scores[name] for name in definition.methods}, scores[plan.CONTROL])
    students = []
    for name in names:
        missing = tuple(seed for seed in definition.seeds if seed not in scores[name])
        distils = name != plan.CONTROL and definition.methods[name].distils
        priced, published = costs.get(name, {}), tuple(targets.get(name, ()))
        students.append(Row(name, results.get(name, {}), missing, gains.get(name), priced, published, distils))
    return (Row(plan.TEACHER, results.get(plan.TEACHER, {})), *students)


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


def own_data(method: Method) -> str:
    """Return in words which data and length a row has of its own; empty without."""
    data = f' on {" and ".join(text_of_data(one) for one in method.data)}' if method.data else ''
    return data + (f', {method.length:g} times as long' if method.length != 1 else '')


def text_of_data(changes: Mapping[str, Any]) -> str:
    """Return in words how a training set differs from the control's."""
    return "the control's training set" + with_options(flat(changes))


def _targets(definition: Definition, method: Method) -> tuple[Target, ...]:
    """Return the published results of a row that is a shipped method without options, settings and start of its own."""
    if method.method is None or method.options or method.start or method.settings or own_data(method):
        return ()
    return tuple(targets_of(method.method, definition.control.stem, definition.metric, method.variant))


def _check_processes(results: Mapping[str, Results]) -> int | None:
    """Return the number of processes of the students; ``None`` before the first has finished."""
    found: dict[int, dict[str, None]] = {}
    for name, seeds in results.items():
        for result in seeds.values():
            if name != plan.TEACHER and 'processes' in result:
                found.setdefault(result['processes'], {})[name] = None
    if len(found) > 1:
        told = '; '.join(f'{", ".join(names)}: {count}' for count, names in found.items())
        raise ValueError(
            f'runs with different numbers of processes, and so different batches, cannot share a table ({told}). '
            'Repeat those of one number: with one process by `suite.py run --rerun-changed`; else move their folders '
            'away and use `suite.py slurm`.'
        )
    return next(iter(found), None)


def _check_starts(definition: Definition, results: Mapping[str, Results]) -> None:
    """Refuse runs that read different files for one start; the config hash covers only how the file is made."""
    for start in definition.starts.values():
        found: dict[str, list[str]] = {}
        for name, method in definition.methods.items():
            for seed, result in results.get(name, {}).items() if method.start == start.name else ():
                read = result.get('start')
                found.setdefault(read['sha256'][:12] if read else '', []).append(f'{name} seed {seed}')
        found.pop('', None)
        if start.seed is not None and len(found) > 1:
            told = '; '.join(f'sha256 {digits}…: {", ".join(runs)}' for digits, runs in found.items())
            raise ValueError(
                f'{definition.path}: starts.{start.name}: runs read different files ({told}), so they cannot share a '
                'row: the pre-training was repeated, or the file replaced. Move the runs of one file away and repeat.'
            )


def _check_hashes(definition: Definition, results: Mapping[str, Results]) -> None:
    expected: dict[str, str] = {}  # the seed is no part of it
    for run in plan.runs(definition):
        if run.kind != 'search' and run.choice is not None and run.seed in results.get(run.name, {}):
            if run.name not in expected:
                expected[run.name] = plan.hash_of(definition, run)
            check_unchanged(run, expected[run.name])
