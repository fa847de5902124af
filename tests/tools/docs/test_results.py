"""The published pages agree with their scores."""

import re
import shutil
from pathlib import Path

import pytest

from benchmarks.evidence import mean_of
from tools.docs.check_results import FOLDER, README, disagreements, read_scores, rows_of

ROOT = Path(__file__).resolve().parents[3]


def test_the_pages_of_this_repository_follow_from_its_scores(tmp_path: Path) -> None:
    """Theirs is the form of version 0.2: with settings, where a bar is escaped, and a column for each seed."""
    assert disagreements(ROOT) == []
    for name in ('docs', 'benchmarks'):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / README, tmp_path)
    page = tmp_path / FOLDER / 'camvid.md'
    changed = re.sub(r'(\| \[kd\].*\] \| [+-]\d)\.', r'\g<1>9.', page.read_text())
    page.write_text(changed)
    results = tmp_path / 'docs/results.md'
    results.write_text(results.read_text().replace('fgd **+3.16**', 'fgd **+4.16**'))
    first, second = [text for text in disagreements(tmp_path) if 'camvid.md, ' in text or 'docs/results.md: ' in text]
    assert 'kd, seed ' in first and second.startswith('docs/results.md: gains after <!-- results: ... --> differ')


@pytest.mark.parametrize(('task', 'name'), [('seg', 'kd_flat_2'), ('seg', 'pcd_tenth'), ('det', 'fgd_10')])
def test_means_over_the_pairs_of_evidence(task: str, name: str) -> None:
    pairs = [rows_of(read_scores(file)) for file in (ROOT / f'benchmarks/pairs/scores/evidence_{task}').glob('*.csv')]
    mean = mean_of([rows[name].gain.mean for rows in pairs if name in rows and rows[name].gain])
    text = re.sub(r'\b0\.', '.', f'{mean.mean:+.1f} [{mean.low:+.1f}, {mean.high:+.1f}] |')
    assert text in (ROOT / 'docs/results.md').read_text().replace('**', '')
