"""The published pages, of suites that nobody trained: what is written, left alone, and found wrong."""

import re
import shutil
from pathlib import Path

import pytest

from mmdistill_dense.apps.suite import plan
from mmdistill_dense.apps.suite.definition import Definition
from tests.suite import made_up
from tests.suite.made_up import lines_of
from tools import results
from tools.docs.check_results import FOLDER, README, disagreements

ROOT = Path(__file__).resolve().parents[3]
PAGE, CSV, OTHER = FOLDER / 'suite.md', FOLDER / 'suite.csv', Path('docs/choosing.md')
README_ROW = (
    '| [Made up](docs/results/suite.md); mIoU, 3 seeds | 53.50 | 41.17 ± 1.26 | kd | **+2.83** [+2.12, +3.55] |'
)


def publish(root: Path, monkeypatch: pytest.MonkeyPatch) -> Definition:
    """Control and kd whole, heavy without its first seed, published."""
    monkeypatch.setattr(plan, 'hash_of', made_up.hash_of)
    for folder in ('benchmarks', 'docs'):
        (root / folder).mkdir()
    suite = made_up.definition(root / 'benchmarks', 'teacher: toy_seg\n')
    kd, heavy = {0: 43.0, 1: 43.5, 2: 45.5}, {1: 40.0, 2: 40.1}
    for name, scores in dict(teacher={0: 53.5}, control=made_up.CONTROL, kd=kd, heavy=heavy).items():
        made_up.finish(suite, name, scores)
    (root / README).write_text(f'{README_ROW}\n\nBest: the largest mean gain among heavy, kd.\n')
    (root / OTHER).write_text('| KD | <!-- results: suite kd --> see there |\n')
    results.main([str(suite.path), '--root', str(root)])
    return suite


def test_the_page_is_the_suites_table_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = publish(tmp_path, monkeypatch)
    text = (tmp_path / PAGE).read_text()
    assert '\nmmdistill suite run benchmarks/suite.yaml\n' in text
    assert lines_of(text, 'kd') == [
        ['kd', '3', '44.00 ± 1.32', '**+2.83** [+2.12, +3.55]', '0.25'],
        ['kd', '43.00 (+3.00)', '43.50 (+2.50)', '45.50 (+3.00)'],
    ]
    assert (tmp_path / CSV).read_text() == (published.out / 'scores.csv').read_text()
    assert (tmp_path / OTHER).read_text() == '| KD | <!-- results: suite kd --> suite: kd **+2.83** [+2.12, +3.55] |\n'
    assert disagreements(tmp_path) == []


def test_the_pages_of_this_repository_follow_from_its_scores(tmp_path: Path) -> None:
    """Theirs is the form of version 0.2: with settings, where a bar is escaped, and a column for each seed."""
    assert disagreements(ROOT) == []
    for name in ('docs', 'benchmarks'):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / README, tmp_path)
    page = tmp_path / FOLDER / 'camvid.md'
    changed = re.sub(r'(\| \[kd\].*\] \| [+-]\d)\.', r'\g<1>9.', page.read_text())
    page.write_text(changed)
    (disagreement,) = [disagreement for disagreement in disagreements(tmp_path) if 'camvid.md, ' in disagreement]
    assert 'kd, seed ' in disagreement
