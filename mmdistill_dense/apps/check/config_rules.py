"""Checks of the config, its data set and its schedule: functions that take the known facts and yield findings.

The lists at the end of the file say in which order they are called. A new check is a function and its name in a list,
here or in ``network_rules.py``. A ``ValueError`` that it raises is an error too; one that only raises returns nothing.
"""

from __future__ import annotations

import math
import os
import re
from inspect import signature

from mmengine.registry import LOOPS, OPTIMIZERS, PARAM_SCHEDULERS
from mmengine.runner import Runner

from mmdistill_dense.apps.check.context import (
    Findings,
    Subject,
    counts_epochs,
    error,
    loop_length,
    schedulers,
    warning,
)
from mmdistill_dense.apps.recipes.named import classes_of, optimizer_problem
from mmdistill_dense.config.resolve import is_distill_model, without_effect
from mmdistill_dense.config.unknown_keys import check_keys, check_known, check_options
from mmdistill_dense.config.values import ignored_labels, listed, may_give, num_classes, type_name
from mmdistill_dense.engine.work_folder import inherited_beside_own
from mmdistill_dense.guards.config import (
    batch_problem,
    check_crop,
    check_laid_over,
    check_retyped,
    check_student_classes,
    check_top_level_distillers,
)
from mmdistill_dense.utils.runner_internals import IGNORED
from mmdistill_dense.utils.validate import some

_OF_MMENGINE = ('type', 'by_epoch', '_scope_')  # which mmengine takes from a loop's options


def keys(subject: Subject) -> None:
    """Find misspelt keys of the runner, which would have no effect, and of what it builds, which would stop it."""
    check_keys(subject.config)
    given = subject.config.get('randomness') or {}
    check_known('randomness', given, list(signature(Runner.set_randomness).parameters)[1:])
    optimizer = (subject.config.get('optim_wrapper') or {}).get('optimizer')
    built = [('optim_wrapper.optimizer', OPTIMIZERS, optimizer)] if optimizer else []
    built += [(key, PARAM_SCHEDULERS, option) for key, option in schedulers(subject.config)]
    for key, registry, option in built:
        kind = registry.get(option['type']) if isinstance(option.get('type'), str) else option.get('type')
        if kind is not None:
            own = (*_OF_MMENGINE, 'convert_to_iter_based', 'params', 'optimizer')
            check_options(kind, {name: value for name, value in option.items() if name not in own}, key)
    loop = subject.config.get('train_cfg') or {}
    default = 'EpochBasedTrainLoop' if loop.get('by_epoch') else 'IterBasedTrainLoop'
    kind = LOOPS.get(loop.get('type', default)) if isinstance(loop.get('type', default), str) else loop['type']
    if kind is not None:
        check_options(kind, {key: value for key, value in loop.items() if key not in _OF_MMENGINE}, 'train_cfg')


def overrides(subject: Subject) -> Findings:
    """Find changes of distillers or of the student that have no effect, or another than they look like."""
    check_top_level_distillers(subject.config)
    check_laid_over(subject.config)
    check_retyped(subject.config)
    if is_distill_model(subject.config.model):
        for sentence in without_effect(subject.config.model):
            yield warning(sentence, 'Write it without .student.')
        if told := inherited_beside_own(subject.config):
            yield warning(*told)


def hook(subject: Subject) -> Findings:
    """Check that there is a DistillHook, without which a DistillModel does not train."""
    config = subject.config
    if not is_distill_model(config.model) or not config.model.get('distillers'):
        return
    hooks = [*(config.get('default_hooks') or {}).values(), *(config.get('custom_hooks') or [])]
    if not any(type_name(one).endswith('DistillHook') for one in hooks):
        yield error(
            'no DistillHook among default_hooks and custom_hooks: a DistillModel does not train without it.',
            "Add default_hooks = dict(distill=dict(type='mmdistill_dense.DistillHook')).",
        )


def workers(subject: Subject) -> Findings:
    """Find persistent workers in epoch-based training, which DistillHook refuses."""
    loader = subject.config.get('train_dataloader') or {}
    hooks = (subject.config.get('default_hooks') or {}).values()
    has_hook = any(type_name(one).endswith('DistillHook') for one in hooks)
    if counts_epochs(subject.config) and has_hook and loader.get('num_workers') and loader.get('persistent_workers'):
        yield error(
            'train_dataloader.persistent_workers=True cannot be resumed exactly in epoch-based training.',
            'Set train_dataloader.persistent_workers=False.',
        )


def crop(subject: Subject) -> None:
    """Find a training crop that is padded back to a larger size."""
    check_crop((subject.config.get('train_dataloader') or {}).get('dataset', {}), subject.network)


def evaluators(subject: Subject) -> Findings:
    """Check the labels of each metric: they are those of its data set, and it ignores what the heads ignore."""
    count = num_classes(subject.network) or 0
    ignored = sorted(one for one in ignored_labels(subject.network) if not 0 <= one < count)
    for split in ('val', 'test'):
        dataset = (subject.config.get(f'{split}_dataloader') or {}).get('dataset') or {}
        path = dataset.get('ann_file')
        own = os.path.normpath(os.path.join(dataset.get('data_root') or '', path)) if path else ''
        for one in listed(subject.config.get(f'{split}_evaluator')):
            counted = [label for label in ignored if label != one.get('ignore_index', IGNORED)]
            if type_name(one) == 'IoUMetric' and counted:
                yield warning(
                    f'the heads of the student ignore the label {some(counted)}, the metric of {split}_evaluator does '
                    'not: what is predicted there counts as wrong.',
                    f'Give heads and metric one ignore_index: the metric has {one.get("ignore_index", IGNORED)}.',
                )
            file = one.get('ann_file')
            if file and own and os.path.normpath(file) != own:
                told = warning if os.path.isfile(file) else error
                yield told(
                    f'{split}_evaluator.ann_file={file!r}, but {split}_dataloader.dataset reads {own!r}.',
                    f'Set {split}_evaluator.ann_file={own!r}: the metric reads the labels by itself.',
                )


def batch(subject: Subject) -> Findings:
    """Check that batches hold pictures, and that the batch is the one that the learning rate is for."""
    for split in ('train', 'val', 'test'):
        size = (subject.config.get(f'{split}_dataloader') or {}).get('batch_size', 1)
        if not isinstance(size, int) or size < 1:
            message = f'{split}_dataloader.batch_size={size!r}: it must be a whole number of at least 1.'
            yield error(message)
            return
    problem = batch_problem(subject.config, subject.options.processes)
    if problem:
        yield warning(problem, 'Give --processes N if N processes will train together.')


def optimizer(subject: Subject) -> Findings:
    """Check that the student is trained by the kind of optimizer that it was published with."""
    problem = optimizer_problem(subject.config)
    if problem:
        yield warning(problem, "Unless intended, use the student's own optim_wrapper and param_scheduler.")


def data(subject: Subject) -> Findings:
    """Check that there are pictures to train and to validate on."""
    if subject.data_problem and subject.options.size is None:
        message = f'training cannot start: {subject.data_problem}'
        with_option = ', as with --size H W' if subject.options.command else ''
        yield error(message, f'The rest is checked on generated pictures{with_option}.')
    if subject.validation_problem:
        yield error(subject.validation_problem)


def student_classes(subject: Subject) -> None:
    check_student_classes(subject.data_classes, subject.network)


def validation_classes(subject: Subject) -> Findings:
    """Check that validation has the same classes as training."""
    own = subject.data_classes
    for loader in ('val_dataloader', 'test_dataloader'):
        found = classes_of((subject.config.get(loader) or {}).get('dataset') or {})
        if found is not None and own is not None and list(found) != list(own):
            yield warning(
                f'{loader}.dataset has the classes {some(found)}, train_dataloader.dataset {some(own)}.',
                'Classes are scored by position: use the same metainfo.classes in all loaders.',
            )


def labels(subject: Subject) -> Findings:
    """Check that the student's head has a class for every label."""
    count = num_classes(subject.network)
    if count is None:
        return
    ignored = ignored_labels(subject.network)
    if classes := sorted(label for label in ignored - {IGNORED} if 0 <= label < count):
        yield warning(
            f'ignore_index={some(classes)} of the student is the number of a class: its pixels are never learned.',
            f'Set ignore_index={IGNORED} in its heads, unless that is meant.',
        )
    for sample in (subject.batch or {}).get('data_samples') or []:
        instances, found = getattr(sample, 'gt_instances', None), []
        if hasattr(sample, 'gt_sem_seg'):
            found = sample.gt_sem_seg.data.unique().tolist()
        elif instances is not None and 'labels' in instances:
            found = instances.labels.unique().tolist()
        wrong = sorted({int(label) for label in found if label not in ignored and not 0 <= label < count})
        if wrong:
            meta = getattr(sample, 'metainfo', {})
            name = meta.get('seg_map_path') or meta.get('img_path') or meta.get('img_id')
            yield error(
                f'a training picture ({name}) has the labels {wrong[:6]}, the student has {count} classes '
                f'(0 to {count - 1}; ignore_index: {some(sorted(ignored))}).',
                'Correct the label files, reduce_zero_label, metainfo.classes, num_classes or ignore_index.',
            )
            return


def endless(subject: Subject) -> Findings:
    """Find an epoch that never ends."""
    sampler = (subject.config.get('train_dataloader') or {}).get('sampler') or {}
    if counts_epochs(subject.config) and type_name(sampler) == 'InfiniteSampler':
        yield error(
            'train_dataloader.sampler is an InfiniteSampler, but train_cfg counts epochs: the first never ends.',
            "Set train_dataloader.sampler.type='DefaultSampler', or train with IterBasedTrainLoop.",
        )


def rate(subject: Subject) -> Findings:
    """Find a schedule without steps, and a rate that does not fall as it says, or is 0 long before the end."""
    # a tenth is let pass: a schedule may well end a step late, so that the last step is not lost
    epochs, length = counts_epochs(subject.config), loop_length(subject.config)
    unit = 'epochs' if epochs else 'iterations'
    ends = []
    for key, one in schedulers(subject.config):
        counted, begin, end = one.get('by_epoch', True), one.get('begin', 0), one.get('end', math.inf)
        if end <= begin:
            yield error(
                f'{key} ({type_name(one)}) begins at {begin} and ends at {end}: training would not start.',
                f'Let it end after {begin}, or leave it out.',
            )
        elif counted and not epochs and not one.get('convert_to_iter_based') and 'Plateau' not in type_name(one):
            yield warning(
                f'{key} ({type_name(one)}) counts epochs, but the run counts iterations: it would change nothing.',
                f'Set {key}.by_epoch=False, and its begin and end in iterations.',
            )
        elif length and bool(counted) == epochs:
            if 'milestones' in one:  # the later ones may well be left for a longer run
                end = begin + min(one['milestones'], default=0)
            elif 'T_max' in one:
                end = min(end, begin + one['T_max'])
            ends.append((end, key, one))
            if 1.1 * length < end < math.inf:
                yield warning(
                    f'{key} ({type_name(one)}) ends at {end:g}, but the run ends at {length} {unit}: the '
                    'learning rate does not get where it should.',
                    f'Set its end (or T_max, milestones) to {length} or less.',
                )
    end, key, one = max(ends, key=lambda found: found[0], default=(math.inf, '', {}))
    falls_to_0 = re.match('(Poly|CosineAnnealing)', type_name(one)) and not one.get('eta_min')
    if length and end < 0.9 * length and falls_to_0 and not one.get('eta_min_ratio'):
        yield warning(
            f'{key} ({type_name(one)}) brings the learning rate to 0 at {end:g}, but the run goes on until {length} '
            f'{unit}: nothing is learned after it.',
            f'Set {key}.end={length}, or give it an eta_min.',
        )


def checkpoints(subject: Subject) -> Findings:
    """Find a run that saves no checkpoint before its end. After an interruption it must start from the beginning."""
    hook = (subject.config.get('default_hooks') or {}).get('checkpoint', {})
    epochs, length = counts_epochs(subject.config), loop_length(subject.config)
    unit = 'epochs' if epochs else 'iterations'
    if hook is None or not length:
        return
    interval = hook.get('interval', 1)
    if not epochs and hook.get('by_epoch', True):
        problem = 'counts epochs, but the run counts iterations'
        advice = 'Set default_hooks.checkpoint.by_epoch=False, and its interval in iterations.'
    elif epochs == bool(hook.get('by_epoch', True)) and interval > length:
        problem = f'has the interval {interval}, but the run ends at {length} {unit}'
        advice = f'Set default_hooks.checkpoint.interval to a part of {length}.'
    else:
        return
    message = f'default_hooks.checkpoint {problem}: nothing is kept on the way, and an interrupted run starts anew.'
    yield warning(message, advice)


def best(subject: Subject) -> Findings:
    """Check that the evaluation gives the score by which the best checkpoint is kept."""
    wanted = (((subject.config.get('default_hooks') or {}).get('checkpoint')) or {}).get('save_best')
    metrics = listed(subject.config.get('val_evaluator'))
    for name in listed(wanted):
        if name != 'auto' and metrics and not any(may_give(metric, name) for metric in metrics):
            yield error(
                f'default_hooks.checkpoint.save_best={name!r}: val_evaluator gives no such score '
                f'({some(map(type_name, metrics))}), and training would stop at the first validation.',
                'Name a score that is in the log of an evaluation, or add its metric to val_evaluator.',
            )


CONFIG = (keys, overrides, hook, workers, crop, batch, evaluators, optimizer, endless, rate, checkpoints, best)
DATA = (data, student_classes, validation_classes, labels)
