"""The definition of a suite: the methods, the recipe and the seeds to compare, in Python, YAML or JSON."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmdistill_dense.apps.recipes import compose
from mmdistill_dense.apps.recipes.named import Named, find, is_name
from mmdistill_dense.apps.suite.reader import NAME, Reader, config_file, naming, read_file
from mmdistill_dense.config.values import flat
from mmdistill_dense.utils.validate import some

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
    return f' with `{" ".join(f"{key}={_short(value)}" for key, value in options.items())}`' if options else ''


def _short(value: Any) -> Any:
    if not isinstance(value, list) or len(value) <= 2 * _SHOWN:
        return value
    return f'[{some(value, _SHOWN)}]'


FURTHER = 'control_'  # the beginning of the names of further controls: the student alone with other settings
RESERVED = ('control', 'teacher')  # folders and keys of the suite's own
METRICS = {'seg': ('mIoU', False), 'det': ('coco/bbox_mAP', True)}
OWN_SLURM = ('processes', 'launcher', 'python', 'setup', 'most')  # every other key is an option of sbatch
KEEPS = ('all', 'weights')
LAUNCHERS = ('slurm', 'pytorch')


@dataclass(frozen=True)
class Method:
    name: str
    method: str | None  # A shipped method; ``None`` for a user's config, and for the student alone with another start
    options_file: Path | None  # the file with the method's options; ``None`` without a shipped method
    variant: str | None = None
    config: Path | None = None  # the user's own config, or ``None``
    options: Mapping[str, Any] = field(default_factory=dict)  # settings of the row's distillers
    # the option ``model.unlabelled`` of the row; empty without one
    unlabelled: Mapping[str, Any] = field(default_factory=dict)
    # ``'auto'`` or ``'canonical'`` in place of the constants of its distillers; ``None`` for these
    settings: str | None = None
    data: tuple[Mapping[str, Any], ...] = ()  # its training sets, each as changes of the control's; empty for that one
    length: float = 1  # its length over that of the control
    rate: float = 1  # its learning rates over those of the control

    @property
    def distils(self) -> bool:
        """Whether the row is a method or a config, and not the student alone with other settings."""
        return self.options_file is not None or self.config is not None


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
    slurm: Mapping[str, Any]

    @property
    def taught(self) -> dict[str, Method]:
        """The rows that are compared: all but further controls."""
        return {name: method for name, method in self.methods.items() if not is_control(name)}


def is_control(name: str) -> bool:
    """Whether a row is the student alone, with which others are compared."""
    return name == 'control' or name.startswith(FURTHER)


def load(path: Path | str) -> Definition:
    path = Path(path)
    top = Reader(read_file(path), path)
    top.only(set(Definition.__dataclass_fields__) - {'path', 'task'})
    given = top.get('out', str, f'work_dirs/suites/{path.stem}')
    out = path.absolute().parent / given if given.startswith('./') else Path(given)
    control = config_file(top, 'control', top.get('control', str), 'control')
    with naming(top.at('control')):
        task = compose.parts_of(control).task
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
        slurm=_slurm(top),
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


def _method(name: str, options: Reader, control: Path) -> Method:
    if name in RESERVED or not NAME.fullmatch(name):
        raise options.error('', f'a name consists of letters, digits and .+-_, and {", ".join(RESERVED)} are reserved')
    options.only(Method.__dataclass_fields__.keys() - {'name', 'options_file'})
    found = _row(name, options, control)
    if found.distils and is_control(name):
        raise options.error(
            '', f'a row named {FURTHER}… is the student alone, as in control_x2: {{rate: 2}}; rename it'
        )
    settings = options.get('settings', str, None)
    if not found.distils:
        for key in ('variant', 'options', 'settings', 'unlabelled'):
            if key in options.raw:
                raise options.error(key, 'a row without `method` has no distillers to set it for')
    if found.options_file is not None:
        for key in flat(found.options):
            if key.split('.')[-1] == 'settings':
                text = 'the constants of the method would stay. Write it as `settings` of the row'
                raise options.error(f'options.{key}', text)
    data = tuple(options.get('data', list, []))
    if not all(isinstance(one, Mapping) for one in data):
        text = "is a list of training sets, each as changes of the control's, as in [{}, {ann_file: x}]"
        raise options.error('data', text)
    length, rate = options.factor('length'), options.factor('rate')
    return replace(found, settings=settings, data=data, length=length, rate=rate)


def _row(name: str, options: Reader, control: Path) -> Method:
    own, more = options.options('options'), options.get('unlabelled', dict, {})
    if 'config' in options.raw:
        if {'method', 'variant'} & options.raw.keys():
            raise options.error('config', 'cannot be combined with `method` or `variant`')
        given = options.get('config', str)
        with naming(options.at('config')):
            found = find(given) if is_name(given) else None
        if isinstance(found, Named):
            if found.base.resolve() != control.resolve():
                of = f'{found.name} is a config of {found.base.stem}, the control is {control.stem}'
                raise options.error('config', of)
            return Method(name, found.method, found.options, found.variant, None, own, more)
        return Method(name, None, None, None, found or config_file(options, 'config', given, name), own, more)
    if (
        {'data', 'length', 'rate'} & options.raw.keys()
        and name not in compose.methods()
        and 'method' not in options.raw
    ):
        return Method(name, None, None)
    method, variant = options.get('method', str, name), options.get('variant', str, None)
    return Method(name, method, _options_file(method, variant, control, options), variant, None, own, more)


def _options_file(method: str, variant: str | None, control: Path, options: Reader) -> Path:
    if method not in compose.methods():
        raise options.error('', f'{compose.unknown("method", method, compose.methods())}{_fits(control)}')
    with naming(options.at('')):
        found = compose.options_for(method, control, variant)
    if found is None:
        what = f'variant {variant!r} of {method}' if variant else method
        raise options.error('', f'{what} does not fit {control.stem}.{_fits(control)}')
    return found


def _fits(control: Path) -> str:
    return f' These fit {control.stem}: {", ".join(fitting(control)) or "none"}.'


def _slurm(top: Reader) -> dict[str, Any]:
    inner = top.inner('slurm')
    launcher = inner.choice('launcher', LAUNCHERS)
    processes = inner.count('processes', 1)
    nodes = inner.count('nodes', 1)
    if processes % nodes:
        raise inner.error('nodes', f'{processes} processes cannot be spread evenly over {nodes} nodes')
    python, setup = inner.get('python', str, 'python'), inner.get('setup', str, '')
    own = {'launcher': launcher, 'processes': processes, 'python': python, 'setup': setup}
    return {**inner.raw, **own, 'most': inner.count('most', None)}
