"""Checks of the schedule: training ends, the learning rate falls in time, and checkpoints are kept on the way."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from mmdistill_dense.check.context import Subject
from mmdistill_dense.check.findings import ERROR, WARNING, Finding, Findings
from mmdistill_dense.check.run_options import counts_epochs, loop_length, schedulers, type_of
from mmdistill_dense.config.metric_names import may_give
from mmdistill_dense.utils.messages import some


def endless(subject: Subject) -> Findings:
    """Find an epoch that never ends."""
    sampler = (subject.config.get('train_dataloader') or {}).get('sampler') or {}
    if counts_epochs(subject.config) and type_of(sampler) == 'InfiniteSampler':
        yield Finding(
            ERROR,
            'endless',
            'train_dataloader.sampler is an InfiniteSampler, but train_cfg counts epochs: the first never ends.',
            "Set train_dataloader.sampler.type='DefaultSampler', or train with IterBasedTrainLoop.",
        )


def last_batch(subject: Subject) -> Findings:
    """Find epochs that end with a single picture, on which batch norm may stop."""
    loader = subject.config.get('train_dataloader') or {}
    batch = loader.get('batch_size', 1)
    if not counts_epochs(subject.config) or not subject.pictures or batch == 1 or loader.get('drop_last'):
        return
    own = math.ceil(subject.pictures / subject.options.processes)
    if own % batch == 1:
        yield Finding(
            WARNING,
            'last_batch',
            f'the last batch of each epoch holds one picture ({own} pictures in batches of {batch}): training stops '
            'there if batch norm follows a pooling to one pixel.',
            'Set train_dataloader.drop_last=True.',
        )


def rate(subject: Subject) -> Findings:
    """Find a learning rate that does not fall as its schedule says, or is 0 long before the end.

    A tenth of the run is let pass: a schedule may well end a step late, so that the last step is not lost.
    """
    epochs, length = counts_epochs(subject.config), loop_length(subject.config)
    ends = []
    for key, one in schedulers(subject.config):
        counted = one.get('by_epoch', True)
        if counted and not epochs and not one.get('convert_to_iter_based') and 'Plateau' not in type_of(one):
            yield Finding(
                WARNING,
                'rate',
                f'{key} ({type_of(one)}) counts epochs, but the run counts iterations: it would change nothing.',
                f'Set {key}.by_epoch=False, and its begin and end in iterations.',
            )
        elif length and bool(counted) == epochs:
            end = _end(one)
            ends.append((end, key, one))
            if 1.1 * length < end < math.inf:
                yield Finding(
                    WARNING,
                    'rate',
                    f'{key} ({type_of(one)}) ends at {end:g}, but the run ends at {length} {_unit(epochs)}: the '
                    'learning rate does not get where it should.',
                    f'Set its end (or T_max, milestones) to {length} or less.',
                )
    if ends and length and (last := max(ends, key=lambda found: found[0]))[0] < 0.9 * length and _falls_to_0(last[2]):
        end, key, one = last
        yield Finding(
            WARNING,
            'rate',
            f'{key} ({type_of(one)}) brings the learning rate to 0 at {end:g}, but the run goes on until {length} '
            f'{_unit(epochs)}: nothing is learned after it.',
            f'Set {key}.end={length}, or give it an eta_min.',
        )


def checkpoints(subject: Subject) -> Findings:
    """Find a run that saves no checkpoint before its end. After an interruption it must start from the beginning."""
    hook = (subject.config.get('default_hooks') or {}).get('checkpoint', {})
    epochs, length = counts_epochs(subject.config), loop_length(subject.config)
    if hook is None or not length:
        return
    interval = hook.get('interval', 1 if not hook else -1)
    if not epochs and hook.get('by_epoch', True):
        problem = 'counts epochs, but the run counts iterations'
        advice = 'Set default_hooks.checkpoint.by_epoch=False, and its interval in iterations.'
    elif epochs == bool(hook.get('by_epoch', True)) and interval > length:
        problem = f'has the interval {interval}, but the run ends at {length} {_unit(epochs)}'
        advice = f'Set default_hooks.checkpoint.interval to a part of {length}.'
    else:
        return
    message = f'default_hooks.checkpoint {problem}: nothing is kept on the way, and an interrupted run starts anew.'
    yield Finding(WARNING, 'checkpoints', message, advice)


def best(subject: Subject) -> Findings:
    """Check that the evaluation gives the score by which the best checkpoint is kept."""
    wanted = (((subject.config.get('default_hooks') or {}).get('checkpoint')) or {}).get('save_best')
    found = subject.config.get('val_evaluator') or []
    metrics = found if isinstance(found, (list, tuple)) else [found]
    for name in [wanted] if isinstance(wanted, str) else wanted or []:
        if name != 'auto' and metrics and not any(may_give(metric, name) for metric in metrics):
            yield Finding(
                ERROR,
                'best',
                f'default_hooks.checkpoint.save_best={name!r}: val_evaluator gives no such score '
                f'({some([type_of(metric) for metric in metrics])}), and training would stop at the first validation.',
                'Name a score that is in the log of an evaluation, or add its metric to val_evaluator.',
            )


def _end(scheduler: Mapping[str, Any]) -> float:
    begin = scheduler.get('begin', 0)
    if 'milestones' in scheduler:
        return begin + min(scheduler['milestones'], default=0)  # the later ones may well be left for a longer run
    end = scheduler.get('end', math.inf)
    return min(end, begin + scheduler['T_max']) if 'T_max' in scheduler else end


def _falls_to_0(scheduler: Mapping[str, Any]) -> bool:
    falls = re.match('(Poly|CosineAnnealing)', type_of(scheduler))
    return bool(falls) and not scheduler.get('eta_min') and not scheduler.get('eta_min_ratio')


def _unit(epochs: bool) -> str:
    return 'epochs' if epochs else 'iterations'
