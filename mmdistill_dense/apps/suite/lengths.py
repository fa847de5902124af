"""The length of a run, and everything in its config that is counted in its steps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from mmdistill_dense.apps.suite.definition import Definition
from mmdistill_dense.apps.suite.reader import naming

_LOOP = ('max_iters', 'max_epochs', 'val_interval', 'val_begin')
_SCHEDULER = ('begin', 'end', 'T_max', 'milestones', 'periods', 'step_size', 'total_steps')
_DISTILLER = ('schedule.warmup', 'schedule.ramp_down', 'schedule.stop_at', 'balance.until', 'student_mask_from')
_PLACES = ('train_cfg', 'param_scheduler', 'optim_wrapper', 'default_hooks', 'custom_hooks', 'model.distillers')
_OTHERS = re.compile(r'default_hooks\.(checkpoint|logger|visualization)\.|model\.distillers\.\w+\.learn\.')
_LENGTH = re.compile(r'(^|_)(epochs?|iters?|iterations?|steps|begin|end|until|from)(_|$)')


def unit_of(config: Config) -> str:
    """Return the key of the run's length, ``'max_iters'`` or ``'max_epochs'``."""
    return 'max_epochs' if 'max_epochs' in config.train_cfg else 'max_iters'


def scale_run(config: Config, length: int) -> list[str]:
    """Give a run another length; scale what is counted in its steps or epochs, and return what was changed."""
    # fractions scale by themselves; how often checkpoints and log lines are written stays
    old = config.train_cfg[unit_of(config)]
    known = list(_known(config))
    _refuse_unknown(config, old, {key for key, _, _ in known})
    before = [holder[name] for _, holder, name in known]
    waves = [holder for _, holder, name in known if name == 'T_max' and holder['T_max'] == _lasts(holder)]
    for _, holder, name in known:
        holder[name] = _scaled(holder[name], length, old)
        if name == 'milestones':
            holder[name] = _inside(holder[name], length)
    for holder in waves:  # rounded apart, the rate would rise again at the end
        holder['T_max'] = max(_lasts(holder), 1)
    pairs = zip(known, before, strict=True)
    return [f'{key} {was} -> {holder[name]}' for (key, holder, name), was in pairs if holder[name] != was]


def _lasts(scheduler: Mapping[str, Any]) -> int:
    return scheduler.get('end', 0) - scheduler.get('begin', 0)


def _known(config: Config) -> Iterator[tuple[str, Any, str]]:
    """Yield the keys to scale, each with the dict that holds it."""
    yield from _present('train_cfg', config.train_cfg, _LOOP)
    given = config.get('param_scheduler') or []
    several = {f'.{index}': one for index, one in enumerate(given)} if isinstance(given, list) else {'': given}
    for index, one in several.items():
        yield from _present(f'param_scheduler{index}', one, _SCHEDULER)
    for distiller, option in (config.get('model', {}).get('distillers') or {}).items():
        yield from _present(f'model.distillers.{distiller}', option, _DISTILLER)
    yield from _present('model.unlabelled', config.get('model', {}).get('unlabelled'), ('start',))


def _present(place: str, option: Any, names: tuple[str, ...]) -> Iterator[tuple[str, Any, str]]:
    for name in names:
        *path, last = name.split('.')
        holder = option
        for word in path:
            holder = holder.get(word) if isinstance(holder, Mapping) else None
        if isinstance(holder, Mapping) and last in holder:
            yield f'{place}.{name}', holder, last


def _scaled(value: Any, new: int, old: int) -> Any:
    """Return whole numbers times ``new / old``; one that was not 0 stays at least 1."""
    if isinstance(value, (list, tuple)):
        return type(value)(_scaled(one, new, old) for one in value)
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    return max(round(value * new / old), min(value, 1))


def _inside(milestones: Any, length: int) -> Any:
    """Return rounded milestones that do not fall on the end of the run, where nothing is left to train with them."""
    last = length - 1
    return type(milestones)(min(one, last) if one <= length else one for one in milestones) if last else milestones


def _refuse_unknown(config: Config, old: int, known: set[str]) -> None:
    for place in _PLACES:
        node = config.get('model', {}).get('distillers') if place == 'model.distillers' else config.get(place)
        for key, value in _numbers(node, place):
            holder, _, name = key.rpartition('.')
            if {key, holder} & known or _OTHERS.match(key) or value <= 0:
                continue
            named = _LENGTH.search(name) is not None
            whole = value == old and (named or place == 'param_scheduler')
            if (
                place == 'train_cfg'
                or whole
                or (named and place in ('param_scheduler', 'default_hooks', 'custom_hooks'))
            ):
                raise ValueError(
                    f'{key}={value} looks like a length in a run of {old}, and it is not known whether to scale it: '
                    'leave it out of the recipe, or compare at equal lengths.'
                )


def _numbers(node: Any, place: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, Mapping):
        node = node.items()
    elif isinstance(node, (list, tuple)):
        node = enumerate(node)
    else:
        if isinstance(node, int) and not isinstance(node, bool):
            yield place, node
        return
    for key, value in node:
        yield from _numbers(value, f'{place}.{key}')


def fit(definition: Definition, name: str, config: Config) -> list[str]:
    """Give the config of a row its length; return what was changed."""
    method = definition.methods.get(name)
    if method is None or method.length == 1:
        return []
    with naming(f'{definition.path}: methods.{name}.length'):
        return scale_run(config, max(round(method.length * config.train_cfg[unit_of(config)]), 1))
