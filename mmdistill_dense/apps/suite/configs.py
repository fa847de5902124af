"""The configs of a suite's runs: their hash, first weights, and names in them that nothing reads."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from mmdistill_dense.apps.recipes import compose
from mmdistill_dense.apps.suite.definition import BACKBONE, RANDOM, Definition, Method, Start, Teacher, filled
from mmdistill_dense.apps.suite.reader import naming
from mmdistill_dense.config.resolve import (
    TASKS,
    TEACHER_OPTIONS,
    ModelConfig,
    is_distill_model,
    load_model,
    read_file,
    student_option,
    teachers_of,
)
from mmdistill_dense.config.values import flat, listed, plain
from mmdistill_dense.distillers.fragments import put_all, resolved
from mmdistill_dense.guards.config import below, initial_state
from mmdistill_dense.utils.reproducible import fork_rng
from mmdistill_dense.weights.strict_load import load_strictly, sha256

PLACES = {'MMDISTILL_DATA': 'data', 'MMDISTILL_WEIGHTS': 'weights'}  # variables in configs, and their defaults
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
_OF_THE_RUN = ('work_dir', 'randomness.seed', 'resume', 'launcher')  # the suite sets these
_NONE = object()
_KEPT_CHECKPOINTS = 2  # the older one is whole while the newer one is being written


def read(path: Path) -> Config:
    """Read a config, for the caller to change. A file is read again only after it has changed."""
    return copy.deepcopy(_read(path, path.stat().st_mtime_ns, tuple(map(os.environ.get, PLACES))))


@cache
def _read(path: Path, modified: int, places: tuple[str | None, ...]) -> Config:
    return read_file(path)


def control_config(definition: Definition) -> Config:
    config = read(definition.control)
    if not is_distill_model(config.get('model')) or config.model.get('distillers'):
        given = f'control={str(definition.control)!r}'
        raise ValueError(f'{definition.path}: {given} must be a DistillModel without distillers.')
    return _common(config, definition, definition.options, 'options')


def method_config(definition: Definition, method: Method, choice: Mapping[str, Any] | None = None) -> Config:
    """Return the config of a row: the control with distillers, searched values and ``inherit`` of its start."""
    config = control_config(definition)
    start = definition.starts[method.start] if method.start else None
    if start is not None and start.inherit:
        problem = conflict(config, start)
        if problem:
            raise ValueError(f'{definition.path}: methods.{method.name}: {problem}')
        config.model.inherit = [list(pair) for pair in start.inherit]
    if method.data:
        config.train_dataloader.dataset = training_data(config.train_dataloader.dataset, method.data)
    if method.rate != 1:
        scale_rate(config, method.rate, f'{definition.path}: methods.{method.name}.rate')
    if not method.distils:
        return config
    config.model.distillers, own = distillers_of(definition, method)
    if more := method.unlabelled or own:
        config.model.unlabelled = filled(more)
    if method.config is not None and (imports := read(method.config).get('custom_imports')):
        config.custom_imports = imports  # of a method of the user's own
    key = f'methods.{method.name}.options'
    for options, place in ((method.options, key), (choice or {}, f'grid.{method.name}')):
        full = {_full_key(k, config, f'{definition.path}: {place}'): v for k, v in options.items()}
        config.merge_from_dict(copy.deepcopy(full))
    return config


def scale_rate(config: Config, factor: float, place: str) -> None:
    """Multiply the learning rates of a config: those of its optimizers, and the ends that its schedules name."""
    wrapper = config.optim_wrapper
    several = [one for one in (wrapper, *wrapper.values()) if isinstance(one, ConfigDict) and 'optimizer' in one]
    for one in several:
        if 'lr' not in one.optimizer:
            said = 'optim_wrapper.optimizer has no lr in the config of the control: write it there'
            raise ValueError(f'{place}: {said}.')
        one.optimizer.lr *= factor
    for schedule in listed(config.get('param_scheduler')):
        of_rates = 'Momentum' not in str(schedule.type) and schedule.get('param_name', 'lr') == 'lr'
        for key in ('eta_min', 'eta_max') if of_rates else ():
            if schedule.get(key):
                schedule[key] *= factor


def row_config(definition: Definition, name: str, choice: Mapping[str, Any] | None = None) -> Config:
    """Return the config of a row, or of the control for any other name, at the length of its recipe."""
    method = definition.methods.get(name)
    return control_config(definition) if method is None else method_config(definition, method, choice)


def training_data(control: ConfigDict, changes: Sequence[Mapping[str, Any]]) -> ConfigDict:
    """Return the training set of a row: the control's with other keys, or several of these joined."""
    members = []
    for one in changes:
        config = Config({'dataset': copy.deepcopy(control)})
        config.merge_from_dict({f'dataset.{key}': value for key, value in filled(one).items()})
        members.append(config.dataset)
    return members[0] if len(members) == 1 else ConfigDict(type='ConcatDataset', datasets=members)


def distillers_of(definition: Definition, method: Method) -> tuple[ConfigDict, ConfigDict | None]:
    """Return a row's distillers with its settings, and the ``unlabelled`` of the user's config."""
    found, unlabelled = _written(definition, method)
    if method.settings is not None:
        place = f'{definition.path}: methods.{method.name}'
        found = ConfigDict(put_all(found, dict.fromkeys(found, method.settings), definition.task, place))
    return found, unlabelled


def _written(definition: Definition, method: Method) -> tuple[ConfigDict, ConfigDict | None]:
    if method.options_file is not None:
        return read(method.options_file).distillers, None
    assert method.config is not None, 'the row has distillers'
    own, control = read(method.config), read(definition.control)
    keys = sorted(differences(_comparable(own), _comparable(control)))
    if keys:
        raise ValueError(
            f'{definition.path}: methods.{method.name}.config={str(method.config)!r} differs from its control '
            f'{definition.control.name} in more than the distillers: {", ".join(keys)}. The gain would not be due to '
            'the method alone. Inherit the control and change only model.distillers, or name another control.'
        )
    if not own.model.get('distillers'):
        raise ValueError(
            f'{definition.path}: methods.{method.name}.config={str(method.config)!r} has no model.distillers: the row '
            'would be a second control.'
        )
    return own.model.distillers, own.model.get('unlabelled')


def teacher_config(definition: Definition, teacher: Teacher) -> Config:
    config = read(teacher.config)
    config.merge_from_dict({'randomness.seed': teacher.seed})
    return _common(config, definition, teacher.options, 'teacher.options')


def pretrain_config(definition: Definition, start: Start) -> Config:
    """Return the config of a pre-training. ``checkpoint_every`` counts the students' steps, so it does not apply."""
    assert start.config is not None, 'it is a pre-training'
    config = read(start.config)
    _merge(config, definition, start.options, f'starts.{start.name}.options')
    return _shared(config, definition)


def _merge(config: Config, definition: Definition, options: Mapping[str, Any], place: str) -> None:
    for key in options:
        first = key.split('.')[0]
        if first not in config:
            raise ValueError(f'{definition.path}: {place}: {compose.unknown("setting", first, config.keys())}')
    for key in flat(options):
        if key in _OF_THE_RUN:
            raise ValueError(f'{definition.path}: {place}.{key}: the suite sets it; see `out`, `seeds`, `teacher.seed`')
    config.merge_from_dict(copy.deepcopy(dict(options)))  # merging takes each _delete_ out of its dict


def _common(config: Config, definition: Definition, options: Mapping[str, Any], place: str) -> Config:
    distillers = copy.deepcopy(config.model.get('distillers'))
    _merge(config, definition, options, place)
    if config.model.get('distillers') != distillers:
        raise ValueError(f'{definition.path}: {place}: model.distillers: set it in the options of a method')
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


def _full_key(key: str, config: Config, place: str) -> str:
    """Return the full key of a distiller's option, which may be given in a short form."""
    names = list(config.model.distillers)
    words = key.removeprefix('model.distillers.').split('.')
    if words[0] in names and len(words) > 1:
        return f'model.distillers.{".".join(words)}'
    if key.startswith('model.distillers.'):
        raise ValueError(f'{place}.{key}: {compose.unknown("distiller", words[0], names)}')
    if words[0] in config:
        said = 'would make the method differ from its control in more than its distillers'
        raise ValueError(f'{place}.{key} {said}: put it into the `options` of the suite.')
    if len(names) != 1:
        known = ' or '.join(names)
        raise ValueError(f'{place}.{key}: does not say which distiller ({known}). Write e.g. {names[0]}.{key}.')
    return f'model.distillers.{names[0]}.{key}'


def reads_teacher(config: Config) -> bool:
    """Tell whether a student's run needs its teacher, for distillation or for ``model.inherit``."""
    return bool(config.model.get('distillers') or config.model.get('inherit'))


def batch_of(config: Config) -> int:
    return config.train_dataloader.batch_size * config.optim_wrapper.get('accumulative_counts', 1)


def _comparable(config: Config) -> dict[str, Any]:
    apart = ('work_dir', 'distillers', 'custom_imports')
    plain = {key: value for key, value in config.to_dict().items() if key not in apart}
    plain['model'] = {key: value for key, value in plain['model'].items() if key not in ('distillers', 'unlabelled')}
    return plain


def differences(first: Any, second: Any, place: str = '') -> Iterator[str]:
    """Yield the dotted keys at which two plain values differ."""
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)) and len(first) == len(second):
        first, second = dict(enumerate(first)), dict(enumerate(second))
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in {*first, *second}:
            yield from differences(first.get(key, _NONE), second.get(key, _NONE), f'{place}.{key}'.lstrip('.'))
    elif first != second:
        yield place


# logging and resumption; they change neither weights nor score
_OUTSIDE = {'work_dir', 'experiment_name', 'launcher', 'resume', 'log_level', 'log_processor', 'visualizer'}
_OUTSIDE |= {'vis_backends', 'distillers'}
_WATCHING = ('checkpoint', 'logger', 'visualization')


def config_hash(
    config: Config, teacher: str | None = None, tests_teacher: bool = False, folder: Path | None = None
) -> str:
    """Return 12 hexadecimal digits that change with what a run trains, and with nothing else."""
    # networks are resolved, so that a change in their bases counts; lists of pictures in the ``folder`` of the suite,
    # which may be moved, count by their content; ``teacher`` says how it is trained
    identity = _identity(config, teacher)
    if tests_teacher:
        identity['tested'] = [_teacher_identity(option, None) for option in teachers_of(config.model).values()]
    own = dict.fromkeys(f'{place}/' for place in (folder.absolute(), folder.resolve())) if folder else ()
    text = json.dumps(plain(identity, partial(_portable, folders=tuple(own))), sort_keys=True)
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
            'distillers': {name: resolved(one, task, f'model.distillers.{name}') for name, one in distillers.items()},
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
    return _resolved(json.dumps(plain(option), sort_keys=True), key)


@cache
def _resolved(option: str, key: str) -> Any:
    return plain(load_model(json.loads(option), key).model)


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
    if not path.endswith(('.txt', '.json')) or not os.path.isfile(path):
        return ''
    return f' {sha256(Path(path))}'


# First weights


def start_from(config: Config, start: Start, file: Path | None) -> None:
    """Set the first weights of a student's backbone to a file, or random ones for ``None``; the rest of it stays."""
    # loaded after the control's initialisation, so that the heads get the same random numbers as those of the control
    student = _student(config, start)
    if start.name == RANDOM:
        _place(config, student, None)
        return
    loaded = dict(type='Pretrained', checkpoint=str(file), prefix=start.prefix)
    _place(config, student, _beside(student, loaded))


def mark(config: Config, start: Start, made: str) -> None:
    """Set the origin of a start in place of its file, for the config hash."""
    _place(config, _student(config, start), {'type': 'Pretrained', 'made': made})


def check_file(config: Config, start: Start, file: Path) -> dict[str, Any]:
    """Compare a start's file with a student's backbone, tensor by tensor."""
    with naming(start.key):
        state = initial_state(_built(_student(config, start)), file)
    matched, total = check_state(config, start, state, repr(str(file)))
    return {'name': start.name, 'file': file.name, 'sha256': sha256(file), 'matched': matched, 'total': total}


def check_state(config: Config, start: Start, state: Mapping[str, Tensor], origin: str) -> tuple[int, int]:
    """Compare tensors with a student's backbone as :func:`check_file` does. ``origin`` names them in errors."""
    backbone = _built(_student(config, start))
    prefix = (start.prefix or '').rstrip('.')
    own = {name.split('.')[0] for name in backbone.state_dict()}
    given = below(state, prefix)
    if not prefix:  # leaves out e.g. the head of a classifier
        given = {key: value for key, value in given.items() if key.split('.')[0] in own}
    within = not prefix and any(key.startswith(BACKBONE) for key in state)
    hint = f' (it holds {BACKBONE}*: set prefix: {BACKBONE})' if within else ''
    key = f'{start.key}: {origin}{f" below {start.prefix!r}" if prefix else ""}{hint}'
    matched, _ = load_strictly(backbone, given, None, key)
    return matched, len(backbone.state_dict())


def _student(config: Config, start: Start) -> ModelConfig:
    student = load_model(student_option(config.model), 'model.student')
    if not isinstance(student.model.get('backbone'), Mapping):
        raise ValueError(f'start {start.name!r}: {student.model.get("type")} has no backbone to start from.')
    student.scope = student.scope or config.get('default_scope')
    problem = conflict(config, start)
    if problem:
        raise ValueError(problem)
    if start.name == RANDOM:
        _check_random(student)
    return student


def _place(config: Config, student: ModelConfig, init_cfg: Any) -> None:
    """Set the backbone's ``init_cfg`` where no other key overrides it."""
    place = config.model if 'backbone' in config.model else config.model.student
    if 'backbone' not in place:
        place.backbone = {}
    place.backbone.init_cfg = init_cfg
    if student.model.get('pretrained') is not None:
        (config.model if 'pretrained' in config.model else config.model.student).pretrained = None
    if student.model.backbone.get('pretrained') is not None:
        place.backbone.pretrained = None


def _beside(student: ModelConfig, loaded: dict[str, Any]) -> Any:
    """Return the initialisation of the control, or else that of its class, and after it the loaded weights."""
    from mmengine.model import BaseModule  # the list of a suite needs none

    # a list with one member differs from the member alone, with which mmengine does not initialise the layers
    backbone = _built(student)
    own = getattr(backbone, 'init_cfg', None)
    foreign = not own and getattr(type(backbone), 'init_weights', None) is not BaseModule.init_weights
    alone = isinstance(own, Mapping) and _loads(own)
    if foreign or alone or any(_old_keys(student.model)):
        return loaded
    return [*(copy.deepcopy(dict(one)) for one in listed(own or []) if not _loads(one)), loaded]


def _old_keys(model: Mapping[str, Any]) -> tuple[Any, Any]:
    return model.get('pretrained'), model['backbone'].get('pretrained')


def _loads(one: Mapping[str, Any]) -> bool:
    return 'Pretrained' in str(one.get('type'))


def _built(student: ModelConfig) -> nn.Module:
    if student.scope is not None:
        init_default_scope(student.scope)
    option = {'_scope_': student.scope, **student.model.backbone} if student.scope else dict(student.model.backbone)
    with fork_rng():
        return MODELS.build(option)


def conflict(config: Config, start: Start) -> str | None:
    """Return why a control's config excludes a start, or ``None``."""
    inherited = [entry[0] for entry in config.model.get('inherit') or []]
    if not start.inherit:
        inherited = [name for name in inherited if name.split('.')[0] == 'backbone']
    for key, value in (('load_from', config.get('load_from')), ('model.inherit', inherited)):
        if value:
            replaced = start.inherit and value is inherited
            both = 'and the start would replace each other' if replaced else 'would replace it'
            return f'start {start.name!r}: {key}={value!r} of the control {both}; remove the row from the suite.'
    return None


def _check_random(student: ModelConfig) -> None:
    loading = map(_loads, listed(student.model['backbone'].get('init_cfg')))
    if not any((*_old_keys(student.model), *loading)):
        raise ValueError(f'start {RANDOM!r}: the backbone of the control is random already; leave this row out.')
    backbone = _built(student)  # norm_eval is on by default in mmdet's ResNet
    frozen, evaluated = getattr(backbone, 'frozen_stages', -1), getattr(backbone, 'norm_eval', False)
    for name, value, fixed in (('frozen_stages', frozen, frozen >= 0), ('norm_eval', evaluated, evaluated)):
        if fixed:
            raise ValueError(
                f'start {RANDOM!r}: the student has backbone.{name}={value}, which keeps random weights or '
                'statistics as they are. Give all students model.student.backbone.frozen_stages: -1 and norm_eval: '
                'false in the options of the suite, or leave this row out.'
            )
