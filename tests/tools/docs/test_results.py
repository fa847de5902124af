"""The published pages agree with their scores."""

import re
import shutil
from pathlib import Path

from tools.docs.check_results import FOLDER, README, disagreements

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
