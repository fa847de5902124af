"""The configs of a suite's rows, and the hash of a config that identifies a run."""

import copy
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from mmdistill_dense.apps.recipes import compose
from mmdistill_dense.apps.recipes.named import read_config
from mmdistill_dense.apps.suite.definition import Definition, Method, Teacher, fill_variables
from mmdistill_dense.config.local_code import own_config
from mmdistill_dense.config.resolve import is_distill_model, load_model, read_file, teachers_of
from mmdistill_dense.config.values import accumulated, chain, flat, listed, plain
from mmdistill_dense.distillers.fragments import replace_settings
from mmdistill_dense.utils.literals import BRACES
from mmdistill_dense.weights.strict_load import sha256

DATA_VARIABLES = {'MMDISTILL_DATA': 'data', 'MMDISTILL_WEIGHTS': 'weights'}  # variables in configs, and their defaults
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
KEPT_CHECKPOINTS = 2  # the older one is whole while the newer one is being written


def control_config(definition: Definition) -> Config:
    config = read_file(definition.control)
    if not is_distill_model(config.get('model')) or config.model.get('distillers'):
        setting = f'control={str(definition.control)!r}'
        raise ValueError(f'{definition.path}: {setting} must be a DistillModel without distillers.')
    return _common(config, definition, definition.options, 'options')


def teacher_config(definition: Definition, teacher: Teacher) -> Config:
    config = read_file(teacher.config)
    config.merge_from_dict({'randomness.seed': teacher.seed})
    return _common(config, definition, teacher.options, 'teacher.options')


def method_config(definition: Definition, method: Method) -> Config:
    """Return the config of a row: the control with distillers, or the user's own with the options of the suite."""
    location = f'{definition.path}: methods.{method.name}'
    if method.config is None:
        config = control_config(definition)
    else:
        config = read_file(method.config)
        _check_row_config(config, definition, f'{location}.config={method.config!r}')
        config = _common(config, definition, definition.options, 'options')
    config.merge_from_dict(fill_variables(method.run_options))
    if (rate := method.rate or 1) != 1:
        scale_rate(config, rate, f'{location}.rate')
    if method.pretraining is not None:
        problem = f'{location}.pretrain has no effect'
        if config.get('load_from'):
            raise ValueError(f'{problem} beside load_from={config.load_from!r}: leave one of them out.')
        targets = [str(entry[0]) for entry in config.model.get('inherit') or ()]
        if names := [target for target in targets if f'{target}.'.startswith('backbone.')]:
            raise ValueError(f'{problem} where model.inherit sets {names[0]}: leave one of them out.')
    if not method.distils:
        return config
    if method.options_file is not None:
        config.model.distillers = read_file(method.options_file).distillers
    if method.settings is not None:
        chosen = dict.fromkeys(config.model.distillers, method.settings)
        distillers = replace_settings(config.model.distillers, chosen, definition.task, location)
        config.model.distillers = ConfigDict(distillers)
    if pictures := method.unlabelled or config.model.get('unlabelled'):
        config.model.unlabelled = fill_variables(pictures)
    options = {key: value for key, value in method.options.items() if key not in method.run_options}
    options = {_full_key(key, config, f'{location}.options'): value for key, value in options.items()}
    config.merge_from_dict(copy.deepcopy(options))
    return config


def pretraining_config(definition: Definition, row: str) -> Config:
    """Return the config that trains the backbone of a row's student before the row begins."""
    pretraining = definition.methods[row].pretraining
    assert pretraining is not None, 'the row has one'
    config = read_config(pretraining.config)
    if not is_distill_model(config.get('model')) or not config.model.get('distillers'):
        problem = f'{pretraining.config!r} must be a pre-training: a DistillModel with distillers, such as pcd:…'
        raise ValueError(f'{definition.path}: methods.{row}.pretrain.config={problem}')
    return _common(config, definition, pretraining.options, f'methods.{row}.pretrain.options', distils=True)


def with_test_set(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return a config that tests on another set, given as changes of its own."""
    test_config = Config(copy.deepcopy(config.to_dict()))
    test_config.merge_from_dict({f'test_dataloader.dataset.{key}': value for key, value in changes.items()})
    for evaluator in listed(test_config.test_evaluator):
        if 'ann_file' in evaluator:  # of COCO's labels, which the data set names too
            inner = chain(test_config.test_dataloader.dataset)[0]
            evaluator.ann_file = os.path.join(inner.get('data_root') or '', inner['ann_file'])
    return test_config


def _common(
    config: Config, definition: Definition, options: Mapping[str, Any], group: str, distils: bool = False
) -> Config:
    """Give a config what the definition sets for all runs."""
    for key in options:
        top_key = key.split('.')[0]
        if top_key not in config:
            raise ValueError(f'{definition.path}: {group}: {compose.unknown("setting", top_key, config.keys())}')
    for key in flat(options):
        if key in ('work_dir', 'randomness.seed', 'resume', 'launcher'):
            raise ValueError(f'{definition.path}: {group}.{key}: the suite sets it; see `out`, `seeds`, `teacher.seed`')
    distillers = copy.deepcopy(config.model.get('distillers'))
    config.merge_from_dict(copy.deepcopy(dict(options)))  # merging takes each _delete_ out of its dict
    if not distils and config.model.get('distillers') != distillers:
        raise ValueError(f'{definition.path}: {group}: model.distillers: set it in the options of a method')
    if (checkpoint := (config.get('default_hooks') or {}).get('checkpoint')) is None:
        raise ValueError(f'{definition.path}: default_hooks.checkpoint is not set: a suite needs the checkpoints.')
    every = None if distils else definition.checkpoint_every  # of a pre-training: it may count epochs
    checkpoint.interval = every or checkpoint.get('interval', -1)
    checkpoint.max_keep_ckpts = max(KEPT_CHECKPOINTS, checkpoint.get('max_keep_ckpts', -1))
    for name in LOADERS if definition.workers is not None else ():
        if config.get(name) is not None:
            persistent = bool(definition.workers) and config[name].get('persistent_workers', False)
            config[name].update(num_workers=definition.workers, persistent_workers=persistent)
    return config


def scale_rate(config: Config, factor: float, location: str) -> None:
    """Multiply the learning rates of a config: those of its optimizers, and the ends that its schedules name."""
    wrapper = config.optim_wrapper
    for optim in (wrapper, *wrapper.values()):
        if isinstance(optim, ConfigDict) and 'optimizer' in optim:
            if 'lr' not in optim.optimizer:
                problem = 'optim_wrapper.optimizer has no lr in the config of the control: write it there'
                raise ValueError(f'{location}: {problem}.')
            optim.optimizer.lr *= factor
    for schedule in listed(config.get('param_scheduler')):
        of_rates = 'Momentum' not in str(schedule.type) and schedule.get('param_name', 'lr') == 'lr'
        for key in ('eta_min', 'eta_max') if of_rates else ():
            if schedule.get(key):
                schedule[key] *= factor


def _full_key(key: str, config: Config, location: str) -> str:
    """Return the full key of a distiller's option, which may be given in a short form."""
    names = list(config.model.distillers)
    words = key.removeprefix('model.distillers.').split('.')
    if words[0] in names and len(words) > 1:
        return f'model.distillers.{".".join(words)}'
    if key.startswith('model.distillers.'):
        raise ValueError(f'{location}.{key}: {compose.unknown("distiller", words[0], names)}')
    if words[0] in config:
        problem = 'would make the method differ from its control in more than its distillers'
        raise ValueError(f'{location}.{key} {problem}: put it into the `options` of the suite.')
    if len(names) != 1:
        choices = ' or '.join(names)
        raise ValueError(f'{location}.{key}: does not say which distiller ({choices}). Write e.g. {names[0]}.{key}.')
    return f'model.distillers.{names[0]}.{key}'


def reads_teacher(config: Config) -> bool:
    """Tell whether a student's run needs its teacher, for distillation or for ``model.inherit``."""
    return bool(config.model.get('distillers') or config.model.get('inherit'))


def batch_of(config: Config) -> int:
    return config.train_dataloader.batch_size * accumulated(config)


# A row's own config, which may differ from the control in its distillers and first weights

_ROW_KEYS = {'work_dir', 'distillers', 'custom_imports'}
_NONE = object()


def _check_row_config(row_config: Config, definition: Definition, location: str) -> None:
    control = read_file(definition.control)
    if keys := sorted(differences(_comparable(row_config), _comparable(control))):
        raise ValueError(
            f'{location} differs from its control {definition.control.name} in more than distillers and first weights: '
            f'{", ".join(keys)}. The gain would not be due to the method alone. Inherit the control and change only '
            'model.distillers, name another control, or set length and training set in the `options` of the row.'
        )
    if row_config.model.get('inherit') and row_config.get('load_from'):
        raise ValueError(f'{location}: model.inherit has no effect beside load_from: set load_from=None in the config.')
    changed = set(differences(row_config.to_dict(), control.to_dict()))
    if not row_config.model.get('distillers') and changed <= _ROW_KEYS:
        raise ValueError(f'{location} has no model.distillers and no weights of its own: it would be a second control.')


def _comparable(config: Config) -> dict[str, Any]:
    """Return what a row's own config must have in common with the control."""
    keys = {key: value for key, value in config.to_dict().items() if key not in (*_ROW_KEYS, 'load_from')}
    model = {key: value for key, value in keys['model'].items() if key not in ('distillers', 'unlabelled', 'inherit')}
    return {**keys, 'model': {**model, 'student': _without_weights(model.get('student'))}}


def _without_weights(option: Any) -> Any:
    if not isinstance(option, Mapping):
        return option
    settings = {key: _without_weights(value) for key, value in option.items()}
    return {key: value for key, value in settings.items() if value != {} and key not in ('init_cfg', 'pretrained')}


def differences(actual: Any, reference: Any, prefix: str = '') -> Iterator[str]:
    """Yield the dotted keys at which two plain values differ."""
    if isinstance(actual, (list, tuple)) and isinstance(reference, (list, tuple)) and len(actual) == len(reference):
        actual, reference = dict(enumerate(actual)), dict(enumerate(reference))
    if isinstance(actual, Mapping) and isinstance(reference, Mapping):
        for key in {*actual, *reference}:
            yield from differences(actual.get(key, _NONE), reference.get(key, _NONE), f'{prefix}.{key}'.lstrip('.'))
    elif actual != reference:
        yield prefix


# The identity of a run

# logging and resumption; they change neither weights nor score
_UNHASHED_KEYS = {'work_dir', 'experiment_name', 'launcher', 'resume', 'log_level', 'log_processor', 'visualizer'}
_UNHASHED_KEYS |= {'vis_backends', 'distillers'}
_LOGGING_HOOKS = ('checkpoint', 'logger', 'visualization')
DIGITS = 16  # of a hash; before 0.3.0 it covered other texts, and had 12
Portable = Callable[[str], str]  # returns a text without the folders of this machine


def config_hash(config: Config, teacher: str = '', portable: Portable | None = None, pretraining: str = '') -> str:
    """Return digits that change with a config, but for seed, folders and logging, and with trainings that it reads."""
    identity = _identity(config, portable or make_portable())
    if pretraining:
        identity['model']['student']['backbone']['init_cfg']['checkpoint'] = pretraining
    if teacher and reads_teacher(config):
        identity['model']['teacher']['checkpoint'] = teacher
    return options_hash(identity, str)


def options_hash(options: Any, portable: Portable) -> str:
    """Return digits that change with options, and not with the folders of this machine."""
    return hashlib.sha256(json.dumps(plain(options, portable), sort_keys=True).encode()).hexdigest()[:DIGITS]


def make_portable(folder: Path | None = None, data: str | None = None) -> Portable:
    """Return a function that removes this machine's folders from a text, so that a project and its data can be moved.

    Lists of pictures in the ``folder`` of the suite are hashed by their content. With ``data``, the folder of the data,
    that is removed too, and of files their last folder and name count; without, texts are those of version 0.2.
    """
    # where both variables name one folder, the last counts, as in the hashes of finished runs
    roots = {os.environ.get(name, default).rstrip('/'): default for name, default in DATA_VARIABLES.items()}
    for path in (folder.absolute(), folder.resolve()) if folder else ():
        roots.setdefault(str(path), '.')

    def shown(text: str) -> str:
        """Return a text without the folders of this machine."""
        for root, replacement in roots.items():
            if text.startswith(f'{root}/'):
                is_list = replacement == '.' and text.endswith(('.txt', '.json')) and os.path.isfile(text)
                return f'{replacement}{text.removeprefix(root)}{f" {sha256(Path(text))}" if is_list else ""}'
        if data and f'{text}/'.startswith(f'{data}/'):
            return f'{{data}}{text.removeprefix(data)}'.rstrip('/')
        is_file = data is not None and '://' not in text and text.endswith(('.pth', '.pt', '.safetensors', '.py'))
        return _last_names(text) if is_file else text

    return shown


def written_config(file: Path) -> Config:
    """Return the config in a file that mmengine wrote."""
    # mmengine writes plain values, and takes a `{{` in a name for a template when it reads them again
    return Config.fromstring(file.read_text(encoding='utf-8').replace('{{', BRACES), '.py')


def changed_keys(folder: Path, config: Config) -> list[str]:
    """Return the keys in which a config differs from the one that mmengine wrote into a run's folder, if it did."""
    if not (file := folder / 'config.py').is_file():
        return []
    written = written_config(file)
    old, new = (_identity(version, _last_names) for version in (written, config))
    return [key for key in differences(old, new) if key != 'load_from' or not written.get('resume')]


def networks_hash(config: Config) -> str:
    """Return digits that change with the networks that a config names by files of the user's own; empty without any."""
    options = [config.model.get('student'), *(teachers_of(config.model).values() if reads_teacher(config) else ())]
    paths = [path for option in options if (path := own_config(option))]
    return options_hash([load_model({'cfg': str(path)}, 'model').model for path in paths], _last_names) if paths else ''


def _last_names(text: str) -> str:
    """Return the last two names of a path: a folder that was moved counts as the same."""
    return '/'.join(text.split('/')[-2:])


def _identity(config: Config, text: Callable[[str], str]) -> dict[str, Any]:
    identity: dict[str, Any] = plain({key: value for key, value in config.items() if key not in _UNHASHED_KEYS}, text)
    hooks, randomness = identity.get('default_hooks') or {}, identity.get('randomness') or {}
    identity['default_hooks'] = {name: hook for name, hook in hooks.items() if name not in _LOGGING_HOOKS}
    identity['randomness'] = {key: value for key, value in randomness.items() if key != 'seed'}
    if is_distill_model(config.model):
        left_out = () if reads_teacher(config) else ('teacher', 'teachers')
        identity['model'] = {key: value for key, value in identity['model'].items() if key not in left_out}
        (identity['model'].get('unlabelled') or {}).pop('workers', None)
    return identity
