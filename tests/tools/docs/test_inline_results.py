"""Gains inside of other pages, behind their marks."""

from pathlib import Path

import pytest

from mmdistill_dense.apps.suite import plan
from mmdistill_dense.utils.atomic import write_text
from tests.suite import made_up
from tools.docs import inline_results, publish
from tools.docs.check_results import disagreements
from tools.docs.scores import Line

PAGE = Path('docs/choosing.md')
SCORES = {
    'one': {
        'control': {0: Line(40.0, 'a', {}), 1: Line(41.0, 'a', {})},
        'kd': {0: Line(42.0001, 'b', {}), 1: Line(42.9999, 'b', {})},
        'cwd': {1: Line(40.5, 'c', {})},
    }
}


@pytest.mark.parametrize(
    ('mark', 'told'),
    [
        ('one kd', 'one: kd **+2.00** [+2.00, +2.00]'),
        ('one kd, one cwd', 'one: kd **+2.00** [+2.00, +2.00], cwd -0.50'),
        ('one cwd, two kd, one heavy', 'one: cwd -0.50'),
        ('two kd', 'not measured yet'),
    ],
)
@pytest.mark.parametrize(('before', 'after'), [('| a | ', ' | b |\n| c |'), ('So: ', '\nand more')])
def test_what_stands_behind_a_mark_is_written_anew(mark: str, told: str, before: str, after: str) -> None:
    text = f'{before}<!-- results: {mark} -->{{}}{after}'
    right = text.format(f' {told}')
    assert inline_results.filled(text.format(' an old gain of +9.99'), SCORES, PAGE) == right
    assert inline_results.filled(text.format(''), SCORES, PAGE) == inline_results.filled(right, SCORES, PAGE) == right


def test_a_mark_without_a_row_is_named() -> None:
    with pytest.raises(ValueError, match=r'choosing.md: <!-- results: one --> must hold pairs of a suite and a row'):
        inline_results.filled('<!-- results: one --> x\n', SCORES, PAGE)


def test_publishing_fills_pages_and_an_edited_gain_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, 'hash_of', made_up.hash_of)
    suite = made_up.definition(tmp_path)
    made_up.finish(suite, 'control', made_up.CONTROL)
    made_up.finish(suite, 'kd', {0: 43.0, 1: 43.5, 2: 45.5})
    write_text(tmp_path / 'README.md', '<!-- results -->\n<!-- end of results -->\n')
    write_text(tmp_path / PAGE, '| KD | <!-- results: suite kd --> see there |\n')
    quoted = 'A mark is written as `<!-- results: suite kd -->` in a cell.\n'
    write_text(tmp_path / 'docs/other.md', quoted)
    publish.main([suite], tmp_path)
    text = (tmp_path / PAGE).read_text()
    assert text == '| KD | <!-- results: suite kd --> suite: kd **+2.83** [+2.12, +3.55] |\n'
    assert disagreements(tmp_path) == [] and (tmp_path / 'docs/other.md').read_text() == quoted
    write_text(tmp_path / PAGE, text.replace('2.83', '3.83'))
    assert disagreements(tmp_path) == ['docs/choosing.md: gains after <!-- results: ... --> differ from docs/results']
