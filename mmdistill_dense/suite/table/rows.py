"""The rows of a suite's table: what each method gave over its seeds, beside the control of the same seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from mmdistill_dense.recipes.targets import Target, targets_of
from mmdistill_dense.suite.definition.definition import Definition, Method
from mmdistill_dense.suite.execute import cost
from mmdistill_dense.suite.plan import configs, plan
from mmdistill_dense.suite.table.paired import Gain, Summary, paired_gains, summarise

Results = Mapping[int, Mapping[str, Any]]
# settings under which a recipe stays the published one
HARMLESS = ('data_root', 'num_workers', 'persistent_workers')
LABELS = ('val_evaluator.ann_file', 'test_evaluator.ann_file')
BATCH = 'train_dataloader.batch_size'


@dataclass(frozen=True)
class Row:
    """One line.

    Attributes:
        name: ``'teacher'``, ``'control'`` or a method's.
        results: Finished runs by seed.
        missing: Seeds that have not finished.
        gain: Over the control, of the seeds that both have; ``None`` for teacher and control.
        cost: What ``suite.py cost`` found, or nothing.
        targets: Published results of this method with this recipe.
        distils: Whether it has distillers; else its step is the control's.
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
        """In percent, by seed."""
        return {seed: result['score'] for seed, result in sorted(self.results.items())}

    @property
    def summary(self) -> Summary | None:
        """Over the seeds."""
        return summarise(list(self.scores.values()))

    @property
    def hashes(self) -> list[str]:
        """Config hashes, without repetitions; more than one is a mixture that :func:`collect` refuses."""
        return sorted({str(result['config_hash']) for result in self.results.values()})

    @property
    def seconds_per_iteration(self) -> float | None:
        """Mean over the runs of each run's median."""
        return _mean(result.get('seconds_per_iteration') for result in self.results.values())

    @property
    def share(self) -> float | None:
        """The distillers' part of the total loss, mean over the runs."""
        return _mean(sum(result['shares'].values()) for result in self.results.values() if result.get('shares'))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


@dataclass(frozen=True)
class Table:
    """Everything that is shown.

    Attributes:
        definition: The suite.
        rows: Teacher, control, methods in the definition's order.
        searched: As :func:`mmdistill_dense.suite.plan.plan.searched`.
        chosen: As :func:`mmdistill_dense.suite.plan.plan.chosen`.
        changed: Options of the suite that make its recipe another than the published one.
    """

    definition: Definition
    rows: tuple[Row, ...]
    searched: Mapping[str, Any] = field(default_factory=dict)
    chosen: Mapping[str, Any] = field(default_factory=dict)
    changed: tuple[str, ...] = ()

    @property
    def methods(self) -> tuple[Row, ...]:
        """The rows that have a gain, or will have."""
        return tuple(row for row in self.rows if row.name not in (plan.TEACHER, plan.CONTROL))

    def row(self, name: str) -> Row | None:
        """Return a row by its name."""
        return next((row for row in self.rows if row.name == name), None)


def collect(definition: Definition) -> Table:
    """Read results and costs; runs that are missing stay missing.

    Raises:
        ValueError: When a result was made with another config than the definition gives now, with both hashes: rows of
            different configs, or numbers of processes, make no fair table; nor do different files of one start.
    """
    results = _decided(definition)
    _check_hashes(definition, results)
    _check_starts(definition, results)
    changed = changes_of_the_recipe(definition, _check_processes(results))
    costs = cost.read(definition)
    targets = {name: () if changed else _targets(definition, method) for name, method in definition.methods.items()}
    rows = make_rows(definition, results, costs, targets)
    return Table(definition, rows, plan.searched(definition), plan.chosen(definition), changed)


def _decided(definition: Definition) -> dict[str, Results]:
    """All results but those of a method whose search goes on: nobody knows yet whether they are of the best value."""
    open_ = {name for name, choice in plan.chosen(definition).items() if choice is None}
    return {name: found for name, found in plan.results(definition).items() if name not in open_}


def make_rows(
    definition: Definition,
    results: Mapping[str, Results],
    costs: Mapping[str, Mapping[str, Any]],
    targets: Mapping[str, tuple[Target, ...]],
) -> tuple[Row, ...]:
    """Return the rows of results by name and seed."""
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
    """Return what of the suite changes what a published result was trained with.

    Where the data lie and how many processes load them does not; nor the batch of one process, as long as the processes
    together have the batch that the recipe's learning rate is for.

    Args:
        definition: The suite.
        processes: Of its runs. Defaults to ``slurm.processes``.
    """
    options = configs.flat(definition.options)
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


def _targets(definition: Definition, method: Method) -> tuple[Target, ...]:
    """Of a method as it is shipped: a user's leaf, own options and another start are not what was published."""
    if method.method is None or method.options or method.start:
        return ()
    return tuple(targets_of(method.method, definition.control.stem, definition.metric, method.variant))


def _check_processes(results: Mapping[str, Results]) -> int | None:
    """Return the number of processes of all students, ``None`` before the first has ended."""
    found: dict[int, dict[str, None]] = {}
    for name, seeds in results.items():
        for result in seeds.values():
            if name != plan.TEACHER and 'processes' in result:
                found.setdefault(result['processes'], {})[name] = None
    if len(found) > 1:
        told = '; '.join(f'{", ".join(names)}: {count}' for count, names in found.items())
        raise ValueError(
            f'runs of different numbers of processes, and so of batches, make no fair table ({told}). Repeat those '
            'of one kind: `suite.py run --rerun-changed` with one process, or move their folders away and hand them in '
            'with `suite.py slurm`.'
        )
    return next(iter(found), None)


def _check_starts(definition: Definition, results: Mapping[str, Results]) -> None:
    """A start that is one for all seeds is one file: the config hash covers how it is made, not what came out."""
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
                f'{definition.path}: starts.{start.name}: runs read different files ({told}), which make no one row: '
                'the pre-training was made again, or the file exchanged. Move those of one kind away and repeat them.'
            )


def _check_hashes(definition: Definition, results: Mapping[str, Results]) -> None:
    expected: dict[str, str] = {}  # the seed is no part of it
    for run in plan.runs(definition):
        result = results.get(run.name, {}).get(run.seed)
        if run.kind == 'search' or run.choice is None or result is None:
            continue
        if run.name not in expected:
            expected[run.name] = plan.hash_of(definition, run)
        if result['config_hash'] != expected[run.name]:
            raise ValueError(
                f'{run.title}: {run.folder} was made with config {result["config_hash"]}, the definition now gives '
                f'{expected[run.name]}: no row of one table. Undo the change, or run the suite with --rerun-changed.'
            )
