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
from mmdistill_dense.apps.suite.reader import NAME, Reader, config_file, read_file
from mmdistill_dense.config.values import flat
from mmdistill_dense.utils.validate import some

RANDOM = 'random'  # built in, without an entry
BACKBONE = 'backbone.'  # prefix of the backbone in training checkpoints
_SHOWN = 8  # members of a list in a sentence
_VARIABLE = re.compile(r'\{\{\s*\$(\w+)\s*:\s*([^{}]*?)\s*\}\}')  # as in mmengine's configs


@dataclass(frozen=True)
class Start:
    """First weights: one of ``config``, ``checkpoint`` and ``inherit`` is set, or none for a random backbone."""

    name: str
    config: Path | None = None  # the config of a pre-training, which is a run of the suite
    options: Mapping[str, Any] = field(default_factory=dict)  # settings that replace some of that config
    seed: int | None = 0  # the seed of the pre-training; ``None`` for one pre-training per seed of the suite
    checkpoint: str | None = None  # A path or an address, with the environment variables not yet filled in
    prefix: str | None = None  # the prefix of the backbone's tensors in the file
    # parts to copy from the teacher, as in ``model.inherit``. The backbone then starts as the control's.
    inherit: tuple[tuple[str, ...], ...] = ()

    @property
    def key(self) -> str:
        """The key in the definition, for error messages."""
        return f'starts.{self.name}.{"pretrain" if self.config else "inherit" if self.inherit else "checkpoint"}'

    @property
    def given(self) -> str:
        """The checkpoint, with the environment variables filled in."""
        return filled(self.checkpoint or '')

    def text(self) -> str:
        if self.inherit:
            return f"the teacher's {', '.join(pair[1] for pair in self.inherit)}"
        if self.config is None:
            return f'the file {Path(self.checkpoint).name}' if self.checkpoint else 'random weights'
        seed = 'one for each seed' if self.seed is None else f'one for all seeds, of seed {self.seed}'
        return f'pre-training `{self.config.stem}`{with_options(self.options)}, {seed}'


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


def read_starts(top: Reader) -> dict[str, Start]:
    inner = top.inner('starts')
    found = {str(name): _start(str(name), inner.inner(str(name), value)) for name, value in inner.raw.items()}
    return {**found, RANDOM: Start(RANDOM)}


def _start(name: str, option: Reader) -> Start:
    if name == RANDOM or not NAME.fullmatch(name):
        raise option.error('', f'a name consists of letters, digits and .+-_, and {RANDOM!r} is built in')
    kinds = {'pretrain': {'options', 'seed', 'per_seed'}, 'checkpoint': {'prefix'}, 'inherit': set()}
    option.only(kinds.keys() | {'prefix', 'options', 'seed', 'per_seed'})
    given = [kind for kind in kinds if kind in option.raw]
    if len(given) != 1:
        raise option.error('', 'needs exactly one of `pretrain` (a config), `checkpoint` (a file) and `inherit`')
    foreign = option.raw.keys() - kinds[given[0]] - {given[0]}
    if foreign:
        raise option.error(sorted(foreign)[0], f'cannot be combined with `{given[0]}`')
    if given == ['checkpoint']:
        return Start(name, checkpoint=option.get('checkpoint', str), prefix=option.get('prefix', str, None))
    if given == ['inherit']:
        return Start(name, inherit=_inherit(option))
    return _pretraining(name, option)


def _inherit(option: Reader) -> tuple[tuple[str, ...], ...]:
    from mmdistill_dense.networks.teacher import parse_inherit  # imports torch

    pairs = option.get('inherit', list)
    with option.naming('inherit'):
        parse_inherit(pairs)
    return tuple(tuple(pair) for pair in pairs)


def _pretraining(name: str, option: Reader) -> Start:
    each = option.get('per_seed', bool, False)
    if each and 'seed' in option.raw:
        raise option.error('per_seed', 'true means one pre-training per seed; `seed` is for a single one')
    file = config_file(option, 'pretrain', option.get('pretrain', str), 'pcd')
    seed = None if each else option.count('seed', 0, least=0)
    return Start(name, file, option.options('options'), seed, prefix=BACKBONE)


TWICE = 'control_2x'  # the row of the student alone with twice the steps, which every budget has


@dataclass(frozen=True)
class Budget:
    steps: int  # training steps of the student alone
    ratios: Mapping[str, float]  # pinned step ratios by row: the time of its step over that of the student alone
    extra: Mapping[str, float]  # pinned costs before training by row, in steps of the student alone
    per_epoch: int | None  # pinned iterations of an epoch, for recipes that count epochs


def read_budget(top: Reader) -> Budget | None:
    """Read the key; ``None`` where the definition has none."""
    if top.raw.get('budget') is None:
        return None
    inner = top.inner('budget')
    inner.only(Budget.__dataclass_fields__)
    if inner.get('steps', int) < 1:
        raise inner.error('steps', f'must be at least 1, got {inner.raw["steps"]}')
    ratios, extra = _numbers(inner, 'ratios'), _numbers(inner, 'extra')
    for name, ratio in ratios.items():
        if ratio <= 0:
            raise inner.error(f'ratios.{name}', f'must be above 0, got {ratio}')
    return Budget(inner.raw['steps'], ratios, extra, inner.count('per_epoch', None))


def check_rows(top: Reader, budget: Budget, distilling: Mapping[str, bool]) -> None:
    """Refuse pinned numbers of rows that need none."""
    inner = top.inner('budget')
    for key in ('ratios', 'extra'):
        for name in getattr(budget, key):
            if not distilling.get(name):
                there = ', '.join(row for row, distils in distilling.items() if distils) or 'none'
                raise inner.error(f'{key}.{name}', f'is no row that distils within the budget; such rows: {there}')


def _numbers(inner: Reader, key: str) -> dict[str, float]:
    found = inner.get(key, dict, {})
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise inner.error(f'{key}.{name}', f'must be a number of at least 0, got {value!r}')
    return {str(name): float(value) for name, value in found.items()}


FURTHER = 'control_'  # the beginning of the names of further controls: the student alone with other settings
RESERVED = ('control', TWICE, 'teacher', 'seeds')  # folders and keys of the suite's own
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
    start: str | None = None  # the name of the students' first weights; ``None`` for those of the control
    # the option ``model.unlabelled`` of the row; empty without one
    unlabelled: Mapping[str, Any] = field(default_factory=dict)
    # ``'auto'`` or ``'canonical'`` in place of the constants of its distillers; ``None`` for these
    settings: str | None = None
    budget: bool = True  # whether the suite's budget sets its length; if not, it gets the steps of the student alone
    data: tuple[Mapping[str, Any], ...] = ()  # its training sets, each as changes of the control's; empty for that one
    length: float = 1  # its length over that of the control
    rate: float = 1  # its learning rates over those of the control

    @property
    def distils(self) -> bool:
        """Whether the row has distillers. Without them it only starts from other weights."""
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
    starts: Mapping[str, Start]
    methods: Mapping[str, Method]
    seeds: tuple[int, ...]
    metric: str  # the key of the score in the result of a test
    percent: bool  # whether ``metric`` is a fraction. Scores are in percent.
    options: Mapping[str, Any]
    grid: Mapping[str, Mapping[str, list[Any]]]  # the values to try, by method and option
    grid_seeds: tuple[int, ...]
    jobs: int
    threads: int | None
    workers: int | None
    checkpoint_every: int | None
    keep: str  # what stays of a finished run's checkpoints: ``'all'``, or the ``'weights'`` of the last one
    stall: int | None  # minutes without a step after which a run starts again from its checkpoint
    slurm: Mapping[str, Any]
    cost: Mapping[str, Any]
    budget: Budget | None = None

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
    top.only(set(Definition.__dataclass_fields__) - {'path', 'task', 'grid_seeds'})
    given = top.get('out', str, f'work_dirs/suites/{path.stem}')
    out = path.absolute().parent / given if given.startswith('./') else Path(given)
    control = config_file(top, 'control', top.get('control', str), 'control')
    with top.naming('control'):
        task = compose.parts_of(control).task
    metric, percent = METRICS[task]
    metric = top.get('metric', str, metric)
    starts = read_starts(top)
    budget = read_budget(top)
    methods = _methods(top, control, starts, budget)
    grid, grid_seeds = _grid(top, methods)
    return Definition(
        path=path,
        title=top.get('title', str, path.stem),
        out=out,
        control=control,
        task=task,
        teacher=_teacher(top),
        test_teacher=top.get('test_teacher', bool, False),
        starts=starts,
        methods=methods,
        seeds=top.integers('seeds', (0, 1, 2)),
        metric=metric,
        percent=top.get('percent', bool, percent and not metric.startswith('coco_panoptic/')),
        options=top.options('options'),
        grid=grid,
        grid_seeds=grid_seeds,
        jobs=top.count('jobs', 1) or 1,
        threads=top.count('threads', None),
        workers=top.count('workers', None, least=0),
        checkpoint_every=top.count('checkpoint_every', None),
        keep=top.choice('keep', KEEPS),
        stall=top.count('stall', None),
        slurm=_slurm(top),
        cost=top.get('cost', dict, {}),
        budget=budget,
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
    return Teacher(file, inner.options('options'), inner.count('seed', 0, least=0) or 0)


def _methods(top: Reader, control: Path, starts: Mapping[str, Start], budget: Budget | None) -> dict[str, Method]:
    given = top.raw.get('methods')
    if given == 'all':
        given = dict.fromkeys(fitting(control))
    if not isinstance(given, dict) or not given:
        raise top.error('methods', f"must be 'all', or options by name as in `kd: {{}}`; got {given!r}")
    methods = {
        str(name): _method(str(name), top.inner(f'methods.{name}', value or {}), control, starts)
        for name, value in given.items()
    }
    if budget is None:
        if free := [name for name, method in methods.items() if not method.budget]:
            raise top.error(f'methods.{free[0]}.budget', 'the definition has no budget that the row could leave')
        return methods
    if longer := [name for name, method in methods.items() if method.length != 1]:
        raise top.error(f'methods.{longer[0]}.length', 'the budget of the definition sets the lengths')
    check_rows(top, budget, {name: method.distils and method.budget for name, method in methods.items()})
    return {TWICE: Method(TWICE, None, None), **methods}


def _method(name: str, options: Reader, control: Path, starts: Mapping[str, Start]) -> Method:
    if name in RESERVED or not NAME.fullmatch(name):
        raise options.error('', f'a name consists of letters, digits and .+-_, and {", ".join(RESERVED)} are reserved')
    options.only(Method.__dataclass_fields__.keys() - {'name', 'options_file'})
    found = _row(name, options, control, starts)
    if found.distils and is_control(name):
        raise options.error(
            '', f'a row named {FURTHER}… is the student alone, as in control_x2: {{rate: 2}}; rename it'
        )
    settings, within = options.get('settings', str, None), options.get('budget', bool, True)
    if not found.distils:
        for key in ('variant', 'options', 'settings', 'unlabelled', 'budget'):
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
    return replace(found, settings=settings, budget=within, data=data, length=length, rate=rate)


def _row(name: str, options: Reader, control: Path, starts: Mapping[str, Start]) -> Method:
    start = options.get('start', str, None)
    if start is not None and start not in starts:
        raise options.error('start', compose.unknown('start', start, starts))
    own, more = options.options('options'), options.get('unlabelled', dict, {})
    if 'config' in options.raw:
        if {'method', 'variant'} & options.raw.keys():
            raise options.error('config', 'cannot be combined with `method` or `variant`')
        given = options.get('config', str)
        with options.naming('config'):
            found = find(given) if is_name(given) else None
        if isinstance(found, Named):
            if found.base.resolve() != control.resolve():
                of = f'{found.name} is a config of {found.base.stem}, the control is {control.stem}'
                raise options.error('config', of)
            return Method(name, found.method, found.options, found.variant, None, own, start, more)
        return Method(name, None, None, None, found or config_file(options, 'config', given, name), own, start, more)
    alone = start is not None or ({'data', 'length', 'rate'} & options.raw.keys() and name not in compose.methods())
    if alone and 'method' not in options.raw:
        if name in compose.methods():
            raise options.error('', f'write `method: {name}` for {name} from that start, or rename the row')
        return Method(name, None, None, start=start)
    method, variant = options.get('method', str, name), options.get('variant', str, None)
    return Method(name, method, _options_file(method, variant, control, options), variant, None, own, start, more)


def _options_file(method: str, variant: str | None, control: Path, options: Reader) -> Path:
    if method not in compose.methods():
        raise options.error('', f'{compose.unknown("method", method, compose.methods())}{_fits(control)}')
    with options.naming():
        found = compose.options_for(method, control, variant)
    if found is None:
        what = f'variant {variant!r} of {method}' if variant else method
        raise options.error('', f'{what} does not fit {control.stem}.{_fits(control)}')
    return found


def _fits(control: Path) -> str:
    return f' These fit {control.stem}: {", ".join(fitting(control)) or "none"}.'


def _grid(top: Reader, methods: Mapping[str, Method]) -> tuple[dict[str, dict[str, list[Any]]], tuple[int, ...]]:
    inner = top.inner('grid')
    inner.only({*methods, 'seeds'})
    grid = {name: _values(inner.inner(name, value)) for name, value in inner.raw.items() if name != 'seeds'}
    for name in grid:
        if not methods[name].distils:
            raise inner.error(name, 'the row has no distillers, so there are no options to search')
    if not grid:
        return {}, ()
    return grid, inner.integers('seeds', None)


def _values(inner: Reader) -> dict[str, list[Any]]:
    for key, values in inner.raw.items():
        plain = isinstance(values, list) and all(isinstance(one, (bool, int, float, str)) for one in values)
        if not plain or len({str(one).replace('/', '_') for one in values}) != len(values) or len(values) < 2:
            raise inner.error(str(key), f'needs two or more different values, as in [1, 3, 10]; got {values!r}')
    if not inner.raw:
        raise inner.error('', 'needs options with the values to try, as in `loss_weight: [1, 3, 10]`')
    return {str(key): values for key, values in inner.raw.items()}


def _slurm(top: Reader) -> dict[str, Any]:
    inner = top.inner('slurm')
    launcher = inner.choice('launcher', LAUNCHERS)
    processes = inner.count('processes', 1) or 1
    nodes = inner.count('nodes', 1) or 1
    if processes % nodes:
        raise inner.error('nodes', f'{processes} processes cannot be spread evenly over {nodes} nodes')
    python, setup = inner.get('python', str, 'python'), inner.get('setup', str, '')
    own = {'launcher': launcher, 'processes': processes, 'python': python, 'setup': setup}
    return {**inner.raw, **own, 'most': inner.count('most', None)}
