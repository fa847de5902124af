"""The hash of a run's config."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdistill_dense.config.resolve import TASKS, is_distill_model, load_model, student_option, teachers_of
from mmdistill_dense.distillers.presets import identity_of
from mmdistill_dense.networks.building import TEACHER_OPTIONS
from mmdistill_dense.suite.plan.configs import PLACES
from mmdistill_dense.weights.locate import sha256

# logging and resumption; they change neither weights nor score
_OUTSIDE = {'work_dir', 'experiment_name', 'launcher', 'resume', 'log_level', 'log_processor', 'visualizer'}
_OUTSIDE |= {'vis_backends', 'distillers'}
_WATCHING = ('checkpoint', 'logger', 'visualization')


def config_hash(
    config: Config, teacher: str | None = None, tests_teacher: bool = False, folder: Path | None = None
) -> str:
    """Return 12 hexadecimal digits that change with what a run trains, and with nothing else.

    The configs of the networks are resolved, so that a change in their bases counts. Left out are the folder, the seed,
    logging, how often checkpoints are saved, and where data and weights lie. ``teacher`` says how the suite trains its
    teacher; ``tests_teacher`` is true for a run that only tests the pair's teacher. ``folder`` is the definition's: it
    may be moved, and lists of pictures in it (``.txt``, ``.json``) count by their content.
    """
    identity = _identity(config, teacher)
    if tests_teacher:
        identity['tested'] = [_teacher_identity(option, None) for option in teachers_of(config.model).values()]
    own = dict.fromkeys(f'{place}/' for place in (folder.absolute(), folder.resolve())) if folder else ()
    text = json.dumps(_plain(identity, partial(_portable, folders=tuple(own))), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _identity(config: Config, teacher: str | None) -> dict[str, Any]:
    plain = {key: value for key, value in config.to_dict().items() if key not in _OUTSIDE}
    plain['default_hooks'] = {k: v for k, v in plain.get('default_hooks', {}).items() if k not in _WATCHING}
    plain['randomness'] = {k: v for k, v in plain.get('randomness', {}).items() if k != 'seed'}
    model = config.model
    if is_distill_model(model):
        distillers = model.get('distillers') or {}
        task = TASKS.get(config.get('default_scope', ''))
        needed = distillers or model.get('inherit')
        plain['model'] = {
            'student': _network(student_option(model), 'model.student'),
            'distillers': {
                name: identity_of(one, task, f'model.distillers.{name}') for name, one in distillers.items()
            },
            'inherit': model.get('inherit'),
            'teachers': [_teacher_identity(option, teacher) for option in teachers_of(model).values() if needed],
        }
        if distillers and model.get('unlabelled'):
            plain['model']['unlabelled'] = {k: v for k, v in model.unlabelled.items() if k != 'workers'}
    return plain


def _teacher_identity(option: Mapping[str, Any], trained: str | None) -> dict[str, Any]:
    network = {key: value for key, value in option.items() if key not in TEACHER_OPTIONS}
    seen = {key: option[key] for key in ('scale', 'fit') if option.get(key)}  # at another size it answers otherwise
    weights = trained or option.get('checkpoint')
    return {'model': _network(network, 'model.teacher'), 'weights': weights, **seen}


def _network(option: Mapping[str, Any], key: str) -> Any:
    """The resolved model of a network option, as plain values."""
    return _resolved(json.dumps(_plain(option), sort_keys=True), key)


@cache
def _resolved(option: str, key: str) -> Any:
    return _plain(load_model(json.loads(option), key).model)


def _portable(text: str, folders: Sequence[str]) -> str:
    """Return a text without the folders of this machine."""
    for variable, default in PLACES.items():
        root = os.environ.get(variable, default).rstrip('/') + '/'
        if text.startswith(root):
            return f'{default}/{text.removeprefix(root)}'
    for place in folders:
        if text.startswith(place):
            return f'./{text.removeprefix(place)}{_content(text)}'
    return text


def _content(path: str) -> str:
    """Return a hash of a list of pictures, nothing for other files."""
    if not path.endswith(('.txt', '.json')) or not os.path.isfile(path):
        return ''
    return f' {sha256(Path(path))}'


def _plain(value: Any, written: Callable[[str], str] = str) -> Any:
    """Plain values, with each text as ``written`` gives it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item, written) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, written) for item in value]
    if isinstance(value, str):
        return written(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return getattr(value, '__qualname__', type(value).__qualname__)
