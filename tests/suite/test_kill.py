"""A suite that is disturbed again and again, on two pools, ends in the same bits as one that is not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import toys
from tests.engine.processes import environment, run
from tests.suite import tiny
from tests.suite.tiny import alive

METHODS = {
    'kd': {'options': {'loss_weight': 0.5}},
    'heavy': {'method': 'kd', 'options': {'loss_weight': 20}},
    'maskd': {'options': {'learn.max_iters': 30}},
}
SEEDS = [0, 1, 2]
RUNS = 1 + 4 * 3  # the teacher, four rows of three seeds
ITERS = 40
STABLE = ('name', 'seed', 'config_hash', 'metrics', 'score', 'checkpoint', 'iterations', 'shares')


def definition(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    return tiny.write(folder, ITERS, batch=8, methods=METHODS, seeds=SEEDS, **{'jobs': 2, **changes})


def start(path: Path) -> subprocess.Popen:
    command = [sys.executable, '-m', 'mmdistill_dense', 'suite', 'run', path]
    log = open(path.parent / 'log.txt', 'ab')  # noqa: SIM115
    return subprocess.Popen(command, cwd=path.parent, env=environment(), stdout=log, stderr=log)


def finish(path: Path, expected: int = 0) -> str:
    process = start(path)
    assert process.wait(600) == expected, (path.parent / 'log.txt').read_text()[-3000:]
    return (path.parent / 'log.txt').read_text()


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
    run([sys.executable, '-m', 'mmdistill_dense', 'suite', 'table', path], path.parent, environment())
    return (path.parent / 'out' / 'scores.csv').read_bytes()


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite that nothing disturbed."""
    path = definition(tmp_path_factory.mktemp('kill') / 'whole')
    finish(path)
    return path


def equal(found: Path, expected: Path) -> None:
    """Compare results and weights of all runs."""
    expected_files, actual_files = content(expected), content(found)
    assert actual_files.keys() == expected_files.keys()
    for folder, result in actual_files.items():
        assert {key: result[key] for key in STABLE} == {key: expected_files[folder][key] for key in STABLE}, folder
        text = json.loads((found.parent / folder / 'state.json').read_text())
        assert text['restarts'] == result['restarts'], f'{folder}: a finished run began again'
    assert not toys.differing(weights(expected), weights(found))


def training_jobs(path: Path) -> list[int]:
    """The processes that train now."""
    states = [json.loads(file.read_text()) for file in (path.parent / 'out').rglob('state.json')]
    return [state['pid'] for state in states if state['phase'] == 'training' and alive(state['pid'])]


@pytest.mark.soak
def test_two_pools_that_are_disturbed_end_as_one_that_is_not(whole: Path, tmp_path: Path) -> None:
    """Pools and jobs are killed, told to end, and stopped, in another order each time."""
    assert len(content(whole)) == RUNS and len({str(result['metrics']) for result in content(whole).values()}) > 6
    chance = random.Random(seed := time.time_ns())
    path = definition(tmp_path / f'disturbed_{seed}', jobs=1, stall=1)
    events = ['pool', 'pool', 'job', 'job'] * 2 + ['stop']
    chance.shuffle(events)
    pools = [start(path), start(path)]
    codes: list[int] = []
    limit = time.monotonic() + 900
    while any(pool.poll() is None for pool in pools) or pools[0].returncode or pools[1].returncode:
        for place, pool in enumerate(pools):
            if pool.poll() is not None and (pool.returncode or events):
                codes.append(pool.returncode)
                pools[place] = start(path)
        if events:
            time.sleep(chance.uniform(1, 5))
            number = chance.choice([signal.SIGKILL, signal.SIGTERM])
            if events[-1] == 'pool':
                pools[chance.randrange(2)].send_signal(number)
                events.pop()
            elif jobs := training_jobs(path):
                with suppress(ProcessLookupError):
                    os.kill(chance.choice(jobs), signal.SIGSTOP if events[-1] == 'stop' else number)
                    events.pop()
        assert time.monotonic() < limit, (path.parent / 'log.txt').read_text()[-3000:]
        time.sleep(0.1)
    # CPython ends by SIGINT if Ctrl-C ever fell into `exec` of a text, caught or not; a shell reports 130 for both
    assert {0, 1, 130, -signal.SIGINT, -signal.SIGKILL, -signal.SIGTERM} >= {*codes} and len(codes) >= 3
    equal(path, whole)
    assert table(path) == table(whole)
    assert 'goes on from' in (path.parent / 'log.txt').read_text()
    files = [file for file in (path.parent / 'out').rglob('*') if file.name != '.lock']
    before = {file: file.stat().st_mtime_ns for file in files}
    assert f'{RUNS} runs, 0 to do' in finish(path)
    assert before == {file: file.stat().st_mtime_ns for file in files}
    left = [process.name for process in Path('/proc').glob('[0-9]*') if str(path).encode() in words_of(process)]
    assert not left, 'a process outlives the suite'


def words_of(process: Path) -> bytes:
    try:
        return (process / 'cmdline').read_bytes()
    except OSError:
        return b''


@pytest.mark.soak
def test_two_processes_of_a_launcher_write_one_result(tmp_path: Path) -> None:
    path = tiny.write(tmp_path, methods={'maskd': {'options': {'learn.max_iters': 3}}})
    words = ['--standalone', '--nproc_per_node=2', '-m', 'mmdistill_dense', 'suite', 'job', path]
    torchrun = [sys.executable, '-m', 'torch.distributed.run', *words]
    run([*torchrun, 'teacher', '--launcher', 'pytorch'], tmp_path, environment())
    run([*torchrun, 'maskd', '--seed', 0, '--launcher', 'pytorch'], tmp_path, environment())
    result = content(path)['out/runs/maskd/seed0']
    assert (result['processes'], result['iterations'], result['checkpoint']) == (2, 6, 'iter_6.pth')
    state = json.loads((tmp_path / 'out/runs/maskd/seed0/state.json').read_text())
    assert result['restarts'] == 0 and state['processes'] == 2, 'one process writes'
