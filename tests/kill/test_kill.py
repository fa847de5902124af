"""Runs that are killed at moments drawn from a seed end in the same bits as undisturbed ones.

``MMDISTILL_KILL_SEED=5`` draws other moments, and other ways in which data come and steps are taken.
tests/suite/test_kill.py kills the runs of suites.
"""

import os
import random
import resource
import signal
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import CheckpointHook, Hook
from torch.multiprocessing import ProcessExitedException

from mmdistill_dense.distillers.maskd import learning, token_distiller
from tests import gloo, toys
from tests.kill import kinds
from tests.pretrain import runs as pretrain
from tests.pretrain.files import TABLE

pytestmark = pytest.mark.soak
# 'call': at a call or return of a function in a training step; 'save': at one in the saving of a checkpoint; 'pointer':
# when `last_checkpoint` is open and empty; 'write': the kernel ends the process that writes too much of a checkpoint;
# 'tokens': or of tokens. Two of them: the run that goes on is killed as well.
POINTS = {
    'seg 0': ('call', 'call', 'save', 'write'),
    'seg 1': ('call', 'pointer', 'call+write'),
    'seg 2': ('call', 'call+call+write'),
    'det': ('call', 'save', 'call+call'),
    'tokens': ('call', 'call', 'tokens+write'),
    'pretraining': ('call', 'write', 'call'),
}
ALL = [(kind, turn, how) for kind, hows in POINTS.items() for turn, how in enumerate(hows)]
PARTS = {'state_dict', 'ema_state_dict', 'distillers', 'optimizer', 'param_schedulers', 'message_hub'}


class Killer(Hook):
    """Ends the process at the ``at``-th step or saving, and in it at the ``call``-th event or byte."""

    priority = 'VERY_HIGH'

    def __init__(self, how: str, at: int, call: int) -> None:
        self.how, self.at, self.call = how, at, call
        self.counts = dict.fromkeys(('call', 'save', 'tokens'), 0)
        for owner, name, kind in (
            (CheckpointHook, '_save_checkpoint_with_step', 'save'),
            (token_distiller, 'write_tokens', 'tokens'),
            (learning.TokenLearner, 'step', 'call'),  # the learning of tokens has no hooks
        ):
            setattr(owner, name, self.watched(getattr(owner, name), kind))

    def before_train_iter(self, *_: Any, **__: Any) -> None:
        self.begin('call')

    def watched(self, function: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            self.begin(kind)
            found = function(*args, **options)
            if kind == 'save' and self.how in ('save', 'pointer'):
                self.end_of_moment()
            return found

        return run

    def begin(self, kind: str) -> None:
        self.counts[kind] += 1
        if kind == 'call':
            self.end_of_moment()
        if kind != {'pointer': 'save', 'write': 'save'}.get(self.how, self.how) or self.counts[kind] != self.at:
            return
        if self.how in ('write', 'tokens'):
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.call, self.call))
        else:
            sys.setprofile(self.event)

    def event(self, frame: Any, what: str, argument: Any) -> None:
        """Called by the interpreter at each call and return."""
        self.call -= 1
        saver = frame.f_code.co_name == '_save_checkpoint_with_step'
        opened = saver and what == 'c_call' and argument.__name__ == 'write'
        if opened if self.how == 'pointer' else self.call <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def end_of_moment(self) -> None:
        if sys.getprofile():  # the step was shorter than that
            os.kill(os.getpid(), signal.SIGKILL)


def train(_: int, kind: str, folder: str, moment: tuple | None, files: dict[str, str]) -> None:
    """Train in a process of its own, or go on as ``--resume`` does."""
    torch.set_num_threads(1)
    toys.teacher_file = lambda kind, *_, **__: files[kind]
    pretrain.teacher_file, pretrain.pictures = (lambda: files['ssl']), (lambda: files['pictures'])
    config = kinds.KINDS[kind](Path(folder))
    config.resume = True
    runner = toys.make_runner(None, config)
    if moment:
        runner.register_hook(Killer(*moment), 'VERY_HIGH')
    runner.train()


@cache
def files() -> dict[str, str]:
    """The teachers and pictures that all runs share."""
    found = {kind: toys.teacher_file(kind) for kind in ('fcn', 'faster_rcnn')}
    return found | ({'ssl': pretrain.teacher_file(), 'pictures': pretrain.pictures()} if TABLE.is_file() else {})


@cache
def undisturbed(kind: str) -> Path:
    """The folder of a run that nobody disturbed."""
    folder = toys.fresh_dir()
    gloo.start(train, kind, str(folder), None, files(), processes=1)
    return folder


def checkpoints(folder: Path) -> dict[str, Path]:
    found = [path for path in folder.glob('*.pth') if path.name.startswith(('iter_', 'epoch_', 'best_'))]
    return {str(path.relative_to(folder)): path for path in [*found, *folder.rglob('maskd_tokens/*')]}


def smallest(found: dict[str, Path], of_tokens: bool) -> int:
    return min(path.stat().st_size for name, path in found.items() if ('tokens' in name) == of_tokens)


@pytest.mark.parametrize(('kind', 'turn', 'how'), ALL)
def test_killed_run_ends_as_an_undisturbed_one(tmp_path: Path, kind: str, turn: int, how: str) -> None:
    if kind == 'pretraining' and not TABLE.is_file():
        pytest.skip('the table of layouts is not beside this checkout')
    expected = checkpoints(undisturbed(kind))
    sizes = {part: smallest(expected, part == 'tokens') for part in how.split('+') if part in ('write', 'tokens')}
    stream = random.Random(f'{kinds.SEED}/{kind}/{turn}')
    for number, part in enumerate(how.split('+')):
        call = round(stream.uniform(0.05, 0.95) * sizes[part]) if part in sizes else stream.randint(1, 30_000)
        moment = part, stream.randint(1, 2), min(call, 3000) if part == 'save' else call
        try:
            gloo.start(train, kind, str(tmp_path), moment, files(), processes=1)
            assert number, f'it ended before its first moment, {moment}'
        except ProcessExitedException as error:
            assert error.signal_name == ('SIGXFSZ' if part in sizes else 'SIGKILL'), moment
        print(f'\nseed {kinds.SEED}, {kind} {kinds.DRAWN.get(kind, "")}: {moment}; {sorted(checkpoints(tmp_path))}')
    gloo.start(train, kind, str(tmp_path), None, files(), processes=1)
    found = checkpoints(tmp_path)
    assert expected.keys() <= found.keys() and all(map(zipfile.is_zipfile, found.values()))
    for name, path in expected.items():
        assert not kinds.differing(found[name], path), name


def test_contents_are_of_everything_that_training_goes_on_from() -> None:
    """Two iterations of one run differ in every part of it, and each way is met."""
    early, late = (undisturbed('seg 0') / f'iter_{number}.pth' for number in (6, 8))
    changed = kinds.differing(early, late)
    assert {place.split('.')[1] for place in changed} >= PARTS
    assert any('queue' in place for place in changed) and not kinds.differing(late, late)
    drawn = kinds.DRAWN.values()
    assert all(way in [one[name] for one in drawn] for name, row in kinds.WAYS.items() for way in row)
