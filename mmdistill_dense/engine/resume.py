"""Resume a run: from which file, by the same teachers and options, with what mmengine does not keep."""

import contextlib
import functools
import itertools
import json
import os
import re
import sys
import zipfile
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, barrier, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, FlexibleRunner, IterBasedTrainLoop, Runner

from mmdistill_dense.config.local_code import changed_files, local_code
from mmdistill_dense.config.resolve import read_file, written
from mmdistill_dense.config.values import flat, mappings, plain
from mmdistill_dense.engine.ddp import warn_of_other_processes
from mmdistill_dense.model.distill_model import Distilled
from mmdistill_dense.utils.reproducible import sampler_of
from mmdistill_dense.utils.runner_internals import (
    built_loop,
    renew_val_interval,
    resumes,
    start_file,
    start_from,
)
from mmdistill_dense.utils.validate import some
from mmdistill_dense.weights.strict_load import read_checkpoint

_RESTARTS = ('TORCHELASTIC_RESTART_COUNT', 'SLURM_RESTART_COUNT')
_BEGUN = '.begun'  # touched by a run that begins anew: older checkpoints in its folder are not its own
_LOAD_FROM = re.compile('(?:--cfg-options=)?load_from=(.*)')
_CODE = 'local_code'  # in the meta of a checkpoint
_PER_START = ('work_dir', 'load_from', 'resume', 'launcher', 'experiment_name')
# What torch and mmengine take from a checkpoint, whatever the config says.
_RESTORED = re.compile(r'optim_wrapper\.(\w+\.)?(optimizer|paramwise_cfg)\.|param_scheduler\.')


def tell_changes(runner: Runner, checkpoint: Mapping[str, Any]) -> None:
    """Warn of options that differ from those in the checkpoint, and of those among them that have no effect."""
    meta = checkpoint.get('meta') or {}
    if files := changed_files(meta.get(_CODE), local_code(runner.cfg)):
        runner.logger.warning(f'The code of this run was changed since the checkpoint to resume: {some(files)}.')
    before, after = _texts(written(meta.get('cfg'))), _texts(runner.cfg.to_dict())  # mmengine writes the text
    names = sorted(name for name in {*before, *after} if name.split('.')[0] not in _PER_START)
    pairs = ((name, before.get(name, 'not set'), after.get(name, 'not set')) for name in names)
    changed = [(name, old, new) for name, old, new in pairs if old != new]
    if not before or not changed:
        return
    advice = 'To train with new ones, set load_from to the checkpoint without resume.'
    for name, old, new in changed:
        if name.endswith('optimizer.type') and old.rpartition('.')[2] != new.rpartition('.')[2]:
            raise ValueError(f'{name}={new!r}, but the checkpoint to resume has the state of {old!r}. {advice}')
        groups = (checkpoint['optimizer'], runner.optim_wrapper.state_dict()) if 'paramwise_cfg' in name else ()
        if len({tuple(_group_sizes(optimizer)) for optimizer in groups}) > 1:
            changes = f'{name}={new!r} ({old!r} in the checkpoint to resume)'
            raise ValueError(f'{changes} makes other groups of parameters than its own. {advice}')
    changes = some([f'{name} {old} -> {new}' for name, old, new in changed], 8)
    keys = [name for name, _, _ in changed if _RESTORED.match(name)]
    without = (
        f' The checkpoint holds optimizer and schedules, so the old {some(keys, 8)} stay. {advice}' if keys else ''
    )
    runner.logger.warning(f'The config differs from that of the checkpoint to resume: {changes}.{without}')


def check_rates(runner: Runner, checkpoint: Mapping[str, Any]) -> None:
    """Refuse a longer run whose schedules, which mmengine takes from the checkpoint, have ended at rate 0."""
    loop = built_loop(runner)
    key = 'max_epochs' if isinstance(loop, EpochBasedTrainLoop) else 'max_iters'
    before = (written((checkpoint.get('meta') or {}).get('cfg')).get('train_cfg') or {}).get(key)
    if not isinstance(before, int) or getattr(loop, key, 0) <= before:
        return  # the rate may be 0 for a while, as the config says
    schedules = [state for state in mappings(checkpoint.get('param_schedulers')) if state.get('param_name') == 'lr']
    is_over = schedules and all(state.get('_global_step', 0) + 1 >= state['end'] for state in schedules)
    rates = [group['lr'] for part in mappings(checkpoint.get('optimizer')) for group in part.get('param_groups', ())]
    if is_over and not any(rates):
        raise ValueError(
            f'train_cfg.{key}={getattr(loop, key)}: the checkpoint is of a run with {before}, whose param_scheduler '
            'ended at rate 0, and a resumed run keeps it: start anew at this length, or set load_from without resume.'
        )


def _texts(config: Any) -> dict[str, str]:
    """Return the values of a config as texts by key; mmengine writes the keys inside of lists in another order."""
    values = flat(plain(config)).items()
    return {key: json.dumps(value, sort_keys=True) if isinstance(value, list) else str(value) for key, value in values}


def _group_sizes(optimizer: Mapping[str, Any]) -> list[int]:
    """Return the numbers of parameters in the groups of an optimizer, or of several."""
    if 'param_groups' not in optimizer:
        states = [state for state in optimizer.values() if isinstance(state, Mapping)]
        return [size for state in states for size in _group_sizes(state)]
    return [len(group['params']) for group in optimizer['param_groups']]


def identity(model: Distilled) -> dict[str, Any]:
    """Return the receipts of the teachers, and the taps and shapes of the distillers, as values."""
    teachers = {
        str(name): teacher.receipt.as_dict() | _classes(teacher.option.classes)
        for name, teacher in model.distillation.teachers.items()
        if teacher.receipt
    }
    distillers = {
        name: {
            'type': type(d).__name__,
            'tensors': {key: list(value.shape) for key, value in d.state_dict().items()},
            'taps': [[str(s), str(t)] for s, t in zip(d.student_taps, d.teacher_taps, strict=True)],
            'teacher': str(d.teacher_name),
        }
        for name, d in model.distillers.items()
    }
    facts = {'teachers': teachers, 'distillers': distillers}
    for extra in model.distillation.extras:
        facts |= extra.identity()
    return facts


def differ(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Tell whether a checkpoint's identity is another than this run's; files of older versions hold no taps."""
    if any('taps' not in distiller for distiller in old.get('distillers', {}).values()):
        old, new = _without(old, 'taps'), _without(new, 'taps')
    return comparable(old) != comparable(new)


def same_distillers(old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    """Return the names that stand for one distiller in two identities: class, shapes and taps, as far as they say."""
    before, after = (side.get('distillers', {}) for side in (old, new))
    shared = ((name, before[name], after[name]) for name in before.keys() & after.keys())
    facts = 'type', 'tensors', 'taps'
    return {name for name, a, b in shared if all(a.get(fact, b[fact]) == b[fact] for fact in facts)}


_WEIGHTS = 'sha256', 'config', 'classes'  # what a receipt says of the teacher, whoever reads how much of it


def same_teachers(old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    """Return the equal distillers whose teachers are equal too. Older files do not say which teacher each one has."""
    before, after = (comparable({**side}).get('teachers', {}) for side in (old, new))
    same = set()
    for name in same_distillers(old, new):
        teacher = new['distillers'][name]['teacher']
        earlier, current = before.get(old['distillers'][name].get('teacher', teacher), {}), after.get(teacher, {})
        if all(earlier.get(fact) == current.get(fact) for fact in _WEIGHTS):
            same.add(name)
    return same


def _without(identity: dict[str, Any], *facts: str) -> dict[str, Any]:
    distillers = identity.get('distillers', {}).items()
    entries = {name: {key: value for key, value in entry.items() if key not in facts} for name, entry in distillers}
    return {**identity, 'distillers': entries} if identity else {}


def comparable(identity: dict[str, Any]) -> dict[str, Any]:
    """Return what another run differs in: no names of files, whose hash stands for file and config, and no options."""
    teachers = {
        name: {**teacher, 'file': None, 'config': None if teacher['sha256'] else teacher['config']}
        for name, teacher in identity.get('teachers', {}).items()
    }
    facts = _without(identity, 'settings', 'options', 'teacher')
    facts.pop('balance', None)  # of earlier versions, as the options are
    return {**facts, 'teachers': teachers} if identity else {}


def describe_identity(identity: dict[str, Any]) -> str:
    if not identity:
        return 'no distillation'
    teachers = ', '.join(
        f'{t["config"]} with {t["file"]} (SHA-256 {str(t["sha256"])[:8]})'
        + (f', classes {t["classes"]}' if 'classes' in t else '')
        for t in identity['teachers'].values()
    )
    distillers = []
    for name, entry in identity['distillers'].items():
        taps = ', '.join(s if s == t else f'{s} -> {t}' for s, t in entry.get('taps', ()))
        details = [f'{len(entry["tensors"])} tensors', *([f'taps {taps}'] if taps else [])]
        distillers.append(f'{name}: {entry["type"]} ({"; ".join(details)})')
    parts = [f'teacher {teachers}; distillers {", ".join(distillers)}']
    if second := identity.get('unlabelled'):
        source = f'list {second["names"][:8]}, ratio {second["ratio"]:g}'
        parts.append(f'{second["pictures"]} pictures without labels ({source})')
    return '; '.join(parts)


def _classes(option: Any) -> dict[str, Any]:
    """Return which classes of a teacher are the student's, where that is given."""
    if isinstance(option, Mapping):
        option = {str(name): [*option[name]] for name in sorted(option)}
    return {} if option is None else {'classes': option}


_DONE = 'distill_validated'  # in the message hub, and so in the checkpoints


class PendingValidation(Hook):
    """Runs a missing validation, with its scores and, if it is the best one, its checkpoint.

    mmengine saves a checkpoint first and validates then; a run that is resumed from this checkpoint would train on.
    Loops of your own are left alone.
    """

    def before_run(self, runner: Runner) -> None:
        if resumes(runner) and _progress(built_loop(runner)) is not None:
            runner.register_hook(_CatchUp(), 'LOWEST')

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Note which validation is done; mmengine writes the best checkpoint after this."""
        progress = _progress(built_loop(runner))
        if progress is not None:
            runner.message_hub.update_info(_DONE, progress)


class _CatchUp(Hook):
    """Validates before a resumed training, also if nothing is left to train."""

    def before_train(self, runner: Runner) -> None:
        loop = runner.train_loop
        count = _progress(loop)
        if runner.val_loop is None or count == runner.message_hub.get_info(_DONE, 0):
            return
        renew_val_interval(loop)
        last = loop.max_epochs if isinstance(loop, EpochBasedTrainLoop) else loop.max_iters
        if count >= loop.val_begin and (count % loop.val_interval == 0 or count == last):
            runner.logger.info(f'The run ended before the validation after {count} was done and saved: it is done now.')
            counters = {'epoch': runner.epoch, 'iter': runner.iter}
            for name, value in counters.items():  # mmengine validates before it counts the step
                runner.message_hub.update_info(name, max(value - 1, 0))
            runner.val_loop.run()
            for name, value in counters.items():
                runner.message_hub.update_info(name, value)


def _progress(loop: BaseLoop | None) -> int | None:
    """Return the number of finished epochs or iterations; ``None`` for a loop of your own."""
    if isinstance(loop, EpochBasedTrainLoop):
        return loop.epoch
    return loop.iter if isinstance(loop, IterBasedTrainLoop) else None


class ResumeFile(Hook):
    """Chooses the file to resume from, and adds to each checkpoint what the next start needs to know."""

    _code: Mapping[str, str] | None = None  # of the run, with its first hook
    _epoch: int | None = None  # that has begun
    _step: int | None = None

    def before_run(self, runner: Runner) -> None:
        self._code = local_code(runner.cfg)  # as it was imported: it may change while the run goes on
        if isinstance(runner, FlexibleRunner):
            return  # it has read its file before it calls a hook
        loop = built_loop(runner)
        if loop is not None and not getattr(loop, 'iter', 0):  # not a test after the training
            if (start := _start_in_file(runner)) is not None:
                resume_the_latest(runner, start)
            go_on_after_restart(runner)
        resume_from_a_whole_file(runner)

    def before_train(self, runner: Runner) -> None:
        """Refuse processes that begin at different steps; tell if nothing is left to train."""
        loop = runner.train_loop
        begins = all_gather_object((runner.epoch, runner.iter))
        if len({*begins}) > 1:
            status = ', '.join(f'epoch {epoch}, iteration {iteration}' for epoch, iteration in begins)
            remedy = 'work_dir must be a folder that all machines share, or hold the same checkpoint on each'
            raise ValueError(f'The processes begin at different steps ({status}): {remedy}.')
        done, last, unit = (
            (loop.epoch, loop.max_epochs, 'epoch')
            if isinstance(loop, EpochBasedTrainLoop)
            else (loop.iter, loop.max_iters, 'iteration')
        )
        if resumes(runner) and done >= last:
            status = f'The checkpoint to resume is from {unit} {done} of {last}'
            runner.logger.warning(f'{status}: nothing is left to train.')

    def before_train_epoch(self, runner: Runner) -> None:
        self._epoch = runner.epoch

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self._step = runner.iter

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the number of processes, the sampler's seed, and whether the epoch has only begun."""
        meta, seed = checkpoint['meta'], getattr(sampler_of(runner.train_dataloader), 'seed', None)
        meta[_CODE] = self._code
        meta.update(processes=get_world_size(), sampler_seed=int(seed) if isinstance(seed, Integral) else None)
        # The file of a validation's best score is written again when epoch and step are counted.
        if isinstance(runner, FlexibleRunner):  # it adds one then too
            counters = {'epoch': (runner.epoch, self._epoch), 'iter': (runner.iter, self._step)}
            meta.update({name: count for name, (count, begun) in counters.items() if count != begun})
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            meta['within_epoch'] = meta['epoch'] == runner.epoch == self._epoch

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """On resume, tell what has changed, and restore the sampler's seed.

        Without ``randomness.seed``, each start draws a seed, and mmengine builds the sampler before it reads the seed
        of the checkpoint.
        """
        if not resumes(runner):
            return
        if 'optimizer' not in checkpoint:  # mmengine would go on with a new one, and the first rates
            problem = 'This checkpoint holds no optimizer, as files of save_best and of save_optimizer=False'
            raise ValueError(f'{problem}: resume from an iter_*.pth or epoch_*.pth, or set load_from=….')
        if runner.param_schedulers and 'param_schedulers' not in checkpoint:  # here too mmengine would go on
            problem = 'This checkpoint holds no schedules of the learning rate (save_param_scheduler=False)'
            raise ValueError(f'{problem}: start a new run with load_from=… and the rates that are left.')
        meta = checkpoint.get('meta') or {}
        if meta.get('within_epoch') and isinstance(built_loop(runner), EpochBasedTrainLoop):
            runner.logger.warning(
                f'The checkpoint to resume is from iteration {meta["iter"]}, within epoch {meta["epoch"] + 1}. This '
                'epoch begins again, and schedules of rates are ahead. Resume from an epoch_*.pth (by_epoch=True).'
            )
        warn_of_other_processes(runner, checkpoint)
        tell_changes(runner, checkpoint)
        check_rates(runner, checkpoint)
        seed = meta.get('sampler_seed')
        if seed is not None and built_loop(runner) is not None:  # older files lack it
            sampler_of(runner.train_dataloader).seed = seed


def own_checkpoint(folder: Path) -> Path | None:
    """Return the latest checkpoint of the last run in a folder, which may hold checkpoints of earlier runs."""
    marker = folder / _BEGUN
    since = marker.stat().st_mtime_ns if marker.is_file() else 0
    pointer = Path(_noted_checkpoint(folder))  # elsewhere, where `out_dir` or `filename_tmpl` is set
    return latest_checkpoint(folder, since) or (pointer if _is_whole(pointer, since) else None)


def _noted_checkpoint(folder: Path) -> str:
    """Return what mmengine noted as the last checkpoint of a folder; empty without a note."""
    pointer = folder / 'last_checkpoint'
    return pointer.read_text(encoding='utf-8').strip() if pointer.is_file() else ''


def latest_checkpoint(folder: Path, since: int = 0) -> Path | None:
    """Return the latest whole checkpoint in a run's folder; skip files that a kill cut off, or of before a time.

    ``last_checkpoint``, which mmengine keeps, may name a file that is not whole, or be empty, after a kill.
    """
    checkpoints: list[Path] = []
    for kind in ('iter', 'epoch'):
        files = [path for path in folder.glob(f'{kind}_*.pth') if path.stem.removeprefix(f'{kind}_').isdigit()]
        files.sort(key=lambda path: int(path.stem.rpartition('_')[2]), reverse=True)
        checkpoints += itertools.islice((path for path in files if _is_whole(path, since)), 1)
    if len(checkpoints) < 2:
        return checkpoints[0] if checkpoints else None
    return max(checkpoints, key=lambda path: _iteration(path, path.stat().st_mtime_ns))


def _is_whole(path: Path, since: int) -> bool:
    """Tell whether a checkpoint was changed since a time, and its archive's directory, which is written last, is there.

    Another process may have removed it.
    """
    with contextlib.suppress(FileNotFoundError):
        return zipfile.is_zipfile(path) and path.stat().st_mtime_ns >= since
    return False


@functools.lru_cache
def _iteration(path: Path, _: int) -> int:
    return int(read_checkpoint(path, lazily=True)['meta']['iter'])


def go_on_after_restart(runner: Runner) -> None:
    """Resume from the run's last checkpoint if torchrun or Slurm started the run again."""
    marker = Path(runner.work_dir, _BEGUN)
    again = any(os.environ.get(name, '0') not in ('', '0') for name in _RESTARTS)
    starts = not resumes(runner) or start_file(runner) is not None  # a file that is named is as far as it was then
    if again and starts and marker.is_file() and (last := own_checkpoint(marker.parent)) is not None:
        runner.logger.warning(f'The launcher started this run again: it goes on from {last.name}.')
        start_from(runner, str(last))
        starts = False
    barrier()  # all have looked
    if starts and is_main_process():
        marker.touch()


def resume_the_latest(runner: Runner, start: str | None) -> None:
    """Resume from the work folder; while it has no checkpoint, begin a new run from the weights in ``start``."""
    folder = Path(runner.work_dir)
    if latest_checkpoint(folder) is not None or (folder / 'last_checkpoint').is_file():
        start_from(runner, None)
    else:
        runner.logger.info(f'{folder} has no checkpoint to resume: a new run begins, with load_from={start!r}.')
        start_from(runner, start, resume=False)


def _start_in_file(runner: Runner) -> str | None:
    """Return ``load_from`` of the config's file if the run resumes and nobody named a file to resume from.

    With ``--resume``, mmseg's script leaves this option in place, so mmengine would resume from it. mmdet's drops it,
    also that of ``--cfg-options``, so the first start of a run would have random weights.
    """
    path = runner.cfg.filename
    if not resumes(runner) or not path or not Path(path).is_file():
        return None
    options = [match[1].strip('"\'') for word in sys.argv if (match := _LOAD_FROM.fullmatch(word))]
    if options and start_file(runner) is None:
        return options[-1] if options[-1] not in ('', 'None') else None
    file = read_file(path)
    start = file.get('load_from')
    is_named = file.get('resume') or any(word.endswith(str(start)) for word in sys.argv)
    return start if start_file(runner) in (None, start) and not is_named else None


def resume_from_a_whole_file(runner: Runner) -> None:
    """Let ``--resume`` without a file use the latest whole checkpoint if ``last_checkpoint`` does not name one.

    mmengine empties ``last_checkpoint`` after it saved, and writes the name then: a run may end in between. The name
    holds the folder, so a copy of that would go on from the checkpoint of the original.
    """
    if not resumes(runner) or start_file(runner) is not None:
        return
    pointer = Path(runner.work_dir, 'last_checkpoint')
    name = _noted_checkpoint(pointer.parent)
    if '://' in name:
        return
    local_file = pointer.parent / Path(name).name
    if zipfile.is_zipfile(local_file) and not (Path(name).exists() and local_file.samefile(name)):
        runner.logger.warning(f'{pointer} names {name!r} of another folder: the run goes on from {local_file}.')
        start_from(runner, str(local_file))
        return
    if (name and Path(name).is_dir()) or zipfile.is_zipfile(name):
        return
    checkpoint = own_checkpoint(pointer.parent) or latest_checkpoint(pointer.parent)
    if checkpoint is not None:
        runner.logger.warning(f'{pointer} names no whole file ({name!r}): the run goes on from {checkpoint.name}.')
        start_from(runner, str(checkpoint))
    elif pointer.is_file() and not name:
        problem = f'{pointer} is empty, and no whole checkpoint is beside it'
        raise ValueError(f'{problem}: remove it, or name a file with --resume FILE.')
