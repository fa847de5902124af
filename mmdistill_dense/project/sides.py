"""Student and teacher as ``new`` reads them: a config of the zoo, an own one, or a foundation model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdistill_dense.config.read_file import broken_file
from mmdistill_dense.config.resolve import TASKS, find_config, load_model
from mmdistill_dense.foundation.models import MODELS_BY_NAME
from mmdistill_dense.project.adapt_network import joined_overrides, overrides, without_weights
from mmdistill_dense.project.fetched_weights import missing_of, sources_of
from mmdistill_dense.utils.messages import close_or_all, message_of, some

_CONFIGS = ('.py', '.json', '.yml', '.yaml')
_LIBRARIES = ('timm', 'transformers')
_WEIGHTS = ('.pth', '.pt', '.safetensors', '.bin', '.ckpt')


@dataclass
class Side:
    """A network of the pair.

    Attributes:
        key: The option that names it, ``--student`` or ``--teacher``.
        name: As it is written into ``cfg``: a zoo name, or the whole path of an own file.
        config: Its config.
        model: Its resolved model.
        task: ``'seg'`` or ``'det'``.
        changes: Overrides of the model, for the data.
        notes: What was decided, for the user.
    """

    key: str
    name: str
    config: Config
    model: Mapping[str, Any]
    task: str
    changes: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def option(self) -> dict[str, Any]:
        """The network as ``pair.py`` describes it."""
        return {'cfg': self.name, **self.changes}

    @property
    def stem(self) -> str:
        """The name of its config file, without folder and ending."""
        return Path(self.name).stem


def read_side(given: str, key: str) -> Side:
    """Read the config of a network."""
    _check_library(given, key)
    try:
        path = find_config(given, key)
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from error
    name = given if '::' in given else str(path.resolve())
    config = _read(path, f'{key} {given}')
    scope = config.get('default_scope')
    task = TASKS.get(scope or '')
    if task is None:
        raise ValueError(
            f"{key} {given}: its default_scope is {scope!r}; a network of 'mmseg' or 'mmdet' is needed. A config of "
            'your own sets default_scope.'
        )
    if 'model' not in config:
        raise ValueError(f'{key} {given}: the config has no model. Give the config that trains or tests the network.')
    return Side(key, name, config, load_model({'cfg': name}, key).model, task)


def _check_library(given: str, key: str) -> None:
    """Raise for a network of another library, which stands in no config of the zoo."""
    library = given.partition('::')[0]
    if '::' in given and library in _LIBRARIES:
        advice = (
            'A student is a network of mmseg:: or mmdet::, or a config of your own; its backbone may be from timm: '
            'docs/own_pair.md, "A backbone of timm"'
        )
        if key == '--teacher':
            advice = 'Such a teacher is written into a config by hand: docs/foundation.md, "Networks of timm"'
        raise ValueError(f'{key} {given}: `new` takes no network of {library}. {advice}.')


def _read(path: Path, where: str) -> Config:
    if path.suffix not in _CONFIGS:
        weights = ' The weights of a trained teacher are for --teacher-checkpoint.' if path.suffix in _WEIGHTS else ''
        raise ValueError(f'{where}: not a config, which ends in .py.{weights}')
    try:
        config = Config.fromfile(path)
    except ImportError as error:
        raise ValueError(
            f'{where}: the config imports a package that is not installed ({_lacking(error)}). Install it, or choose '
            'another network.'
        ) from error
    except SyntaxError as error:
        inside = broken_file(error)
        file = 'the config' if inside is None or Path(inside).resolve() == path.resolve() else f'its base {inside}'
        raise ValueError(f'{where}: line {error.lineno} of {file} is no Python: {error.msg}.') from error
    except Exception as error:  # a config may run any code
        raise ValueError(f'{where}: the config cannot be read: {message_of(error)}') from error
    if not isinstance((config.get('model') or {}).get('type', ''), str):
        raise ValueError(
            f'{where}: a config in the new style (read_base), whose types are classes. Give one with names of types, '
            'as those in the folder configs of mmseg and mmdet.'
        )
    return config


def _lacking(error: ImportError) -> str:
    """Return the package that a config imports; mmengine's own text shows the folders where it looked."""
    text = str(error).splitlines()[0]
    named = re.search(r"'imports': \[?'(\w+)", text)
    package = named[1] if named else (error.name or '').partition('.')[0]
    return f'{package}; beside the forks: pip install onedl-{package}' if package.startswith('mm') else package or text


def read_foundation(given: str) -> dict[str, Any] | None:
    """Return the teacher option of ``MODEL:FILE``, or ``None`` if that is not what was given."""
    _check_library(given, '--teacher')
    model, colon, file = given.partition(':')
    if model not in MODELS_BY_NAME:
        if colon and not file.startswith(':') and not Path(given).is_file():
            raise KeyError(f'--teacher {given}: unknown model {model!r}. {close_or_all(model, MODELS_BY_NAME)}')
        return None
    if not file:
        raise ValueError(
            f'--teacher {given}: its weights are missing. Write --teacher {model}:FILE (docs/foundation.md).'
        )
    path = Path(file).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f'--teacher {given}: no such file {file!r} (looked in {Path.cwd()}). docs/foundation.md says where the '
            f'weights of {model} are.'
        )
    return {'type': 'mmdistill_dense.FoundationTeacher', 'model': model, 'checkpoint': str(path.resolve())}


def adapt(side: Side, classes: int, sizes: Mapping[str, Any], trained: bool, random: bool) -> None:
    """Set what the data change in a network (its ``changes`` and ``notes``), and its first weights."""
    counts = overrides(side.model, classes, side.key)
    side.changes = joined_overrides(counts, sizes)
    sources = list(dict.fromkeys(sources_of(side.model)))
    if not trained or not sources:
        return
    missing = sources if random else missing_of(side.model)
    if not missing:
        side.notes.append(f'starts from {some(sources)}, which is fetched at the first training unless cached')
        return
    side.changes = joined_overrides(side.changes, without_weights(side.model))
    why = '--random-weights' if random else f'{some(missing)} cannot be reached; with a connection, run `new` again'
    side.notes.append(f'STARTS FROM RANDOM WEIGHTS: {why}. Expect much lower scores')
