"""Resume a run: by the same teachers and options, with what mmengine does not keep."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from copy import copy
from numbers import Integral, Number
from typing import Any

import numpy as np
from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.runner import EpochBasedTrainLoop, FlexibleRunner, IterBasedTrainLoop, Runner
from torch import nn

from mmdistill_dense.config.local_code import changed_files, local_code
from mmdistill_dense.config.resolve import written
from mmdistill_dense.config.values import flat, mappings, plain
from mmdistill_dense.engine.ddp import warn_of_other_processes
from mmdistill_dense.engine.work_folder import choose_checkpoint
from mmdistill_dense.model.distill_model import Distilled
from mmdistill_dense.utils.distributed import unwrap
from mmdistill_dense.utils.reproducible import sampler_of
from mmdistill_dense.utils.runner_internals import batch_augments, built_loop, renew_val_interval, resumes
from mmdistill_dense.utils.validate import some

_CODE = 'local_code'  # in the meta of a checkpoint
_FACTS = 'type', 'tensors', 'taps'  # of a distiller: equal in a run that goes on; older files lack some
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
        optimizers = (checkpoint['optimizer'], runner.optim_wrapper.state_dict()) if 'paramwise_cfg' in name else ()
        if len({tuple(len(group['params']) for group in _groups(optimizer)) for optimizer in optimizers}) > 1:
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
    if is_over and not any(group['lr'] for group in _groups(checkpoint.get('optimizer'))):
        raise ValueError(
            f'train_cfg.{key}={getattr(loop, key)}: the checkpoint is of a run with {before}, whose param_scheduler '
            'ended at rate 0, and a resumed run keeps it: start anew at this length, or set load_from without resume.'
        )


def _texts(config: Any) -> dict[str, str]:
    """Return the values of a config as texts by key; mmengine writes the keys inside of lists in another order."""
    values = flat(plain(config)).items()
    return {key: json.dumps(value, sort_keys=True) if isinstance(value, list) else str(value) for key, value in values}


def _groups(optimizer: Any) -> list[Mapping[str, Any]]:
    """Return the groups of parameters in the state of an optimizer or of several."""
    return [group for part in mappings(optimizer) for group in part.get('param_groups', ())]


def identity(model: Distilled) -> dict[str, Any]:
    """Return the receipts of the teachers, and the taps and shapes of the distillers, as values."""
    teachers = {}
    for name, teacher in model.distillation.teachers.items():
        if teacher.receipt:
            classes = teacher.option.classes
            if isinstance(classes, Mapping):
                classes = {str(label): [*classes[label]] for label in sorted(classes)}
            teachers[str(name)] = teacher.receipt.as_dict() | ({} if classes is None else {'classes': classes})
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
    facts = [fact for fact in _FACTS if all(fact in distiller for distiller in old.get('distillers', {}).values())]
    return comparable(old, facts) != comparable(new, facts)


def same_distillers(old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    """Return the names that stand for one distiller in two identities: class, shapes and taps, as far as they say."""
    before, after = (side.get('distillers', {}) for side in (old, new))
    shared = ((name, before[name], after[name]) for name in before.keys() & after.keys())
    return {name for name, a, b in shared if all(a.get(fact, b[fact]) == b[fact] for fact in _FACTS)}


def same_teachers(old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    """Return the equal distillers whose teachers are equal too. Older files do not say which teacher each one has."""
    before, after = (comparable({**side}).get('teachers', {}) for side in (old, new))
    same = set()
    for name in same_distillers(old, new):
        teacher = new['distillers'][name]['teacher']
        earlier, current = before.get(old['distillers'][name].get('teacher', teacher), {}), after.get(teacher, {})
        if all(earlier.get(fact) == current.get(fact) for fact in ('sha256', 'config', 'classes')):  # not the origin
            same.add(name)
    return same


def comparable(identity: dict[str, Any], facts: Collection[str] = _FACTS) -> dict[str, Any]:
    """Return what another run differs in: no names of files, whose hash stands for file and config, and no options."""
    teachers = {
        name: {**teacher, 'file': None, 'config': None if teacher['sha256'] else teacher['config']}
        for name, teacher in identity.get('teachers', {}).items()
    }
    entries = identity.get('distillers', {}).items()
    distillers = {name: {fact: entry[fact] for fact in facts if fact in entry} for name, entry in entries}
    others = {key: value for key, value in identity.items() if key != 'balance'}  # of earlier versions
    return {**others, 'teachers': teachers, 'distillers': distillers} if identity else {}


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


_DONE = 'distill_validated'  # in the message hub, and so in the checkpoints
_LOOPS = (EpochBasedTrainLoop, IterBasedTrainLoop)


class PendingValidation(Hook):
    """Runs a missing validation, with its scores and, if it is the best one, its checkpoint.

    mmengine saves a checkpoint first and validates then; a run that is resumed from this checkpoint would train on.
    Loops of your own are left alone.
    """

    def before_run(self, runner: Runner) -> None:
        if resumes(runner) and isinstance(built_loop(runner), _LOOPS):
            runner.register_hook(_CatchUp(), 'LOWEST')

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Note which validation is done; mmengine writes the best checkpoint after this."""
        if isinstance(loop := built_loop(runner), _LOOPS):
            runner.message_hub.update_info(_DONE, _progress(loop)[0])


class _CatchUp(Hook):
    """Validates before a resumed training, also if nothing is left to train."""

    def before_train(self, runner: Runner) -> None:
        loop = runner.train_loop
        count, last, _ = _progress(loop)
        if runner.val_loop is None or count == runner.message_hub.get_info(_DONE, 0):
            return
        renew_val_interval(loop)
        if count >= loop.val_begin and (count % loop.val_interval == 0 or count == last):
            runner.logger.info(f'The run ended before the validation after {count} was done and saved: it is done now.')
            counters = {'epoch': runner.epoch, 'iter': runner.iter}
            for name, value in counters.items():  # mmengine validates before it counts the step
                runner.message_hub.update_info(name, max(value - 1, 0))
            runner.val_loop.run()
            for name, value in counters.items():
                runner.message_hub.update_info(name, value)


def _progress(loop: Any) -> tuple[int, int, str]:
    """Return how many epochs or iterations are done, how many there will be, and which of the two they are."""
    if isinstance(loop, EpochBasedTrainLoop):
        return loop.epoch, loop.max_epochs, 'epoch'
    return loop.iter, loop.max_iters, 'iteration'


class ResumeFile(Hook):
    """Chooses the file to resume from, and adds to each checkpoint what the next start needs to know."""

    _code: Mapping[str, str] | None = None  # of the run, with its first hook
    _epoch: int | None = None  # that has begun
    _step: int | None = None

    def before_run(self, runner: Runner) -> None:
        self._code = local_code(runner.cfg)  # as it was imported: it may change while the run goes on
        if not isinstance(runner, FlexibleRunner):  # which has read its file before it calls a hook
            choose_checkpoint(runner)

    def before_train(self, runner: Runner) -> None:
        """Refuse processes that begin at different steps; tell if nothing is left to train."""
        begins = all_gather_object((runner.epoch, runner.iter))
        if len({*begins}) > 1:
            status = ', '.join(f'epoch {epoch}, iteration {iteration}' for epoch, iteration in begins)
            remedy = 'work_dir must be a folder that all machines share, or hold the same checkpoint on each'
            raise ValueError(f'The processes begin at different steps ({status}): {remedy}.')
        done, last, unit = _progress(runner.train_loop)
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


_STOPPING, _SIZES, _NUMBERS = 'early_stopping', 'batch_sizes', 'numbers'  # in the meta of a checkpoint


class Counters(Hook):
    """Saves and restores mmengine's ``EarlyStoppingHook``, mmdet's ``BatchSyncRandomResize`` and numbers of networks.

    The first has the best score and the number of validations since, the second a size for some steps, as for YOLOX.
    Some networks of mmdet count what they see, outside of their weights: DDOD, Dynamic R-CNN. In several processes the
    numbers of the first are kept.
    """

    _scores: Mapping[str, float] = {}  # of a validation that has not ended, in which the best file is written
    _counts: Mapping[int, tuple[float, float]] = {}  # what the first ones had counted before it
    _built: Mapping[str, tuple[Any, Mapping[str, Any]]] = {}  # by place, what holds numbers, and the first of these

    def before_run(self, runner: Runner) -> None:
        self._built = self._built or {place: (owner, _numbers(owner)) for place, owner in _owners(unwrap(runner.model))}

    def before_val_epoch(self, runner: Runner) -> None:
        self._counts = {id(hook): (hook.wait_count, hook.best_score) for hook in _counting(runner)[0]}

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._scores = metrics or {}

    def after_val(self, runner: Runner) -> None:
        self._scores = {}

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        stopping, resizing = _counting(runner)
        if stopping:
            twins = [copy(hook) for hook in stopping]
            for hook, twin in zip(stopping, twins, strict=True):  # they count after a best file is written
                if twin.monitor in self._scores and self._counts.get(id(hook)) == (twin.wait_count, twin.best_score):
                    twin._check_stop_condition(self._scores[twin.monitor])
            state = [(twin.monitor, int(twin.wait_count), float(twin.best_score)) for twin in twins]
            checkpoint['meta'][_STOPPING] = state
        if resizing:
            checkpoint['meta'][_SIZES] = [augment._input_size for augment in resizing]
        for place, (owner, built) in self._built.items():
            if changed := {name: value for name, value in _numbers(owner).items() if built.get(name) != value}:
                checkpoint['meta'].setdefault(_NUMBERS, {})[place] = changed

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Restore the saved numbers on resume. Early stopping by another ``monitor`` than before starts anew."""
        meta = (checkpoint.get('meta') or {}) if resumes(runner) else {}
        stopping, resizing = _counting(runner)
        for hook, (monitor, count, best) in zip(stopping, meta.get(_STOPPING, ()), strict=False):
            if hook.monitor == monitor:
                hook.wait_count, hook.best_score = count, best
        for augment, size in zip(resizing, meta.get(_SIZES, ()), strict=False):
            augment._input_size = size
        for place in self._built.keys() & meta.get(_NUMBERS, {}).keys():
            vars(self._built[place][0]).update(meta[_NUMBERS][place])


def _counting(runner: Runner) -> tuple[list[Any], list[Any]]:
    resizing = [augment for augment in batch_augments(unwrap(runner.model)) if hasattr(augment, '_input_size')]
    return [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)], resizing


def _owners(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield modules and the objects in their attributes by place. Distillers, which save their own, are left out."""
    for place, module in network.named_modules():
        parts = {f'{place}:{key}': part for key, part in vars(module).items() if hasattr(part, '__dict__')}
        owners = {place: module, **parts}.items()
        yield from ((name, owner) for name, owner in owners if not type(owner).__module__.startswith('mmdistill_dense'))


def _numbers(owner: Any) -> dict[str, Any]:
    """Return the public attributes that are numbers or lists of them, in Python's own types."""
    attributes = ((name, value if isinstance(value, list) else [value], value) for name, value in vars(owner).items())
    return {
        name: np.asarray(value).tolist()
        for name, values, value in attributes
        if name[0] != '_' and name != 'training' and all(isinstance(number, Number) for number in values)
    }
