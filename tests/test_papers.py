"""docs/papers.md: each command names what there is, and no row of an ablation is missing."""

import re
from pathlib import Path

import pytest

from mmdistill_dense.apps.recipes.named import Named, find_named
from mmdistill_dense.apps.suite.definition import load_suite

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / 'docs/papers.md').read_text(encoding='utf-8')
LINES = [line.split('|')[1:-1] for line in PAGE.splitlines() if line.startswith('| ') and '---' not in line]
ROWS = {cells[0].strip(): cells[1] for cells in LINES if not cells[0].strip().startswith('what is')}
NAME = re.compile(r'`([a-z][a-z_0-9]+)`')
REST_OF_A_NAME = {'_voc_', '_ade20k_'}


def definitions(cell: str) -> set[str]:
    names = {*re.findall(r'benchmarks/(\w+)\.yaml', cell)}
    return names | {
        name for name in re.findall(r'\b(\w+_ablations)\b', cell) if (ROOT / f'benchmarks/{name}.yaml').is_file()
    }


@pytest.mark.parametrize('title', ROWS)
def test_a_row_names_what_there_is(title: str) -> None:
    cell, files = ROWS[title], definitions(ROWS[title])
    if title.startswith('the same on two'):
        files |= {'coco_ablations'}
    elif cell.strip().startswith('the same'):  # as the row above
        above = list(ROWS)[: list(ROWS).index(title)]
        files |= definitions(next(ROWS[name] for name in reversed(above) if definitions(ROWS[name])))
    rows = {name for file in files for name in load_suite(ROOT / f'benchmarks/{file}.yaml').methods}
    assert {name for name in NAME.findall(cell) if name.strip('_')} - REST_OF_A_NAME <= rows
    for name in re.findall(r'mmdistill train (\S+?)`', cell) + re.findall(r'--config (\S+?)`', cell):
        config = find_named(name)
        assert isinstance(config, Named) or config.is_file(), name
    assert files or 'mmdistill' in cell or 'benchmark.py' in cell or cell.strip() == 'none', 'a command, or none'


@pytest.mark.parametrize('paper', ['cityscapes', 'coco', 'pcd'])
def test_every_row_of_an_ablation_stands_on_the_page(paper: str) -> None:
    rows = load_suite(ROOT / f'benchmarks/{paper}_ablations.yaml').methods
    assert not [name for name in rows if f'`{name}`' not in PAGE]
