"""From which file a run goes on after it was ended at any moment, in which order, and what the log tells of it."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner

from mmdistill_dense.utils.reproducible import sampler_of


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the latest whole checkpoint of a run's folder; one that a kill cut off is passed over.

    ``last_checkpoint``, which mmengine keeps, may name a file that is not whole, or be empty, after a kill.

    Args:
        folder: The ``work_dir`` of a run.
    """
    files = [path for path in folder.glob('*.pth') if re.fullmatch('(iter|epoch)_[0-9]+', path.stem)]
    for path in sorted(files, key=lambda path: int(path.stem.rpartition('_')[2]), reverse=True):
        if zipfile.is_zipfile(path):  # the directory of the archive is written last
            return path
    return None


def resume_from_a_whole_file(runner: Runner) -> None:
    """Let ``--resume`` without a file find the latest whole checkpoint where ``last_checkpoint`` does not name one.

    mmengine writes ``last_checkpoint`` after the checkpoint, and empties it before it writes the name: a process that
    ends in between could not be resumed, or would begin anew beside its checkpoint.

    Args:
        runner: Before it has loaded anything.

    Raises:
        ValueError: When ``last_checkpoint`` is empty and there is nothing else to go on from.
    """
    if not runner._resume or runner._load_from is not None:
        return
    pointer = Path(runner.work_dir, 'last_checkpoint')
    name = pointer.read_text(encoding='utf-8').strip() if pointer.is_file() else ''
    if '://' in name or (name and Path(name).is_dir()) or zipfile.is_zipfile(name):
        return
    found = latest_checkpoint(pointer.parent)
    if found is not None:
        runner.logger.warning(f'{pointer} names no whole file ({name!r}): the run goes on from {found.name}.')
        runner._load_from = str(found)
    elif pointer.is_file() and not name:
        raise ValueError(
            f'{pointer} is empty and no whole checkpoint is beside it: remove it to begin anew, or name the file to go '
            'on from, --resume FILE.'
        )


def sampler_seed(runner: Runner) -> int | None:
    """Return the seed of the order of the training pictures; ``None`` for a sampler that has none."""
    seed = getattr(sampler_of(runner.train_dataloader), 'seed', None)
    return int(seed) if isinstance(seed, Integral) else None


def restore_sampler_seed(runner: Runner, checkpoint: Mapping[str, Any]) -> None:
    """Give the sampler the seed that it had in the run to resume.

    Where ``randomness.seed`` is not set, each start draws one, and mmengine builds the sampler before it reads that of
    the checkpoint.

    Args:
        runner: That resumes; its sampler has not given an index.
        checkpoint: Its ``meta.sampler_seed`` is what :class:`DistillHook` wrote; older files lack it.
    """
    seed = (checkpoint.get('meta') or {}).get('sampler_seed')
    if seed is not None and isinstance(runner._train_loop, BaseLoop):
        sampler_of(runner.train_dataloader).seed = seed


def tell_when_finished(runner: Runner) -> None:
    """Tell when a run that resumes has nothing left to train."""
    loop: Any = runner.train_loop
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    done, last = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
    if runner._resume and done >= last:
        unit = 'epoch' if by_epoch else 'iteration'
        runner.logger.warning(f'The checkpoint to resume is of {unit} {done} of {last}: nothing is left to train.')


def tell_when_interrupted(runner: Runner) -> None:
    """Tell behind Ctrl-C from which checkpoint the run can go on.

    Args:
        runner: Before its training loop runs.
    """
    loop: Any = runner._train_loop
    run = loop.run

    def watched() -> Any:
        loop.run = run
        try:
            return run()
        except KeyboardInterrupt:
            last = latest_checkpoint(Path(runner.work_dir))
            way = (
                f'the same command with --resume goes on from {last.name}' if last else 'no checkpoint was written yet'
            )
            runner.logger.warning(f'Interrupted in iteration {runner.iter + 1} of {runner.max_iters}: {way}.')
            raise

    loop.run = watched
