"""What is asked of the process: a stack that is there, threads that wait briefly, a sign of life in long steps."""

import time

import pytest

from mmdistill_dense.utils import process, required
from mmdistill_dense.utils.process import SPINS, threads_asked_for, wait_briefly


def test_lines_come_until_a_long_step_ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(process, 'EVERY', 0.01)
    written = ''
    with process.heartbeat('exporting'):
        while written.count('exporting …') < 2:
            time.sleep(0.01)
            written += capsys.readouterr().err
    capsys.readouterr()
    time.sleep(0.05)
    assert capsys.readouterr().err == ''
    with pytest.raises(KeyError), process.heartbeat('exporting'):
        raise KeyError


def test_what_the_user_chose_of_waiting_stays() -> None:
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


def test_a_missing_stack_is_answered_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    required.require_stack()
    monkeypatch.setattr(required, 'find_spec', lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'mmengine and mmcv. In its checkout run `make setup`'):
        required.require_stack()
