"""Any text is a tap, whose module is found in a network or not, or an error that says what a tap is."""

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from torch import nn

from mmdistill_dense.networks.taps import Tap, resolve_tap
from tests.fuzz.examples import few, many

# What the syntax is made of, in any order, and what looks like it.
PIECES = [
    'a', 'body', '0', '1', '.', '..', '[', ']', '[0]', '[-1]', '[1:]', '[:2]', '[::2]', ':', ':input', ':input[0]', ' ',
    '\n', '_', '-', '9' * 30, '9' * 5000, '٣', '²', 'é', '\x00', '\ud800', '$', '\\',
]  # fmt: skip
ODD = ['a\n', 'a[-:]', 'body[٣]', *(f'{start}{"9" * count}]' for start, count in (('body[', 5000), ('body[', 30)))]
ODD += [f'a:input[{"9" * 30}]', 'a' * 100_000, '_head']
any_text = st.text(st.characters(exclude_categories=['Cs']), max_size=20)  # text() takes seconds for the same ones
texts = st.one_of(any_text, st.lists(st.sampled_from(PIECES), max_size=6).map(''.join), st.sampled_from(PIECES))
things = st.one_of(texts, st.none(), st.integers(), st.lists(texts, max_size=2), st.binary(max_size=5), st.floats())


def parses(text: Any) -> None:
    try:
        tap = Tap.parse(text)
    except ValueError as error:
        assert 'is not a tap: write' in str(error) and len(str(error)) < 500
        return
    assert str(tap) == text and Tap.parse(str(tap)) == tap and hash(tap) == hash(Tap.parse(text))
    assert text.isascii() and text.isprintable() and ' ' not in text
    index = tap.index
    if isinstance(index, slice):
        index = f'{"" if index.start is None else index.start}:{"" if index.stop is None else index.stop}'
    written = tap.path + ('' if index is None else f'[{index}]')
    again = Tap.parse(written + ('' if tap.argument is None else f':input[{tap.argument}]'))
    assert (again.path, again.index, again.argument) == (tap.path, tap.index, tap.argument)
    network = nn.ModuleDict(dict(a=nn.Sequential(nn.Identity()), body=nn.Identity()))
    try:
        assert resolve_tap(network, tap, 'student_tap').module is network.get_submodule(tap.path)
    except KeyError as error:
        head = tap.path.split('.')[0].endswith('_head')  # of a network without one
        assert ('needs class scores or boxes' if head else 'no such module') in str(error)


@pytest.mark.parametrize('effort', [few, pytest.param(many, marks=pytest.mark.soak)], ids=['few', 'many'])
def test_any_text(effort: Any) -> None:
    for text in ODD:
        parses(text)
    effort(given(things)(parses))()
