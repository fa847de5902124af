"""The table of a suite: which runs it may compare, their rows and sentences, as Markdown, and their scores."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from statistics import fmean, stdev
from typing import Any

from mmdistill_dense.apps.suite import configs, plan
from mmdistill_dense.apps.suite.definition import CONTROL, TEACHER, Definition, Method, describe_options
from mmdistill_dense.apps.suite.verdict import LEVEL, Results, Row, Verdict, judge_results, judge_set, missing_sentence
from mmdistill_dense.utils.files import write_text
from mmdistill_dense.utils.validate import some
from mmdistill_dense.weights.strict_load import Receipt

NONE = '–'
TITLES = {TEACHER: 'teacher', CONTROL: 'student alone'}
DIGITS = 12  # shown of a file's sha256


@dataclass(frozen=True)
class SuiteTable:
    """A suite's table: the rows of teacher, control and methods, and the verdict over them."""

    definition: Definition
    verdict: Verdict

    def sentences(self) -> list[str]:
        """Return what the comparison says, and which runs it lacks."""
        runs = (run for run in plan.runs(self.definition) if not run.is_pretraining)  # which has no score
        return list(filter(None, [self.verdict.sentence(), missing_sentence(runs)]))


def collect(definition: Definition) -> SuiteTable:
    """Return the table of the finished runs; refuse runs of other configs, label files or numbers of processes."""
    results = plan.results(definition)
    plan.check_unchanged(definition, (run for run in plan.runs(definition) if run.seed in results.get(run.name, ())))
    table = SuiteTable(definition, judge_results(results))
    counts = _rows_by_text(table, lambda result: str(result.get('processes') or ''))
    if len(counts) > 1:
        groups = '; '.join(f'{", ".join(names)}: {count}' for count, names in counts.items())
        problem = 'runs with different numbers of processes, and so different batches, cannot share a table'
        raise ValueError(f'{problem} ({groups}). Move the folders of one number away, and repeat them.')
    changes = changed_data(results)
    for problem in [changes[name] for name in ('', *definition.test_sets) if name in changes]:
        raise ValueError(problem)
    return table


def row_settings(method: Method) -> str:
    """Return in words which options and learning rate a row has of its own; empty without."""
    options = describe_options(method.options)
    if method.pretraining is not None:
        options += f', pre-trained by {method.pretraining.config}{describe_options(method.pretraining.options)}'
    return options + (f', {method.rate:g} times the learning rate' if method.rate not in (None, 1) else '')


def changed_data(results: Mapping[str, Results], teachers: bool = True) -> dict[str, str]:
    """Name two runs whose label files or first weights were changed between them, or two of a row with other teachers.

    The sentence stands under the name of the further test set that was changed, else under an empty one. Results of
    earlier versions hold no stamps of their data. A teacher that the suite trains may be trained again, to the same
    weights in another file: such ``teachers`` are not compared.
    """
    teachers &= not any(result.get('iterations') for result in results.get(TEACHER, {}).values())
    references, changes = dict[str, tuple[str, str]](), dict[str, str]()
    for name, by_seed in results.items():
        for seed, result in by_seed.items():
            stamps, receipts = dict(result.get('data') or {}), result.get('teacher') or {}
            weights = [receipt.get('sha256') for receipt in ([receipts] if 'sha256' in receipts else receipts.values())]
            stamps |= {f'teacher of {name}': str(weights)} if weights and teachers else {}
            for source, stamp in stamps.items():
                kind, _, test_set = source.partition('test_sets.')
                if test_set and name == TEACHER:  # whose set may have classes of its own
                    continue
                other, old_stamp = references.setdefault(source, (f'{name} seed {seed}', stamp))
                if old_stamp == stamp:
                    continue
                names = {'teacher': "the teacher's weights", 'start': 'files of first weights'}
                changed = f'{source} or its label files' if test_set else names.get(kind.split(' ')[0], 'label files')
                problem = f'{other} and {name} seed {seed}: {changed} were changed between these runs'
                remedy = 'Undo the change, or remove the folders of the runs to repeat.'
                changes.setdefault(test_set, f'{problem}, so their scores cannot be compared. {remedy}')
    return changes


# As Markdown


def write_table(definition: Definition, out: Path | None = None) -> None:
    """Write ``table.md`` and ``scores.csv``, and print the Markdown."""
    table, folder = collect(definition), out or definition.out
    text = as_markdown(table)
    write_text(folder / 'table.md', text)
    write_text(folder / 'scores.csv', scores_as_csv(table))
    print(text)
    print(f'Written: {folder}/table.md, scores.csv')


def as_markdown(table: SuiteTable) -> str:
    """Return the table, with the scores by seed and the notes."""
    definition, rows, seeds = table.definition, table.verdict.rows, table.definition.seeds
    interval, titles = f'[{LEVEL:.0%} interval]', {row.name: TITLES.get(row.name, row.name) for row in rows}
    head = ['', 'n', definition.metric, f'gain {interval}', 's / iteration']
    main = [[titles[row.name], count_cell(row, seeds), score_cell(row), gain_cell(row), time_cell(row)] for row in rows]
    by_seed = [[titles[row.name], *(seed_cell(row, seed) for seed in seeds)] for row in rows if row.name != TEACHER]
    parts = [f'# {definition.title}', *table.sentences(), _markdown_table(head, main)]
    parts += ['## Each seed', _markdown_table(['seed', *map(str, seeds)], by_seed)]
    if sets := definition.test_sets:  # runs that finished before one was named have none
        verdicts = [judge_set(table.verdict, name, 100.0 if definition.percent else 1.0) for name in sets]
        cells = [[titles[name], *cells] for name, *cells in rows_of_sets(verdicts)]
        note = f"over the {TITLES[CONTROL]} at the same seed {interval}; Holm's correction is within one set."
        parts += ['## Other test sets', _markdown_table(['', *sets], cells), f'Score, and gain {note}']
    made = [f'{title}: {text}' for title, text in _provenance(table).items() if text]
    for title, notes in {'How to read it': _notes(table), 'What it was made of': made}.items():
        parts += [f'## {title}', '\n'.join(f'- {note}' for note in notes)]
    return '\n\n'.join(parts) + '\n'


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in (head, [':--'] + ['--:'] * (len(head) - 1), *rows))


def rows_of_sets(verdicts: Sequence[Verdict], mark: str = '**') -> list[list[str]]:
    """Return for each network its name, and score and gain on each test set."""
    rows: dict[str, list[str]] = {}
    for row, digits in ((row, verdict.digits) for verdict in verdicts for row in verdict.rows):
        score, gain = score_cell(row, digits), gain_cell(row, mark, digits)
        rows.setdefault(row.name, [row.name]).append(f'{score} {gain}')
    return list(rows.values())


def count_cell(row: Row, seeds: Sequence[int]) -> str:
    """Return the number of finished seeds, as ``2 of 3`` where some are missing."""
    if row.name == TEACHER:
        return str(len(row.scores)) if row.results else NONE
    return str(len(row.scores)) + ('' if {*seeds} <= row.scores.keys() else f' of {len(seeds)}')


def score_cell(row: Row, digits: int = 2) -> str:
    if not row.scores:
        return 'diverged' if row.results else 'not tested' if row.name == TEACHER else 'not run'
    spread = f' ± {stdev(row.scores.values()):.{digits}f}' if len(row.scores) > 1 else ''  # with n - 1
    return f'{row.mean:.{digits}f}{spread}'


def gain_cell(row: Row, mark: str = '**', digits: int = 2) -> str:
    """Return the gain with its interval, between two marks where it is significant: bold."""
    if row.gain is None:
        return NONE
    gain, bold = row.gain, mark if row.gain.is_significant else ''
    fewer = f', {gain.n} pair{"s" if gain.n > 1 else ""}' if gain.n < len(row.scores) else ''
    return f'{bold}{gain.mean:+.{digits}f}{bold}{gain.bounds(digits)}{fewer}'


def seed_cell(row: Row, seed: int) -> str:
    """Return the score of a seed, and its gain."""
    if seed not in row.scores:
        return 'diverged' if seed in row.results else 'missing'
    gains = row.gain.by_seed if row.gain else {}
    return f'{row.scores[seed]:.2f}' + (f' ({gains[seed]:+.2f})' if seed in gains else '')


def time_cell(row: Row) -> str:
    """Return the median time of an iteration, averaged over a student's runs."""
    times = [run['seconds_per_iteration'] for run in row.results.values() if run.get('seconds_per_iteration')]
    return f'{fmean(times):.3g}' if times and row.name != TEACHER else NONE


def _notes(table: SuiteTable) -> Iterator[str]:
    same = any(result.get('test_is_val') for row in table.verdict.rows for result in row.results.values())
    yield (
        f'{table.definition.metric} in percent on {"val, the only labelled one" if same else "test"}, last checkpoint; '
        'mean ± standard deviation (n - 1) over n seeds. Every run is in the table, losers included.'
    )
    yield (
        f'gain: mean of (method - {TITLES[CONTROL]}) at the same seed, with the {LEVEL:.0%} interval of '
        f"Student's t over these pairs; one pair has no interval. Each interval is for its row alone. "
        "Bold: the gain differs from 0 by a paired t-test with Holm's correction over the rows. If no method had any "
        f'effect, at most {1 - LEVEL:.0%} of such tables would have a bold gain.'
    )
    if other := [name for name, method in table.definition.methods.items() if method.distils and method.run_options]:
        yield f'Other length or training set than the student alone: {", ".join(other)}: no gain of a method alone.'
    if any(time_cell(row) != NONE for row in table.verdict.rows):
        device = _per_row(table, lambda result: f'{result.get("device")}, {result.get("threads")} thread(s)')
        beside = f'; up to {table.definition.jobs} runs side by side' if table.definition.jobs > 1 else ''
        yield f's / iteration: wall time in the runs, median of the log, mean over seeds ({device}{beside}).'


def _provenance(table: SuiteTable) -> dict[str, str]:
    """Return what the rows were made of, by title; what there is none of is empty."""
    definition, rows = table.definition, list[str]()
    options = ' '.join(f'{key}={value}' for key, value in definition.options.items())
    seeds, path = ', '.join(map(str, definition.seeds)), quote(str(definition.path))
    for method in definition.methods.values():  # those that are not a method as shipped
        origin = method.config or ' '.join(filter(None, [method.method, method.variant]))
        chosen = f' with settings {method.settings!r}' if method.settings else ''
        changed = f'{chosen}{row_settings(method)}'
        if origin != method.name or changed:
            rows.append(f'{method.name} = {origin or "student alone"}{changed}')
    batch = configs.batch_of(configs.control_config(definition))
    per_row = partial(_per_row, table)
    processes, pictures = per_row(lambda run: str(run.get('processes') or '')), per_row(unlabelled)
    seen = 'the teacher may have seen their labels, see its own training set'
    unseeded = per_row(lambda run: some(run.get('unseeded') or ()))
    code = per_row(lambda run: some(map(' '.join, (run.get('code') or {}).items())))
    hashes = {row.name: sorted({str(run['config_hash']) for run in row.results.values()}) for row in table.verdict.rows}
    return {
        'Recipe': f'`{definition.control.stem}`; seeds {seeds}; {f"options `{options}`" if options else "no options"}',
        'Rows': '; '.join(rows),
        'Batch': f'{processes} process(es) with {batch} pictures each' if processes else '',
        'Teacher': per_row(_receipts) or 'none',
        'Pictures without labels': f'{pictures}; {seen}' if pictures else '',
        'Config hashes': '; '.join(f'{name} {", ".join(texts)}' for name, texts in hashes.items() if texts) or 'none',
        'Random numbers that no seed reaches, so a repeated run gives others': unseeded,
        'Local code, with digits of its sha256': code,
        'Versions': per_row(lambda run: ', '.join(map(' '.join, run.get('versions', {}).items()))) or 'none',
        'Made by': f'`mmdistill suite run {path}`, `mmdistill suite table {path}`',
    }


def _receipts(result: Mapping[str, Any]) -> str:
    receipts = result.get('teacher') or {}
    named = {'': receipts} if 'file' in receipts else {f'{name}: ': receipt for name, receipt in receipts.items()}
    texts = {name: Receipt(**receipt).describe(DIGITS) for name, receipt in named.items()}
    return '; '.join(f'{name}`{named[name]["config"]}`, {text}' for name, text in texts.items())


def unlabelled(result: Mapping[str, Any]) -> str:
    """Return the number of a run's pictures without labels, their share of a step, and how often each was seen."""
    if not (facts := result.get('unlabelled')):
        return ''
    share = f'{facts["ratio"]:g} for each labelled one of a step, each seen {facts["passes"]:.3g} times'
    return f'{facts["pictures"]}, {share} (hash of the names {facts["names"][:DIGITS]}…)'


def _per_row(table: SuiteTable, say: Callable[[Mapping[str, Any]], str]) -> str:
    """Return a text about all students' results; where the texts differ, each with its rows."""
    texts = _rows_by_text(table, say)
    return '; '.join(f'{text} ({", ".join(names)})' if len(texts) > 1 else text for text, names in texts.items())


def _rows_by_text(table: SuiteTable, say: Callable[[Mapping[str, Any]], str]) -> dict[str, dict[str, None]]:
    """Return the names of the students' rows by the texts about their results."""
    texts: dict[str, dict[str, None]] = {}
    for row in table.verdict.rows:
        for text in filter(None, map(say, row.results.values())) if row.name != TEACHER else ():
            texts.setdefault(text, {})[row.name] = None
    return texts


def scores_as_csv(table: SuiteTable) -> str:
    """Return a line per run, without times, so that an interrupted suite gives the same bytes."""
    lines = []
    for row in table.verdict.rows:
        gains = row.gain.by_seed if row.gain else {}
        for seed, result in sorted(row.results.items()):
            line = {'name': row.name, 'seed': seed, 'score': result['score'], 'gain': gains.get(seed)}
            line |= {key: result[key] for key in ('iterations', 'config_hash')}
            for split in ('test', 'val', *table.definition.test_sets):
                line |= {f'{split}/{key}': value for key, value in result['metrics'].get(split, {}).items()}
            lines.append(line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for line in lines for name in line)), lineterminator='\n')
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
