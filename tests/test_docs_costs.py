"""What docs/choosing.md says of the cost of a step, against the figures that were measured."""

from __future__ import annotations

import json
import re
from statistics import mean

import pytest

from tests.docs_blocks import ROOT

CHOOSING = (ROOT / 'docs/choosing.md').read_text(encoding='utf-8').partition('## What a step costs')[2]
COLUMNS = {'LogitKD': 'kd', 'CWD on features': 'cwd_feature', 'MasKD': 'maskd', 'PCD': 'pcd', 'Af-DCD': 'afdcd'}


def measured() -> dict[str, list[tuple[float, int]]]:
    """The overhead and the extra memory of each method, in the tables of docs/performance.md."""
    steps = (ROOT / 'docs/performance.md').read_text(encoding='utf-8').partition('## Teacher')[0]
    rows = re.findall(r'^\| (\w+) \| .*\*\*([\d.]+)\*\* .*\| \+(\d+) \|$', steps, re.MULTILINE)
    found: dict[str, list[tuple[float, int]]] = {}
    for method, overhead, memory in rows:
        found.setdefault(method, []).append((float(overhead), int(memory)))
    return found


def test_a_steps_overhead_is_that_of_the_measured_rows() -> None:
    """Those that cost little, by their range; those that cost much, by name."""
    rows = measured()
    low, high = map(float, re.search(r'LogitKD, CWD, MasKD or PCD takes ([\d.]+) to ([\d.]+) times', CHOOSING).groups())
    cheap = [overhead for method in ('kd', 'cwd', 'maskd', 'pcd') for overhead, _ in rows[method]]
    assert (low, high) == (round(min(cheap), 2), round(max(cheap), 2))
    assert rows.keys() == {'kd', 'cwd', 'maskd', 'pcd', 'afdcd', 'cirkd'}
    for name, method in (('CIRKD', 'cirkd'), ('Af-DCD', 'afdcd')):
        ((overhead, memory),) = rows[method]
        told = re.search(
            rf'{name}\s+takes\s+([\d.]+) times as long and (\d+) MiB more|{name} ([\d.]+) times and (\d+) MiB', CHOOSING
        )
        factor, more = (value for value in told.groups() if value)
        assert float(factor) == round(overhead, len(factor.partition('.')[2])) and int(more) == memory


def factors(suite: str) -> dict[str, float]:
    """How many times as long as the control's a step of each row took, in our published runs."""
    seconds: dict[str, list[float]] = {}
    for line in (ROOT / f'docs/results/{suite}.jsonl').read_text(encoding='utf-8').splitlines():
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
    card = ' '.join((ROOT / 'docs/methods/afdcd.md').read_text(encoding='utf-8').split())
    whole, mimic, contrast = (
        f'{factors("camvid_1of8")[name]:.2f}' for name in ('afdcd', 'afdcd_mimic', 'afdcd_contrast')
    )
    assert f'took {whole} times as long as' in card
    assert f'{mimic} times with `ctr_weight=0`, and still {contrast} times with `fd_weight=0`' in card
