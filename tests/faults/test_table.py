"""The page of faults names tests that exist, and counts what it lists."""

import re
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / 'docs/faults.md').read_text(encoding='utf-8')
OUTCOMES = ('stops at start', 'stops, nothing lost', 'goes on')
ROWS = [row for row in re.findall(r'^\| (.+) \|$', PAGE, re.MULTILINE) if not row.startswith('fault |')]
TEST = re.compile(r'`([\w/]+\.py)::(\w+)`')


def test_every_row_names_tests_that_exist() -> None:
    text = {file: (TESTS / file).read_text(encoding='utf-8') for file in {file for file, _ in TEST.findall(PAGE)}}
    for row in ROWS:
        assert TEST.search(row), row
        assert not [name for file, name in TEST.findall(row) if f'def {name}(' not in text[file]], row


def test_the_figures_are_those_of_the_tables() -> None:
    count = Counter(row.split(' | ')[2] for row in ROWS)
    assert set(count) == set(OUTCOMES)
    first, later, on = (count[outcome] for outcome in OUTCOMES)
    said = (
        f'**{len(ROWS)} faults** were tried, each by a test that really does it: {first} stop a run at its start '
        f'with a message, {later} stop it later with a message and lose nothing, {on} are survived. **Silent: 0.**'
    )
    assert said in ' '.join(PAGE.split())
