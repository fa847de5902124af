"""Every loss on degenerate inputs; a new one is asked too, because test_losses.py wants a case of it."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from tests.properties.cases import CASES
from tests.properties.degenerate import ASKED
from tests.properties.strategies import few, many

FEWER, LONGER = settings(few, max_examples=4), settings(many, max_examples=20)  # five questions of every loss


def _try(name: str, question: str, effort: object) -> None:
    @effort
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        ASKED[question](CASES[name], data.draw)

    holds()


@pytest.mark.parametrize('question', ASKED)
@pytest.mark.parametrize('name', CASES)
def test_degenerate(name: str, question: str) -> None:
    _try(name, question, FEWER)


@pytest.mark.soak
@pytest.mark.parametrize('question', ASKED)
@pytest.mark.parametrize('name', CASES)
def test_degenerate_at_length(name: str, question: str) -> None:
    _try(name, question, LONGER)
