"""The page of faults names tests that exist, all tests of this folder, and counts what it lists."""

import ast
import re
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / 'docs/faults.md'
OUTCOMES = ('stops at start', 'stops, nothing lost', 'goes on')
PLACES = {'training', 'token learning', 'pre-training', 'suite', 'tools'}


def rows() -> list[list[str]]:
    """The cells of every row: fault, places, outcome, how, tests."""
    lines = [line for line in PAGE.read_text(encoding='utf-8').splitlines() if line.startswith('|')]
    cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
    return [row for row in cells if row[0] != 'fault' and set(row[0]) != {'-'}]


def named() -> list[tuple[str, str]]:
    return [(file, name) for row in rows() for file, name in re.findall(r'`([\w/]+\.py)::(\w+)`', row[4])]


def functions(path: Path) -> set[str]:
    return {one.name for one in ast.parse(path.read_text(encoding='utf-8')).body if isinstance(one, ast.FunctionDef)}


def sentence() -> str:
    """What the head of the page must say."""
    count = Counter(row[2] for row in rows())
    first, later, on = (count[outcome] for outcome in OUTCOMES)
    return (
        f'**{len(rows())} faults** were tried, each by a test that really does it: {first} stop a run at its start '
        f'with a message, {later} stop it later with a message and lose nothing, {on} are survived. **Silent: 0.**'
    )


def test_every_row_has_an_outcome_and_a_test() -> None:
    for row in rows():
        assert len(row) == 5, row
        assert row[2] in OUTCOMES and {place.strip() for place in row[1].split(',')} <= PLACES, row
        assert re.findall(r'`([\w/]+\.py)::(\w+)`', row[4]), row
        assert not re.sub(r'`[\w/]+\.py::\w+`', '', row[4]).strip(', '), row


def test_the_tests_exist() -> None:
    there = {file: functions(TESTS / file) for file, _ in named()}
    assert not [(file, name) for file, name in named() if name not in there[file]]


def test_every_test_of_this_folder_has_a_row() -> None:
    known = set(named())
    for path in Path(__file__).parent.glob('test_*.py'):
        found = {name for name in functions(path) if name.startswith('test_')} if path != Path(__file__) else set()
        assert {(f'faults/{path.name}', name) for name in found} <= known


def test_the_figures_are_those_of_the_tables() -> None:
    assert sentence() in ' '.join(PAGE.read_text(encoding='utf-8').split())
