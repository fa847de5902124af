"""Refuse misspelt names, with the nearest known name in the error."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any, TypeVar

from mmdistill_dense.config.values import mappings
from mmdistill_dense.utils.removed import removed

T = TypeVar('T')
# What the runner, its scripts and our tools read of a config besides the arguments of Runner.
_READ = (
    'activation_checkpointing', 'compile', 'custom_imports', 'distillers', 'hooks', 'model_wrapper_cfg', 'runner_type',
    'strategy', 'tta_model',
)  # fmt: skip
_SHORT = ('model', 'cfg', 'hooks')  # too short to tell a typo from a variable of the user
_HOOKS = (
    'checkpoint', 'distill', 'logger', 'param_scheduler', 'runtime_info', 'sampler_seed', 'timer', 'visualization',
)  # fmt: skip
# No variable in the configs of mmseg, mmdet and ours is this similar to a key of the runner.
_NEAR = 0.87
_VARIANT = re.compile(r'_?\d+$')  # such as test_dataloader2, beside the one that is read


def hint(name: str, known: Collection[str], cutoff: float = 0.6) -> str:
    """Return `` Did you mean …?`` if a known name is similar, else an empty string."""
    close = nearest(name, known, cutoff)
    return f' Did you mean {close!r}?' if close else ''


def nearest(name: str, known: Collection[str], cutoff: float = 0.6) -> str | None:
    """Return the most similar other name, ``None`` if none is similar."""
    return next(iter(difflib.get_close_matches(name, sorted(set(known) - {name}), 1, cutoff)), None)


def check_keys(config: Mapping[str, Any]) -> None:
    """Refuse a misspelt key of the runner or default hook; names that are not similar to any are variables."""
    from mmengine.runner import Runner

    known = {*inspect.signature(Runner.__init__).parameters, *_READ} - {'self'}
    _refuse('', config, known, 'give your variable another name')
    _refuse('default_hooks.', config.get('default_hooks') or {}, set(_HOOKS), 'put your own hook into custom_hooks')


def _refuse(place: str, config: Mapping[str, Any], known: set[str], otherwise: str) -> None:
    targets = known - set(_SHORT)
    for key in map(str, config):
        own = key in known or key.startswith('_') or _VARIANT.sub('', key) in known
        found = '' if own else hint(key, targets, _NEAR)
        if found:
            raise ValueError(f'{place}{key} is a key that nothing reads.{found} Correct it, or {otherwise}.')


def check_known(key: str, options: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise a ``TypeError`` for an option of ``key`` that is not among the known names."""
    for name in options:
        if told := name not in known and removed(f'{key}.{name}', f'{key.rpartition(".")[2]}.{name}'):
            raise TypeError(told)
        if name not in known:
            raise TypeError(f'{key} has no option {name!r}; known: {", ".join(known)}.{hint(name, known)}')


def read_options(kind: type[T], options: Any, key: str) -> T:
    """Return a dataclass made of the options in a config; refuse another value, and unknown and missing names."""
    known = [one.name for one in fields(kind)]  # type: ignore[arg-type]
    if not isinstance(options, Mapping):
        raise TypeError(f'{key} must be a dict of {", ".join(known)}, got {options!r}.')
    check_known(key, options, known)
    try:
        return kind(**options)
    except TypeError as error:  # of the constructor, for an option without a default
        raise TypeError(f'{key}: {error}') from error


def check_options(kind: type, options: Mapping[str, Any], key: str) -> None:
    """Refuse options that the constructors of a class do not take."""
    if (known := options_of(kind)) is not None:
        check_known(f'{key}: {kind.__name__}', options, list(dict.fromkeys(known)))


def options_of(kind: type) -> list[str] | None:
    """Return the options that a class and its bases take; ``None`` if they take any name."""
    if '__signature__' in vars(kind):  # a distiller, whose options are declared
        return list(inspect.signature(kind).parameters)
    names: list[str] = []
    for cls in kind.__mro__:
        constructor = vars(cls).get('__init__')
        if constructor is None:
            continue
        parameters = list(inspect.signature(constructor).parameters.values())[1:]
        names += [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            return names
    return None


def explained(
    error: TypeError,
    config: Mapping[str, Any],
    key: str,
    more: Collection[str] = (),
    beside: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Return the text of a constructor's error; for an unexpected keyword, add its key and a similar name."""
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if not found:
        return f'{key}: {error}'
    name = found[1]
    holders = dict(_holders(config, name))
    place = f' It is the key {" or ".join(_written(key, holders, name, beside))}' if holders else ''
    own = {key for holder in holders.values() for key in holder}
    # A key beside it is set already: it was meant only if the name is a typing error.
    every = {str(key) for one in mappings(config) for key in one}
    close = nearest(name, own, _NEAR) or nearest(name, every.union(more) - own)
    meant = f' Did you mean {close!r}?' if close else ''
    if name in beside and close in more:
        place += f'; write {_outer(key)}.{close}'
    return f'{key}: {error}.{meant}{place}{"." if place else ""}'


def explained_type(
    text: str,
    config: Mapping[str, Any],
    key: str,
    known: Collection[str],
    beside: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Return the text of a registry's error; for an unknown class, its key and a similar name instead."""
    if found := re.match(r'(\S+) is not in the \S+ registry', text):
        name = found[1]
        places = [path for path, holder in _holders(config, 'type') if holder['type'] == name]
        where = ' or '.join(_written(key, places, 'type', beside)) or key
        return f'{where}={name!r} is not a known class.{hint(name, known)} custom_imports registers your own.'
    if 'must contain the key "type"' in text:
        return f'{key}: a part of the network has no type, so its class is not known: {text.splitlines()[0]}.'
    return f'{key}: {text}'


def _written(key: str, paths: Iterable[str], name: str, beside: Mapping[str, Any]) -> list[str]:
    """Return the keys as the user wrote them: some stand beside the network, such as ``model.decode_head``."""
    outside = dict(_holders(beside, name))
    return [f'{_outer(key) if path in outside else key}.{path}' for path in paths]


def _outer(key: str) -> str:
    return key.rpartition('.')[0] or key


def _holders(config: Any, name: str, path: str = '') -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the path of every key of this name, with the dict that holds it."""
    if isinstance(config, Mapping) and name in config:
        yield path + name, config
    pairs = config.items() if isinstance(config, Mapping) else enumerate(config) if isinstance(config, list) else ()
    for key, value in pairs:
        yield from _holders(value, name, f'{path}{key}.')
