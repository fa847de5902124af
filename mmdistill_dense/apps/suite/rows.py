"""The table of a suite, from the results of its runs, which it must be fair to compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mmdistill_dense.apps.suite import plan
from mmdistill_dense.apps.suite.definition import CONTROL, TEACHER, Definition, Method, describe_options
from mmdistill_dense.apps.suite.verdict import Results, Verdict, judge_results, missing_sentence


@dataclass(frozen=True)
class SuiteTable:
    """A suite's table: the rows of teacher, control and methods, and the verdict over them."""

    definition: Definition
    verdict: Verdict

    def sentences(self) -> list[str]:
        """Return what the comparison says, and which runs it lacks."""
        return list(filter(None, [self.verdict.sentence(), missing_sentence(plan.scored_runs(self.definition))]))


def collect(definition: Definition) -> SuiteTable:
    """Return the table of the finished runs; refuse runs of other configs, label files or numbers of processes."""
    results, counts = plan.results(definition), dict[int, dict[str, None]]()
    plan.check_unchanged(
        definition, (run for run in plan.scored_runs(definition) if run.seed in results.get(run.name, {}))
    )
    for name, seeds in results.items():
        for result in seeds.values():
            if name != TEACHER and 'processes' in result:
                counts.setdefault(result['processes'], {})[name] = None
    if len(counts) > 1:
        groups = '; '.join(f'{", ".join(names)}: {count}' for count, names in counts.items())
        raise ValueError(
            f'runs with different numbers of processes, and so different batches, cannot share a table ({groups}). '
            'Move the folders of one number away, and repeat them.'
        )
    for problem in (changed_data(results), *(changed_data(results, False, name) for name in definition.test_sets)):
        if problem:
            raise ValueError(problem)
    row_results = {name: results.get(name, {}) for name in (TEACHER, CONTROL, *definition.methods)}
    return SuiteTable(definition, judge_results(row_results))


def judge_set(table: SuiteTable, name: str) -> Verdict:
    """Return the rows with scores and gains on a further test set; runs that finished before it was named have none."""
    return judge_results(
        {
            row.name: {
                seed: {**result, 'score': plan.score_of(table.definition, result['metrics'], name)}
                for seed, result in row.results.items()
                if name in result['metrics']
            }
            for row in table.verdict.rows
        }
    )


def row_settings(method: Method) -> str:
    """Return in words which options and learning rate a row has of its own; empty without."""
    options = describe_options(method.options)
    if method.pretraining is not None:
        options += f', pre-trained by {method.pretraining.config}{describe_options(method.pretraining.options)}'
    return options + (f', {method.rate:g} times the learning rate' if method.rate != 1 else '')


def changed_data(results: Mapping[str, Results], teachers: bool = True, test_set: str = '') -> str:
    """Name two runs of one data set whose label files were changed between them, or two of a row with other teachers.

    Empty without any. Results of earlier versions hold no stamps of their data. A teacher that the suite trains may be
    trained again, to the same weights in another file: such ``teachers`` are not compared. With a further ``test_set``,
    that alone is compared, of students: the teacher's may have its own classes.
    """
    teachers &= not any(result.get('iterations') for result in results.get(TEACHER, {}).values())
    references: dict[str, tuple[str, str]] = {}
    for name, by_seed in results.items():
        for seed, result in by_seed.items() if not test_set or name != TEACHER else ():
            receipts = result.get('teacher') or {}
            weights = [receipt.get('sha256') for receipt in ([receipts] if 'sha256' in receipts else receipts.values())]
            teacher_stamp = {f'teacher of {name}': str(weights)} if weights and teachers else {}
            stamps = (result.get('data') or {}).items()
            stamps = {source: stamp for source, stamp in stamps if source.partition('test_sets.')[2] == test_set}
            for source, stamp in {**stamps, **teacher_stamp}.items():
                other, old_stamp = references.setdefault(source, (f'{name} seed {seed}', stamp))
                if old_stamp != stamp:
                    changed = "the teacher's weights" if source in teacher_stamp else 'label files'
                    changed = f'{source} or its label files' if source.startswith('test_sets.') else changed
                    return (
                        f'{other} and {name} seed {seed}: {changed} were changed between these runs, so their scores '
                        'cannot be compared. Undo the change, or remove the folders of the runs to repeat.'
                    )
    return ''
