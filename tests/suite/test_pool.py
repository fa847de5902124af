"""Processes side by side: order, failures, and that none outlives its parent."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmdistill_dense.apps.suite import pool
from mmdistill_dense.apps.suite.plan import Run
from mmdistill_dense.utils.files import read_json, write_json
from mmdistill_dense.utils.process import interruptible
from tests.engine import processes
from tests.engine.processes import environment
from tests.suite import tiny
from tests.suite.tiny import alive

LINUX = pytest.mark.skipif(not Path('/proc/self/stat').is_file(), reason='looks into /proc')
FINISH = """
import json, os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
open(folder.parent / 'order.txt', 'a').write(f'+{folder.name} ')
time.sleep(0.2)
print('threads', os.environ['OMP_NUM_THREADS'], 'spins', os.environ.get('GOMP_SPINCOUNT'))
print('device', os.environ.get('CUDA_VISIBLE_DEVICES'))
if folder.name == 'bad':
    raise SystemExit('this went wrong')
open(folder.parent / 'order.txt', 'a').write(f'-{folder.name} ')
if folder.name != 'silent':
    (folder / 'result.json').write_text(json.dumps({'score': 1.0, 'minutes': 1.0}))
"""
SLEEP = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(30)'])
open(sys.argv[1] + '/pids.txt', 'w').write(str(child.pid))
open(sys.argv[1] + '/own.txt', 'w').write(str(os.getpid()))
time.sleep(30)
"""


def command(code: str) -> Callable[[Run], list[str]]:
    return lambda run: [sys.executable, '-c', code, str(run.folder)]


def runs(folder: Path, *names: str, after: tuple[str, ...] = ()) -> list[Run]:
    return [Run(name, 0, folder / name, *(folder / name for name in after)) for name in names]


def test_runs_start_when_what_they_need_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY'):
        monkeypatch.delenv(name, raising=False)
    out, news = list[str](), list[int]()
    todo = [*runs(tmp_path, 'late', after=('first',)), *runs(tmp_path, 'first', 'other')]
    done = pool.Pool(command(FINISH), 2, 3, out.append, lambda: news.append(len([*tmp_path.glob('*/result.json')])))
    assert done.execute(todo) == {} and len(news) == 3 and news[-1] == 3
    order = (tmp_path / 'order.txt').read_text().split()
    assert order.index('-first') < order.index('+late')
    assert order.index('+other') < order.index('-first')
    assert 'threads 3 spins 1000' in (tmp_path / 'late' / 'log.txt').read_text()
    late = ['late seed 0: starts', 'late seed 0: 1.00 on test after 1 min 00 s']
    assert [line for line in out if line.startswith('late')] == late


def test_a_failure_stops_only_what_needs_it(tmp_path: Path) -> None:
    todo = runs(tmp_path, 'bad', 'silent', 'good')
    todo[0].folder.mkdir()
    (todo[0].folder / 'state.json').write_text('{"phase": "training", "iteration": 4}')
    todo += [*runs(tmp_path, 'lost', after=('bad',)), *runs(tmp_path, 'far', after=('lost',))]
    failed = pool.Pool(command(FINISH), 1, 1, print).execute(todo)
    assert failed.keys() == {'bad seed 0', 'silent seed 0', 'lost seed 0', 'far seed 0'}
    assert failed['bad seed 0'].startswith('ended with code 1') and failed['bad seed 0'].endswith('    this went wrong')
    assert todo[0].state == {'phase': 'training', 'iteration': 4, 'failed': 'ended with code 1'}, 'for `suite list`'
    assert failed['lost seed 0'] == 'needs bad seed 0'
    assert failed['far seed 0'] == 'needs lost seed 0'
    assert (tmp_path / 'good' / 'result.json').is_file()
    assert (tmp_path / 'order.txt').read_text().split().count('+lost') == 0


STALLS = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
starts = folder / 'starts'
starts.write_text(str(int(starts.read_text()) + 1 if starts.is_file() else 1))
(folder / 'state.json').write_text(json.dumps({'time': time.time()}))
if int(starts.read_text()) <= int(folder.name):
    os.kill(os.getpid(), signal.SIGSTOP)
(folder / 'result.json').write_text(json.dumps({'score': 1.0, 'minutes': 1.0}))
"""


@pytest.mark.soak
def test_a_run_that_stalls_starts_again_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of a run says how often it stalls."""
    monkeypatch.setattr(pool, 'GRACE', 0.1)
    monkeypatch.setattr(pool, 'POLL_INTERVAL', 0.2)
    out: list[str] = []
    failed = pool.Pool(command(STALLS), 2, 1, out.append, stall=2 / 60).execute(runs(tmp_path, '2', '3'))
    assert [(tmp_path / name / 'starts').read_text() for name in '23'] == ['3', '3']
    assert len([line for line in out if 'min, ended' in line]) == 5
    assert list(failed) == ['3 seed 0'] and 'made no step' in failed['3 seed 0'] and '3 times' in failed['3 seed 0']


TELLS = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
for _ in range(8):
    time.sleep(0.25)
    (folder / 'state.json').write_text('{}')
(folder / 'result.json').write_text(json.dumps({'score': 1.0, 'minutes': 1.0}))
"""


def test_a_run_that_tells_of_a_step_has_not_stalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, 'POLL_INTERVAL', 0.1)
    assert pool.Pool(command(TELLS), 1, 1, print, stall=1 / 60).execute(runs(tmp_path, 'a')) == {}


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    room = iter([2**40])  # for the start of the first
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: usage._replace(free=next(room, 3 * 2**20)))
    failed = pool.Pool(command(FINISH), 1, 1, print).execute(runs(tmp_path, 'bad', 'next', 'last'))
    assert failed['next seed 0'].startswith(f'was not started: the disk of {tmp_path / "next"} is full')
    assert not (tmp_path / 'last').exists() and failed.keys() == {'bad seed 0', 'next seed 0', 'last seed 0'}
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: usage._replace(free=17 * 2**20))
    assert not pool.no_room(tmp_path / 'bad')
    out = f'ended with code 1: the disk of {tmp_path / "bad"} is full, 3 MiB are left.'
    assert failed['bad seed 0'].startswith(out)


def test_a_run_that_cannot_begin_fails_alone(tmp_path: Path) -> None:
    """Its config cannot be written, or nobody makes what it needs."""

    def refuse(run: Run) -> list[str]:
        if run.name == 'bad':
            raise OSError('nothing was written')
        return command(FINISH)(run)

    todo = [*runs(tmp_path, 'bad', 'good'), *runs(tmp_path, 'a', after=('elsewhere',))]
    assert pool.Pool(refuse, 1, 1, print).execute(todo) == {
        'bad seed 0': 'was not started: nothing was written',
        'a seed 0': f'needs results that none of these runs gives: {tmp_path / "elsewhere"}',
    }
    assert (tmp_path / 'good/result.json').is_file()


def test_a_run_of_another_process_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, 'POLL_INTERVAL', 0.1)
    (first, after) = [*runs(tmp_path, 'first'), *runs(tmp_path, 'after', after=('first',))]
    out: list[str] = []
    with tiny.held(first.folder) as lock:

        def release() -> None:
            write_json(first.folder / 'result.json', {'score': 1.0, 'minutes': 1.0})
            lock.stdin.close()

        threading.Timer(0.4, release).start()
        assert pool.Pool(command(FINISH), 1, 1, out.append).execute([first, after]) == {}
    assert {'first seed 0: 1.00 on test after 1 min 00 s', 'after seed 0: starts'} < {*out}
    assert 'first seed 0: starts' not in out


def test_more_runs_than_devices_get_one_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,6')
    names = ['a', 'bad', 'c', 'd', 'e']  # one that fails gives its device back too
    pool.Pool(command(FINISH), 2, 1, print).execute(runs(tmp_path, *names))
    devices = [(tmp_path / name / 'log.txt').read_text().partition('device ')[2].split()[0] for name in names]
    assert sorted(devices[:2]) == ['4', '6'] and {*devices[2:]} <= {'4', '6'}, devices
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '-1')
    assert pool.visible_devices() == []


def pids(folder: Path) -> list[int]:
    return [int(file.read_text()) for file in folder.glob('*/pids.txt') if file.read_text()]


@LINUX
def test_interruption_ends_jobs_and_their_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, 'REAP_TIMEOUT', 0.2)

    def interrupt() -> None:
        while len(pids(tmp_path)) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        pool.Pool(command(SLEEP), 2, 1, print).execute(runs(tmp_path, 'a', 'b'))
    assert not any(alive(pid) for pid in pids(tmp_path))
    assert not [*tmp_path.glob('*/state.json')], 'an interrupted run has not failed'


LEAVES = """
import pathlib, subprocess, sys
folder = pathlib.Path(sys.argv[1])
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(30)'])
(folder / 'pids.txt').write_text(str(child.pid))
if folder.name == 'a':
    (folder / 'result.json').write_text('{"score": 1.0, "minutes": 1.0}')
import os
os._exit(0)
"""


@LINUX
def test_a_job_that_ends_leaves_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker of a loader waits for ever where nobody took its last batch, as with masks."""
    monkeypatch.setattr(pool, 'REAP_TIMEOUT', 0.2)
    failed = pool.Pool(command(LEAVES), 2, 1, print).execute(runs(tmp_path, 'a', 'b'))
    assert list(failed) == ['b seed 0'] and len(pids(tmp_path)) == 2
    assert not any(alive(pid) for pid in pids(tmp_path))


def wait_until(is_done: Callable[[], Any]) -> None:
    limit = time.monotonic() + 60
    while not is_done():
        assert time.monotonic() < limit, 'what does not end outlives the suite'
        time.sleep(0.05)


def suite_of_one(folder: Path) -> None:
    """What the process does that is killed: a pool with one job."""
    child = f'from mmdistill_dense.apps.suite.pool import end_with_parent; end_with_parent()\n{SLEEP}'
    pool.Pool(command(child), 1, 1, print).execute(runs(folder, 'a'))


@LINUX
def test_a_process_that_starts_during_an_interruption_ends_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the suite, which does not know it."""
    popen, pid = subprocess.Popen, tmp_path / 'pid.txt'

    def start(*args: Any, **options: Any) -> None:
        pid.write_text(str(popen(*args, **options).pid))
        raise KeyboardInterrupt

    monkeypatch.setattr(pool.subprocess, 'Popen', start)
    monkeypatch.setenv('PYTHONPATH', environment()['PYTHONPATH'])
    multiprocessing.get_context('fork').Process(target=suite_of_one, args=(tmp_path,)).start()
    wait_until(lambda: pid.is_file() and pid.read_text() and not alive(int(pid.read_text())))


@pytest.mark.soak
@LINUX
@pytest.mark.parametrize('stopped', [False, True])
def test_jobs_end_when_their_parent_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool) -> None:
    """Also a job that is stopped at that moment, which would keep its folder from every other pool."""
    monkeypatch.setenv('PYTHONPATH', environment()['PYTHONPATH'])
    process = multiprocessing.get_context('fork').Process(target=suite_of_one, args=(tmp_path,))
    process.start()
    wait_until(lambda: [*tmp_path.glob('*/own.txt')] and (tmp_path / 'a' / 'own.txt').read_text())
    if stopped:
        os.kill(int((tmp_path / 'a' / 'own.txt').read_text()), signal.SIGSTOP)
    process.kill()
    process.join()
    wait_until(lambda: not any(alive(pid) for pid in pids(tmp_path)))


@pytest.mark.soak
def test_two_processes_of_a_launcher_write_one_result(tmp_path: Path) -> None:
    path = tiny.write(tmp_path, methods={'maskd': {'options': {'learn.max_iters': 3}}})
    words = ['--standalone', '--nproc_per_node=2', '-m', 'mmdistill_dense', 'suite', 'job', path]
    torchrun, seeds = [sys.executable, '-m', 'torch.distributed.run', *words], {'teacher': [], 'maskd': ['--seed', 0]}
    for name, seed in seeds.items():
        processes.run([*torchrun, name, *seed, '--launcher', 'pytorch'], tmp_path, environment())
    folder = tmp_path / 'out/runs/maskd/seed0'
    result, state = (read_json(folder / f'{name}.json') for name in ('result', 'state'))
    assert (result['processes'], result['iterations'], result['checkpoint']) == (2, 6, 'iter_6.pth')
    assert result['restarts'] == 0 and state['processes'] == 2, 'one process writes'


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_tail_holds_the_last_lines(tmp_path: Path) -> None:
    (tmp_path / 'log.txt').write_text('\n\n'.join(map(str, range(100))))
    assert pool.tail(tmp_path / 'log.txt').split() == [str(number) for number in range(85, 100)]
    assert pool.tail(tmp_path / 'none.txt') == ''
    times = {0: '0 s', 59.6: '1 min 00 s', 61: '1 min 01 s', 3660: '1 h 01 min', -5: '0 s'}
    assert {seconds: pool.clock(seconds) for seconds in times} == times
