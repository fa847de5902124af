"""Figures that pages tell are those of the files beside them; and the README's length."""

import json
import re
from statistics import mean

import pytest
import yaml

from tests.docs_blocks import ROOT
from tests.test_docs import text_of


def test_published_gains_of_the_choice_are_those_of_the_files() -> None:
    page = text_of('docs/choosing.md')
    files = {path.parent.name: yaml.safe_load(path.read_text()) for path in ROOT.glob('configs/*/published.yml')}
    rows = re.findall(r'^\| `(\w+)` \| ([\d.]+) \| (.+) \|$', page, re.MULTILINE)
    gains = [(recipe, *cell) for recipe, _, cells in rows for cell in re.findall(r'([A-Za-z]+) ([+-][\d.]+\d)', cells)]
    assert len(gains) > 20
    for recipe, method, gain in gains:
        entries = [entry for entry in files[method.lower()] if entry.get('student')]
        entries = [entry for entry in entries if re.sub('_(maskd|dist)$', '', entry['recipe']) == recipe]
        assert any(f'{one["method"] - one["student"]:+.2f}'.startswith(gain) for one in entries), (recipe, method, gain)


def test_the_choice_asks_for_results_of_rows_that_are_run() -> None:
    page = text_of('docs/choosing.md')
    asked = [one.split() for comment in re.findall(r'<!-- results: (.+?) -->', page) for one in comment.split(', ')]
    assert len(asked) > 5
    for suite, row in asked:
        definition = yaml.safe_load(text_of(f'benchmarks/{suite}.yaml'))
        assert row in definition['methods'], (suite, row)


def test_the_readme_is_short() -> None:
    assert len(text_of('README.md').splitlines()) <= 150


CHOOSING = text_of('docs/choosing.md').partition('## What a step costs')[2]
COLUMNS = {'LogitKD': 'kd', 'CWD on features': 'cwd_feature', 'MasKD': 'maskd', 'PCD': 'pcd', 'Af-DCD': 'afdcd'}


def factors(suite: str) -> dict[str, float]:
    """How many times as long as the control's a step of each row took, in our published runs."""
    seconds: dict[str, list[float]] = {}
    for line in text_of(f'docs/results/{suite}.jsonl').splitlines():
        result = json.loads(line).get('result') or {}
        if result.get('seconds_per_iteration'):
            seconds.setdefault(result['name'], []).append(result['seconds_per_iteration'])
    return {name: mean(times) / mean(seconds['control']) for name, times in seconds.items()}


@pytest.mark.parametrize(('labels', 'suite'), [('all', 'camvid'), ('46', 'camvid_1of8')])
def test_the_factors_of_camvid_are_those_of_the_published_runs(labels: str, suite: str) -> None:
    head, row = (re.search(rf'^\| {first} \|(.*)\|$', CHOOSING, re.MULTILINE) for first in ('labels', labels))
    told = dict(zip(*([cell.strip() for cell in line[1].split('|')] for line in (head, row)), strict=True))
    found = factors(suite)
    assert told == {name: f'{found[method]:.2f}' for name, method in COLUMNS.items()}


def test_the_card_of_afdcd_says_what_leaving_a_term_out_saves() -> None:
    card = ' '.join(text_of('docs/methods/afdcd.md').split())
    times = factors('camvid_1of8')
    whole, mimic, contrast = (f'{times[name]:.2f}' for name in ('afdcd', 'afdcd_mimic', 'afdcd_contrast'))
    assert f'took {whole} times as long as' in card
    assert f'{mimic} times with `ctr_weight=0`, and still {contrast} times with `fd_weight=0`' in card
