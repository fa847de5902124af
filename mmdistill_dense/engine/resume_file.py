"""Choose the file to resume from, in the same order of pictures, and tell about it in the log."""

from __future__ import annotations

import functools
import itertools
import zipfile
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, FlexibleRunner, Runner

from mmdistill_dense.engine.changes import tell_changes
from mmdistill_dense.engine.ddp import warn_of_other_processes
from mmdistill_dense.utils.reproducible import sampler_of
from mmdistill_dense.utils.runner_internals import built_loop, name_start_file, resumes, start_file
from mmdistill_dense.weights.strict_load import read_checkpoint


class ResumeFile(Hook):
    """Chooses the file to resume from, and adds to each checkpoint what the next start needs to know.

    Args:
        tells: Whether to log how the run resumes; a measurement at a checkpoint switches this off.
    """

    def __init__(self, tells: bool = True) -> None:
        self.tells = tells

    def before_run(self, runner: Runner) -> None:
        """Choose the file; watch for Ctrl-C."""
        resume_from_a_whole_file(runner)
        if self.tells:
            tell_when_interrupted(runner)

    def before_train(self, runner: Runner) -> None:
        """Tell if nothing is left to train."""
        if self.tells:
            tell_when_finished(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the number of processes, the sampler's seed, and whether the epoch has only begun."""
        meta = checkpoint['meta']
        meta.update(processes=get_world_size(), sampler_seed=sampler_seed(runner))
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            meta['within_epoch'] = meta['epoch'] == runner.epoch  # one more at the end of the epoch

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """On resume, tell what has changed, and restore the sampler's seed."""
        if not resumes(runner):
            return
        check_optimizer(checkpoint)
        warn_of_part(runner, checkpoint)
        warn_of_other_processes(runner, checkpoint)
        if self.tells:
            tell_changes(runner, checkpoint)
        restore_sampler_seed(runner, checkpoint)


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the latest whole checkpoint in a run's folder; skip files that a kill cut off.

    ``last_checkpoint``, which mmengine keeps, may name a file that is not whole, or be empty, after a kill.
    """
    found: list[Path] = []
    for kind in ('iter', 'epoch'):
        files = [path for path in folder.glob(f'{kind}_*.pth') if path.stem.removeprefix(f'{kind}_').isdigit()]
        files.sort(key=lambda path: int(path.stem.rpartition('_')[2]), reverse=True)
        # is_zipfile finds the archive's directory, which is written last
        found += itertools.islice(filter(zipfile.is_zipfile, files), 1)
    if len(found) < 2:
        return found[0] if found else None
    return max(found, key=lambda path: _iteration(path, path.stat().st_mtime_ns))


@functools.lru_cache
def _iteration(path: Path, _: int) -> int:
    """Return the iteration of a checkpoint; ``epoch_12`` may be later than ``iter_2000``."""
    return int(read_checkpoint(path)['meta']['iter'])


def resume_from_a_whole_file(runner: Runner) -> None:
    """Let ``--resume`` without a file use the latest whole checkpoint if ``last_checkpoint`` does not name one.

    mmengine writes ``last_checkpoint`` after the checkpoint, and empties it before it writes the name. A run that ends
    in between could not be resumed, or would start from scratch in spite of its checkpoint. The name holds the
    folder, so a copy of it would go on from the checkpoint of the original.
    """
    if not resumes(runner) or start_file(runner) is not None or isinstance(runner, FlexibleRunner):
        return  # a FlexibleRunner has read its file before it calls a hook
    pointer = Path(runner.work_dir, 'last_checkpoint')
    name = pointer.read_text(encoding='utf-8').strip() if pointer.is_file() else ''
    if '://' in name:
        return
    own = pointer.parent / Path(name).name
    if zipfile.is_zipfile(own) and not (Path(name).exists() and own.samefile(name)):
        runner.logger.warning(f'{pointer} names {name!r} of another folder: the run goes on from {own}.')
        name_start_file(runner, str(own))
        return
    if (name and Path(name).is_dir()) or zipfile.is_zipfile(name):
        return
    found = latest_checkpoint(pointer.parent)
    if found is not None:
        runner.logger.warning(f'{pointer} names no whole file ({name!r}): the run goes on from {found.name}.')
        name_start_file(runner, str(found))
    elif pointer.is_file() and not name:
        raise ValueError(
            f'{pointer} is empty, and there is no whole checkpoint beside it: remove it to start a new run, or name '
            'the file to resume from with --resume FILE.'
        )


def check_optimizer(checkpoint: Mapping[str, Any]) -> None:
    """Refuse to resume from a file without optimizer: mmengine would go on with a new one, and the first rates."""
    if 'optimizer' not in checkpoint:
        raise ValueError(
            'This checkpoint holds no optimizer, as files of save_best: resume from an iter_*.pth or epoch_*.pth, or '
            'start a new run from these weights with load_from=….'
        )


def warn_of_part(runner: Runner, checkpoint: Mapping[str, Any]) -> None:
    """Warn if an epoch-based run is resumed from within an epoch, which mmengine begins again."""
    meta = checkpoint.get('meta') or {}
    if meta.get('within_epoch') and isinstance(built_loop(runner), EpochBasedTrainLoop):
        runner.logger.warning(
            f'The checkpoint to resume is from iteration {meta["iter"]}, within epoch {meta["epoch"] + 1}. This epoch '
            'begins again, and iterations and schedules are ahead, so the result is not that of an uninterrupted run. '
            'Resume from an epoch_*.pth (default_hooks.checkpoint.by_epoch=True).'
        )


def sampler_seed(runner: Runner) -> int | None:
    """Return the seed of the training sampler, or ``None`` if it has none."""
    seed = getattr(sampler_of(runner.train_dataloader), 'seed', None)
    return int(seed) if isinstance(seed, Integral) else None


def restore_sampler_seed(runner: Runner, checkpoint: Mapping[str, Any]) -> None:
    """Give the sampler the seed that it had in the run to resume.

    Without ``randomness.seed``, each start draws a seed, and mmengine builds the sampler before it reads the seed of
    the checkpoint.
    """
    seed = (checkpoint.get('meta') or {}).get('sampler_seed')
    if seed is not None and built_loop(runner) is not None:  # older files lack it
        sampler_of(runner.train_dataloader).seed = seed


def tell_when_finished(runner: Runner) -> None:
    """Warn if a resumed run has nothing left to train."""
    loop = runner.train_loop
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    done, last = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
    if resumes(runner) and done >= last:
        unit = 'epoch' if by_epoch else 'iteration'
        runner.logger.warning(f'The checkpoint to resume is from {unit} {done} of {last}: nothing is left to train.')


def tell_when_interrupted(runner: Runner) -> None:
    """Tell after Ctrl-C from which checkpoint the run can resume."""
    loop = built_loop(runner)
    if loop is None:  # a run that only tests
        return
    run = loop.run  # replaced on the instance: mmengine calls no hook on Ctrl-C

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
