"""Names that are misspelt: what is unknown is refused with the nearest known name."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

# What the runner, its scripts and our tools read of a config besides the arguments of Runner.
_READ = (
    'activation_checkpointing', 'compile', 'custom_imports', 'distillers', 'hooks', 'model_wrapper_cfg', 'runner_type',
    'strategy', 'tta_model',
)  # fmt: skip
_SHORT = ('model', 'cfg', 'hooks')  # too short to tell a slip from a name of one's own
_HOOKS = (
    'checkpoint', 'distill', 'logger', 'param_scheduler', 'runtime_info', 'sampler_seed', 'timer', 'visualization',
)  # fmt: skip
# Of all names that the configs of mmseg, mmdet and ours define for themselves, none is so near to a key of the runner.
_NEAR = 0.87
_VARIANT = re.compile(r'_?\d+$')  # test_dataloader2, which a config may hold beside the one that is read


def hint(name: str, known: Collection[str], cutoff: float = 0.6) -> str:
    """Return `` Did you mean …?`` where a known name is near, else nothing."""
    close = difflib.get_close_matches(name, sorted(set(known) - {name}), 1, cutoff)
    return f' Did you mean {close[0]!r}?' if close else ''


def check_keys(config: Mapping[str, Any]) -> None:
    """Refuse a config with a misspelt key of the runner or a misspelt default hook: both would do nothing.

    Other names are variables of the config and are left alone.

    Args:
        config: Of the run, whole.

    Raises:
        ValueError: Names the key and the one that is meant.
    """
    from mmengine.runner import Runner

    known = {*inspect.signature(Runner.__init__).parameters, *_READ} - {'self'}
    _refuse('', config, known, 'name a variable of your own otherwise')
    _refuse('default_hooks.', config.get('default_hooks') or {}, set(_HOOKS), 'put a hook of your own in custom_hooks')


def _refuse(place: str, config: Mapping[str, Any], known: set[str], way: str) -> None:
    targets = known - set(_SHORT)
    for key in map(str, config):
        own = key in known or key.startswith('_') or _VARIANT.sub('', key) in known
        found = '' if own else hint(key, targets, _NEAR)
        if found:
            raise ValueError(f'{place}{key} is a key that nothing reads.{found} Correct it, or {way}.')


def check_options(kind: type, options: Mapping[str, Any], key: str) -> None:
    """Refuse options that no constructor of a class takes.

    Args:
        kind: The class; what ``**kwargs`` passes on is looked up in its bases.
        options: By name.
        key: The config key they stand below.

    Raises:
        TypeError: Names the option, the nearest one and all.
    """
    known = options_of(kind)
    for name in options:
        if known and name not in known:
            listed = ', '.join(dict.fromkeys(known))
            raise TypeError(f'{key}: {kind.__name__} has no option {name!r}; known: {listed}.{hint(name, known)}')


def options_of(kind: type) -> list[str]:
    """Return the names that a class and its bases take, nothing where the last of them takes any."""
    names: list[str] = []
    for cls in kind.__mro__:
        constructor = vars(cls).get('__init__')
        if constructor is None:
            continue
        parameters = list(inspect.signature(constructor).parameters.values())[1:]
        names += [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            return names
    return []


def explained(error: TypeError, config: Any, more: Collection[str] = ()) -> str:
    """Return the text of an error; of one about an unexpected keyword with the nearest name that the config uses.

    Args:
        error: As a constructor raised it.
        config: Of the network that was being built.
        more: Further known names.
    """
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    return f'{error}.{hint(found[1], {*_keys(config), *more})}' if found else str(error)


def _keys(config: Any) -> Iterator[str]:
    if isinstance(config, Mapping):
        yield from map(str, config)
    members = config.values() if isinstance(config, Mapping) else config if isinstance(config, (list, tuple)) else ()
    for member in members:
        yield from _keys(member)
