"""The rules of what a run keeps: checkpoints on the way, and the best one by a score that its evaluation gives."""

from __future__ import annotations

from mmdistill_dense.config.values import listed, may_give, type_name
from mmdistill_dense.guards.findings import Findings, RunFacts, error, warning
from mmdistill_dense.utils.validate import some


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
