"""A stop leaves what was measured by then, and tells that it stopped: every command of ours, by what it would lose.

SIGTERM is sent in the middle of the second unit of work; what the first one gave must be printed and in the files.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import rates, whole_graphs
from mmdistill_dense.__main__ import COMMANDS, main
from mmdistill_dense.apps.check import run as check_run
from mmdistill_dense.apps.export import write_student
from tests import toys
from tests.tools.measured import ROWS, WORDS
from tests.toys import seg_config
from tools.benchmark import command

ROOT = Path(__file__).parents[1]
# By the test that stops it: a file of tests, or a test of this file.
STOPPED_BY = {
    'check': 'test_a_check_shows_the_stages_that_ended',
    'export': 'test_an_export_ends_in_order',
    'predict': 'tests/project/test_predict.py', 'train': 'tests/kill/test_kill.py',
    'tokens': 'tests/distillers/maskd/test_prepare.py',
    'suite': 'tests/suite/test_pool.py', 'run': 'tests/suite/test_pool.py',
    'tools/benchmark.py': 'test_a_benchmark_keeps_its_rows', 'tools/train.py': 'tests/kill/test_kill.py',
    'benchmarks/gpu_day.py': 'tests/tools/test_gpu_day.py', 'benchmarks/gpu_day.sh': 'tests/tools/test_gpu_day.py',
    'benchmarks/whole_graphs.py': 'test_a_page_of_networks_keeps_its_rows',
    'benchmarks/rates.py': 'test_rates_keep_each_training',
}  # fmt: skip
NOTHING_TO_LOSE = {
    'new': 'it writes its folder at the end', 'report': 'one page, from runs that stay', 'taps': 'seconds',
    'test': 'a score is of all pictures', 'tools/test.py': 'the same', 'tools/audit.py': 'one question',
    'tools/demo.py': 'prints each score at once', 'tools/build_mmcv.py': 'ninja', 'tools/results.py': 'seconds',
    'tools/catalogue.py': 'seconds', 'benchmarks/defaults.py': 'its projects are runs of suites',
    'benchmarks/evidence.py': 'the same', 'benchmarks/beside_others.py': 'a line is one training',
    'benchmarks/gpu_pack.sh': 'seconds', 'tools/simulate_verdict.py': 'minutes', 'tools/wheel.py': 'seconds',
}  # fmt: skip


def test_every_command_is_stopped_or_has_nothing_to_lose() -> None:
    scripts = [*ROOT.glob('tools/[!_]*.py'), *ROOT.glob('benchmarks/*.py'), *ROOT.glob('benchmarks/*.sh')]
    names = {*COMMANDS, *(str(path.relative_to(ROOT)) for path in scripts)}
    assert STOPPED_BY.keys() | NOTHING_TO_LOSE.keys() == names and not STOPPED_BY.keys() & NOTHING_TO_LOSE.keys()
    assert all(name in globals() or (ROOT / name).is_file() for name in STOPPED_BY.values())


@pytest.fixture(autouse=True)
def _untaken() -> Iterator[None]:
    """SIGTERM that a command does not take would end the tests: it is an error here."""

    def refuse(*_: Any) -> None:
        raise RuntimeError('this command does not take SIGTERM')

    before = signal.signal(signal.SIGTERM, refuse)
    yield
    signal.signal(signal.SIGTERM, before)


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


@pytest.mark.parametrize('kind', ROWS)
def test_a_benchmark_keeps_its_rows(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row, module, name = ROWS[kind]
    monkeypatch.setattr(command.torch, 'set_num_threads', lambda threads: None)
    monkeypatch.setattr(module, name, stopping(lambda *_: row))
    with pytest.raises(KeyboardInterrupt):
        command.main([kind, *WORDS[kind], '--device', 'cpu', '--json', str(tmp_path)])
    (file,) = tmp_path.glob('*.json')
    section = json.loads(file.read_text())
    assert len(section['figures']) == 1
    assert section['markdown'] in capsys.readouterr().out, 'without --json the table is all there is'


@pytest.mark.parametrize('kind', ['methods', 'step'])
def test_a_misspelt_method_is_refused_before_any_row(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, module, name = ROWS[kind]
    monkeypatch.setattr(module, name, lambda *_: pytest.fail('something was measured'))
    with pytest.raises((KeyError, SystemExit), match='cwdd'):
        command.main([kind, *WORDS[kind], '--device', 'cpu', '--method', 'kd', 'cwdd'])


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


def test_a_page_of_networks_keeps_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, *_ = whole_graphs.ZOO
    monkeypatch.setattr(whole_graphs, 'PAGE', tmp_path / 'page.md')
    monkeypatch.setattr(whole_graphs, 'row', stopping(lambda name: '12 boxes | 100.00% |'))
    monkeypatch.setattr('sys.argv', ['whole_graphs.py', first, second])
    with pytest.raises(RuntimeError, match='does not take SIGTERM'):  # as kill -9 would end it
        whole_graphs.main()
    assert f'| {first} | 12 boxes' in (tmp_path / 'page.md').read_text()


def test_rates_keep_each_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, 'train_once', stopping(lambda *_: dict(score=12.5)))
    with pytest.raises(RuntimeError, match='does not take SIGTERM'):  # as kill -9 would end it
        rates.train(tmp_path)
    before = (tmp_path / 'rates.jsonl').read_text()
    assert before.count('"score": 12.5') == 1
    monkeypatch.setattr(rates, 'train_once', lambda *_: dict(score=3.0))
    rates.train(tmp_path)
    whole = (tmp_path / 'rates.jsonl').read_text()
    assert whole.startswith(before) and whole.count('"score": 3.0') == 109
