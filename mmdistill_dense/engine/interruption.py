"""Save at SIGTERM and SIGUSR1 so that a run can go on."""

import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import IterBasedTrainLoop, Runner

from mmdistill_dense.engine.work_folder import latest_checkpoint, own_checkpoint
from mmdistill_dense.guards.runner import NEEDED
from mmdistill_dense.networks.modes import attributes
from mmdistill_dense.utils.runner_internals import between_steps, built_loop

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_ONCE = 5.0  # seconds: torchrun forwards the signal that the cluster also sends to each process
_TOGETHER = 10  # iterations between two questions in a step of your own, without the wrapper's ``backward``
_OF_WORKERS = (RuntimeError, ConnectionError, FileNotFoundError, EOFError)  # a loader whose workers end while it reads


class Interruption(Hook):
    """Saves a checkpoint when a cluster is about to end the run, and leaves with the status of that signal.

    Slurm, Kubernetes and torchrun send SIGTERM before they kill; a job may ask for SIGUSR1 some time before its limit.
    The status is 128 and the number of the signal, as if it had ended the process, so that each of them starts the job
    again where it is asked to. An epoch-based run saves nothing: from the middle of an epoch it could not go on to
    the same bits, so its last epoch counts. After Ctrl-C the log names the last checkpoint.
    """

    priority = 'LOWEST'  # after the hook that saves
    number = 0  # of the signal that came
    agreed = 0  # what all processes know of it
    asked = False  # whether LossGuard has asked them in this step
    _since = 0.0  # when it came
    _inside = False  # whether the model is between two whole states
    _validates = False
    _before: Mapping[int, Any] = {}  # the handlers that were there

    def before_run(self, runner: Runner) -> None:
        loop = built_loop(runner)
        if loop is None:  # a run that only tests
            return
        run = loop.run  # replaced on the instance: mmengine calls no hook at signals and exceptions

        def watched() -> Any:
            loop.run = run
            try:
                return run()
            except KeyboardInterrupt:
                event = f'Interrupted in iteration {runner.iter + 1} of {runner.max_iters}'
                runner.logger.warning(f'{event}: {_resume_hint(runner)}.')
                raise
            except _OF_WORKERS:  # that got the signal too
                if not self.number or self._inside or get_world_size() > 1:
                    raise
                self._leave(runner, runner.iter)
            finally:
                for number, handler in self._before.items():
                    signal.signal(number, handler)
                self.number, self.agreed, self._before = 0, 0, {}
                self.asked = self._inside = self._validates = False

        loop.run = watched

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """From the first iteration on, wait for signals; from here on the model changes."""
        if not self._before and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        self._inside = True

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Leave if a signal came, all processes after the same iteration."""
        self._inside = False
        if get_world_size() == 1:
            self.agreed = self.number
        elif not self.asked and (runner.iter + 1) % _TOGETHER == 0:
            number = torch.tensor(self.number)
            all_reduce(number, 'max')
            self.agreed = int(number)
        self.asked = False
        if self.agreed and between_steps(runner):
            self.number = self.agreed
            self._leave(runner, runner.iter + 1)

    def before_val_epoch(self, runner: Runner) -> None:
        """From here on the model may hold averaged weights, and must not be saved."""
        self._validates = True

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Leave in the middle of a validation if this iteration is saved; the next start repeats the validation."""
        if self.number and get_world_size() == 1 and _is_saved(runner, runner.iter):
            self._leave(runner, runner.iter)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._validates = False

    def _note(self, number: int, _: Any) -> None:
        moment = time.monotonic()
        if self.number and moment - self._since > _ONCE:  # sent twice: end at once
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if not self.number:
            self.number, self._since = number, moment
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's own would raise when the loader's workers end first

    def _leave(self, runner: Runner, done: int) -> None:
        if not self._validates:
            save_step(runner, done)
        barrier()  # a launcher ends the others when one process leaves
        name = signal.Signals(self.number).name
        runner.logger.warning(f'{name} after iteration {done} of {runner.max_iters}: {_resume_hint(runner)}.')
        raise SystemExit(128 + self.number)


def save_step(runner: Runner, done: int) -> None:
    """Save a checkpoint after an iteration from which the run goes on exactly, where that is possible."""
    if _is_saved(runner, done) is False and between_steps(runner):
        hook = _saver(runner)
        with attributes(hook, **dict.fromkeys(NEEDED, True)):  # all that a run needs, whatever the config's files hold
            hook._save_checkpoint_with_step(runner, done, meta={'epoch': runner.epoch, 'iter': done})


def _is_saved(runner: Runner, done: int) -> bool | None:
    """Tell whether an iteration is saved; ``None`` where it cannot be."""
    hook = _saver(runner)
    if hook is None or hook.by_epoch or not isinstance(runner.train_loop, IterBasedTrainLoop):
        return None
    whole = all(getattr(hook, name) for name in NEEDED)
    return whole and Path(hook.out_dir, hook.filename_tmpl.format(done)).is_file()


def _saver(runner: Runner) -> Any:
    return next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)


def _resume_hint(runner: Runner) -> str:
    last = own_checkpoint(Path(runner.work_dir)) or latest_checkpoint(Path(runner.work_dir))
    return f'the same command with --resume goes on from {last.name}' if last else 'no checkpoint was written yet'
