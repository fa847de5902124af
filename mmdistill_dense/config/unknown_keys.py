"""Refuse misspelt names, with the nearest known name in the error."""

import difflib
import inspect
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar

from mmdistill_dense.config.values import mappings
from mmdistill_dense.utils.validate import check_types
from mmdistill_dense.utils.version import removed

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


def hint(name: str, names: Collection[str], cutoff: float = 0.6) -> str:
    """Return `` Did you mean …?`` if a known name is similar, else an empty string."""
    close = nearest(name, names, cutoff)
    return f' Did you mean {close!r}?' if close else ''


def nearest(name: str, names: Collection[str], cutoff: float = 0.6) -> str | None:
    """Return the most similar other name, ``None`` if none is similar."""
    return next(iter(difflib.get_close_matches(name, sorted(set(names) - {name}), 1, cutoff)), None)


def check_keys(config: Mapping[str, Any]) -> None:
    """Refuse a misspelt key of the runner or default hook; names that are not similar to any are variables."""
    from mmengine.runner import Runner

    names = {*inspect.signature(Runner.__init__).parameters, *_READ} - {'self'}
    _refuse('', config, names, 'give your variable another name')
    _refuse('default_hooks.', config.get('default_hooks') or {}, set(_HOOKS), 'put your own hook into custom_hooks')


def _refuse(prefix: str, config: Mapping[str, Any], names: set[str], otherwise: str) -> None:
    targets = names - set(_SHORT)
    for key in map(str, config):
        is_valid = key in names or key.startswith('_') or _VARIANT.sub('', key) in names
        suggestion = '' if is_valid else hint(key, targets, _NEAR)
        if suggestion:
            raise ValueError(f'{prefix}{key} is a key that nothing reads.{suggestion} Correct it, or {otherwise}.')


def check_known(key: str, options: Mapping[str, Any], names: Collection[str]) -> None:
    """Raise a ``TypeError`` for an option of ``key`` that is not among the known names."""
    for wrong in [name for name in options if name not in names]:
        removal = removed(f'{key}.{wrong}', f'{key.rpartition(".")[2]}.{wrong}')
        problem = f'{key} has no option {wrong!r}' if key else f'no option {wrong!r}'
        raise TypeError(removal or f'{problem}; known: {", ".join(names)}.{hint(wrong, names)}')


def read_options(kind: type[T], options: Any, key: str) -> T:
    """Return a dataclass made of the options in a config.

    Refuse another value than a dict, unknown and missing names, and values of another type than the class says. An
    empty ``key`` is the top of a file.
    """
    entries: Sequence[Field[Any]] = fields(kind)  # type: ignore[arg-type]
    names = [entry.name for entry in entries]
    if not isinstance(options, Mapping):
        raise TypeError(f'{key or "The file"} must be a dict of {", ".join(names)}, got {options!r}.')
    check_known(key, options, names)
    required = [entry.name for entry in entries if entry.default is MISSING and entry.default_factory is MISSING]
    if missing := [name for name in required if name not in options]:
        raise TypeError(f'{key} needs {", ".join(missing)}.'.lstrip())
    check_types(kind, options, f'{key}.' if key else '')
    return kind(**options)


def check_options(kind: type, options: Mapping[str, Any], key: str) -> None:
    """Refuse options that the constructors of a class do not take."""
    if (names := options_of(kind)) is not None:
        check_known(f'{key}: {kind.__name__}', options, list(dict.fromkeys(names)))


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
        names += [arg.name for arg in parameters if arg.kind in (arg.POSITIONAL_OR_KEYWORD, arg.KEYWORD_ONLY)]
        if not any(arg.kind is arg.VAR_KEYWORD for arg in parameters):
            return names
    return None


def explain_option_error(
    error: TypeError, config: Mapping[str, Any], key: str, more: Collection[str], beside: Mapping[str, Any]
) -> str:
    """Return the text of a constructor's error; for an unexpected keyword, add its key and a similar name."""
    match = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if not match:
        return f'{key}: {error}'
    name = match[1]
    holders = dict(_holders(config, name))
    hint_text = f' It is the key {" or ".join(_user_keys(key, holders, name, beside))}' if holders else ''
    siblings = {key for holder in holders.values() for key in holder}
    # A key beside it is set already: it was meant only if the name is a typing error.
    all_keys = {str(key) for mapping in mappings(config) for key in mapping}
    close = nearest(name, siblings, _NEAR) or nearest(name, all_keys.union(more) - siblings)
    suggestion = f' Did you mean {close!r}?' if close else ''
    if name in beside and close in more:
        hint_text += f'; write {_outer(key)}.{close}'
    return f'{key}: {error}.{suggestion}{hint_text}{"." if hint_text else ""}'


def explain_type_error(
    text: str, config: Mapping[str, Any], key: str, names: Collection[str], beside: Mapping[str, Any]
) -> str:
    """Return the text of a registry's error; for an unknown class, its key and a similar name instead."""
    if match := re.match(r'(\S+) is not in the \S+ registry', text):
        name = match[1]
        paths = [path for path, holder in _holders(config, 'type') if holder['type'] == name]
        where = ' or '.join(_user_keys(key, paths, 'type', beside)) or key
        return f'{where}={name!r} is not a known class.{hint(name, names)} custom_imports registers your own.'
    if 'must contain the key "type"' in text:
        return f'{key}: a part of the network has no type, so its class is not known: {text.splitlines()[0]}.'
    return f'{key}: {text}'


def _user_keys(key: str, paths: Iterable[str], name: str, beside: Mapping[str, Any]) -> list[str]:
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
