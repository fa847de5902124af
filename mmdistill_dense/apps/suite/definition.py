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
from mmdistill_dense.apps.recipes.named import Named, find, is_name
from mmdistill_dense.config.resolve import find_config
from mmdistill_dense.config.values import flat
from mmdistill_dense.utils.removed import removed
from mmdistill_dense.utils.validate import close_or_all, some, text_of

NAME = re.compile(r'[A-Za-z0-9][\w+.-]*')  # of rows and folders
_SIXTIES = re.compile(r'[-+]?\d[\d_]*(:[0-5]?\d)+(\.\d*)?$')
_FLOAT = re.compile(r'[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$')
_NEEDED: Any = object()
_YAML = 'tag:yaml.org,2002:'
_TEXT = f'{_YAML}str'
_TEXTS = re.compile(  # keys whose values are names and paths
    r'(.+\.)?(classes|data_root|ann_file|(data|img|seg|ann|outfile)_prefix(\.\w+)?|(img|seg_map|ann)_path)'
)


def _scalars(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.ScalarNode):
        yield node
    for one in node.value if isinstance(node, yaml.CollectionNode) else ():
        yield from _scalars(one[1] if isinstance(one, tuple) else one)


class _Loader(yaml.SafeLoader):
    """YAML loader in which 1e-3 is a number, 24:00:00 and a key ``on`` are texts, and that refuses a key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        nodes = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != '<<']
        for key in nodes:  # names of rows and sets; a whole number stays one, as in a dict of labels
            key.tag = key.tag if re.fullmatch('0|-?[1-9][0-9]*', key.value) else _TEXT
        keys = [key.value for key in nodes]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise ValueError(f'line {node.start_mark.line + 1}: {", ".join(sorted(twice))} occurs twice')
        for key, value in node.value:
            nested = isinstance(value, yaml.MappingNode) and 'prefix' not in key.value  # a row of this name
            for one in _scalars(value) if _TEXTS.fullmatch(str(key.value)) and not nested else ():
                if one.tag != _TEXT and (isinstance(value, yaml.SequenceNode) or one.tag != f'{_YAML}null'):
                    what = f'YAML reads {one.value or "nothing"} as a {one.tag.rpartition(":")[2]}, and this is a text'
                    raise ValueError(f'line {one.start_mark.line + 1}: {key.value}: {what}. Write it in quotes')
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {first: list(found) for first, found in _Loader.yaml_implicit_resolvers.items()}
for _first in '-+0123456789':  # before the resolver of base 60
    _Loader.yaml_implicit_resolvers.setdefault(_first, []).insert(0, (_TEXT, _SIXTIES))
_Loader.add_implicit_resolver('tag:yaml.org,2002:float', _FLOAT, list('-+.0123456789'))


def read_file(path: Path) -> Any:
    """Return the content of a file, merged over the files of its ``_base_`` as mmengine merges configs."""
    # mmengine's YAML loader can run code; with environment variables, the hash of a run would depend on the machine
    if not path.is_file():
        raise FileNotFoundError(f'{str(path)!r}: no such definition of a suite (working folder {Path.cwd()})')
    try:
        if path.suffix == '.py':
            return Config.fromfile(path, use_environment_variables=False).to_dict()
        text = path.read_text(encoding='utf-8')
        own = json.loads(text) if path.suffix == '.json' else yaml.load(text, Loader=_Loader)
        if not isinstance(own, Mapping) or '_base_' not in own:
            return own
        bases, merged = own['_base_'], Config()
        for base in [bases] if isinstance(bases, str) else bases:
            merged.merge_from_dict(read_file(path.parent / base))
        merged.merge_from_dict({str(key): value for key, value in own.items() if key != '_base_'})
        return merged.to_dict()
    except (yaml.YAMLError, KeyError, SyntaxError, TypeError, ValueError) as error:
        raise ValueError(f'{path}: {error}') from error


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Put a place before the errors that are raised inside."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f'{place}: {error}') from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{place}: {text_of(error)}') from error


class Reader:
    """Checked access to the values of a mapping, which is in ``file`` below the dotted key ``place``."""

    def __init__(self, raw: Any, file: Path, place: str = '') -> None:
        self.file, self.place = file, place
        if not isinstance(raw, Mapping):
            raise self.error('', f'must be a mapping of keys to values, got {raw!r}')
        self.raw = dict(raw)

    def at(self, key: str) -> str:
        """Return file and whole key."""
        return ': '.join(filter(None, [str(self.file), '.'.join(filter(None, [self.place, key]))]))

    def error(self, key: str, text: str) -> ValueError:
        return ValueError(f'{self.at(key)}: {text}')

    def inner(self, key: str, value: Any = None) -> Reader:
        """Return a reader of a nested mapping. By default it is the value of the key, or empty."""
        given = self.raw.get(key) or {} if value is None else value
        return Reader(given, self.file, '.'.join(filter(None, [self.place, key])))

    def only(self, known: Collection[str]) -> None:
        """Refuse unknown keys, and name similar ones."""
        for key in map(str, self.raw):
            if key not in known:
                told = removed(f'suite {".".join(filter(None, [self.place, key]))}', f'suite {key}')
                raise self.error(key, told or f'unknown key. {close_or_all(key, known)}')

    def get(self, key: str, kind: type, default: Any = _NEEDED) -> Any:
        """Return a value of a type. A key without a default is required."""
        value = self.raw.get(key)
        if value is None:
            if default is _NEEDED:
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

    def choice(self, key: str, known: Sequence[str]) -> str:
        """Return one of several texts, by default the first."""
        value = self.get(key, str, known[0])
        if value not in known:
            raise self.error(key, f'must be {" or ".join(known)}, got {value!r}')
        return str(value)

    def options(self, key: str) -> dict[str, Any]:
        """Return settings by dotted key, as for ``--cfg-options``."""
        return {str(name): item for name, item in self.get(key, dict, {}).items()}


def config_file(place: Reader, key: str, name: str, folder: str) -> Path:
    """Return a config by its name in ``configs/<folder>``, by ``METHOD:PAIR``, or a file beside the definition."""
    inside = name if '/' in name else f'{folder}/{name}'
    with naming(place.at(key)):
        if is_name(name):
            found = find(name)
            if isinstance(found, Named):
                raise ValueError(f'{name} is not a file; write one of these lines:\n{found.text()}')
            return found
        if not name.endswith('.py'):
            return find_config(name if '::' in name else f'mmdistill_dense::{inside}', key)
        file = place.file.parent / name
        if not file.is_file():
            raise FileNotFoundError(f'no file {str(file)!r}; paths are relative to the definition')
    return file


_SHOWN = 8  # members of a list in a sentence
_VARIABLE = re.compile(r'\{\{\s*\$(\w+)\s*:\s*([^{}]*?)\s*\}\}')  # as in mmengine's configs


def filled(value: Any) -> Any:
    """Return nested values with the environment variables of their texts filled in."""
    if isinstance(value, Mapping):
        return {key: filled(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [filled(one) for one in value]
    return _VARIABLE.sub(lambda one: os.environ.get(one[1], one[2]), value) if isinstance(value, str) else value


def with_options(options: Mapping[str, Any]) -> str:
    """Return `` with `key=value …` ``, or nothing without options; of a long list its beginning alone."""
    long = {key for key, value in options.items() if isinstance(value, list) and len(value) > 2 * _SHOWN}
    told = (f'{key}={f"[{some(value, _SHOWN)}]" if key in long else value}' for key, value in options.items())
    return f' with `{" ".join(told)}`' if options else ''


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
    def taught(self) -> list[str]:
        """The rows that are compared with the control."""
        return [name for name in self.methods if not is_alone(name)]


def is_alone(name: str) -> bool:
    """Whether a row is the student alone; older projects have it at other rates, as ``control_x2``."""
    return name == CONTROL or name.startswith(f'{CONTROL}_')


def load(path: Path | str) -> Definition:
    path = Path(path)
    top = Reader(read_file(path), path)
    top.only(set(Definition.__dataclass_fields__) - {'path', 'task'})
    given = top.get('out', str, f'work_dirs/suites/{path.stem}')
    out = path.absolute().parent / given if given.startswith('./') else Path(given)
    control = config_file(top, 'control', top.get('control', str), 'control')
    with naming(top.at('control')):
        task = compose.parts_of(control).task
    if task not in METRICS:
        told = f'{top.get("control", str)} is of the task {task}, which has no score'
        raise top.error('control', f'{told}: name a recipe with labels, and a pre-training by the config: of a row')
    metric, percent = METRICS[task]
    metric, seeds = top.get('metric', str, metric), top.get('seeds', list, [0, 1, 2])
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


def fitting(control: Path) -> list[str]:
    return [method for method in compose.methods() if compose.options_for(method, control)]


def _teacher(top: Reader) -> Teacher | None:
    value = top.raw.get('teacher')
    if value is None:
        return None
    inner = top.inner('teacher', {'config': value} if isinstance(value, str) else value)
    inner.only({'config', 'options', 'seed'})
    file = config_file(inner, 'config', inner.get('config', str), 'teachers')
    return Teacher(file, inner.options('options'), inner.count('seed', 0, least=0))


def _test_sets(top: Reader) -> dict[str, dict[str, Any]]:
    sets = top.inner('test_sets')
    for name in sets.raw:
        if name in SPLITS or not NAME.fullmatch(str(name)):
            raise sets.error(str(name), f'a name consists of letters, digits and .+-_; {", ".join(SPLITS)} are taken')
    return {str(name): filled(sets.options(name)) for name in sets.raw}


def _methods(top: Reader, control: Path) -> dict[str, Method]:
    given = top.raw.get('methods')
    if given == 'all':
        given = dict.fromkeys(fitting(control))
    if not isinstance(given, dict) or not given:
        raise top.error('methods', f"must be 'all', or options by name as in `kd: {{}}`; got {given!r}")
    return {
        str(name): _method(str(name), top.inner(f'methods.{name}', value or {}), control)
        for name, value in given.items()
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
        found = _with_config(changed, row, control)
    elif ('rate' in row.raw or changed.run_options) and name not in compose.methods() and 'method' not in row.raw:
        for key in ('variant', 'options', 'settings', 'unlabelled'):
            if key in row.raw and (key != 'options' or changed.options != changed.run_options):
                raise row.error(key, 'a row without `method` has no distillers to set it for')
        return changed
    else:
        found = _with_method(changed, row, control)
    if is_alone(name):
        raise row.error('', f'a row named {CONTROL}_… is the student alone, as in {CONTROL}_x2: {{rate: 2}}; rename it')
    for key in flat(found.options) if found.options_file is not None else ():
        if key.split('.')[-1] == 'settings':
            said = 'the constants of the method would stay. Write it as `settings` of the row'
            raise row.error(f'options.{key}', said)
    return found


def _with_config(row: Method, options: Reader, control: Path) -> Method:
    if {'method', 'variant'} & options.raw.keys():
        raise options.error('config', 'cannot be combined with `method` or `variant`')
    given = options.get('config', str)
    with naming(options.at('config')):
        found = find(given) if is_name(given) else None
    if not isinstance(found, Named):
        return replace(row, config=found or config_file(options, 'config', given, row.name))
    if found.base.resolve() != control.resolve():
        of = f'{found.name} is a config of {found.base.stem}, the control is {control.stem}'
        raise options.error('config', of)
    return replace(row, method=found.method, options_file=found.options, variant=found.variant)


def _with_method(row: Method, options: Reader, control: Path) -> Method:
    method, variant = options.get('method', str, row.name), options.get('variant', str, None)
    if method in compose.methods():
        with naming(options.at('')):
            file = compose.options_for(method, control, variant)
        if file is not None:
            return replace(row, method=method, options_file=file, variant=variant)
        said = f'{f"variant {variant!r} of {method}" if variant else method} does not fit {control.stem}.'
    else:
        said = compose.unknown('method', method, compose.methods())
    raise options.error('', f'{said} These fit {control.stem}: {", ".join(fitting(control)) or "none"}.')
