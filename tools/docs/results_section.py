"""The section of ``docs/results.md`` about one suite: settings, every row, costs."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from mmdistill_dense.apps.recipes import compose
from mmdistill_dense.apps.recipes.compose import fit_of
from mmdistill_dense.apps.suite import configs, plan
from mmdistill_dense.apps.suite.definition import Definition, Method, with_options
from mmdistill_dense.apps.suite.plan import TEACHER
from mmdistill_dense.apps.suite.rows import Row, Table, own_data
from mmdistill_dense.apps.suite.table import (
    BOLD,
    NONE,
    device,
    each,
    head_lines,
    line,
    missing_lines,
    receipts,
    row_title,
    split_of,
    versions,
)
from tools.docs import curve, model_zoo
from tools.docs.scores import FIRST, FOLDER, PAGE, PICTURES, gap, number_cells, number_head

_NEEDS = 'the data and the start weights that the definition names'


def section(table: Table, root: Path, pictures: int | None = None) -> str:
    """Return the section of a suite as Markdown, with the number of training pictures if it is known."""
    definition = table.definition
    stem, path = definition.path.stem, inside(definition.path, root)
    csv = f'[{stem}.csv]({_link(root / FOLDER / f"{stem}.csv", root)})'
    compare = f"All scores of every run: {csv}; `make results ARGS='compare {path}'` compares yours with them."
    parts = [
        f'## {stem}',
        f'{definition.title}.',
        '\n'.join(['```bash', f'# needs {_NEEDS}', f'mmdistill suite run {path}', '```']),
        _bullets(_regime(table, root, pictures)),
        _rows(table, root),
        f'![Gains over the student alone]({_link(root / PICTURES / f"{stem}.png", root)})',
        _bullets([*_made(table), compare]),
    ]
    return '\n\n'.join(part for part in parts if part)


def inside(path: Path, root: Path) -> str:
    """Return a path relative to the repository; outside of it, only its name."""
    try:
        return path.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        return path.name


def _link(path: Path, root: Path) -> str:
    return Path(path.resolve()).relative_to((root / PAGE).parent.resolve()).as_posix()


def _bullets(lines: list[str]) -> str:
    return '\n'.join(f'- {text}' for text in lines if text)


def _regime(table: Table, root: Path, pictures: int | None) -> list[str]:
    definition = table.definition
    recipe = f'Student alone: `{definition.control.stem}`, {_length(table, pictures)}'
    teacher = '' if definition.teacher is None else _teacher(definition)
    return [
        recipe + (f',{with_options(definition.options)}' if definition.options else '') + '.',
        curve.sentence(definition),
        ' '.join(filter(None, [gap({row.name: row for row in table.rows}, definition.metric), teacher])),
        f'{definition.metric} in percent on {split_of(table)}, last checkpoint; seeds '
        f'{", ".join(map(str, definition.seeds))}. Gains are paired by seed; each interval is for its row alone. '
        f'{BOLD} Every row is shown, losers included.',
        *missing_lines(table),
    ]


def _length(table: Table, pictures: int | None) -> str:
    """Return iterations, batch, training pictures and passes in words."""
    definition = table.definition
    results = [result for row in table.rows if row.name != TEACHER for result in row.results.values()]
    iterations = results[0]['iterations'] if results else None
    one = configs.control_config(definition).train_dataloader.batch_size  # of an iteration, without accumulation
    batch = one * (results[0].get('processes', 1) if results else 1)
    said = f'{iterations} iterations x {batch} pictures'
    if pictures is None or iterations is None:
        return said
    return f'{said} from {pictures} training pictures ({iterations * batch / pictures:.1f} passes)'


def _teacher(definition: Definition) -> str:
    teacher = definition.teacher
    assert teacher is not None
    options = f',{with_options(teacher.options)}' if teacher.options else ''
    return f'Teacher: `{teacher.config.stem}`, seed {teacher.seed}{options}.'


def _rows(table: Table, root: Path) -> str:
    definition = table.definition
    lines = head_lines(['', 'settings', *number_head(definition.metric, definition.seeds), 'minutes'], FIRST)
    for row in table.rows:
        method = definition.methods.get(row.name)
        settings = NONE if method is None else settings_cell(method, definition)
        lines.append(line([_title(row, method, root), settings, *number_cells(row, definition.seeds), _minutes(row)]))
    return '\n'.join(lines)


def _title(row: Row, method: Method | None, root: Path) -> str:
    """The row's name, linked to the method's card if the repository has one."""
    if method is None or method.method is None:
        return row_title(row)
    try:
        return f'[{row.name}]({_link(model_zoo.card_of(method.method).file, root)})'
    except ValueError:
        return row.name


def settings_cell(method: Method, definition: Definition) -> str:
    """List the options of a row that differ from the method's shipped defaults."""
    parts = [f'own config `{method.config.name}`'] if method.config else []
    parts += (
        [f'options `{method.options_file.stem}`'] if method.options_file and _is_of_the_pair(method, definition) else []
    )
    parts += [f'`{method.method}`'] if method.method not in (None, method.name) else []
    parts += [f'variant `{method.variant}`'] if method.variant else []
    parts += [f'settings `{method.settings}`'] if method.settings else []
    parts += [f'`unlabelled={dict(method.unlabelled)}`'] if method.unlabelled else []
    parts += [own.strip(' ,')] if (own := own_data(method)) else []
    parts += [f'`{key}={value}`' for key, value in method.options.items()]
    return ', '.join(parts).replace('|', '\\|') or NONE


def _is_of_the_pair(method: Method, definition: Definition) -> bool:
    """Whether the options are for this pair, though the method has general ones: they may be tuned on it."""
    assert method.options_file is not None, 'it is a shipped method'
    general = method.options_file.with_name(f'{method.method}_{compose.parts_of(definition.control).task}.py')
    return general.is_file() and bool(fit_of(method.options_file).words.keys() - {'data'})


def _minutes(row: Row) -> str:
    known = [result['minutes'] for result in row.results.values() if result.get('minutes') is not None]
    return f'{fmean(known):.1f}' if known else NONE


def _made(table: Table) -> list[str]:
    definition = table.definition
    minutes = [result['minutes'] for run in plan.runs(definition) if (result := run.result) and 'minutes' in result]
    beside = f', up to {definition.jobs} of them side by side' if definition.jobs > 1 else ''
    return [
        f'{sum(minutes) / 60:.1f} hours in {len(minutes)} runs, that of the teacher included'
        f'{beside}. minutes: wall time of a run, mean over seeds. Ran on: {each(table, device)}.',
        f'Versions: {each(table, versions) or "not known"}.',
        f'Weights of the teacher: {each(table, receipts) or "none"}.',
    ]
