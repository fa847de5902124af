"""SIGTERM and SIGUSR1 end a run with a checkpoint, from which it goes on to the same bits."""

import logging
import os
import re
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook

from mmdistill_dense.engine import interruption, loss_guard
from mmdistill_dense.engine.interruption import Interruption
from mmdistill_dense.engine.loss_guard import LossGuard
from mmdistill_dense.engine.work_folder import go_on_after_restart, latest_checkpoint, own_checkpoint
from mmdistill_dense.utils.reproducible import SeededBatches
from tests import toys
from tests.engine.processes import ROOT, SignalAt, environment, run
from tests.engine.resumption import GATHERED, ITERS, config, noted, pair, train, uninterrupted
from tests.faults.tools import content

NEVER = dict(default_hooks=dict(checkpoint=dict(interval=1000, save_last=False)))


def ends_alike(folder, name='iters'):
    last = 'epoch_2.pth' if name == 'epochs' else f'iter_{ITERS}.pth'
    return not toys.differing(content(folder / last), content(uninterrupted(name)[0] / last))


def interrupted(folder, kind='iters', changes=NEVER, **hook):
    runner = toys.make_runner(None, config(folder, kind, 0, pair(), **changes))
    runner.register_hook(SignalAt(**hook))
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    try:
        with pytest.raises(SystemExit) as end:
            runner.train()
    finally:
        toys.stop_workers(runner)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    assert before == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    return int(end.value.code)


@pytest.mark.parametrize(('event', 'number', 'kind', 'changes', 'saved'), [
    ('before_val_iter', signal.SIGTERM, 'iters', NEVER, ['iter_3']),  # the model holds averaged weights: one step later
    *(pytest.param(*case, marks=pytest.mark.soak) for case in (
        ('before_train_iter', signal.SIGTERM, 'iters', NEVER, ['iter_3']),
        ('after_train_iter', signal.SIGUSR1, 'iters', NEVER, ['iter_3']),
        # a file of the same iteration is not written again, and a validation ends at once if its iteration is saved
        ('before_train_iter', signal.SIGTERM, 'iters', {}, ['iter_1', 'iter_2', 'iter_3']),
        ('before_val_iter', signal.SIGTERM, 'iters', {}, ['iter_1', 'iter_2']),
        # a checkpoint holds no gradients, so those that wait are stepped first
        ('before_train_iter', signal.SIGTERM, 'iters', {**NEVER, **GATHERED}, ['iter_4']),
        ('before_train_iter', signal.SIGTERM, 'epochs', {}, ['epoch_1']),  # epochs end with their last file
    )),
])  # fmt: skip
def test_a_signal_ends_in_the_same_bits(event, number, kind, changes, saved, tmp_path):
    at = 6 if kind == 'epochs' else 2
    assert interrupted(tmp_path, kind, changes, event=event, number=number, at=at) == 128 + number
    assert sorted(path.stem for path in tmp_path.glob('*.pth')) == saved
    if 'optim_wrapper' not in changes:
        train(tmp_path, kind=kind, resume=True)
        assert ends_alike(tmp_path, kind)


@pytest.mark.parametrize('error', [RuntimeError, pytest.param(EOFError, marks=pytest.mark.soak)])
def test_a_loader_whose_workers_ended_first_is_no_error(error, tmp_path, monkeypatch):
    """And of a validation, no averaged weights are saved."""

    def load(batches):
        if batches.position == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            raise error('worker')
        return following(batches)

    following = SeededBatches.__next__
    assert interrupted(tmp_path / 'a', event='before_val_iter', error=error) == 128 + signal.SIGTERM
    assert not list((tmp_path / 'a').glob('*.pth'))
    monkeypatch.setattr(SeededBatches, '__next__', load)
    assert interrupted(tmp_path / 'b', event='before_train_iter', at=99) == 128 + signal.SIGTERM
    assert [path.name for path in (tmp_path / 'b').glob('*.pth')] == ['iter_2.pth']


def test_another_error_is_told_as_it_is(tmp_path):
    class Fault(Hook):
        def after_train_iter(self, *_, **__):
            os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError('out of memory')

    runner = toys.make_runner(None, config(tmp_path, 'iters', 0, pair()))
    runner.register_hook(Fault(), 'HIGH')
    with pytest.raises(RuntimeError, match='out of memory'):
        runner.train()


@pytest.mark.sample(1)
@pytest.mark.parametrize('option', [
    dict(filename_tmpl='step_{}.pth', out_dir='files'), dict(interval=1, save_last=True),
    dict(interval=1, save_optimizer=False),
])  # fmt: skip
def test_a_restart_goes_on_from_files_of_any_name(option, tmp_path, monkeypatch):
    checkpoint = {**NEVER['default_hooks']['checkpoint'], **option}
    if 'out_dir' in option:
        checkpoint['out_dir'] = str(tmp_path / 'files')
    changes = dict(default_hooks=dict(checkpoint=checkpoint))
    interrupted(tmp_path, event='before_train_iter', changes=changes)
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    assert [step for step, *_ in noted(train, tmp_path, **changes)] == [3, 4, 5]
    assert 'save_last' not in option or ends_alike(tmp_path)


def test_a_restart_takes_no_file_of_an_earlier_run(tmp_path, monkeypatch):
    file, next_file, restarts = tmp_path / 'iter_3.pth', tmp_path / 'iter_9.pth', 'SLURM_RESTART_COUNT'

    def start(name=None):
        words = dict(_resume=name is not None, _load_from=name, logger=logging.getLogger('x'))
        runner = SimpleNamespace(work_dir=str(tmp_path), **words)
        go_on_after_restart(runner)
        return runner._load_from

    assert start() is None
    torch.save(dict(state_dict={}), file)
    assert start() is None, 'not by the launcher: it begins anew'
    os.utime(file)
    monkeypatch.setenv(restarts, '1')
    assert start() == str(file)
    os.utime(file, (1, 1))
    assert start() is None
    torch.save(dict(state_dict={}), next_file)
    os.utime(next_file, (1, 1))  # further than this run is
    os.utime(file)
    assert start() == str(file)
    assert own_checkpoint(tmp_path) == file and latest_checkpoint(tmp_path) == next_file

    monkeypatch.delenv(restarts)
    assert start('named.pth') == 'named.pth'  # `--resume FILE`, which the launcher repeats
    monkeypatch.setenv(restarts, '1')
    os.utime(file, (1, 1))
    assert start('named.pth') == 'named.pth'
    for _ in range(2):
        os.utime(file)
        assert start('named.pth') == str(file)


def test_a_signal_that_comes_twice_at_once_is_one(monkeypatch):
    """As under torchrun, which hands on what every process of a job gets as well; a later one ends at once."""
    killed, clock = list[int](), [100.0]
    monkeypatch.setattr(os, 'kill', lambda _, number: killed.append(number))
    monkeypatch.setattr(signal, 'signal', lambda *_: None)
    monkeypatch.setattr('time.monotonic', lambda: clock[0])
    hook = Interruption()
    for later, expected in ((0.0, []), (0.001, []), (9.0, [signal.SIGTERM])):
        clock[0] += later
        hook._note(signal.SIGTERM, None)
        assert killed == expected


def test_processes_leave_at_the_first_step_after_they_agreed(monkeypatch):
    """The signal of one travels with the losses of all. Gathered gradients come first."""
    left, hook, guard = list[int](), Interruption(), LossGuard()
    monkeypatch.setattr(interruption, 'get_world_size', lambda: 2)
    monkeypatch.setattr(interruption, 'between_steps', lambda runner: (runner.iter + 1) % 4 == 0)
    monkeypatch.setattr(hook, '_leave', lambda runner, done: left.append(done))
    guard._interruption = hook
    for number in range(13):
        other = signal.SIGTERM if number == 9 else 0
        monkeypatch.setattr(loss_guard, 'all_reduce', lambda losses, op, other=other: losses.clamp_(min=other))
        guard._backward(SimpleNamespace(iter=number), lambda loss: None, torch.ones(()))
        hook.after_train_iter(SimpleNamespace(iter=number), number)
    assert left == [12]


TOGETHER = """
import os, sys
sys.path.insert(0, {root!r})
import mmdistill_dense.engine.launch  # gloo
from tests.engine.processes import SignalAt
from tests import toys
from tests.engine.resumption import config, pair
changes = dict(
    default_hooks=dict(checkpoint=dict(interval=1000)),
    launcher='pytorch',
    model_wrapper_cfg=dict(type='mmdistill_dense.DistillDDP'),
    train_cfg=dict(max_iters=14, val_interval=100),
)
runner = toys.make_runner(None, config({folder!r}, 'iters', 0, pair(), **changes))
again = int(os.environ['TORCHELASTIC_RESTART_COUNT'])
if os.environ['RANK'] == '1' and not again:
    runner.register_hook(SignalAt('before_train_iter'))
runner.train()
if runner.rank == 0:
    print('ENDED', again, runner._resume, runner._load_from)
"""


@pytest.mark.soak
def test_processes_leave_together(tmp_path):
    file = tmp_path / 'train.py'
    file.write_text(TOGETHER.format(root=str(ROOT), folder=str(tmp_path)))
    launch = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', '--max-restarts=1', '--standalone']
    output = run([*launch, file, '--launcher', 'pytorch'], tmp_path, environment())
    assert re.search(r'ENDED 1 True .*iter_3.pth', output), output[-3000:]
