"""The length of a run, and everything in its config that is counted in its steps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from mmdistill_dense.config.values import listed

_PLACES = ('train_cfg', 'param_scheduler', 'optim_wrapper', 'default_hooks', 'custom_hooks', 'model')
_COUNTED = re.compile(
    r'(train_cfg\.(max_iters|max_epochs|val_interval|val_begin)'
    r'|param_scheduler(\.\w+)*?\.(begin|end|T_max|milestones|periods|step_size|total_steps)'
    r'|model\.distillers\.[^.]+\.(schedule\.(warmup|ramp_down|stop_at)|balance\.until|student_mask_from)'
    r'|model\.unlabelled\.start)(?=\.|$)'
)
# how often checkpoints and log lines are written stays, and what learns tokens
_OTHERS = re.compile(
    r'default_hooks\.(checkpoint|logger|visualization)\.|model\.distillers\.\w+\.learn\.|model\.(?!distillers\.)'
)
_LENGTH = re.compile(r'(^|_)(epochs?|iters?|iterations?|steps|begin|end|until|from)(_|$)')


def fit(config: Config, factor: float, place: str) -> None:
    """Change the length of a run by a factor, and scale what is counted in its steps or epochs.

    Fractions scale by themselves. What looks like a length and is not known is refused; ``place`` stands before that.
    """
    loop = config.train_cfg
    old = loop['max_epochs' if 'max_epochs' in loop else 'max_iters']
    new = max(round(factor * old), 1)
    schedulers = [one for one in listed(config.get('param_scheduler')) if isinstance(one, dict)]
    waves = [one for one in schedulers if one.get('T_max') == one.get('end', 0) - one.get('begin', 0)]
    for first in _PLACES:
        for key, holder, name, value in list(_entries(config.get(first), first)):
            counted = _COUNTED.match(key)
            if counted and counted[0] == key:
                holder[name] = _scaled(value, new, old)
            elif not counted and not _OTHERS.match(key) and _is_length(first, str(name), value, old):
                raise ValueError(
                    f'{place}: {key}={value} looks like a length in a run of {old}, and it is not known whether to '
                    'scale it: leave it out of the recipe, or compare at equal lengths.'
                )
    for one in schedulers:
        if 'milestones' in one and new > 1:  # one that is rounded to the end of the run would change nothing
            one['milestones'] = [min(step, new - 1) if step <= new else step for step in one['milestones']]
    for one in waves:  # rounded apart, the rate would rise again at the end
        one['T_max'] = max(one.get('end', 0) - one.get('begin', 0), 1)


def _entries(node: Any, place: str) -> Iterator[tuple[str, Any, Any, Any]]:
    """Yield each option below a place: its key, what holds it, under which name, and its value."""
    pairs = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for name, value in pairs:
        yield f'{place}.{name}', node, name, value
        yield from _entries(value, f'{place}.{name}')


def _is_length(first: str, name: str, value: Any, old: int) -> bool:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        return False
    named = _LENGTH.search(name) is not None
    if value == old and (named or first == 'param_scheduler'):
        return True
    return first == 'train_cfg' or (named and first in ('param_scheduler', 'default_hooks', 'custom_hooks'))


def _scaled(value: Any, new: int, old: int) -> Any:
    """Return whole numbers times ``new / old``; one that was not 0 stays at least 1."""
    if isinstance(value, (list, tuple)):
        return type(value)(_scaled(one, new, old) for one in value)
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    return max(round(value * new / old), min(value, 1))
