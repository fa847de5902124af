"""The rules of a run. Each takes the facts of a run (config, data, student) and yields what is wrong with it.

Every road asks them: ``RunGuards`` before the first step of a training, ``mmdistill check``, and with it ``run`` and
``suite``. A new rule is a function and its name in a list at the end of the file. A ``ValueError`` that it raises is an
error too; a rule that only raises returns nothing.
"""

import math
import os
import re
from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import DATA_SAMPLERS, LOOPS, OPTIMIZERS, PARAM_SCHEDULERS
from mmengine.runner import Runner
from torch.nn.modules.batchnorm import _BatchNorm

from mmdistill_dense.config.resolve import find_config, inherited_distillers, read_file, without_effect
from mmdistill_dense.config.unknown_keys import check_keys, check_known, check_options
from mmdistill_dense.config.values import ignored_labels, listed, may_give, num_classes, optimizer_of, type_name
from mmdistill_dense.guards.config import (
    batch_problem,
    check_crop,
    check_laid_over,
    check_retyped,
    check_student_classes,
    check_top_level_distillers,
)
from mmdistill_dense.guards.findings import Findings, RunFacts, class_in, error, warning
from mmdistill_dense.registry import kind_of
from mmdistill_dense.utils.runner_internals import IGNORED
from mmdistill_dense.utils.validate import some

# Samplers of mmengine and mmdet that never end, for runs that count iterations.
_ENDLESS = {'InfiniteSampler', 'MultiSourceSampler', 'GroupMultiSourceSampler'}
# which mmengine takes from the options of loops, schedulers and optimizers
_OF_MMENGINE = ('type', 'by_epoch', '_scope_', 'convert_to_iter_based', 'params', 'optimizer')


def _definer(cls: type | None, method: str) -> str:
    """Return the name of the class from which another one has a method."""
    return next((base.__name__ for base in getattr(cls, '__mro__', ()) if method in vars(base)), '')


def keys(run: RunFacts) -> None:
    """Find misspelt keys of the runner, which would have no effect, and of what it builds, which would stop it."""
    check_keys(run.config)
    check_known('randomness', run.config.get('randomness') or {}, list(signature(Runner.set_randomness).parameters)[1:])
    loop, optimizer = run.config.get('train_cfg') or {}, (run.config.get('optim_wrapper') or {}).get('optimizer')
    default = 'EpochBasedTrainLoop' if loop.get('by_epoch') else 'IterBasedTrainLoop'
    options = [(key, PARAM_SCHEDULERS, option) for key, option in run.schedulers()]
    options += [('optim_wrapper.optimizer', OPTIMIZERS, optimizer)] if optimizer else []
    for key, registry, option in (*options, ('train_cfg', LOOPS, {'type': default, **loop})):
        if (kind := kind_of(registry, option)) is not None:
            check_options(kind, {name: value for name, value in option.items() if name not in _OF_MMENGINE}, key)


def replaced(run: RunFacts) -> Findings:
    """Find options of the student that a key beside it replaces; a model says so itself where it is built."""
    for sentence in without_effect(run.config.model) if run.distills else ():
        yield warning(sentence, 'Write it without .student.')


def distiller_overrides(run: RunFacts) -> Findings:
    """Find changes of distillers that have no effect, or another than they look like."""
    if not run.distills:
        return
    check_top_level_distillers(run.config)
    check_laid_over(run.config)
    check_retyped(run.config)
    file, names = Path(run.config.filename or ''), list(run.config.model.get('distillers') or {})
    inherited = inherited_distillers(file, names) if file.is_file() and file.suffix == '.py' else {}
    if inherited:
        new = [name for name in names if name not in inherited]
        sources = ', '.join(f'{name} (of {base})' for name, base in inherited.items())
        yield warning(
            f'model.distillers: beside {", ".join(new)} of {file.name}, the run trains what it inherits: {sources}.',
            f'To swap the method, write distillers=dict(_delete_=True, {new[0]}=…).',
        )


def hook(run: RunFacts) -> Findings:
    """Check that there is a DistillHook, without which a DistillModel does not train."""
    if run.distills and run.config.model.get('distillers') and not _has_distill_hook(run.config):
        yield error(
            'no DistillHook among default_hooks and custom_hooks: a DistillModel does not train without it.',
            "Add default_hooks = dict(distill=dict(type='mmdistill_dense.DistillHook')).",
        )


def _has_distill_hook(config: Mapping[str, Any]) -> bool:
    hooks = [*(config.get('default_hooks') or {}).values(), *(config.get('custom_hooks') or [])]
    return any(type_name(option).endswith('DistillHook') for option in hooks)


def workers(run: RunFacts) -> Findings:
    """Find persistent workers in epoch-based training, which DistillHook refuses."""
    loader = run.config.get('train_dataloader') or {}
    persistent = loader.get('num_workers') and loader.get('persistent_workers')
    if run.counts_epochs and persistent and _has_distill_hook(run.config):
        yield error(
            'train_dataloader.persistent_workers=True cannot be resumed exactly in epoch-based training.',
            'Set train_dataloader.persistent_workers=False.',
        )


def crop(run: RunFacts) -> Findings:
    """Find a training crop that is padded back to a larger size."""
    dataset = (run.config.get('train_dataloader') or {}).get('dataset') or {}
    yield from _as_warnings(run, check_crop, dataset, run.network or {}, run.key)


def evaluators(run: RunFacts) -> Findings:
    """Check the labels of each metric: they are those of its data set, and it ignores what the heads ignore."""
    count = num_classes(run.network or {}) or 0
    ignored = sorted(label for label in ignored_labels(run.network or {}) if not 0 <= label < count)
    for split in [split for split in run.splits if split != 'train']:
        dataset = (run.config.get(f'{split}_dataloader') or {}).get('dataset') or {}
        path = dataset.get('ann_file')
        label_file = os.path.normpath(os.path.join(dataset.get('data_root') or '', path)) if path else ''
        metrics = listed(run.config.get(f'{split}_evaluator'))
        files = {os.path.realpath(metric['ann_file']) for metric in metrics if metric.get('ann_file')}
        other_file = label_file and os.path.realpath(label_file) not in files  # further metrics may have files apart
        for metric in metrics:
            counted = [label for label in ignored if label != metric.get('ignore_index', IGNORED)]
            if type_name(metric) == 'IoUMetric' and counted:
                yield warning(
                    f'the heads of the student ignore the label {some(counted)}, the metric of {split}_evaluator does '
                    'not: what is predicted there counts as wrong.',
                    f'Give heads and metric one ignore_index: the metric has {metric.get("ignore_index", IGNORED)}.',
                )
            file = metric.get('ann_file')
            if file and other_file:
                finding = warning if os.path.isfile(file) or '://' in file else error
                yield finding(
                    f'{split}_evaluator.ann_file={file!r}, but {split}_dataloader.dataset reads {label_file!r}.',
                    f'Set {split}_evaluator.ann_file={label_file!r}: the metric reads the labels by itself.',
                )


def batch_contents(run: RunFacts) -> Findings:
    """Check that batches hold pictures, and that the batch is the one that the learning rate is for."""
    for split in run.splits:
        size = (run.config.get(f'{split}_dataloader') or {}).get('batch_size', 1)
        if not isinstance(size, int) or size < 1:
            yield error(f'{split}_dataloader.batch_size={size!r}: it must be a whole number of at least 1.')
            return
    if problem := batch_problem(run.config, run.processes):
        yield warning(problem, run.processes_advice)


def optimizer(run: RunFacts) -> Findings:
    """Check that a student that was published with Adam is not trained by SGD, by which transformers learn little."""
    student = run.config.model.get('student') if run.distills else None
    if not isinstance(student, Mapping) or not (source := student.get('cfg')):
        return
    if (student.get('backbone') or {}).get('frozen'):  # a head on a foundation model has a schedule apart
        return
    own_optimizer, published = map(optimizer_of, (run.config, read_file(find_config(source, 'model.student.cfg'))))
    if own_optimizer.get('type') == 'SGD' and str(published.get('type')).startswith('Adam'):
        yield warning(
            f"the student's config {source} trains it with {published['type']} at lr {published.get('lr')}, this "
            f'config with SGD at lr {own_optimizer.get("lr")}.',
            "Unless intended, use the student's optim_wrapper and param_scheduler.",
        )


def student_classes(run: RunFacts) -> Findings:
    """Check that the student's heads predict the classes of the training set; texts are no classes."""
    if not run.panoptic and 'language_model' not in (run.network or {}):
        yield from _as_warnings(run, check_student_classes, run.data_classes, run.network or {}, run.key)


def _as_warnings(run: RunFacts, check: Callable[..., None], *args: Any) -> Findings:
    """Let an error be a warning in the training of an ordinary model, which may well be meant so."""
    try:
        check(*args)
    except ValueError as problem:
        yield (error if run.distills else warning)(str(problem))


def validation_classes(run: RunFacts) -> Findings:
    """Check that validation has the same classes as training."""
    classes = run.data_classes
    for loader, scored in run.scored_classes.items():
        if classes is not None and list(scored) != list(classes):
            yield warning(
                f'{loader}.dataset has the classes {some(scored)}, train_dataloader.dataset {some(classes)}.',
                'Classes are scored by position: use the same metainfo.classes in all loaders.',
            )


def labels(run: RunFacts) -> Findings:
    """Check that the student's head has a class for every label of the batch."""
    count = num_classes(run.network or {})
    if count is None:
        return
    ignored = ignored_labels(run.network)
    if classes := sorted(label for label in ignored - {IGNORED} if 0 <= label < count):
        yield warning(
            f'ignore_index={some(classes)} of the student is the number of a class: its pixels are never learned.',
            f'Set ignore_index={IGNORED} in its heads, unless that is meant.',
        )
    labelled = 'gt_sem_seg' if 'decode_head' in run.network else 'gt_instances'  # panoptic samples have both
    for sample in (run.batch or {}).get('data_samples') or []:
        truth = getattr(sample, labelled, None)
        numbers = getattr(truth, 'data' if labelled == 'gt_sem_seg' else 'labels', None)
        occurring = [] if numbers is None else numbers.unique().tolist()
        wrong = sorted({int(label) for label in occurring if label not in ignored and not 0 <= label < count})
        if wrong:
            meta = getattr(sample, 'metainfo', {})
            name = meta.get('seg_map_path') or meta.get('img_path') or meta.get('img_id')
            yield error(
                f'a training picture ({name}) has the labels {wrong[:6]}, the student has {count} classes '
                f'(0 to {count - 1}; ignore_index: {some(sorted(ignored))}).',
                'Correct the label files, reduce_zero_label, metainfo.classes, num_classes or ignore_index.',
            )
            return


def endless(run: RunFacts) -> Findings:
    """Find an epoch, or an evaluation, that never ends."""
    loop = class_in(LOOPS, run.config.get('train_cfg'))
    # a loop of one's own may end an epoch in another way, as a sampler of one's own may
    usual = loop is None or {_definer(loop, name) for name in ('run', 'run_epoch')} == {'EpochBasedTrainLoop'}
    for split in [split for split in run.splits if split != 'test']:
        sampler = (run.config.get(f'{split}_dataloader') or {}).get('sampler') or {}
        drawn_by = _definer(class_in(DATA_SAMPLERS, sampler), '__iter__')
        if drawn_by in _ENDLESS and (split != 'train' or (run.counts_epochs and usual)):
            training = split == 'train'
            reason = 'train_cfg counts epochs: the first never ends' if training else 'an evaluation never ends with it'
            yield error(
                f'{split}_dataloader.sampler is of type {type_name(sampler)}, but {reason}.',
                f"Set {split}_dataloader.sampler.type='DefaultSampler'"
                f'{", or train with IterBasedTrainLoop" if training else ""}.',
            )


def rate(run: RunFacts) -> Findings:
    """Find a schedule without steps, and a rate that does not fall as it says, or is 0 long before the end."""
    # 10 % tolerance: a schedule may well end a step late, so that the last step is not lost
    epochs, length = run.counts_epochs, run.loop_length
    unit = 'epochs' if epochs else 'iterations'
    ends = []
    for key, scheduler in run.schedulers():
        kind, by_epoch = type_name(scheduler), scheduler.get('by_epoch', True)
        begin, end = scheduler.get('begin') or 0, scheduler.get('end') or math.inf
        if end <= begin:
            yield error(
                f'{key} ({kind}) begins at {begin} and ends at {end}: training would not start.',
                f'Let it end after {begin}, or leave it out.',
            )
        elif by_epoch and not epochs and not scheduler.get('convert_to_iter_based') and 'Plateau' not in kind:
            yield warning(
                f'{key} ({kind}) counts epochs, but the run counts iterations: it would change nothing.',
                f'Set {key}.by_epoch=False, and its begin and end in iterations.',
            )
        elif length and bool(by_epoch) == epochs:
            if 'milestones' in scheduler:  # the later ones may well be left for a longer run
                end = begin + min(scheduler['milestones'], default=0)
            elif scheduler.get('T_max'):
                end = min(end, begin + scheduler['T_max'])
            ends.append((end, key, scheduler))
            if 1.1 * length < end < math.inf:
                yield warning(
                    f'{key} ({kind}) ends at {end:g}, but the run ends at {length} {unit}: the '
                    'learning rate does not get where it should.',
                    f'Set its end (or T_max, milestones) to {length} or less.',
                )
    end, key, scheduler = max(ends, key=lambda ending: ending[0], default=(math.inf, '', {}))
    kind = type_name(scheduler)
    falls_to_0 = re.match('(Poly|CosineAnnealing)', kind) and not scheduler.get('eta_min')
    if length and end < 0.9 * length and falls_to_0 and not scheduler.get('eta_min_ratio'):
        yield warning(
            f'{key} ({kind}) brings the learning rate to 0 at {end:g}, but the run goes on until {length} '
            f'{unit}: nothing is learned after it.',
            f'Set {key}.end={length}, or give it an eta_min.',
        )


def checkpoints(run: RunFacts) -> Findings:
    """Find a run that saves no checkpoint before its end. After an interruption it must start from the beginning."""
    hook = (run.config.get('default_hooks') or {}).get('checkpoint', {})
    epochs, length = run.counts_epochs, run.loop_length
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


def scores(run: RunFacts) -> Findings:
    """Check that the evaluation gives the scores that hooks and schedulers wait for."""
    metrics = listed(run.config.get('val_evaluator'))
    checkpoint = (run.config.get('default_hooks') or {}).get('checkpoint') or {}
    best, stops = 'default_hooks.checkpoint.save_best', 'training would stop at the first validation'
    keys = [(best, name, error, stops) for name in listed(checkpoint.get('save_best'))]
    for key, scheduler in run.schedulers():
        if 'Plateau' in type_name(scheduler):
            keys.append((f'{key}.monitor', scheduler.get('monitor', 'loss'), error, stops))
    for index, option in enumerate(run.config.get('custom_hooks') or []):
        if type_name(option) == 'EarlyStoppingHook' and 'monitor' in option:
            finding, effect = (error, stops) if option.get('strict') else (warning, 'no training would end early')
            keys.append((f'custom_hooks.{index}.monitor', option['monitor'], finding, effect))
    for key, name, finding, effect in keys:
        if name != 'auto' and metrics and not any(may_give(metric, name) for metric in metrics):
            yield finding(
                f'{key}={name!r}: val_evaluator gives no such score ({some(map(type_name, metrics))}), and {effect}.',
                'Name a score that is in the log of an evaluation, or add its metric to val_evaluator.',
            )


def trained(run: RunFacts) -> Findings:
    """Check that something of the student's backbone is trained."""
    backbone = getattr(run.model, 'backbone', run.model)
    if run.distillers and not any(parameter.requires_grad for parameter in backbone.parameters()):
        yield warning(
            "nothing in the student's backbone is trained (frozen_stages, requires_grad).",
            'Features of a frozen backbone cannot learn from a teacher: lower frozen_stages.',
        )


def random_and_fixed(run: RunFacts) -> Findings:
    """Check that no part of the student's backbone stays at its random start, as mmdet's frozen stages would."""
    backbone = getattr(run.model, 'backbone', None)
    modules = [*run.model.modules()]
    files = 'Pretrained' in str([getattr(module, 'init_cfg', None) for module in modules])
    files = files or any(getattr(module, 'checkpoint', None) for module in modules)
    pairs = (run.config.get('model') or {}).get('inherit') or ()
    inherited = any(str(pair[0]).startswith('backbone') for pair in pairs)
    if backbone is None or files or inherited or run.has_weights:
        return
    run.model.train()
    frozen = sum(parameter.numel() for parameter in backbone.parameters() if not parameter.requires_grad)
    norms = sum(isinstance(module, _BatchNorm) and not module.training for module in backbone.modules())
    if frozen or norms:
        yield warning(
            f"no file is named for the student's backbone, and a part of it stays as it begins: {frozen:,} parameters "
            f'are frozen, {norms} batch norms keep mean 0 and variance 1.',
            'Set backbone.frozen_stages=-1 and backbone.norm_eval=False, or give it weights (backbone.init_cfg).',
        )


def summed(run: RunFacts) -> Findings:
    """Check that the weight of a sum over a segmentor's map was made for a map of this size; not on generated ones."""
    if run.generated or 'decode_head' not in (run.network or {}):
        return
    for name, distiller in run.distillers.items():
        option, reduction, sizes, published, advice = getattr(distiller, 'published_sum', None) or ('',) * 5
        if not option or getattr(distiller, reduction) != 'sum':
            continue
        weight, key = getattr(distiller, option), f'model.distillers.{name}'
        for level in distiller.levels if weight else ():
            if level.teacher.numel() not in sizes:
                yield warning(
                    f'{key}.{option}={weight:g} multiplies a sum over {"x".join(map(str, level.teacher))} '
                    f'({level.name}): {weight * level.teacher.numel():.2g} in units of the mean. The published weight '
                    f'is for another map, where it is {published} in units of the mean.',
                    f"Set {key}.{reduction}='mean' and {key}.{option}={advice}.",
                )


def padded(run: RunFacts) -> Findings:
    """Check that the preprocessor does not pad pictures to more than twice their area; not on generated ones."""
    inputs = (run.batch or {}).get('inputs')
    if run.generated or len(run.batch_shape) != 1 or not isinstance(inputs, (list, tuple)):
        return
    shapes = [picture.shape[-2:] for picture in inputs if isinstance(picture, torch.Tensor)]
    if not shapes:
        return
    largest = [max(sides) for sides in zip(*shapes, strict=True)]
    height, width = run.batch_shape[0][-2:]
    if height * width > 2 * largest[0] * largest[1]:
        preprocessor = (run.network or {}).get('data_preprocessor') or {}
        option = 'batch_augments' if 'batch_augments' in preprocessor else 'size'
        yield warning(
            f'{run.key}.data_preprocessor pads pictures of {largest[0]}x{largest[1]} to {height}x{width}: most of '
            'the work is done on padding.',
            f'Set {run.key}.data_preprocessor.{option} to your size, or to None.',
        )


# What a runner, a model or a hook refuses by itself while it is built; ``check`` builds no runner.
CONSTRUCTION = (keys, replaced, hook, workers)
CONFIG = (distiller_overrides, crop, batch_contents, evaluators, optimizer, endless, rate, checkpoints, scores)
TEST = (distiller_overrides, evaluators)  # of a run that only tests
DATA = (student_classes, validation_classes)
BATCH = (labels,)
MODEL = (trained, random_and_fixed, summed)
STEP = (padded,)
