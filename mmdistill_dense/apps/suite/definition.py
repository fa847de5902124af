"""The definition of a suite: the methods, the recipe and the seeds to compare, in Python, YAML or JSON."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config

from mmdistill_dense.apps.recipes import compose
from mmdistill_dense.apps.recipes.named import Named, find_named, is_name
from mmdistill_dense.config.resolve import find_config
from mmdistill_dense.config.values import falls, flat
from mmdistill_dense.utils.removed import removed
from mmdistill_dense.utils.validate import close_or_all, some, text_of

NAME = re.compile(r'[A-Za-z0-9][\w+.-]*')  # of rows and folders
_SIXTIES = re.compile(r'[-+]?\d[\d_]*(:[0-5]?\d)+(\.\d*)?$')
_FLOAT = re.compile(r'[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$')
_REQUIRED: Any = object()
_YAML = 'tag:yaml.org,2002:'
_TEXT = f'{_YAML}str'
_TEXTS = re.compile(  # keys whose values are names and paths
    r'(.+\.)?(classes|data_root|ann_file|(data|img|seg|ann|outfile)_prefix(\.\w+)?|(img|seg_map|ann)_path)'
)


def _scalars(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.ScalarNode):
        yield node
    for child in node.value if isinstance(node, yaml.CollectionNode) else ():
        yield from _scalars(child[1] if isinstance(child, tuple) else child)


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
            for leaf in _scalars(value) if _TEXTS.fullmatch(str(key.value)) and not nested else ():
                if leaf.tag != _TEXT and (isinstance(value, yaml.SequenceNode) or leaf.tag != f'{_YAML}null'):
                    kind, line = leaf.tag.rpartition(':')[2], leaf.start_mark.line + 1
                    problem = f'YAML reads {leaf.value or "nothing"} as a {kind}, and this is a text'
                    raise ValueError(f'line {line}: {key.value}: {problem}. Write it in quotes')
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {char: list(pairs) for char, pairs in _Loader.yaml_implicit_resolvers.items()}
for _char in '-+0123456789':  # before the resolver of base 60
    _Loader.yaml_implicit_resolvers.setdefault(_char, []).insert(0, (_TEXT, _SIXTIES))
_Loader.add_implicit_resolver('tag:yaml.org,2002:float', _FLOAT, list('-+.0123456789'))


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


class Reader:
    """Checked access to the values of a mapping, which is in ``file`` below the dotted key ``place``."""

    def __init__(self, raw: Any, file: Path, prefix: str = '') -> None:
        self.file, self.prefix = file, prefix
        if not isinstance(raw, Mapping):
            raise self.error('', f'must be a mapping of keys to values, got {raw!r}')
        self.raw = dict(raw)

    def at(self, key: str) -> str:
        """Return file and whole key."""
        return ': '.join(filter(None, [str(self.file), '.'.join(filter(None, [self.prefix, key]))]))

    def error(self, key: str, text: str) -> ValueError:
        return ValueError(f'{self.at(key)}: {text}')

    def inner(self, key: str, value: Any = None) -> Reader:
        """Return a reader of a nested mapping. By default it is the value of the key, or empty."""
        mapping = self.raw.get(key) or {} if value is None else value
        return Reader(mapping, self.file, '.'.join(filter(None, [self.prefix, key])))

    def only(self, known_keys: Collection[str]) -> None:
        """Refuse unknown keys, and name similar ones."""
        for key in map(str, self.raw):
            if key not in known_keys:
                removal = removed(f'suite {".".join(filter(None, [self.prefix, key]))}', f'suite {key}')
                raise self.error(key, removal or f'unknown key. {close_or_all(key, known_keys)}')

    def get(self, key: str, kind: type, default: Any = _REQUIRED) -> Any:
        """Return a value of a type. A key without a default is required."""
        value = self.raw.get(key)
        if value is None:
            if default is _REQUIRED:
                raise self.error(key, 'missing')
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(key, f'must be of type {kind.__name__}, got {value!r}')
        return value

    def count(self, key: str, default: int | None, least: int = 1) -> Any:
        value = self.get(key, int, default)
        if value is not None and value < least:
            raise self.error(key, f'must be at least {least}, got {value}')
        return value

    def factor(self, key: str) -> float:
        """Return a number above 0 and below 1000, by default 1."""
        value = self.raw.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1000:
            raise self.error(key, removed(f'suite {key}: {value}') or f'must be a factor above 0, got {value!r}')
        return value

    def choice(self, key: str, choices: Sequence[str]) -> str:
        """Return one of several texts, by default the first."""
        value = self.get(key, str, choices[0])
        if value not in choices:
            raise self.error(key, f'must be {" or ".join(choices)}, got {value!r}')
        return str(value)

    def options(self, key: str) -> dict[str, Any]:
        """Return settings by dotted key, as for ``--cfg-options``."""
        return {str(name): item for name, item in self.get(key, dict, {}).items()}


def resolve_config_file(reader: Reader, key: str, name: str, folder: str) -> Path:
    """Return a config by its name in ``configs/<folder>``, by ``METHOD:PAIR``, or a file beside the definition."""
    inside = name if '/' in name else f'{folder}/{name}'
    with error_prefix(reader.at(key)):
        if is_name(name):
            config = find_named(name)
            if isinstance(config, Named):
                raise ValueError(f'{name} is not a file; write one of these lines:\n{config.text()}')
            return config
        if not name.endswith('.py'):
            return find_config(name if '::' in name else f'mmdistill_dense::{inside}', key)
        file = reader.file.parent / name
        if not file.is_file():
            raise FileNotFoundError(f'no file {str(file)!r}; paths are relative to the definition')
    return file


_SHOWN = 8  # members of a list in a sentence
_VARIABLE = re.compile(r'\{\{\s*\$(\w+)\s*:\s*([^{}]*?)\s*\}\}')  # as in mmengine's configs


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


TEACHER, CONTROL = 'teacher', 'control'  # runs that are no rows of a definition
SPLITS = ('train', 'val', 'test')
RESERVED = (CONTROL, TEACHER)  # folders and keys of the suite's own
METRICS = {'seg': ('mIoU', False), 'det': ('coco/bbox_mAP', True)}
KEEPS = ('all', 'weights')
RUN_KEYS = ('train_cfg.', 'param_scheduler.', 'train_dataloader.dataset.')  # in which a row may differ from its control


@dataclass(frozen=True)
class Method:
    """A row: a shipped method, a user's config, or the student alone with other settings."""

    name: str
    method: str | None  # a shipped method
    options_file: Path | None  # that holds its options
    variant: str | None = None
    config: Path | None = None  # the user's own config
    options: Mapping[str, Any] = field(default_factory=dict)  # of the row's distillers, or of :data:`RUN_KEYS`
    unlabelled: Mapping[str, Any] = field(default_factory=dict)  # ``model.unlabelled`` of the row
    settings: str | None = None  # ``'auto'`` or ``'canonical'`` in place of the constants of its distillers
    rate: float = 1  # its learning rates over those of the control

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


@dataclass(frozen=True)
class Teacher:
    """How a missing teacher is trained: a config, settings that replace some of it, a seed."""

    config: Path
    options: Mapping[str, Any]
    seed: int


@dataclass(frozen=True)
class Definition:
    """A suite, read from the file ``path``. ``docs/suite.md`` says what each key means."""

    path: Path
    title: str
    out: Path
    control: Path  # the recipe of the student alone
    task: str
    teacher: Teacher | None
    test_teacher: bool
    test_sets: Mapping[str, Mapping[str, Any]]  # further ones, each as changes of the control's test set
    methods: Mapping[str, Method]
    seeds: tuple[int, ...]
    metric: str  # the key of the score in the result of a test
    percent: bool  # whether ``metric`` is a fraction. Scores are in percent.
    options: Mapping[str, Any]
    jobs: int
    threads: int | None
    workers: int | None
    checkpoint_every: int | None
    keep: str  # what stays of a finished run's checkpoints: ``'all'``, or the ``'weights'`` of the last one
    stall: int | None  # minutes without a step after which a run starts again from its checkpoint

    @property
    def methods_to_compare(self) -> list[str]:
        """The rows that are compared with the control."""
        return [name for name in self.methods if not is_alone(name)]


def is_alone(name: str) -> bool:
    """Whether a row is the student alone; older projects have it at other rates, as ``control_x2``."""
    return name == CONTROL or name.startswith(f'{CONTROL}_')


def load_suite(path: Path | str) -> Definition:
    path = Path(path)
    top = Reader(read_suite_file(path), path)
    top.only(set(Definition.__dataclass_fields__) - {'path', 'task'})
    folder = top.get('out', str, f'work_dirs/suites/{path.stem}')
    out = path.absolute().parent / folder if folder.startswith('./') else Path(folder)
    control = resolve_config_file(top, 'control', top.get('control', str), 'control')
    with error_prefix(top.at('control')):
        task = compose.parts_of(control).task
    if task not in METRICS:
        problem = f'{top.get("control", str)} is of the task {task}, which has no score'
        raise top.error('control', f'{problem}: name a recipe with labels, and a pre-training by the config: of a row')
    metric, percent = METRICS[task]
    metric, seeds = top.get('metric', str, metric), top.get('seeds', list, [0, 1, 2])
    if falls(metric):
        raise top.error('metric', f'{metric!r} falls as a network gets better, so a gain would be a loss: name another')
    whole = all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds)
    if not seeds or not whole or len(set(seeds)) != len(seeds):
        raise top.error('seeds', f'must be distinct integers of at least 0, as in [0, 1, 2]; got {seeds!r}')
    return Definition(
        path=path,
        title=top.get('title', str, path.stem),
        out=out,
        control=control,
        task=task,
        teacher=_teacher(top),
        test_teacher=top.get('test_teacher', bool, False),
        test_sets=_test_sets(top),
        methods=_methods(top, control),
        seeds=tuple(seeds),
        metric=metric,
        percent=top.get('percent', bool, percent and not metric.startswith('coco_panoptic/')),
        options=top.options('options'),
        jobs=top.count('jobs', 1),
        threads=top.count('threads', None),
        workers=top.count('workers', None, least=0),
        checkpoint_every=top.count('checkpoint_every', None),
        keep=top.choice('keep', KEEPS),
        stall=top.count('stall', None),
    )


load = load_suite  # its name until 0.3, in scripts of users


def fitting_methods(control: Path) -> list[str]:
    return [method for method in compose.methods() if compose.options_for(method, control)]


def _teacher(top: Reader) -> Teacher | None:
    value = top.raw.get('teacher')
    if value is None:
        return None
    inner = top.inner('teacher', {'config': value} if isinstance(value, str) else value)
    inner.only({'config', 'options', 'seed'})
    file = resolve_config_file(inner, 'config', inner.get('config', str), 'teachers')
    return Teacher(file, inner.options('options'), inner.count('seed', 0, least=0))


def _test_sets(top: Reader) -> dict[str, dict[str, Any]]:
    sets = top.inner('test_sets')
    for name in sets.raw:
        if name in SPLITS or not NAME.fullmatch(str(name)):
            raise sets.error(str(name), f'a name consists of letters, digits and .+-_; {", ".join(SPLITS)} are taken')
    return {str(name): fill_variables(sets.options(name)) for name in sets.raw}


def _methods(top: Reader, control: Path) -> dict[str, Method]:
    rows = top.raw.get('methods')
    if rows == 'all':
        rows = dict.fromkeys(fitting_methods(control))
    if not isinstance(rows, dict) or not rows:
        raise top.error('methods', f"must be 'all', or options by name as in `kd: {{}}`; got {rows!r}")
    return {
        str(name): _method(str(name), top.inner(f'methods.{name}', value or {}), control)
        for name, value in rows.items()
    }


def _method(name: str, row: Reader, control: Path) -> Method:
    if name in RESERVED or not NAME.fullmatch(name):
        raise row.error('', f'a name consists of letters, digits and .+-_, and {", ".join(RESERVED)} are reserved')
    row.only(Method.__dataclass_fields__.keys() - {'name', 'options_file'})
    changed = Method(
        name,
        None,
        None,
        options=row.options('options'),
        unlabelled=row.get('unlabelled', dict, {}),
        settings=row.get('settings', str, None),
        rate=row.factor('rate'),
    )
    if 'config' in row.raw:
        method = _with_config(changed, row, control)
    elif ('rate' in row.raw or changed.run_options) and name not in compose.methods() and 'method' not in row.raw:
        for key in ('variant', 'options', 'settings', 'unlabelled'):
            if key in row.raw and (key != 'options' or changed.options != changed.run_options):
                raise row.error(key, 'a row without `method` has no distillers to set it for')
        return changed
    else:
        method = _with_method(changed, row, control)
    if is_alone(name):
        raise row.error('', f'a row named {CONTROL}_… is the student alone, as in {CONTROL}_x2: {{rate: 2}}; rename it')
    for key in flat(method.options) if method.options_file is not None else ():
        if key.split('.')[-1] == 'settings':
            problem = 'the constants of the method would stay. Write it as `settings` of the row'
            raise row.error(f'options.{key}', problem)
    return method


def _with_config(row: Method, options: Reader, control: Path) -> Method:
    if {'method', 'variant'} & options.raw.keys():
        raise options.error('config', 'cannot be combined with `method` or `variant`')
    name = options.get('config', str)
    with error_prefix(options.at('config')):
        config = find_named(name) if is_name(name) else None
    if not isinstance(config, Named):
        return replace(row, config=config or resolve_config_file(options, 'config', name, row.name))
    if config.base.resolve() != control.resolve():
        of = f'{config.name} is a config of {config.base.stem}, the control is {control.stem}'
        raise options.error('config', of)
    return replace(row, method=config.method, options_file=config.options, variant=config.variant)


def _with_method(row: Method, options: Reader, control: Path) -> Method:
    method, variant = options.get('method', str, row.name), options.get('variant', str, None)
    if method in compose.methods():
        with error_prefix(options.at('')):
            file = compose.options_for(method, control, variant)
        if file is not None:
            return replace(row, method=method, options_file=file, variant=variant)
        problem = f'{f"variant {variant!r} of {method}" if variant else method} does not fit {control.stem}.'
    else:
        problem = compose.unknown('method', method, compose.methods())
    raise options.error('', f'{problem} These fit {control.stem}: {", ".join(fitting_methods(control)) or "none"}.')
