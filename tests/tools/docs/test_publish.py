"""The published pages, of suites that nobody trained: what is written, left alone, and found wrong."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mmdistill_dense.apps.suite import plan
from mmdistill_dense.apps.suite.definition import Definition, load
from tests.suite import made_up
from tests.suite.test_table import lines_of
from tools.docs import compare, markers, publish, results_command
from tools.docs.check_results import disagreements
from tools.docs.results_section import settings_cell
from tools.docs.scores import read_scores, shown

ROOT = Path(__file__).resolve().parents[3]
PAGE, README, CSV = Path('docs/results.md'), Path('README.md'), Path('docs/results/suite.csv')
PICTURE = Path('docs/images/results/suite.png')
BY_HAND = '# Results\n\nWhat I think.\n\n<!-- suite:suite -->\nold\n<!-- end of suite:suite -->\n\nWhy it is so.\n'


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, 'hash_of', made_up.hash_of)


@pytest.fixture
def suite(tmp_path: Path) -> Definition:
    return fill(tmp_path)


@pytest.fixture(scope='module')
def once(tmp_path_factory: pytest.TempPathFactory) -> Definition:
    """As ``suite``, published; not to be changed."""
    folder = tmp_path_factory.mktemp('published')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, 'hash_of', made_up.hash_of)
        suite = fill(folder)
        publish.main([suite], folder)
    return suite


@pytest.fixture
def published(once: Definition, tmp_path: Path) -> Definition:
    """A copy of ``once``."""
    shutil.copytree(once.path.parent, tmp_path, dirs_exist_ok=True)
    return replace(once, path=tmp_path / once.path.name, out=tmp_path / once.out.name)


def fill(tmp_path: Path) -> Definition:
    """Control and kd whole, heavy without its first seed; beside a page with a part for it."""
    suite = made_up.definition(tmp_path, 'teacher: toy_seg\njobs: 2\n')
    made_up.finish(suite, 'teacher', {0: 53.5}, minutes=50.0)
    made_up.finish(suite, 'control', made_up.CONTROL, minutes=4.0)
    made_up.finish(suite, 'kd', {0: 43.0, 1: 43.5, 2: 45.5}, minutes=6.0)
    made_up.finish(suite, 'heavy', {1: 40.0, 2: 40.1}, minutes=5.0)
    (tmp_path / 'docs').mkdir()
    (tmp_path / PAGE).write_text(BY_HAND)
    (tmp_path / README).write_text('# A\n\n<!-- results -->\n<!-- end of results -->\n\nB\n')
    return suite


def written(root: Path) -> dict[Path, bytes]:
    return {path: (root / path).read_bytes() for path in (PAGE, README, CSV, PICTURE)}


def test_the_part_shows_every_row_with_what_it_took(suite: Definition, tmp_path: Path) -> None:
    """Minutes: 50 of the teacher, 3 x 4, 3 x 6 and 2 x 5: 90."""
    text = publish.part_of(suite, tmp_path).section
    assert lines_of(text, 'teacher') == [['teacher', '–', '1', '53.50', '–', '–', '–', '–', '50.0']]
    control = ['student alone', '–', '3', '41.17 ± 1.26', '–', '40.00', '41.00', '42.50', '4.0']
    assert lines_of(text, 'student alone') == [control]
    gain = '**+2.83** [+2.12, +3.55]'
    assert lines_of(text, 'kd')[0][1:] == ['–', '3', '44.00 ± 1.32', gain, '+3.00', '+2.50', '+3.00', '6.0']
    loser = ['2 of 3', '40.05 ± 0.07', '-1.70 [-10.59, +7.19]', 'missing', '-1.00', '-2.40', '5.0']
    assert lines_of(text, 'heavy')[0][1:] == ['`kd`, `loss_weight=5`', *loser]
    assert '9 iterations x 8 pictures from 8000 training pictures (0.0 passes)' in text
    assert '1.5 hours in 9 runs' in text and 'up to 2 of them side by side' in text
    assert 'Teacher 53.50 mIoU, student alone 41.17: +12.33 between them.' in text
    assert 'mmdistill suite run suite.yaml' in text and 'Ran on: CPU x86_64, 1 thread(s)' in text
    assert 'Missing: heavy seed 0.' in text and str(tmp_path) not in text


def test_data_that_are_not_there_are_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv('MMDISTILL_DATA', '/nowhere')
    assert publish.train_pictures(load(ROOT / 'benchmarks' / 'bccd_retinanet.yaml')) is None
    said = capsys.readouterr().out
    assert 'bccd_retinanet.yaml: the number of training pictures is left out' in said and 'MMDISTILL_DATA' in said


@pytest.mark.soak
def test_a_row_of_the_repository_is_linked_to_its_card(suite: Definition, tmp_path: Path) -> None:
    part = publish.part_of(suite, ROOT)
    assert '| [heavy](methods/logit_kd.md) | `kd`, `loss_weight=5` |' in part.section
    assert str(tmp_path) not in part.section


def test_what_stands_outside_the_markers_stays(published: Definition, tmp_path: Path) -> None:
    text = (tmp_path / PAGE).read_text()
    begin, end = BY_HAND.split('old\n')
    assert text.startswith(begin) and text.endswith(end) and '\nold\n' not in text
    readme = (tmp_path / README).read_text()
    assert readme.startswith('# A\n\n<!-- results -->\n| ') and readme.endswith('\n<!-- end of results -->\n\nB\n')


@pytest.mark.soak
def test_publishing_twice_gives_the_same_bytes(published: Definition, tmp_path: Path) -> None:
    first = written(tmp_path)
    publish.main([published], tmp_path)
    assert written(tmp_path) == first
    assert first[PICTURE].startswith(b'\x89PNG')


def test_a_part_without_a_place_stands_at_the_end() -> None:
    text = markers.appended('# Results\n\nProse.\n\n', 'suite:a', 'x')
    assert text == '# Results\n\nProse.\n\n<!-- suite:a -->\nx\n<!-- end of suite:a -->\n'
    again = markers.appended(text, 'suite:b', 'y')
    assert again.startswith(text) and list(markers.suites(again, PAGE)) == ['a', 'b']


@pytest.mark.soak
def test_the_readme_shows_the_best_row_of_every_suite(published: Definition, tmp_path: Path) -> None:
    for kind in ('csv', 'png'):
        folder = tmp_path / (CSV if kind == 'csv' else PICTURE).parent
        shutil.copy(folder / f'suite.{kind}', folder / f'other.{kind}')
    part = markers.suites((tmp_path / PAGE).read_text(), PAGE)['suite']
    other = part.replace('## suite', '## other').replace('Made up.', 'Another.')
    page = markers.appended((tmp_path / PAGE).read_text(), 'suite:other', other)
    (tmp_path / PAGE).write_text(page)
    publish.main([published], tmp_path)
    text = (tmp_path / README).read_text()
    cells = ['53.50', '41.17 ± 1.26', 'kd', '**+2.83** [+2.12, +3.55]']
    assert lines_of(text, '[Made up](docs/results.md#suite); mIoU, 3 seeds') == [
        ['[Made up](docs/results.md#suite); mIoU, 3 seeds', *cells]
    ]
    assert lines_of(text, '[Another](docs/results.md#other); mIoU, 3 seeds')[0][1:] == cells
    assert 'Best: the largest mean gain of all rows.' in text
    assert (tmp_path / PAGE).read_text() == page


@pytest.mark.soak
def test_the_readme_shows_the_best_of_the_rows_that_its_marker_names(published: Definition, tmp_path: Path) -> None:
    text = (tmp_path / README).read_text()
    (tmp_path / README).write_text(text.replace('<!-- results -->', '<!-- results rows=heavy -->'))
    assert [line.partition(': the table ')[0] for line in disagreements(tmp_path)] == ['README.md']
    page = (tmp_path / PAGE).read_text()
    publish.main([published], tmp_path)
    text = (tmp_path / README).read_text()
    (cells,) = lines_of(text, '[Made up](docs/results.md#suite); mIoU, 3 seeds')
    assert cells[-2:] == ['heavy', '-1.70 [-10.59, +7.19] (2 of 3)']
    assert 'Best: the largest mean gain among heavy.' in text
    assert (tmp_path / PAGE).read_text() == page and disagreements(tmp_path) == []


@pytest.mark.soak
@pytest.mark.parametrize(
    ('options', 'told'),
    [('rows=heavy,kdd', 'no suite has the row kdd'), ('row=kd', r'takes rows=A,B; found row')],
)
def test_a_choice_that_cannot_be_shown_is_refused(
    options: str, told: str, published: Definition, tmp_path: Path
) -> None:
    text = (tmp_path / README).read_text()
    (tmp_path / README).write_text(text.replace('<!-- results -->', f'<!-- results {options} -->'))
    with pytest.raises(ValueError, match=told):
        publish.main([published], tmp_path)


def test_options_that_were_made_for_the_pair_are_named(tmp_path: Path) -> None:
    """Their constants may have been chosen on its val pictures; those of a method or a data set were not."""

    def cells(stem: str) -> dict[str, str]:
        suite = load(ROOT / 'benchmarks' / f'{stem}.yaml')
        return {name: settings_cell(method, suite) for name, method in suite.methods.items()}

    camvid, bccd = cells('camvid_1of8'), cells('bccd_retinanet')
    assert camvid['afdcd'] == 'options `afdcd_r18w16_camvid`'
    assert camvid['afdcd_mimic'] == 'options `afdcd_r18w16_camvid`, `afdcd`, `afdcd.ctr_weight=0`'
    assert [camvid[name] for name in ('kd', 'cwd', 'dist')] == ['–'] * 3
    assert camvid['pcd'] == 'options `pcd_r18w16_camvid`'
    assert bccd['maskd'] == 'options `maskd_retinanet_r18w16`'
    assert bccd['pcd'] == 'options `pcd_retinanet_r18w16_bccd`'
    assert [bccd[name] for name in ('kd', 'pkd', 'fgd')] == ['–'] * 3


@pytest.mark.soak
def test_iterations_take_single_batches(tmp_path: Path) -> None:
    more = 'options: {train_dataloader.batch_size: 4, optim_wrapper.accumulative_counts: 3}\n'
    suite = made_up.definition(tmp_path, more)
    made_up.finish(suite, 'control', made_up.CONTROL, processes=2)
    assert '9 iterations x 8 pictures' in publish.part_of(suite, tmp_path).section


def test_a_bar_in_a_cell_is_read_as_it_was_written(published: Definition, tmp_path: Path) -> None:
    page = (tmp_path / PAGE).read_text()
    (tmp_path / PAGE).write_text(page.replace('`kd`, `loss_weight=5`', '`loss_weight=a\\|b`'))
    assert '\\|' in (tmp_path / PAGE).read_text() and disagreements(tmp_path) == []


@pytest.mark.soak
def test_nothing_is_written_where_something_is_wrong(suite: Definition, tmp_path: Path) -> None:
    (tmp_path / README).write_text('# no place\n')
    with pytest.raises(KeyError, match='put these lines where it belongs: <!-- results -->'):
        publish.main([suite], tmp_path)
    (tmp_path / PAGE).write_text('<!-- suite:suite -->\nopen\n')
    with pytest.raises(ValueError, match=r'<!-- suite:suite --> is not closed; put <!-- end of suite:suite -->'):
        publish.main([suite], tmp_path)
    assert (tmp_path / PAGE).read_text() == '<!-- suite:suite -->\nopen\n' and not (tmp_path / CSV).exists()
    with pytest.raises(ValueError, match='suite: given twice'):
        publish.main([suite, suite], tmp_path)
    with pytest.raises(FileNotFoundError, match='name it with --root'):
        publish.main([suite], tmp_path / 'elsewhere')


def test_a_suite_without_a_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'no student has finished in .*out; `suite.py run` trains them'):
        publish.part_of(made_up.definition(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        ('<!-- suite:a -->\n<!-- suite:b -->\n', 'line 2: <!-- suite:b --> comes before the missing <!-- end of'),
        ('\n<!-- end of suite:a -->\n', 'line 2: <!-- end of suite:a --> has no <!-- suite:a --> before it'),
        ('<!-- suite:a -->\n<!-- end of suite:a -->\n<!-- suite:a -->\n', 'line 3: <!-- suite:a --> occurs twice'),
    ],
)
def test_markers_that_do_not_match_are_named_with_their_line(text: str, told: str) -> None:
    with pytest.raises(ValueError) as error:
        markers.read(text, PAGE)
    assert told in str(error.value)


def test_markers_in_a_sentence_are_none() -> None:
    assert markers.read('Put `<!-- suite:a -->` there.\n<!-- results --> too\n', PAGE) == {}


@pytest.mark.parametrize(
    ('file', 'old', 'new', 'told'),
    [
        (PAGE, '+2.83', '+2.93', "suite, kd, gain [95% interval]: '**+2.93** [+2.12, +3.55]' instead of"),
        (PAGE, '+3.55]', '+3.56]', 'suite, kd, gain [95% interval]'),
        (PAGE, '44.00 ±', '44.10 ±', 'suite, kd, mIoU'),
        (PAGE, '2 of 3', '3', "suite, heavy, n: '3' instead of '2 of 3'"),
        (PAGE, '-2.40', '+2.40', 'suite, heavy, seed 2'),
        (PAGE, '+12.33', '+12.43', 'no sentence'),
        (PAGE, '\n| heavy |', '\n| else |', 'heavy: has scores, but no line'),
        (README, '+2.83', '+2.93', 'README.md: the table differs from'),
        (CSV, 'kd,0,43.0', 'kd,0,44.0', 'suite, kd, seed 0'),
    ],
)
def test_a_number_that_was_edited_is_found(
    file: Path, old: str, new: str, told: str, published: Definition, tmp_path: Path
) -> None:
    assert disagreements(tmp_path) == []
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new, 1))
    assert told in '\n'.join(disagreements(tmp_path))


def test_files_that_miss_and_files_too_many_are_found(published: Definition, tmp_path: Path) -> None:
    (tmp_path / PICTURE).unlink()
    shutil.copy(tmp_path / CSV, tmp_path / CSV.with_name('orphan.csv'))
    told = disagreements(tmp_path)
    assert told == [
        'docs/results.md, suite: docs/images/results/suite.png is missing',
        'docs/results/orphan.csv: docs/results.md has no part of that name',
    ]


def test_the_pages_of_this_repository_follow_from_its_scores() -> None:
    assert disagreements(ROOT) == [], 'write them: python tools/results.py publish'


def test_a_table_is_read_as_it_was_written(published: Definition, tmp_path: Path) -> None:
    table = shown(markers.suites((tmp_path / PAGE).read_text(), PAGE)['suite'], 'suite')
    assert (table.metric, table.seeds, list(table.numbers)) == (
        'mIoU',
        (0, 1, 2),
        ['teacher', 'control', 'kd', 'heavy'],
    )


def test_the_same_scores_agree(published: Definition, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """9 runs, and the means of control, kd and heavy."""
    assert compare.main(published, tmp_path) == 0
    told = capsys.readouterr().out
    assert '12 of 12 agree' in told
    (line,) = [line for line in told.splitlines() if line.startswith('kd seed 1 ')]
    assert line.split() == [
        'kd',
        'seed',
        '1',
        *['43.500'] * 2,
        '+0.000',
        *['equal', 'in', 'every', 'digit', 'of', 'every', 'metric'],
    ]


def test_the_bound_is_that_of_two_seeds(published: Definition, tmp_path: Path) -> None:
    """Pooled: (2 * 1.583333 + 2 * 1.75 + 0.005) / 5 = 1.334333; t of 5 degrees at 0.975 is 2.570582."""
    lines = read_scores(tmp_path / CSV)
    assert compare.bound(lines, 1) == pytest.approx(2.570582 * math.sqrt(2 * 1.334333), rel=1e-5)
    assert compare.bound(lines, 10) > compare.bound(lines, 1)


@pytest.mark.parametrize(
    ('score', 'status', 'word'), [(43.51, 0, 'within'), (70.0, 1, 'OUTSIDE'), (math.nan, 1, 'OUT')]
)
def test_a_run_outside_the_spread_is_told(
    score: float, status: int, word: str, published: Definition, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_up.finish(published, 'kd', {1: score})
    assert compare.main(published, tmp_path) == status
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith('kd seed 1 ')]
    assert word in line


def test_a_difference_that_all_runs_share_is_found_in_their_mean(published: Definition, tmp_path: Path) -> None:
    lines = read_scores(tmp_path / CSV)
    limit = compare.bound(lines, 3 + 1)
    moved = {'kd': {seed: score + 0.9 * limit for seed, score in {0: 43.0, 1: 43.5, 2: 45.5}.items()}}
    here = {name: {seed: _line(score) for seed, score in scores.items()} for name, scores in moved.items()}
    there = {name: {seed: _line(line.score) for seed, line in runs.items()} for name, runs in lines.items()}
    found = {one.title: one.good for one in compare.compare(here, there)}
    assert found == {'kd seed 0': True, 'kd seed 1': True, 'kd seed 2': True, 'kd mean': False}


def _line(score: float) -> compare.Line:
    return compare.Line(score, 'x', {'test/mIoU': score})


def test_a_run_of_another_config_does_not_agree() -> None:
    here = {'kd': {0: compare.Line(43.0, 'new', {})}}
    (found,) = compare.compare(here, {'kd': {0: compare.Line(43.0, 'old', {})}})
    assert not found.good and 'ANOTHER CONFIG: new, published old' in found.verdict


def test_without_a_spread_only_equal_scores_agree() -> None:
    there = {'kd': {0: _line(43.0)}}
    assert [one.good for one in compare.compare({'kd': {0: _line(43.0)}}, there)] == [True]
    assert [one.good for one in compare.compare({'kd': {0: _line(43.01)}}, there)] == [False]


def test_the_commands_take_the_repository_and_the_place_of_the_suites(
    published: Definition, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file names the folder of ``once``; the work folder here is a copy with one other score."""
    made_up.finish(published, 'kd', {1: 70.0})
    words = [str(published.path), '--root', str(tmp_path)]
    here = [*words, '--work-dirs', str(tmp_path)]
    assert results_command.main(['compare', *words]) == 0
    assert results_command.main(['compare', *here]) == 1
    assert 'not kd seed 1, kd mean' in capsys.readouterr().out
    assert results_command.main(['publish', *here]) == 0
    assert read_scores(tmp_path / CSV)['kd'][1].score == 70.0
    assert results_command.main(['compare', *here]) == 0
    assert results_command.main(['compare', *words, '--work-dirs', str(tmp_path / 'none')]) == 1
    assert 'no finished run is in' in capsys.readouterr().err


def test_nothing_to_compare_is_an_error(published: Definition, tmp_path: Path) -> None:
    shutil.rmtree(published.out)
    with pytest.raises(ValueError, match='no finished run is in'):
        compare.main(published, tmp_path)
    with pytest.raises(FileNotFoundError, match='`results.py publish` writes them'):
        compare.main(published, tmp_path / 'elsewhere')
