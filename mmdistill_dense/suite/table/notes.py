"""The notes under a suite's table: how to read it, and how it was made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mmdistill_dense.config.data_sets import chain
from mmdistill_dense.suite.definition.budget import TWICE
from mmdistill_dense.suite.definition.definition import Definition
from mmdistill_dense.suite.definition.starts import Start, with_options
from mmdistill_dense.suite.plan import configs
from mmdistill_dense.suite.plan.runs import CONTROL, TEACHER
from mmdistill_dense.suite.table import equal_compute
from mmdistill_dense.suite.table.paired import LEVEL
from mmdistill_dense.suite.table.rows import Table, own_data

DIGITS = 12  # shown of a file's sha256
BOLD = (
    "Bold: the gain differs from 0 by a paired t-test with Holm's correction over the rows. If no method had any "
    f'effect, at most {1 - LEVEL:.0%} of such tables would have a bold gain.'
)


def closing_notes(table: Table) -> str:
    """Return the two closing sections."""
    reading = ['## How to read it', '', *(f'- {line}' for line in _reading(table))]
    made = ['## What it was made of', '', *(f'- {line}' for line in _made_of(table))]
    return '\n'.join([*reading, '', *made])


def _reading(table: Table) -> list[str]:
    definition = table.definition
    lines = [
        f'{definition.metric} in percent on {split_of(table)}, last checkpoint; mean ± standard deviation (n - 1) over '
        'n seeds. Every run is in the table, losers included.',
        f"gain: mean of (method - student alone) at the same seed, with the {LEVEL:.0%} interval of Student's t over "
        f'these pairs; one pair has no interval. Each interval is for its row alone. {BOLD}',
        *missing_lines(table),
        *_cost_lines(table),
        *equal_compute.notes(table),
    ]
    if table.changed:
        lines.append(f'Published results are not shown: this suite changes the recipe ({", ".join(table.changed)}).')
    return lines


def split_of(table: Table) -> str:
    """Return the name of the split that the scores belong to."""
    results = [result for row in table.rows for result in row.results.values()]
    return 'val, the only labelled one' if any(result.get('test_is_val') for result in results) else 'test'


def missing_lines(table: Table) -> list[str]:
    """Return a line with the missing runs, or nothing."""
    gaps = [f'{row.name} seed {", ".join(map(str, row.missing))}' for row in table.rows if row.missing]
    return [f'Missing: {"; ".join(gaps)}. Gains use only the seeds that both runs have.'] if gaps else []


def _cost_lines(table: Table) -> list[str]:
    definition, size, lines = table.definition, table.row(CONTROL).cost, list[str]()
    if size:
        lines.append(
            f'parameters, GFLOPs: of the network that is deployed, at {_by(size["test_size"])} '
            f'({size["test_size_from"]}); a multiplication with its addition is one operation.'
        )
    if any(row.seconds_per_iteration is not None for row in table.rows):
        where = each(table, device)
        beside = f'; up to {definition.jobs} runs side by side' if definition.jobs > 1 else ''
        lines.append(f's / iteration: wall time in the runs, median of the log, mean over seeds ({where}{beside}).')
    measured = [row.cost for row in table.methods if row.cost]
    ways = dict.fromkeys(_way(cost) for cost in measured)
    if ways:
        lines.append(
            f'step: distilled step / step of the student alone, measured in turns ({"; ".join(ways)}). extra memory: '
            'what training with the method holds beyond training without, at the peak of a step, teacher included.'
        )
    if not size or len(measured) < sum(row.distils for row in table.methods):
        lines.append(f'Costs without a number: `python tools/suite.py cost {definition.path}` measures them.')
    return lines


def _way(cost: Mapping[str, Any]) -> str:
    key = cost['key']
    clock = 'process CPU time' if key['device'].startswith('CPU') else 'CUDA events'
    weights = ', teacher with random weights' if 'random' in cost['teacher_weights'] else ''
    return (
        f'{key["device"]}, {key["threads"]} thread(s), {clock}, median of {key["repeats"]}, batch {cost["batch"]} of '
        f'{_by(cost["train_size"])}{weights}'
    )


def _made_of(table: Table) -> list[str]:
    definition = table.definition
    options = [f'{key}={value}' for key, value in definition.options.items()]
    hashes = [f'{row.name} {", ".join(row.hashes)}' for row in table.rows if row.hashes]
    lines = [
        f'Recipe: `{definition.control.stem}`; seeds {", ".join(map(str, definition.seeds))}; '
        + (f'options `{" ".join(options)}`' if options else 'no options'),
        *_settings(table),
        *_starts(table),
        *_batch(table),
        f'Teacher: {each(table, receipts) or "none"}',
        *_unlabelled(table),
        f'Config hashes: {"; ".join(hashes) or "none"}',
        f'Versions: {each(table, versions) or "none"}',
    ]
    words = ('budget', 'run', 'cost', 'table') if definition.budget else ('run', 'cost', 'table')
    commands = [f'`python tools/suite.py {word} {definition.path}`' for word in words]
    return [*lines, f'Made by: {", ".join(commands)}']


def _batch(table: Table) -> list[str]:
    processes = each(table, lambda result: str(result.get('processes') or ''))
    one = configs.batch_of(configs.control_config(table.definition))
    return [f'Batch: {processes} process(es) with {one} pictures each'] if processes else []


def _settings(table: Table) -> list[str]:
    """The rows that are not a method as shipped."""
    said = []
    for method in table.definition.methods.values():
        origin = str(method.config) if method.config else ' '.join(filter(None, [method.method, method.variant]))
        if method.start is not None:
            origin = f'{origin or "student alone"} from start {method.start}'
        options = with_options({**method.options, **(table.chosen.get(method.name) or {})})
        chosen = f' with settings {method.settings!r}' if method.settings else ''
        own = own_data(method)
        if method.name != TWICE and (origin != method.name or options or chosen or own):
            said.append(f'{method.name} = {origin or "student alone"}{chosen}{options}{own}')
    return [f'Rows: {"; ".join(said)}'] if said else []


def _starts(table: Table) -> list[str]:
    """The starts of rows, and the files that were read for them."""
    used = {method.start for method in table.definition.methods.values() if method.start}
    starts = {name: start for name, start in table.definition.starts.items() if name in used}
    said = [f'{name} = {start_text(table.definition, start)}' for name, start in starts.items()]
    read = each(table, read_at_start)
    return [f'Starts: {"; ".join(said)}', *([f'Files read at the start: {read}'] if read else [])] if said else []


def start_text(definition: Definition, start: Start) -> str:
    """Describe a start in words, a pre-training with the folders or lists of its pictures."""
    if start.config is None:
        return start.text()
    dataset = chain(configs.pretrain_config(definition, start).train_dataloader.dataset)[0]
    prefixes = dataset.get('data_prefix') or ''
    folders = list(prefixes.values()) if isinstance(prefixes, Mapping) else prefixes
    names = [Path(name).name if Path(name).is_absolute() else name for name in _listed(folders) if name]
    pictures = ', '.join(names or [Path(dataset.get('data_root') or '').name or str(dataset.get('type'))])
    lists = ', '.join(Path(name).name for name in _listed(dataset.get('ann_file') or []))
    return f'{start.text()}, on the pictures of {pictures}' + (f' that {lists} names' if lists else '')


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(one) for one in value]


def read_at_start(result: Mapping[str, Any]) -> str:
    """Return the file that a run's student started from, and how many tensors it gave; or nothing."""
    start = result.get('start')
    whole = f'{start["matched"]} of {start["total"]} tensors' if start else ''
    return f'{start["file"]}, sha256 {start["sha256"][:DIGITS]}…, {whole}' if start else ''


def receipts(result: Mapping[str, Any]) -> str:
    """Return the configs and files of a run's teachers."""
    found = result.get('teacher') or {}
    several = found if 'file' not in found else {'': found}
    return '; '.join(_receipt(name, receipt) for name, receipt in several.items())


def _receipt(name: str, receipt: Mapping[str, Any]) -> str:
    title = f'{name}: ' if name else ''
    if receipt['file'] is None:
        return f'{title}random weights of {receipt["config"]}'
    digits, whole = str(receipt['sha256'])[:DIGITS], f'{receipt["matched"]} of {receipt["total"]} tensors'
    return f'{title}`{receipt["config"]}`, {receipt["file"]}, sha256 {digits}…, {whole}'


def _unlabelled(table: Table) -> list[str]:
    """The pictures without labels of rows that have some."""
    said = each(table, unlabelled)
    if not said:
        return []
    return [f'Pictures without labels: {said}; the teacher may have seen their labels, as its own training set says']


def unlabelled(result: Mapping[str, Any]) -> str:
    """Return the number of a run's pictures without labels, their share of a step, and how often each was seen."""
    found = result.get('unlabelled')
    if not found:
        return ''
    return (
        f'{found["pictures"]}, {found["ratio"]:g} for each labelled one of a step, each seen {found["passes"]:.3g} '
        f'times (hash of the names {found["names"][:DIGITS]}…)'
    )


def device(result: Mapping[str, Any]) -> str:
    """Return the machine of a run."""
    return f'{result.get("device")}, {result.get("threads")} thread(s)'


def versions(result: Mapping[str, Any]) -> str:
    """Return the package versions of a run."""
    return ', '.join(f'{name} {version}' for name, version in result.get('versions', {}).items())


def each(table: Table, say: Callable[[Mapping[str, Any]], str]) -> str:
    """Return a property of all students' results; where they differ, with the rows of each."""
    said: dict[str, dict[str, None]] = {}
    for row in table.rows:
        for result in row.results.values():
            text = '' if row.name == TEACHER else say(result)
            if text:
                said.setdefault(text, {})[row.name] = None
    if len(said) < 2:
        return next(iter(said), '')
    return '; '.join(f'{text} ({", ".join(rows)})' for text, rows in said.items())


def _by(size: Iterable[int]) -> str:
    return 'x'.join(map(str, size))
