"""The published pages, of suites that nobody trained: what is written, left alone, and found wrong."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmdistill_dense.apps.suite import plan
from mmdistill_dense.apps.suite.definition import Definition
from tests.suite import made_up
from tests.suite.made_up import lines_of
from tools import results
from tools.docs.check_results import FOLDER, README, disagreements, filled, read_scores

ROOT = Path(__file__).resolve().parents[3]
PAGE, CSV, OTHER = FOLDER / 'suite.md', FOLDER / 'suite.csv', Path('docs/choosing.md')
README_ROW = (
    '| [Made up](docs/results/suite.md); mIoU, 3 seeds | 53.50 | 41.17 ± 1.26 | kd | **+2.83** [+2.12, +3.55] |'
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, 'hash_of', made_up.hash_of)


@pytest.fixture(scope='module')
def once(tmp_path_factory: pytest.TempPathFactory) -> Definition:
    """Control and kd whole, heavy without its first seed, published; not to be changed."""
    root = tmp_path_factory.mktemp('published')
    for folder in ('benchmarks', 'docs'):
        (root / folder).mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, 'hash_of', made_up.hash_of)
        suite = made_up.definition(root / 'benchmarks', 'teacher: toy_seg\n')
        kd, heavy = {0: 43.0, 1: 43.5, 2: 45.5}, {1: 40.0, 2: 40.1}
        for name, scores in dict(teacher={0: 53.5}, control=made_up.CONTROL, kd=kd, heavy=heavy).items():
            made_up.finish(suite, name, scores)
        (root / README).write_text(f'{README_ROW}\n\nBest: the largest mean gain among heavy, kd.\n')
        (root / OTHER).write_text('| KD | <!-- results: suite kd --> see there |\n')
        results.main([str(suite.path), '--root', str(root)])
    return suite


@pytest.fixture
def published(once: Definition, tmp_path: Path) -> Definition:
    """A copy of ``once``."""
    shutil.copytree(once.path.parents[1], tmp_path, dirs_exist_ok=True)
    return replace(once, path=tmp_path / 'benchmarks/suite.yaml', out=tmp_path / 'benchmarks/out')


def test_the_page_is_the_suites_table_with_its_command(published: Definition, tmp_path: Path) -> None:
    text = (tmp_path / PAGE).read_text()
    assert text.startswith('# suite\n\nMade up.\n\n```bash\n# needs ') and text.endswith('](suite.csv).\n')
    assert '\nmmdistill suite run benchmarks/suite.yaml\n' in text
    assert lines_of(text, 'kd') == [
        ['kd', '3', '44.00 ± 1.32', '**+2.83** [+2.12, +3.55]', '0.25'],
        ['kd', '43.00 (+3.00)', '43.50 (+2.50)', '45.50 (+3.00)'],
    ]
    assert '\n## How to read it\n' in text and str(published.path) not in text
    assert (tmp_path / CSV).read_text() == (published.out / 'scores.csv').read_text()
    assert (tmp_path / OTHER).read_text() == '| KD | <!-- results: suite kd --> suite: kd **+2.83** [+2.12, +3.55] |\n'
    results.publish(published, tmp_path)
    assert (tmp_path / PAGE).read_text() == text and disagreements(tmp_path) == []


def test_a_suite_without_a_result_is_refused(tmp_path: Path) -> None:
    suite = made_up.definition(tmp_path)
    with pytest.raises(SystemExit, match=r'ValueError: .*no student has finished in .*out; `suite run` trains them'):
        results.main([str(suite.path), '--root', str(tmp_path)])
    assert not (tmp_path / 'docs').exists()


@pytest.mark.parametrize(('file', 'old', 'new', 'words'), [
    (PAGE, '+2.83', '+2.93', "suite.md, kd, gain [95% interval]: '**+2.93** [+2.12, +3.55]' instead of"),
    (PAGE, '2 of 3', '3', "suite.md, heavy, n: '3' instead of '2 of 3'"),
    (PAGE, '\n| heavy |', '\n| else |', 'heavy: has scores, but no line'),
    (PAGE, 'suite run benchmarks/suite.yaml\n', 'suite run\n', 'suite.md: no command runs benchmarks/suite.yaml'),
    (PAGE, '# suite\n', 'Teacher 53.50 mIoU, student alone 41.17: +12.43 between them.\n', "+12.43 between them' is"),
    (README, '+2.83', '+2.93', 'README.md: suite: 53.50 | 41.17 ± 1.26 | kd | **+2.93** [+2.12, +3.55] instead of'),
    (README, '| kd |', '| heavy |', 'README.md: suite: '),
    (OTHER, '+2.83', '+2.93', 'docs/choosing.md: gains after <!-- results: ... --> differ from docs/results'),
    (CSV, 'kd,0,43.0', 'kd,0,44.0', 'suite.md, kd, 0'),
])  # fmt: skip
@pytest.mark.usefixtures('published')
def test_a_number_that_was_edited_is_found(file: Path, old: str, new: str, words: str, tmp_path: Path) -> None:
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new, 1))
    assert words in '\n'.join(disagreements(tmp_path))


@pytest.mark.usefixtures('published')
def test_missing_files_are_told(tmp_path: Path) -> None:
    (tmp_path / 'benchmarks/suite.yaml').unlink()
    shutil.copy(tmp_path / CSV, tmp_path / CSV.with_name('orphan.csv'))
    assert disagreements(tmp_path) == [
        'orphan: docs/results/orphan.md is missing',
        'orphan: benchmarks/orphan.yaml is missing',
        'suite: benchmarks/suite.yaml is missing',
    ]
    (tmp_path / CSV).write_text('name,seed\nkd,0\n')
    with pytest.raises(ValueError, match='suite.csv: no scores of a suite'):
        disagreements(tmp_path)


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


@pytest.mark.parametrize(('mark', 'words'), [
    ('one kd', 'one: kd **+2.00** [+2.00, +2.00]'),
    ('one kd, one cwd', 'one: kd **+2.00** [+2.00, +2.00], cwd -0.50'),
    ('one cwd, two kd, one heavy', 'one: cwd -0.50'),
    ('two kd', 'not measured yet'),
])  # fmt: skip
@pytest.mark.parametrize(('before', 'after'), [('| a | ', ' | b |\n| c |'), ('So: ', '\nand more')])
def test_what_stands_behind_a_mark_is_written_anew(mark, words, before, after, tmp_path):
    def scores(*runs: str) -> dict[str, Any]:
        (tmp_path / 'one.csv').write_text('\n'.join(runs))
        return {'one': read_scores(tmp_path / 'one.csv')}

    files = scores('name,seed,score', 'control,0,40', 'control,1,41', 'kd,0,42.0001', 'kd,1,42.9999', 'cwd,1,40.5')
    text = f'{before}<!-- results: {mark} -->{{}}{after}'
    right = text.format(f' {words}')
    assert filled(text.format(' an old gain of +9.99'), files) == right
    assert filled(text.format(''), files) == filled(right, files) == right
    quoted = 'A mark is written as `<!-- results: one kd -->` in a cell.\n'
    assert filled(quoted, files) == quoted
