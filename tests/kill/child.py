"""What a forked process does: it trains, and ends itself by SIGKILL at the moment that it was given."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmdet.models  # noqa: F401  (everything that a run needs is there before the fork)
import mmseg.models  # noqa: F401
import torch
from mmengine.hooks import CheckpointHook, Hook

from mmdistill_dense.apps.suite import job
from mmdistill_dense.distillers.maskd import learning as token_learner
from mmdistill_dense.distillers.maskd import token_distiller
from tests import toys
from tests.kill import kinds
from tests.pretrain import runs as pretrain
from tests.pretrain.files import TABLE

TEACHERS = ('fcn', 'faster_rcnn')


STAGES = {
    'before the forward pass': ('base_model.py', 'train_step'),
    'before the backward pass': ('optimizer_wrapper.py', 'backward'),
    'before the optimizer': ('optimizer_wrapper.py', 'step'),
    'in the optimizer': ('', ''),
    'before the schedule': ('param_scheduler_hook.py', 'after_train_iter'),
    'before the average': ('ema_hook.py', 'after_train_iter'),
    'before the log': ('logger_hook.py', 'after_train_iter'),
}
PROFILED = ('call', 'save', 'pointer', 'stage')
CUT = ('write', 'tokens')
KINDS = (*PROFILED, *CUT, 'outside')


@dataclass(frozen=True)
class Moment:
    """When a process ends.

    Attributes:
        kind: ``stage``: at a place of STAGES in iteration ``at``, or at its end where it has none. ``call``: at the
            ``at``-th event of Python's profiler in training, calls into C and returns among them. ``save``: the same,
            counted within the saving of checkpoints alone. ``pointer``: in the ``at``-th saving, when
            ``last_checkpoint`` is open and empty. ``write``: the ``at``-th writing of a checkpoint stops after ``size``
            bytes, by the kernel; ``tokens``: that of tokens. ``outside``: another process ends it after iteration
            ``at``.
        at: Counted from 1.
        size: Bytes.
        stage: A key of STAGES.
        calls: In the optimizer: how many events are waited for there.
    """

    kind: str
    at: int
    size: int = 0
    stage: str = ''
    calls: int = 0


def make_files(folder: str, pipe: Any) -> None:
    """Write the teachers and pictures that all runs share, and tell where they are."""
    _begin(Path(folder), 'files')
    files = {kind: toys.teacher_file(kind) for kind in TEACHERS}
    if TABLE.is_file():  # else the test of pre-training is skipped
        files['ssl'] = pretrain.teacher_file()
    pipe.send(dict(files, pictures=pretrain.pictures()))


def train(kind: str, folder: str, moment: Moment | None, count: bool, files: dict[str, str], pipe: Any) -> None:
    """Train, or go on, as ``--resume`` does; tell at the end how many events there were, where they are counted."""
    work_dir = Path(folder)
    _begin(work_dir, 'run')
    _adopt(files)
    witness = Witness(moment, pipe, count or (moment is not None and moment.kind in PROFILED))
    _watch_tokens(witness)
    _watch_saving(witness)
    if kind in kinds.KINDS:
        config = kinds.KINDS[kind](work_dir)
        config.resume = True
        runner = toys.make_runner(work_dir, config)
        runner.register_hook(witness, 'VERY_HIGH')
        runner.train()
    else:
        _perform(work_dir, kind, witness)
    sys.setprofile(None)
    pipe.send(('done', witness.counts))


def _begin(work_dir: Path, name: str) -> None:
    work_dir.mkdir(parents=True, exist_ok=True)
    os.chdir(work_dir)
    with open(work_dir / f'{name}.txt', 'ab') as out:
        for stream in (1, 2):
            os.dup2(out.fileno(), stream)
    torch.set_num_threads(1)
    toys.put_files_in(work_dir)


def _adopt(files: dict[str, str]) -> None:
    toys.teacher_file = lambda kind, *_, **__: files[kind]
    pretrain.teacher_file, pretrain.pictures = (lambda: files['ssl']), (lambda: files['pictures'])


def _perform(folder: Path, title: str, witness: Witness) -> None:
    build = job.build_runner

    def watched(config: Any) -> Any:
        runner = build(config)
        runner.register_hook(witness, 'VERY_HIGH')
        return runner

    job.build_runner = watched
    kinds.perform(folder / 'tiny.yaml', title)


class Witness(Hook):
    """Counts what happens from the start of training on, and ends the process at its moment."""

    def __init__(self, moment: Moment | None, pipe: Any, profiled: bool) -> None:
        self.moment = moment
        self.pipe = pipe
        self.profiled = profiled
        self.counts = dict.fromkeys(KINDS, 0)
        self.saving = self.waiting = self.reached = False
        self.calls = 0

    def before_train(self, runner: Any) -> None:
        if self.profiled:
            sys.setprofile(self.event)

    def before_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        self.iteration()

    def after_train(self, runner: Any) -> None:
        if self.waiting:
            self.end('at the end of the last iteration')
        if self.moment and self.moment.kind == 'outside':
            self.hold()

    def iteration(self) -> None:
        """One more of the training or of the learning of tokens is about to begin."""
        if self.waiting:
            self.end('at the end of the iteration')
        self.waiting = self.counted('stage')
        if self.counted('outside'):
            self.reached = True
            self.pipe.send(('reached', f'of iteration {self.moment.at}'))
        elif self.reached and self.counts['outside'] > self.moment.at + 2:
            self.hold()

    def hold(self) -> None:
        """The end comes from outside, however late."""
        if not self.reached:
            self.pipe.send(('reached', 'of the last iteration'))
        signal.pause()

    def event(self, frame: Any, what: str, argument: Any) -> None:
        """Called by the interpreter at each call and return."""
        if self.counted('call') or (self.saving and self.counted('save')):
            self.end(place_of(frame))
        name, function = os.path.basename(frame.f_code.co_filename), frame.f_code.co_name
        saver = function == '_save_checkpoint_with_step'
        if saver and what == 'c_call' and argument.__name__ == 'write' and self.counted('pointer'):
            self.end(place_of(frame))
        if self.waiting:
            self.calls += '/torch/optim/' in frame.f_code.co_filename or name == 'lars.py'
            inside = self.moment.stage == 'in the optimizer' and self.calls == self.moment.calls
            if inside or (what == 'call' and STAGES[self.moment.stage] == (name, function)):
                self.end(f'{self.moment.stage}, {place_of(frame)}')

    def writing(self, kind: str) -> None:
        """A file is about to be written: from here on the kernel ends the process that writes too much."""
        if self.counted(kind):
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.moment.size, self.moment.size))

    def counted(self, kind: str) -> bool:
        """Count, and tell whether that was the moment."""
        self.counts[kind] += 1
        return self.moment is not None and self.moment.kind == kind and self.counts[kind] == self.moment.at

    def end(self, where: str) -> None:
        self.pipe.send(('killed', where))
        os.kill(os.getpid(), signal.SIGKILL)


def place_of(frame: Any) -> str:
    """File, line and function of a frame."""
    file = Path(frame.f_code.co_filename)
    return f'{file.parent.name}/{file.name}:{frame.f_lineno} {frame.f_code.co_name}'


def _watch_tokens(witness: Witness) -> None:
    """The learning has no hooks: its steps count as iterations, its files as checkpoints."""
    step, write = token_learner.TokenLearner.step, token_distiller.write_tokens

    def stepped(self: Any, *args: Any) -> Any:
        witness.iteration()
        return step(self, *args)

    token_learner.TokenLearner.step = stepped
    token_distiller.write_tokens = _inside(witness, 'tokens', write)


def _watch_saving(witness: Witness) -> None:
    save = CheckpointHook._save_checkpoint_with_step
    CheckpointHook._save_checkpoint_with_step = _inside(witness, 'write', save)


def _inside(witness: Witness, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def watched(*args: Any, **options: Any) -> Any:
        witness.saving = True
        witness.writing(kind)
        try:
            return function(*args, **options)
        finally:
            witness.saving = False

    return watched
