"""SIGTERM in the middle of a check or an export: what was done before is printed and in the files.

Other commands are stopped in tests/kill, tests/suite/test_pool.py and tests/project/test_predict.py.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.check import run as check_run
from mmdistill_dense.apps.export import write_student
from tests import toys
from tests.toys import seg_config


@pytest.fixture(autouse=True)
def _untaken() -> Iterator[None]:
    """SIGTERM that a command does not take would end the tests: it is an error here."""

    def refuse(*_: Any) -> None:
        raise RuntimeError('this command does not take SIGTERM')

    before = signal.signal(signal.SIGTERM, refuse)
    yield
    assert signal.signal(signal.SIGTERM, before) is refuse, 'it is as before'


def stopping(work: Callable[..., Any], units: int = 1) -> Callable[..., Any]:
    """Do the work some times; then SIGTERM comes in the middle of it."""
    calls = []

    def run(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) > units:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError('the signal had no effect')
        return work(*args, **options)

    return run


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / 'config.py'
    seg_config(tmp_path, dict(kd=dict(type='LogitKD'))).dump(str(file))
    return str(file)


def test_a_check_shows_the_stages_that_ended(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = [(name, stopping(work, name != check_run.STEPPING), rules) for name, work, rules in check_run.STAGES]
    monkeypatch.setattr(check_run, 'STAGES', stages)
    words = ['--no-weights', '--size', '64', '64', '--device', 'cpu', '--json', str(tmp_path / 'check.json')]
    assert main(['check', config, *words]) == 130
    output = capsys.readouterr()
    assert 'STOPPED while running a step: the rest was not checked' in output.out and 'stopped' in output.err
    assert 'FCN' in output.out or 'EncoderDecoder' in output.out, 'the networks were built'
    report = json.loads((tmp_path / 'check.json').read_text())
    assert (report['verdict'], report['stopped']) == ('error', 'running a step') and report['student']


def test_an_export_ends_in_order(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The score of the network is printed when it is known, those of its graphs take longer."""
    graph = tmp_path / 'student.onnx'
    info = SimpleNamespace(
        path=graph, size=(8, 8), smallest=(8, 8), step=1, axes=(), outputs=('y',), reasons=(), difference=0.0
    )
    monkeypatch.setattr(write_student, 'export_graph', lambda *_: info)
    monkeypatch.setattr(write_student, '_check_options', lambda *_: None)
    monkeypatch.setattr(write_student, 'evaluate', stopping(lambda *_: ({'mIoU': 12.5}, 1.0)))
    checkpoint = toys.seg_teacher()['checkpoint']
    assert main(['export', config, str(checkpoint), str(graph), '--evaluate']) == 130
    output = capsys.readouterr()
    assert f'graph   {graph}' in output.out and 'network: mIoU 12.5\n' in output.out and 'stopped' in output.err
