"""The resolved configs of a suite's runs: the control's with its options, and that with a method's distillers."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from mmdistill_dense.config.resolve import is_distill_model
from mmdistill_dense.recipes import compose
from mmdistill_dense.suite.definition.definition import Definition, Method, Teacher
from mmdistill_dense.suite.definition.starts import Start
from mmdistill_dense.suite.plan import start_weights

PLACES = {'MMDISTILL_DATA': 'data', 'MMDISTILL_WEIGHTS': 'weights'}  # variables of the configs, and what they stand for
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
_OF_THE_RUN = ('work_dir', 'randomness.seed', 'resume', 'launcher')  # what the suite sets itself
_KEPT_CHECKPOINTS = 2  # the older one is whole while the newer one is being written


def read(path: Path) -> Config:
    """Return the config in a file, which the caller may change; a file is read once while it stays the same."""
    return copy.deepcopy(_read(path, path.stat().st_mtime_ns, tuple(map(os.environ.get, PLACES))))


@cache
def _read(path: Path, modified: int, places: tuple[str | None, ...]) -> Config:
    return Config.fromfile(path)


def control_config(definition: Definition) -> Config:
    """Return the config of the control with the definition's options.

    Raises:
        ValueError: For a control with distillers, or an option that does not fit it.
    """
    config = read(definition.control)
    if not is_distill_model(config.get('model')) or config.model.get('distillers'):
        raise ValueError(
            f'{definition.path}: control={str(definition.control)!r} must be a DistillModel without distillers.'
        )
    return _common(config, definition, definition.options, 'options')


def method_config(definition: Definition, method: Method, choice: Mapping[str, Any] | None = None) -> Config:
    """Return the config of a method: the control's with its distillers, and with what it inherits; a backbone's
    start is set elsewhere.

    Args:
        definition: The suite.
        method: One of its methods.
        choice: Values of a search by option.

    Raises:
        ValueError: For a leaf that differs from the control in more than its distillers, with the keys; for options of
            something else than the method's distillers; for a start that the control's own would replace.
    """
    config = control_config(definition)
    start = definition.starts[method.start] if method.start else None
    if start is not None and start.inherit:
        problem = start_weights.conflict(config, start)
        if problem:
            raise ValueError(f'{definition.path}: methods.{method.name}: {problem}')
        config.model.inherit = [list(pair) for pair in start.inherit]
    if not method.distils:
        return config
    config.model.distillers = distillers_of(definition, method)
    key = f'methods.{method.name}.options'
    for options, place in ((method.options, key), (choice or {}, f'grid.{method.name}')):
        config.merge_from_dict(_full_keys(options, config, f'{definition.path}: {place}'))
    return config


def distillers_of(definition: Definition, method: Method) -> ConfigDict:
    """Return the distillers of a method as its fragment, or the user's leaf, has them.

    Raises:
        ValueError: For a leaf that differs from the control in more, or in nothing.
    """
    if method.fragment is not None:
        return read(method.fragment).distillers
    assert method.config is not None, 'a method has a fragment or a leaf'
    leaf, control = read(method.config), read(definition.control)
    keys = sorted(differences(_comparable(leaf), _comparable(control)))
    if keys:
        raise ValueError(
            f'{definition.path}: methods.{method.name}.config={str(method.config)!r} differs from its control '
            f'{definition.control.name} in more than the distillers: {", ".join(keys)}. A gain over that control would '
            "not be the method's: inherit the control in the leaf and change model.distillers alone, or name another "
            'control.'
        )
    if not leaf.model.get('distillers'):
        raise ValueError(
            f'{definition.path}: methods.{method.name}.config={str(method.config)!r} has no model.distillers: it would '
            'be a second control under the name of a method.'
        )
    return leaf.model.distillers


def teacher_config(definition: Definition, teacher: Teacher) -> Config:
    """Return the config that trains the teacher."""
    config = read(teacher.config)
    config.merge_from_dict({'randomness.seed': teacher.seed})
    return _common(config, definition, teacher.options, 'teacher.options')


def pretrain_config(definition: Definition, start: Start) -> Config:
    """Return the config of a pre-training; it is saved as often as that says, whose epochs are not the students'."""
    assert start.config is not None, 'a given file is not trained'
    config = read(start.config)
    _check_keys(config, definition, start.options, f'starts.{start.name}.options')
    config.merge_from_dict(dict(start.options))
    return _shared(config, definition)


def _check_keys(config: Config, definition: Definition, options: Mapping[str, Any], place: str) -> None:
    for key in options:
        first = key.split('.')[0]
        if first not in config:
            raise ValueError(f'{definition.path}: {place}: {compose.unknown("setting", first, config.keys())}')
    for key in flat(options):
        if key in _OF_THE_RUN:
            raise ValueError(f'{definition.path}: {place}.{key}: the suite sets it; see `out`, `seeds`, `teacher.seed`')


def _common(config: Config, definition: Definition, options: Mapping[str, Any], place: str) -> Config:
    _check_keys(config, definition, options, place)
    distillers = copy.deepcopy(config.model.get('distillers'))
    config.merge_from_dict(dict(options))
    if config.model.get('distillers') != distillers:
        raise ValueError(
            f'{definition.path}: {place}: model.distillers: give it to the methods that it is for, as their option'
        )
    checkpoint = config.default_hooks.checkpoint
    checkpoint.interval = definition.checkpoint_every or checkpoint.get('interval', -1)
    return _shared(config, definition)


def _shared(config: Config, definition: Definition) -> Config:
    if definition.workers is not None:
        for name in LOADERS:
            if config.get(name) is not None:
                persistent = definition.workers > 0 and config[name].get('persistent_workers', False)
                config[name].update(num_workers=definition.workers, persistent_workers=persistent)
    checkpoint = config.default_hooks.checkpoint
    checkpoint.max_keep_ckpts = max(_KEPT_CHECKPOINTS, checkpoint.get('max_keep_ckpts', -1))
    return config


def _full_keys(options: Mapping[str, Any], config: Config, place: str) -> dict[str, Any]:
    """Settings of distillers, whose keys may leave out what is plain."""
    return {_full_key(key, config, place): value for key, value in options.items()}


def _full_key(key: str, config: Config, place: str) -> str:
    names = list(config.model.distillers)
    words = key.removeprefix('model.distillers.').split('.')
    if words[0] in names and len(words) > 1:
        return f'model.distillers.{".".join(words)}'
    if key.startswith('model.distillers.'):
        raise ValueError(f'{place}.{key}: {compose.unknown("distiller", words[0], names)}')
    if words[0] in config:
        raise ValueError(
            f'{place}.{key} would make the method differ from its control in more than its distillers: give it as '
            'options of the whole suite.'
        )
    if len(names) != 1:
        raise ValueError(f'{place}.{key}: which of {", ".join(names)}? Give it as {names[0]}.{key}.')
    return f'model.distillers.{names[0]}.{key}'


def flat(options: Mapping[str, Any], place: str = '') -> dict[str, Any]:
    """Return settings by whole dotted key, however deep they were nested."""
    found: dict[str, Any] = {}
    for key, value in options.items():
        inside = f'{place}{key}'
        found.update(flat(value, f'{inside}.') if isinstance(value, Mapping) and value else {inside: value})
    return found


def reads_teacher(config: Config) -> bool:
    """Tell whether a student's run reads its teacher: to distil, or to inherit its weights."""
    return bool(config.model.get('distillers') or config.model.get('inherit'))


def batch_of(config: Config) -> int:
    """Return the pictures of a step of one process."""
    return config.train_dataloader.batch_size * config.optim_wrapper.get('accumulative_counts', 1)


def _comparable(config: Config) -> dict[str, Any]:
    plain = {key: value for key, value in config.to_dict().items() if key not in ('work_dir', 'distillers')}
    plain['model'] = {key: value for key, value in plain['model'].items() if key != 'distillers'}
    return plain


def differences(first: Any, second: Any, place: str = '') -> Iterator[str]:
    """Yield the dotted keys at which two plain values differ."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in {*first, *second}:
            inside = f'{place}.{key}' if place else str(key)
            if key in first and key in second:
                yield from differences(first[key], second[key], inside)
            else:
                yield inside
    elif isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)) and len(first) == len(second):
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            yield from differences(one, other, f'{place}.{index}')
    elif first != second:
        yield place
