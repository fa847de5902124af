"""A suite that is killed again and again ends in the same bits and scores as one that is not."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests import toys
from tests.engine.processes import ROOT, environment, run
from tests.suite import tiny

METHODS = {'kd': {}, 'maskd': {'options': {'learn.max_iters': 30}}}
SEEDS = [0]
ITERS = 40
STABLE = ('name', 'seed', 'choice', 'config_hash', 'metrics', 'score', 'checkpoint', 'iterations', 'shares')


def definition(folder: Path) -> Path:
    folder.mkdir()
    grid = {'kd': {'loss_weight': [0.5, 20]}, 'seeds': [7]}
    return tiny.write(folder, ITERS, batch=8, methods=METHODS, seeds=SEEDS, grid=grid, jobs=2)


def start(path: Path) -> subprocess.Popen:
    command = [sys.executable, ROOT / 'tools' / 'suite.py', 'run', path]
    log = open(path.parent / 'log.txt', 'ab')  # noqa: SIM115
    return subprocess.Popen(command, cwd=path.parent, env=environment(), stdout=log, stderr=log)


def finish(path: Path, expected: int = 0) -> str:
    process = start(path)
    assert process.wait(600) == expected, (path.parent / 'log.txt').read_text()[-3000:]
    return (path.parent / 'log.txt').read_text()


def state(path: Path, folder: str) -> dict:
    file = path.parent / 'out' / folder / 'state.json'
    return json.loads(file.read_text()) if file.is_file() else {}


def wait_for(process: subprocess.Popen, happened: Callable[[], bool]) -> None:
    limit = time.monotonic() + 300
    while not happened():
        assert process.poll() is None and time.monotonic() < limit, 'it ended too early'
        time.sleep(0.05)


def training(path: Path, folder: str) -> Callable[[], bool]:
    return lambda: (state(path, folder).get('iteration') or 0) >= 5


def alive(pid: int) -> bool:
    stat = Path(f'/proc/{pid}/stat')
    return stat.is_file() and stat.read_text().rpartition(')')[2].split()[0] != 'Z'


def content(path: Path) -> dict[str, dict]:
    files = sorted((path.parent / 'out').rglob('result.json'))
    return {str(file.parent.relative_to(path.parent)): json.loads(file.read_text()) for file in files}


def weights(path: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for folder, result in content(path).items():
        checkpoint = torch.load(path.parent / folder / result['checkpoint'], weights_only=False)
        for part in ('state_dict', 'distillers'):
            tensors.update({f'{folder}/{name}': value for name, value in checkpoint.get(part, {}).items()})
    return tensors


def table(path: Path) -> bytes:
    """Every score and gain; the time that runs took is in other files."""
    run([sys.executable, ROOT / 'tools' / 'suite.py', 'table', path], path.parent, environment())
    return (path.parent / 'out' / 'scores.csv').read_bytes()


@pytest.mark.soak
def test_killed_suite_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, killed = definition(tmp_path / 'whole'), definition(tmp_path / 'killed')
    finish(whole)

    process = start(killed)  # the suite itself, in the middle of a run
    wait_for(process, training(killed, 'runs/control/seed0'))
    orphan = state(killed, 'runs/control/seed0')['pid']
    process.kill()
    process.wait()
    limit = time.monotonic() + 20
    while alive(orphan):
        assert time.monotonic() < limit, 'a job outlives its suite'
        time.sleep(0.1)

    process = start(killed)  # one job: the others go on, what needs it is reported
    wait_for(process, training(killed, 'search/kd/loss_weight=0.5/seed7'))
    os.kill(state(killed, 'search/kd/loss_weight=0.5/seed7')['pid'], signal.SIGKILL)
    assert process.wait(600) == 1
    said = (killed.parent / 'log.txt').read_text()
    assert 'kd loss_weight=0.5 seed 7 ended with code -9' in said
    assert 'kd seed 0 needs kd loss_weight=0.5 seed 7' in said
    assert {'out/runs/maskd/seed0', 'out/runs/control/seed0'} <= content(killed).keys()

    process = start(killed)  # asked to end
    wait_for(process, training(killed, 'runs/kd/seed0'))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130

    assert 'its last checkpoint' in finish(killed)
    expected, found = content(whole), content(killed)
    assert found.keys() == expected.keys() and len(found) == 1 + 2 + 3
    for folder, result in expected.items():
        assert {key: found[folder][key] for key in STABLE} == {key: result[key] for key in STABLE}, folder
    assert not toys.differing(weights(whole), weights(killed))
    assert table(killed) == table(whole)
    assert sum(result['restarts'] for result in found.values()) >= 3
    assert len({str(result['metrics']) for result in found.values()}) > 3, 'the scores cannot tell runs apart'


@pytest.mark.soak
def test_two_processes_of_a_launcher_write_one_result(tmp_path: Path) -> None:
    path = tiny.write(tmp_path, methods={'maskd': {'options': {'learn.max_iters': 3}}})
    words = ['--standalone', '--nproc_per_node=2', '-m', 'mmdistill_dense', 'suite', 'job', path]
    torchrun = [sys.executable, '-m', 'torch.distributed.run', *words]
    run([*torchrun, 'teacher', '--launcher', 'pytorch'], tmp_path, environment())
    run([*torchrun, 'maskd', '--seed', 0, '--launcher', 'pytorch'], tmp_path, environment())
    result = content(path)['out/runs/maskd/seed0']
    assert (result['processes'], result['iterations'], result['checkpoint']) == (2, 6, 'iter_6.pth')
    assert result['restarts'] == 0 and state(path, 'runs/maskd/seed0')['processes'] == 2, 'one process writes'


@pytest.mark.soak
def test_finished_suite_starts_nothing_and_two_refuse(tmp_path: Path) -> None:
    path = tiny.write(tmp_path, 2, methods={'kd': {}}, jobs=2)
    process = start(path)
    wait_for(process, lambda: bool(state(path, 'runs/control/seed0')))
    process.send_signal(signal.SIGSTOP)  # on a slow machine it would end before the second has begun
    assert 'already runs in out' in finish(path, expected=2)
    process.send_signal(signal.SIGCONT)
    assert process.wait(300) == 0
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / 'out').rglob('*') if file.name != '.lock'}
    assert '3 runs, 0 to do' in finish(path)
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / 'out').rglob('*') if file.name != '.lock'}
