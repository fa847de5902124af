"""Write the tables of finished suites to docs/results/, with their scores: results.py SUITE.yaml …"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tools/ is no installed package

from mmdistill_dense.apps.suite.definition import Definition, load_suite
from mmdistill_dense.apps.suite.table import write_table
from mmdistill_dense.utils.files import write_text
from mmdistill_dense.utils.process import errors_only
from tools.docs.check_results import FOLDER, filled, pages, read_scores


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, and write."""
    parser = argparse.ArgumentParser(prog='results.py', description=__doc__)
    parser.add_argument('definition', type=Path, nargs='+', help='.yaml, .py or .json, see docs/suite.md')
    parser.add_argument('--root', type=Path, default=Path(), metavar='DIR', help='the repository (default: this one)')
    args = parser.parse_args(argv)
    try:
        with errors_only():
            for path in args.definition:
                publish(load_suite(path), args.root)
    except (OSError, ValueError) as error:
        sys.exit(f'{type(error).__name__}: {error}')


def publish(definition: Definition, root: Path) -> None:
    """Write the page of a suite and its scores; and its gains in other pages.

    Raises:
        ValueError: If no run of a student has finished.
    """
    stem = definition.path.stem
    write_table(definition)
    scores = read_scores(definition.out / 'scores.csv')
    if not scores.keys() - {'teacher'}:
        raise ValueError(f'{definition.path}: no student has finished in {definition.out}; `suite run` trains them')
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(definition.out / 'scores.csv', root / FOLDER / f'{stem}.csv')
    write_text(root / FOLDER / f'{stem}.md', page(definition, root))
    every = {file.stem: read_scores(file) for file in (root / FOLDER).glob('*.csv')}
    for path in pages(root):
        write_text(path, filled(path.read_text(encoding='utf-8'), every))


def page(definition: Definition, root: Path) -> str:
    """Return the text of a suite's page: the command, and the table that ``suite table`` wrote."""
    stem, path = definition.path.stem, definition.path.resolve()
    shown = path.relative_to(root.resolve()) if path.is_relative_to(root.resolve()) else path.name
    title, _, table = (definition.out / 'table.md').read_text(encoding='utf-8').partition('\n\n')
    parts = [
        f'# {stem}',
        title.removeprefix('# ') + '.',
        f'```bash\n# needs the data and the start weights that the definition names\nmmdistill suite run {shown}\n```',
        table[table.index('| ') :].replace(str(definition.path), str(shown)).strip(),  # its verdict is not checked
        f'All scores of every run: [{stem}.csv]({stem}.csv).',
    ]
    return '\n\n'.join(parts) + '\n'


if __name__ == '__main__':
    main()
