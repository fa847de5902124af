"""Waiting threads on busy cores."""

import pytest

from mmdistill_dense.utils.process import SPINS, threads_asked_for, wait_briefly


def test_what_the_user_chose_stays() -> None:
    for given in ({'OMP_WAIT_POLICY': 'ACTIVE'}, {'GOMP_SPINCOUNT': '7'}):
        environment = dict(given)
        wait_briefly(environment)
        assert environment == given
    wait_briefly(environment := {})
    assert environment == {'GOMP_SPINCOUNT': SPINS}


@pytest.mark.parametrize(('given', 'count'), [('3', 3), (' 4,2', 4), ('', 0), ('many', 0), (None, 0)])
def test_threads_that_the_shell_asks_for(monkeypatch: pytest.MonkeyPatch, given: str | None, count: int) -> None:
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    if given is not None:
        monkeypatch.setenv('OMP_NUM_THREADS', given)
    assert threads_asked_for() == count
