"""Any text is a tap, found in a network or not, or an error that says what a tap is."""

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import example, given
from torch import nn

from mmdistill_dense.networks.recording import Recorder
from mmdistill_dense.networks.taps import Tap, resolve_tap
from tests.fuzz.test_checkpoints import few, many

# What the syntax is made of, in any order, and what looks like it.
PIECES = ['a', 'body', '0', '1', '.', '..', '[', ']', '[0]', '[-1]', '[1:]', '[:2]', '[::2]']
PIECES += [
    ':',
    ':input',
    ':input[0]',
    ' ',
    '\n',
    '_',
    '-',
    '9' * 30,
    '9' * 5000,
    '٣',
    '²',
    'é',
    '\x00',
    '\ud800',
    '$',
    '\\',
]
any_text = st.text(st.characters(exclude_categories=['Cs']), max_size=20)  # text() takes seconds for the same ones
texts = st.one_of(any_text, st.lists(st.sampled_from(PIECES), max_size=6).map(''.join), st.sampled_from(PIECES))
things = st.one_of(texts, st.none(), st.integers(), st.lists(texts, max_size=2), st.binary(max_size=5), st.floats())


class Net(nn.Module):
    """Modules named like the pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Identity(), nn.Identity())
        self.body = nn.Identity()

    def forward(self, x: torch.Tensor) -> Any:
        return self.a(x), self.body((x, 2 * x, [x]))


def parses(text: Any) -> None:
    try:
        tap = Tap.parse(text)
    except ValueError as error:
        assert 'is not a tap: write' in str(error) and len(str(error)) < 500
        return
    assert str(tap) == text and Tap.parse(str(tap)) == tap and hash(tap) == hash(Tap.parse(text))
    assert text.isascii() and text.isprintable() and ' ' not in text
    written = tap.path + _brackets(tap.index) + ('' if tap.argument is None else f':input[{tap.argument}]')
    again = Tap.parse(written)
    assert (again.path, again.index, again.argument) == (tap.path, tap.index, tap.argument)
    _is_found_or_not(tap)


def _brackets(index: int | slice | None) -> str:
    if isinstance(index, slice):
        return f'[{"" if index.start is None else index.start}:{"" if index.stop is None else index.stop}]'
    return '' if index is None else f'[{index}]'


def _is_found_or_not(tap: Tap) -> None:
    network = Net()
    try:
        module = resolve_tap(network, tap, 'student_tap').module
    except KeyError as error:
        head = tap.path.split('.')[0].endswith('_head')  # of a network without one
        assert 'student_tap=' in str(error)
        assert ('needs class scores or boxes' if head else 'no such module') in str(error)
        return
    assert module is network.get_submodule(tap.path)
    recorder = Recorder(network, [tap], 'student_tap')
    try:
        with recorder.recording() as tensors:
            network(torch.ones(1, 2, 3, 3))
        recorder.check_complete()
    except ValueError as error:
        assert repr(tap.text) in str(error)
    else:
        assert all(isinstance(tensor, torch.Tensor) for tensor in tensors[tap.text])
    assert not any(one._forward_hooks for one in network.modules())


@few
@given(things)
@example('a\n')
@example('a[-:]')
@example('body[٣]')
@example('body[' + '9' * 5000 + ']')
@example('body[' + '9' * 30 + ']')
@example('a:input[' + '9' * 30 + ']')
@example('a' * 100_000)
@example('_head')
def test_any_text(text: Any) -> None:
    parses(text)


@pytest.mark.soak
@many
@given(things)
def test_any_text_at_length(text: Any) -> None:
    parses(text)
