"""The mean over several suites, on results that were made up."""

import math
from pathlib import Path

import pytest

from mmdistill_dense.apps.suite import plan
from mmdistill_dense.apps.suite.definition import Definition, load
from mmdistill_dense.apps.suite.rows import collect
from tests.suite import made_up
from tools.docs.across import across, as_markdown
from tools.docs.results_command import main


@pytest.fixture(autouse=True)
def _quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, 'hash_of', made_up.hash_of)


def suite(folder: Path, name: str, kd: dict[int, float], heavy: dict[int, float] | None = None) -> Definition:
    path = folder / f'{name}.yaml'
    path.write_text(made_up.DEFINITION.format(out=folder / name))
    definition = load(path)
    made_up.finish(definition, 'control', made_up.CONTROL)
    made_up.finish(definition, 'kd', kd)
    made_up.finish(definition, 'heavy', heavy or {})
    return definition


@pytest.fixture
def three(tmp_path: Path) -> list[Definition]:
    """The gains of kd are 1, 2, 3 (mean 2); 4, 4.01, 3.99; and 0 with one seed. Heavy has one run in the first."""
    return [
        suite(tmp_path, 'one', {0: 41.0, 1: 43.0, 2: 45.5}, {0: 30.0}),
        suite(tmp_path, 'two', {0: 44.0, 1: 45.01, 2: 46.49}),
        suite(tmp_path, 'three', {1: 41.0}),
    ]


def test_suites_are_the_sample(three: list[Definition]) -> None:
    """Means 2, 4, 0: mean 2, sd 2, half width 4.302653 * 2 / sqrt 3 whatever the number of seeds."""
    kd, heavy = across([collect(one) for one in three])
    assert [gain and round(gain.mean, 9) for gain in kd.each] == [2, 4, 0]
    assert kd.mean is not None and round(kd.mean.mean, 9) == 2
    assert math.isclose(kd.mean.half or 0, 4.302653 * 2 / 3**0.5, rel_tol=1e-6)
    assert [gain and gain.mean for gain in heavy.each] == [-10, None, None]
    assert heavy.mean is not None and heavy.mean.mean == -10 and heavy.mean.low is None


def test_one_suite_is_tested_with_all_of_them(three: list[Definition]) -> None:
    """Gains of 1, 2, 3 have t = 3.4641 and p = 0.07418, which Holm leaves as the larger of two; three has one pair."""
    kd, _ = across([collect(one) for one in three])
    first, second, third = kd.each
    assert first and second and third
    assert math.isclose(first.p or 0, 0.0741799, rel_tol=1e-5)
    assert (second.p or 0) < 1e-4 and third.p is None


def test_another_row_can_be_the_base(three: list[Definition]) -> None:
    (only,) = across([collect(one) for one in three], 'heavy')
    assert only.name == 'kd' and [gain and gain.mean for gain in only.each] == [11, None, None]


def test_the_page(three: list[Definition]) -> None:
    text = as_markdown([collect(one) for one in three])
    assert '| suite | metric | student alone ± sd | kd | heavy |' in text
    assert '| one | mIoU | 41.17 ± 1.26 | +2.00 (3 seeds, +1.6 sd) | -10.00 (1 seed, -7.9 sd) |' in text
    assert '| two | mIoU | 41.17 ± 1.26 | **+4.00** (3 seeds, +3.2 sd) | – |' in text
    assert '| +2.00 [-2.97, +6.97], 2 of 3 positive | -10.00, 0 of 1 positive |' in text


def test_the_command_prints_and_writes_it(
    three: list[Definition], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(one.path) for one in three]
    assert main(['across', *paths, '--out', str(tmp_path / 'all.md')]) == 0
    assert (tmp_path / 'all.md').read_text().strip() == capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda paths: paths[:1], 'across: found the definition one alone'),
        (lambda paths: [paths[0], paths[0]], 'Each definition must have another file name'),
        (lambda paths: [*paths, '--against', 'kdd'], '--against kdd: one has no such row. It has control, kd, heavy'),
    ],
)
def test_mistakes(three: list[Definition], change: object, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['across', *change([str(one.path) for one in three])]) == 1  # type: ignore[operator]
    assert words in capsys.readouterr().err


def test_suites_without_a_common_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite(tmp_path, 'one', {})
    (tmp_path / 'two.yaml').write_text(f'control: toy_seg\nout: {tmp_path}/two\nmethods: {{cwd: {{}}}}\n')
    assert main(['across', str(tmp_path / 'one.yaml'), str(tmp_path / 'two.yaml')]) == 1
    assert 'the definitions share no row beside control. They have one: kd, heavy; two: cwd' in capsys.readouterr().err
