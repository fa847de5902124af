"""What stands under a suite's table: how to read it, and what it was made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mmdistill_dense.suite import configs
from mmdistill_dense.suite.plan import CONTROL, TEACHER
from mmdistill_dense.suite.rows import Row, Table
from mmdistill_dense.suite.statistics import LEVEL

DIGITS = 12  # of a file's sha256


def footer(table: Table) -> str:
    """Return the two closing sections."""
    reading = ['## How to read it', '', *(f'- {line}' for line in _reading(table))]
    made = ['## What it was made of', '', *(f'- {line}' for line in _made_of(table))]
    return '\n'.join([*reading, '', *made])


def _reading(table: Table) -> list[str]:
    definition = table.definition
    lines = [
        f'{definition.metric} in percent on {_split(table)}, last checkpoint; mean ± standard deviation (n - 1) over n '
        'seeds. Every run is in the table, whatever it gave.',
        f"gain: mean of (method - student alone) at the same seed, with the {LEVEL:.0%} interval of Student's t over "
        'these pairs; one pair has no interval. Bold: the interval leaves out 0. Each interval stands for its row '
        f'alone: where no method does anything, up to about {_by_chance(table):.0%} of such tables have a bold gain.',
        *_missing(table),
        *_cost_lines(table),
    ]
    if table.changed:
        lines.append(f'Published results are not shown: this suite changes the recipe ({", ".join(table.changed)}).')
    return lines


def _by_chance(table: Table) -> float:
    return 1 - LEVEL ** len(table.methods)


def _split(table: Table) -> str:
    results = [result for row in table.rows for result in row.results.values()]
    return 'val, the only labelled one' if any(result.get('test_is_val') for result in results) else 'test'


def _missing(table: Table) -> list[str]:
    gaps = [f'{row.name} seed {", ".join(map(str, row.missing))}' for row in table.rows if row.missing]
    return [f'Missing: {"; ".join(gaps)}. Gains are over the pairs that are there.'] if gaps else []


def _cost_lines(table: Table) -> list[str]:
    definition, control = table.definition, table.row(CONTROL) or Row(CONTROL, {})
    size, lines = control.cost, []
    if size:
        lines.append(
            f'parameters, GFLOPs: of the network that is deployed, at {_by(size["test_size"])} '
            f'({size["test_size_from"]}); a multiplication with its addition is one operation.'
        )
    if any(row.seconds_per_iteration is not None for row in table.rows):
        where = _each(table, lambda result: f'{result.get("device")}, {result.get("threads")} thread(s)')
        beside = f'; up to {definition.jobs} runs side by side' if definition.jobs > 1 else ''
        lines.append(f's / iteration: wall time in the runs, median of the log, mean over seeds ({where}{beside}).')
    measured = [row.cost for row in table.methods if row.cost]
    ways = dict.fromkeys(_way(cost) for cost in measured)
    if ways:
        lines.append(
            f'step: distilled step / step of the student alone, measured in turns ({"; ".join(ways)}). extra memory: '
            'what training with the method holds beyond training without, at the peak of a step, teacher included.'
        )
    if not size or len(measured) < len(table.methods):
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
        *_batch(table),
        f'Teacher: {_each(table, _teacher) or "none"}',
        f'Config hashes: {"; ".join(hashes) or "none"}',
        f'Versions: {_each(table, _versions) or "none"}',
    ]
    commands = [f'`python tools/suite.py {word} {definition.path}`' for word in ('run', 'cost', 'table')]
    return [*lines, f'Made by: {", ".join(commands)}']


def _batch(table: Table) -> list[str]:
    processes = _each(table, lambda result: str(result.get('processes') or ''))
    one = configs.batch_of(configs.control_config(table.definition))
    return [f'Batch: {processes} process(es) with {one} pictures each'] if processes else []


def _settings(table: Table) -> list[str]:
    """Of the rows that are not a method's fragment as it is."""
    said = []
    for method in table.definition.methods.values():
        origin = str(method.config) if method.config else ' '.join(filter(None, [method.method, method.variant]))
        options = ' '.join(f'{key}={value}' for key, value in {**method.options, **_choice(table, method.name)}.items())
        if origin != method.name or options:
            said.append(f'{method.name} = {origin}' + (f' with `{options}`' if options else ''))
    return [f'Rows: {"; ".join(said)}'] if said else []


def _choice(table: Table, name: str) -> Mapping[str, Any]:
    return table.chosen.get(name) or {}


def _teacher(result: Mapping[str, Any]) -> str:
    receipts = result.get('teacher') or {}
    several = receipts if 'file' not in receipts else {'': receipts}
    return '; '.join(_receipt(name, receipt) for name, receipt in several.items())


def _receipt(name: str, receipt: Mapping[str, Any]) -> str:
    title = f'{name}: ' if name else ''
    if receipt['file'] is None:
        return f'{title}random weights of {receipt["config"]}'
    digits, whole = str(receipt['sha256'])[:DIGITS], f'{receipt["matched"]} of {receipt["total"]} tensors'
    return f'{title}`{receipt["config"]}`, {receipt["file"]}, sha256 {digits}…, {whole}'


def _versions(result: Mapping[str, Any]) -> str:
    return ', '.join(f'{name} {version}' for name, version in result.get('versions', {}).items())


def _each(table: Table, say: Any) -> str:
    """Say something of all results, or of which rows it is where they differ."""
    said: dict[str, dict[str, None]] = {}
    for row in table.rows:
        for result in row.results.values():
            text = '' if row.name == TEACHER else say(result)
            if text:
                said.setdefault(text, {})[row.name] = None
    return _told(said)


def _told(said: Mapping[str, Iterable[str]]) -> str:
    if len(said) < 2:
        return next(iter(said), '')
    return '; '.join(f'{text} ({", ".join(rows)})' for text, rows in said.items())


def _by(size: Iterable[int]) -> str:
    return 'x'.join(map(str, size))
