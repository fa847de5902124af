"""The definition of a suite: the methods, the recipe and the seeds to compare, in Python, YAML or JSON."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from mmengine.config import Config

from mmdistill_dense.apps.recipes import compose
from mmdistill_dense.apps.recipes.named import Named, find_named, is_name
from mmdistill_dense.config.resolve import find_config
from mmdistill_dense.config.unknown_keys import read_options
from mmdistill_dense.config.values import falls, flat
from mmdistill_dense.utils.validate import Count, Whole, some, text_of
from mmdistill_dense.utils.version import removed

T = TypeVar('T')
P = TypeVar('P', bound='Pretraining')
TEACHER, CONTROL, PRETRAINING = 'teacher', 'control', 'pretrain'  # runs that are no rows of a definition
SPLITS = ('train', 'val', 'test')
METRICS = {'seg': ('mIoU', False), 'det': ('coco/bbox_mAP', True)}
RUN_KEYS = ('train_cfg.', 'param_scheduler.', 'train_dataloader.dataset.')  # in which a row may differ from its control
Factor = Annotated[float, 'above 0 and below 1000', lambda value: 0 < value < 1000]
NAME = re.compile(r'[A-Za-z0-9][\w+.-]*')  # of rows and folders
_SHOWN = 8  # members of a list in a sentence
_VARIABLE = re.compile(r'\{\{\s*\$(\w+)\s*:\s*([^{}]*?)\s*\}\}')  # as in mmengine's configs
_SIXTIES = re.compile(r'[-+]?\d[\d_]*(:[0-5]?\d)+(\.\d*)?$')
_FLOAT = re.compile(r'[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$')
_YAML = 'tag:yaml.org,2002:'
_TEXT = f'{_YAML}str'
_TEXTS = re.compile(  # keys whose values are names and paths
    r'(.+\.)?(classes|data_root|ann_file|(data|img|seg|ann|outfile)_prefix(\.\w+)?|(img|seg_map|ann)_path)'
)


class _Loader(yaml.SafeLoader):
    """YAML loader in which 1e-3 is a number, 24:00:00 and a key ``on`` are texts, and that refuses a key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        nodes = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != '<<']
        for key in nodes:  # names of rows and sets; a whole number stays one, as in a dict of labels
            key.tag = key.tag if re.fullmatch('0|-?[1-9][0-9]*', key.value) else _TEXT
        keys = [key.value for key in nodes]
        if duplicates := {key for key in keys if keys.count(key) > 1}:
            raise ValueError(f'line {node.start_mark.line + 1}: {", ".join(sorted(duplicates))} occurs twice')
        for key, value in node.value:
            nested = isinstance(value, yaml.MappingNode) and 'prefix' not in key.value  # a row of this name
            members = value.value if isinstance(value, yaml.CollectionNode) else [value]
            for member in members if _TEXTS.fullmatch(str(key.value)) and not nested else ():
                leaf = member[1] if isinstance(member, tuple) else member
                is_text = leaf.tag == _TEXT or not isinstance(leaf, yaml.ScalarNode)
                if not is_text and (isinstance(value, yaml.SequenceNode) or leaf.tag != f'{_YAML}null'):
                    kind, line = leaf.tag.rpartition(':')[2], leaf.start_mark.line + 1
                    problem = f'YAML reads {leaf.value or "nothing"} as a {kind}, and this is a text'
                    raise ValueError(f'line {line}: {key.value}: {problem}. Write it in quotes')
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(f'{_YAML}float', _FLOAT, list('-+.0123456789'))
for _char in '-+0123456789':  # before the resolver of base 60
    _Loader.yaml_implicit_resolvers[_char].insert(0, (_TEXT, _SIXTIES))


def read_suite_file(path: Path) -> Any:
    """Return the content of a file, merged over the files of its ``_base_`` as mmengine merges configs."""
    # mmengine's YAML loader can run code; with environment variables, the hash of a run would depend on the machine
    if not path.is_file():
        raise FileNotFoundError(f'{str(path)!r}: no such definition of a suite (working folder {Path.cwd()})')
    try:
        if path.suffix == '.py':
            return Config.fromfile(path, use_environment_variables=False).to_dict()
        text = path.read_text(encoding='utf-8')
        content = json.loads(text) if path.suffix == '.json' else yaml.load(text, Loader=_Loader)
        if not isinstance(content, Mapping) or '_base_' not in content:
            return content
        bases, merged = content['_base_'], Config()
        for base in [bases] if isinstance(bases, str) else bases:
            merged.merge_from_dict(read_suite_file(path.parent / base))
        merged.merge_from_dict({str(key): value for key, value in content.items() if key != '_base_'})
        return merged.to_dict()
    except (yaml.YAMLError, KeyError, SyntaxError, TypeError, ValueError) as error:
        raise ValueError(f'{path}: {error}') from error


@contextmanager
def error_prefix(location: str) -> Iterator[None]:
    """Prefix the messages of errors raised inside with a location."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f'{location}: {error}') from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{location}: {text_of(error)}') from error


def read_keys(kind: type[T], values: Any, key: str = '') -> T:
    """Return the keys of a mapping in a suite's file, checked by the types of a dataclass; an empty one is left out."""
    if isinstance(values, Mapping):
        values = {str(name): value for name, value in values.items() if value is not None}
        for name, value in values.items():
            if message := removed(f'suite {name}', f'suite {name}: {value}'):
                raise ValueError(f'{key}.{name}: {message}'.removeprefix('.'))
        if isinstance(options := values.get('options'), Mapping):  # YAML may read a key as a number
            values['options'] = {str(name): value for name, value in options.items()}
    return read_options(kind, values, key)


def find_suite_config(name: str, folder: str, path: Path, key: str) -> Path:
    """Return a config by its name in ``configs/<folder>``, by ``METHOD:PAIR``, or a file beside the definition."""
    with error_prefix(key):
        config = find_named(name) if is_name(name) else path.parent / name
        if isinstance(config, Named):
            raise ValueError(f'{name} is not a file; write one of these lines:\n{config.text()}')
        if not is_name(name) and not name.endswith('.py'):
            inside = name if '/' in name else f'{folder}/{name}'
            config = find_config(name if '::' in name else f'mmdistill_dense::{inside}', key)
        if not config.is_file():
            raise FileNotFoundError(f'no file {str(config)!r}; paths are relative to the definition')
    return config


def fill_variables(value: Any) -> Any:
    """Return nested values with the environment variables of their texts filled in."""
    if isinstance(value, Mapping):
        return {key: fill_variables(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [fill_variables(member) for member in value]
    return _VARIABLE.sub(lambda match: os.environ.get(match[1], match[2]), value) if isinstance(value, str) else value


def describe_options(options: Mapping[str, Any]) -> str:
    """Return `` with `key=value …` ``, or nothing without options; of a long list its beginning alone."""
    long = {key for key, value in options.items() if isinstance(value, list) and len(value) > 2 * _SHOWN}
    texts = (f'{key}={f"[{some(value, _SHOWN)}]" if key in long else value}' for key, value in options.items())
    return f' with `{" ".join(texts)}`' if options else ''


@dataclass(frozen=True)
class SuiteKeys:
    """The keys of a suite's file; ``docs/suite.md`` says what each means."""

    control: str
    methods: Mapping[str, Any] | Literal['all']
    title: str | None = None
    out: str | None = None
    teacher: str | Mapping[str, Any] | None = None
    test_teacher: bool = False
    test_sets: Mapping[str, Any] = field(default_factory=dict)  # further ones, as changes of the control's test set
    seeds: Sequence[Whole] = (0, 1, 2)
    metric: str | None = None  # the key of the score in the result of a test
    percent: bool | None = None  # whether it is a fraction. Scores are in percent.
    options: Mapping[str, Any] = field(default_factory=dict)
    jobs: Count = 1
    threads: Count | None = None
    workers: Whole | None = None
    checkpoint_every: Count | None = None
    keep: Literal['all', 'weights'] = 'all'  # of a finished run's checkpoints: ``'weights'`` of the last one alone
    stall: Count | None = None  # minutes without a step after which a run starts again from its checkpoint


@dataclass(frozen=True)
class RowKeys:
    """The keys of a row in a suite's file."""

    method: str | None = None  # a shipped method
    variant: str | None = None
    config: str | None = None  # the user's own config
    options: Mapping[str, Any] = field(default_factory=dict)  # of the row's distillers, or of :data:`RUN_KEYS`
    unlabelled: Mapping[str, Any] = field(default_factory=dict)  # ``model.unlabelled`` of the row
    settings: str | None = None  # ``'auto'`` or ``'canonical'`` in place of the constants of its distillers
    rate: Factor | None = None  # its learning rates over those of the control
    pretrain: str | Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Pretraining:
    """What trains the backbone of a row's student first: a config with distillers, and settings that replace some."""

    config: str  # a file, or a name
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Teacher(Pretraining):
    """How a missing teacher is trained: a config in a file, settings that replace some of it, a seed."""

    seed: Whole = 0


@dataclass(frozen=True)
class Method(RowKeys):
    """A row: a shipped method, a user's config in a file, or the student alone with other settings."""

    name: str = ''
    options_file: Path | None = None  # that holds the options of a shipped method
    pretraining: Pretraining | None = None  # rows that are pre-trained in the same way share its weights

    @property
    def distils(self) -> bool:
        """Whether the row is a method or a config, and not the student alone with other settings."""
        return self.options_file is not None or self.config is not None

    @property
    def run_options(self) -> dict[str, Any]:
        """The options that set the length or the training set of the row's runs, and not its distillers."""
        return {
            key: value
            for key, value in self.options.items()
            if all(f'{leaf}.'.startswith(RUN_KEYS) for leaf in flat({key: value}) or [key])
        }


@dataclass(frozen=True, kw_only=True)
class Definition(SuiteKeys):
    """A suite, read from the file ``path``: its keys, with what they stand for."""

    path: Path
    title: str
    out: Path  # type: ignore[assignment]
    control: Path  # type: ignore[assignment]  # the recipe of the student alone
    task: str
    teacher: Teacher | None  # type: ignore[assignment]
    methods: Mapping[str, Method]
    seeds: tuple[int, ...]
    metric: str
    percent: bool


def is_alone(name: str) -> bool:
    """Whether a row is the student alone; older projects have it at other rates, as ``control_x2``."""
    return name == CONTROL or name.startswith(f'{CONTROL}_')


def load_suite(path: Path | str) -> Definition:
    path = Path(path)
    content = read_suite_file(path)
    with error_prefix(str(path)):
        keys = read_keys(SuiteKeys, content)
        control = find_suite_config(keys.control, 'control', path, 'control')
        with error_prefix('control'):
            task = compose.parts_of(control).task
            if task not in METRICS:
                remedy = 'name a recipe with labels, and a pre-training by the config: of a row'
                raise ValueError(f'{keys.control} is of the task {task}, which has no score: {remedy}')
        metric, percent = METRICS[task]
        metric = metric if keys.metric is None else keys.metric
        if falls(metric):
            problem = 'falls as a network gets better, so a gain would be a loss'
            raise ValueError(f'metric: {metric!r} {problem}: name another')
        if not keys.seeds or len(set(keys.seeds)) != len(keys.seeds):
            raise ValueError(f'seeds must be distinct, as in [0, 1, 2]; got {list(keys.seeds)}')
        teacher = _training(Teacher, keys.teacher, 'teacher', 'teachers', path)
        for name, options in keys.test_sets.items():
            if name in SPLITS or not NAME.fullmatch(str(name)):
                rule = f'a name consists of letters, digits and .+-_; {", ".join(SPLITS)} are taken'
                raise ValueError(f'test_sets.{name}: {rule}')
            if not isinstance({} if options is None else options, Mapping):
                raise ValueError(f'test_sets.{name} must be a dict of changes of the test set, got {options!r}')
        out = f'work_dirs/suites/{path.stem}' if keys.out is None else keys.out
        read = {'path': path, 'control': control, 'task': task, 'seeds': tuple(keys.seeds), 'metric': metric}
        values: dict[str, Any] = {
            'title': path.stem if keys.title is None else keys.title,
            'out': path.absolute().parent / out if out.startswith('./') else Path(out),
            'teacher': teacher,
            'test_sets': {str(name): fill_variables(options or {}) for name, options in keys.test_sets.items()},
            'methods': _methods(keys.methods, path, control),
            'percent': percent and not metric.startswith('coco_panoptic/') if keys.percent is None else keys.percent,
        }
        return Definition(**{**vars(keys), **read, **values})


load = load_suite  # its name until 0.3, in scripts of users


def _training(kind: type[P], value: str | Mapping[str, Any] | None, key: str, folder: str, path: Path) -> P | None:
    if value is None:
        return None
    training = read_keys(kind, {'config': value} if isinstance(value, str) else value, key)
    if kind is Pretraining and is_name(training.config):
        with error_prefix(f'{key}.config'):
            find_named(training.config)
        return training
    return replace(training, config=str(find_suite_config(training.config, folder, path, f'{key}.config')))


def _methods(rows: Mapping[str, Any] | Literal['all'], path: Path, control: Path) -> dict[str, Method]:
    if isinstance(rows, str):
        rows = dict.fromkeys(compose.fitting_methods(control))
    if not rows:
        raise ValueError("methods must be 'all', or options by name as in `kd: {}`")
    methods = dict[str, Method]()
    for name, value in rows.items():
        key = f'methods.{name}'
        empty = [word for word in ('config', 'rate') if isinstance(value, Mapping) and value.get(word, 0) is None]
        if empty:
            raise ValueError(f'{key}.{empty[0]} is empty: give it, or leave the key out')
        keys = read_keys(RowKeys, {} if value is None else value, key)
        with error_prefix(key):
            methods[str(name)] = _method(str(name), keys, path, control)
    return methods


def _method(name: str, keys: RowKeys, path: Path, control: Path) -> Method:
    if name in (CONTROL, TEACHER) or not NAME.fullmatch(name):
        raise ValueError(f'a name consists of letters, digits and .+-_, and {CONTROL}, {TEACHER} are reserved')
    start = _training(Pretraining, keys.pretrain, 'pretrain', 'pcd', path)
    row = Method(**vars(keys), name=name, pretraining=start)
    changed = row.rate is not None or bool(row.run_options)
    if row.config is not None:
        row = _with_config(row, row.config, path, control)
    elif row.method is None and (start is not None or (changed and name not in compose.methods())):
        if start is not None and name in compose.methods() and name != start.config.partition(':')[0]:
            remedy = f'add `method: {name}`, or rename the row'
            raise ValueError(f'pretrain: this is the student alone and not {name}: {remedy}')
        if start is not None and is_alone(name):
            raise ValueError(f'pretrain: a row named {CONTROL}_… is not compared with the student alone; rename it')
        for key in ('variant', 'options', 'settings', 'unlabelled'):
            if getattr(row, key) and (key != 'options' or row.options != row.run_options):
                raise ValueError(f'{key}: a row without `method` has no distillers to set it for')
        return row
    else:
        row = _with_method(row, control)
    if is_alone(name):
        raise ValueError(f'a row named {CONTROL}_… is the student alone, as in {CONTROL}_x2: {{rate: 2}}; rename it')
    for key in flat(row.options) if row.options_file is not None else ():
        if key.split('.')[-1] == 'settings':
            problem = 'the constants of the method would stay. Write it as `settings` of the row'
            raise ValueError(f'options.{key}: {problem}')
    return row


def _with_config(row: Method, name: str, path: Path, control: Path) -> Method:
    if row.method is not None or row.variant is not None:
        raise ValueError('config cannot be combined with `method` or `variant`')
    if row.pretrain is not None:
        raise ValueError('pretrain cannot be combined with `config`, which says where its student starts')
    with error_prefix('config'):
        config = find_named(name) if is_name(name) else None
    if not isinstance(config, Named):
        return replace(row, config=str(config or find_suite_config(name, row.name, path, 'config')))
    if config.base.resolve() != control.resolve():
        raise ValueError(f'{config.name} is a config of {config.base.stem}, the control is {control.stem}')
    return replace(row, method=config.method, options_file=config.options, variant=config.variant, config=None)


def _with_method(row: Method, control: Path) -> Method:
    method, variant = row.name if row.method is None else row.method, row.variant
    if method in compose.methods():
        if (file := compose.options_for(method, control, variant)) is not None:
            return replace(row, method=method, options_file=file)
        problem = f'{f"variant {variant!r} of {method}" if variant else method} does not fit {control.stem}.'
    else:
        problem = compose.unknown('method', method, compose.methods())
    raise ValueError(f'{problem} These fit {control.stem}: {", ".join(compose.fitting_methods(control)) or "none"}.')
