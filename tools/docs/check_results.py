"""Check the published pages against the published scores and records, to find numbers edited by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmdistill_dense.apps.suite.plan import TEACHER
from tools.docs import inline_results, markers
from tools.docs.readme_table import choice_of, readme_table
from tools.docs.records import read
from tools.docs.scores import (
    FOLDER,
    PAGE,
    PICTURES,
    README,
    Lines,
    gap,
    number_cells,
    number_head,
    read_scores,
    rows_of,
    shown,
)

ROWS = (TEACHER, 'runs')  # the folders of rows, not of searches and pre-trainings


def disagreements(root: Path) -> list[str]:
    """Return the differences between the pages, ``docs/results/*.csv`` and the records.

    Checked are n, scores, gains and intervals of every row, the gain of each seed, the teacher's lead, the README's
    table, and that each part has its scores, records and picture. Times, settings and versions are not checked.

    Raises:
        FileNotFoundError: If a page is missing.
        KeyError: If the README has no markers for the table.
        ValueError: For markers that are not closed, or a part without a table.
    """
    page, readme = ((root / file).read_text(encoding='utf-8') for file in (PAGE, README))
    sections = markers.suites(page, root / PAGE)
    found, scores = [], {}
    for stem, text in sections.items():
        files = (FOLDER / f'{stem}.csv', FOLDER / f'{stem}.jsonl', PICTURES / f'{stem}.png')
        missing = [file for file in files if not (root / file).is_file()]
        found += [f'{PAGE}, {stem}: {file} is missing' for file in missing]
        if FOLDER / f'{stem}.csv' not in missing:
            scores[stem] = read_scores(root / FOLDER / f'{stem}.csv')
            found += [f'{PAGE}, {stem}, {what}' for what in _differences(text, stem, scores[stem])]
            found += _unlike_records(root / FOLDER / f'{stem}.jsonl', scores[stem])
    orphans = {file.stem for file in (root / FOLDER).glob('*.csv')} - set(sections)
    found += [f'{FOLDER}/{stem}.csv: {PAGE} has no part of that name' for stem in sorted(orphans)]
    choice = choice_of(readme, root / README)
    if set(scores) == set(sections) and _readme(readme, root) != readme_table(sections, scores, choice):
        found.append(f'{README}: the table differs from {PAGE} and {FOLDER}')
    for path in inline_results.pages(root):
        text = (root / path).read_text(encoding='utf-8')
        if inline_results.filled(text, scores, path) != text:
            found.append(f'{path}: gains after <!-- results: ... --> differ from {FOLDER}')
    return found


def _readme(text: str, root: Path) -> str:
    parts = markers.read(text, root / README)
    if markers.RESULTS not in parts:
        markers.replaced(text, markers.RESULTS, '', root / README)  # raises, and names what is missing
    return parts[markers.RESULTS]


def _unlike_records(file: Path, lines: Lines) -> Iterator[str]:
    """Yield the scores of a CSV file that differ from the records."""
    shown = [record['result'] for place, record in read(file).items() if place.partition('/')[0] in ROWS]
    scores = {(result['name'], result['seed']): result['score'] for result in shown}
    for name, seeds in lines.items():
        for seed, line in seeds.items():
            if file.is_file() and scores.get((name, seed)) != line.score:
                yield f'{file}: {name} seed {seed}: {scores.get((name, seed))} instead of {line.score}'


def _differences(section: str, stem: str, lines: Lines) -> Iterator[str]:
    table = shown(section, stem)
    rows = rows_of(lines, list(table.numbers), table.seeds)
    for name, row in rows.items():
        if name not in table.numbers:
            yield f'{name}: has scores, but no line'
            continue
        titles = number_head(table.metric, table.seeds)
        for title, text, right in zip(titles, table.numbers[name], number_cells(row, table.seeds), strict=True):
            if text != right:
                yield f'{name}, {title}: {text!r} instead of {right!r}'
    sentence = gap(rows, table.metric)
    if sentence not in section:
        yield f'no sentence {sentence!r}'
