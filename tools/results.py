"""Insert the tables of finished suites into docs/results.md, with their scores and pictures: results.py SUITE.yaml …"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tools/ is no installed package

from mmdistill_dense.apps.suite.definition import Definition, load
from mmdistill_dense.apps.suite.table import write_table
from mmdistill_dense.utils.files import write_text
from mmdistill_dense.utils.process import errors_only
from tools.docs.check_results import FOLDER, PAGE, PICTURES, filled, pages, read_scores


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, and insert."""
    parser = argparse.ArgumentParser(prog='results.py', description=__doc__)
    parser.add_argument('definition', type=Path, nargs='+', help='.yaml, .py or .json, see docs/suite.md')
    parser.add_argument('--root', type=Path, default=Path(), metavar='DIR', help='the repository (default: this one)')
    args = parser.parse_args(argv)
    try:
        with errors_only():
            for path in args.definition:
                insert(load(path), args.root)
    except (OSError, ValueError) as error:
        sys.exit(f'{type(error).__name__}: {error}')


def insert(definition: Definition, root: Path) -> None:
    """Write the part of a suite in the page, its scores and its picture; and its gains in other pages.

    Raises:
        ValueError: If no run of a student has finished, or the markers of the part do not match.
    """
    stem, page = definition.path.stem, root / PAGE
    write_table(definition)
    scores = read_scores(definition.out / 'scores.csv')
    if not scores.keys() - {'teacher'}:
        raise ValueError(f'{definition.path}: no student has finished in {definition.out}; `suite run` trains them')
    text = replaced(page.read_text(encoding='utf-8'), stem, section(definition, root))
    for name, folder, suffix in (('scores.csv', FOLDER, 'csv'), ('gains.png', PICTURES, 'png')):
        (root / folder).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(definition.out / name, root / folder / f'{stem}.{suffix}')
    write_text(page, text)
    every = {file.stem: read_scores(file) for file in (root / FOLDER).glob('*.csv')}
    for path in pages(root):
        write_text(path, filled(path.read_text(encoding='utf-8'), every))


def section(definition: Definition, root: Path) -> str:
    """Return the text of a suite's part: the command, and the table that ``suite table`` wrote."""
    stem, path = definition.path.stem, definition.path.resolve()
    shown = path.relative_to(root.resolve()) if path.is_relative_to(root.resolve()) else path.name
    title, _, table = (definition.out / 'table.md').read_text(encoding='utf-8').partition('\n\n')
    parts = [
        f'## {stem}',
        title.removeprefix('# ') + '.',
        f'```bash\n# needs the data and the start weights that the definition names\nmmdistill suite run {shown}\n```',
        table.replace('\n## ', '\n### ').replace(str(definition.path), str(shown)).strip(),
        f'![Gains over the student alone](images/results/{stem}.png)',
        f'All scores of every run: [{stem}.csv](results/{stem}.csv).',
    ]
    return '\n\n'.join(parts)


def replaced(text: str, stem: str, body: str) -> str:
    """Return a page with another text between a suite's markers; a page without them gets them at its end."""
    begin, end = f'<!-- suite:{stem} -->', f'<!-- end of suite:{stem} -->'
    places = [found.start() for mark in (begin, end) for found in re.finditer(f'^{re.escape(mark)}$', text, re.M)]
    if not places:
        return f'{text.rstrip()}\n\n{begin}\n{body}\n{end}\n'
    if len(places) != 2 or places[0] > places[1]:
        raise ValueError(f'{PAGE}: {begin} and {end} must stand there once each, in this order')
    return f'{text[: places[0]]}{begin}\n{body}\n{text[places[1] :]}'


if __name__ == '__main__':
    main()
