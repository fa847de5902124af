"""The runs of a suite, their dependencies, configs and results."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from mmengine.config import Config

from mmdistill_dense.apps.recipes import compose
from mmdistill_dense.apps.suite import configs, lengths
from mmdistill_dense.apps.suite.configs import config_hash, distillers_of
from mmdistill_dense.apps.suite.definition import RANDOM, Definition, Method, Start
from mmdistill_dense.apps.suite.reader import naming
from mmdistill_dense.config.resolve import teachers_of
from mmdistill_dense.utils.files import read_json, read_progress, write_json, write_text
from mmdistill_dense.utils.literals import assignments
from mmdistill_dense.weights.strict_load import local_file

Choice = Mapping[str, Any]
TEACHER, CONTROL, PRETRAIN = 'teacher', 'control', 'pretrain'


@dataclass(frozen=True)
class Run:
    name: str  # ``'teacher'``, ``'control'``, ``'pretrain/<start>'`` or the name of a row
    kind: str  # ``'teacher'``, ``'pretrain'``, ``'search'`` or ``'run'``
    seed: int  # the seed of the run
    folder: Path  # the work folder
    after: tuple[Path, ...] = ()  # the folders of the runs whose results it needs
    # the searched values by option; empty without a search, ``None`` until the search has ended
    choice: Choice | None = field(default=None, hash=False)

    @property
    def method_file(self) -> Path:
        """The config of the method on the recipe, without the settings of this run."""
        return self.folder / 'method.py'

    @property
    def title(self) -> str:
        tried = f' {choice_name(self.choice)}' if self.kind == 'search' and self.choice else ''
        return self.name if self.kind == 'teacher' else f'{self.name}{tried} seed {self.seed}'

    @property
    def result(self) -> dict[str, Any] | None:
        """The result of the finished run; else ``None``."""
        return read_json(self.folder / 'result.json')

    @property
    def state(self) -> dict[str, Any]:
        """The last report of the training; empty before the first one."""
        return read_progress(self.folder / 'state.json')


def place_of(definition: Definition, run: Run) -> str:
    """Return the path of a run's folder, relative to the suite's folder."""
    return run.folder.relative_to(definition.out).as_posix()


def choice_name(choice: Choice) -> str:
    """Return the folder name of searched values."""
    named = ','.join(f'{key.removeprefix("model.distillers.")}={value}' for key, value in choice.items())
    return named.replace('/', '_')


def runs(definition: Definition) -> list[Run]:
    """Return all runs in their order: the teacher, the pre-trainings, the searches, then the rows seed by seed."""
    teacher_seed = definition.teacher.seed if definition.teacher is not None else 0
    teacher = Run(TEACHER, 'teacher', teacher_seed, definition.out / TEACHER, (), {})
    before, searches = _teacher_folder(definition), _searches(definition)
    best = {name: _best(_scores(definition, tried)) for name, tried in searches.items()}
    all_wait = before and configs.reads_teacher(configs.control_config(definition))
    students = []
    for seed, name in itertools.product(definition.seeds, (CONTROL, *definition.methods)):
        folder = definition.out / 'runs' / name / f'seed{seed}'
        tried, start = searches.get(name, []), start_of(definition, name)
        reads = name != CONTROL and (definition.methods[name].distils or (start and start.inherit))
        after = before + tuple(run.folder for run in tried) if all_wait or reads else ()
        after += tuple(one.folder for one in _pretrainings(definition, name, seed))
        students.append(Run(name, 'run', seed, folder, after, best.get(name, {})))
    students = [*itertools.chain(*searches.values()), *students]
    teachers = [teacher] if trains_teacher(definition) or definition.test_teacher else []
    pretrainings = dict.fromkeys(one for run in students for one in _pretrainings(definition, run.name, run.seed))
    return [*teachers, *pretrainings, *students]


def _teacher_folder(definition: Definition) -> tuple[Path, ...]:
    return (definition.out / TEACHER,) if trains_teacher(definition) else ()


def _pretrainings(definition: Definition, name: str, seed: int) -> list[Run]:
    start = start_of(definition, name)
    if start is None or start.config is None:
        return []
    own = seed if start.seed is None else start.seed
    folder = definition.out / PRETRAIN / start.name / f'seed{own}'
    return [Run(f'{PRETRAIN}/{start.name}', PRETRAIN, own, folder, (), {})]


def start_of(definition: Definition, name: str) -> Start | None:
    """Return the start of a row, or of a pre-training; ``None`` for a row that starts as the control."""
    kind, _, start = name.partition('/')
    if kind == PRETRAIN and start:
        return definition.starts[start]
    method = definition.methods.get(name)
    return None if method is None or method.start is None else definition.starts[method.start]


def _backbone_start(definition: Definition, run: Run) -> Start | None:
    """The start that sets the first weights of a student's backbone."""
    start = start_of(definition, run.name)
    return None if start is None or start.inherit or run.kind == PRETRAIN else start


def start_file(definition: Definition, run: Run) -> Path | None:
    """Return the file that a student starts from. Before a pre-training has ended, its name is a guess."""
    start = _backbone_start(definition, run)
    if start is None or start.name == RANDOM:
        return None
    if start.config is None:
        return local_file(start.given, None, start.key)
    return _last_file(_pretrainings(definition, run.name, run.seed)[0].folder)


def trains_teacher(definition: Definition) -> bool:
    """Tell whether the suite trains the teacher: it has begun to, or has its config and no checkpoint."""
    if definition.teacher is None:
        return False
    begun = (definition.out / TEACHER / 'state.json').is_file()
    (option,) = _teachers(definition).values()
    file = option.get('checkpoint')
    return begun or not (file and Path(file).is_file())


def _teachers(definition: Definition) -> dict[str, Any]:
    found = teachers_of(configs.read(definition.control).model)
    if len(found) != 1 and (definition.teacher is not None or definition.test_teacher):
        raise ValueError(
            f'{definition.path}: teacher and test_teacher need a pair with one teacher, this one has {len(found)}: '
            'train them with mmdistill train, and remove both keys.'
        )
    return found


def _searches(definition: Definition) -> dict[str, list[Run]]:
    before, found = _teacher_folder(definition), dict[str, list[Run]]()
    for name, values in definition.grid.items():
        for tried, seed in itertools.product(itertools.product(*values.values()), definition.grid_seeds):
            choice = dict(zip(values, tried, strict=True))
            folder = definition.out / 'search' / name / choice_name(choice) / f'seed{seed}'
            after = before + tuple(one.folder for one in _pretrainings(definition, name, seed))
            found.setdefault(name, []).append(Run(name, 'search', seed, folder, after, choice))
    return found


def searched(definition: Definition) -> dict[str, list[tuple[Choice, list[float | None]]]]:
    """Return, by row, each tried choice with its scores on val by search seed; ``None`` for an unfinished run."""
    return {name: _scores(definition, tried) for name, tried in _searches(definition).items()}


def chosen(definition: Definition) -> dict[str, Choice | None]:
    """Return, by row with a search, the choice with the best mean on val; ``None`` until all runs have ended."""
    return {name: _best(scores) for name, scores in searched(definition).items()}


def _scores(definition: Definition, tried: Sequence[Run]) -> list[tuple[Choice, list[float | None]]]:
    found: dict[str, tuple[Choice, list[float | None]]] = {}
    for run in tried:
        result = scored(definition, run)
        _, scores = found.setdefault(choice_name(run.choice or {}), (run.choice or {}, []))
        scores.append(None if result is None else result['score'])
    return list(found.values())


def _best(scores: Sequence[tuple[Choice, list[float | None]]]) -> Choice | None:
    if any(None in values for _, values in scores):
        return None
    means = [fmean(-math.inf if one is None or math.isnan(one) else one for one in values) for _, values in scores]
    return scores[means.index(max(means))][0]  # the first of equals


def config_of(definition: Definition, run: Run) -> Config:
    """Return the config of a run, with its seed, folder and teacher, and without the settings of a resumption."""
    config, start = _unstarted(definition, run), _backbone_start(definition, run)
    if start is not None:
        with naming(f'{definition.path}: methods.{run.name}'):
            configs.start_from(config, start, start_file(definition, run))
    return config


def _unstarted(definition: Definition, run: Run) -> Config:
    start = start_of(definition, run.name)
    if run.kind == PRETRAIN:
        assert start is not None, 'it makes one'
        config = configs.pretrain_config(definition, start)
    elif run.kind == 'teacher' and definition.teacher is not None and trains_teacher(definition):
        config = configs.teacher_config(definition, definition.teacher)
    elif run.choice is None:
        raise RuntimeError(f'{run.title}: its search has not ended; `mmdistill suite run` runs it first.')
    else:
        config = configs.row_config(definition, run.name, run.choice)
    if run.kind in ('run', 'search'):
        lengths.fit(definition, run.name, config)
    config.merge_from_dict({'randomness.seed': run.seed})
    config.work_dir = str(run.folder)
    if run.kind not in ('teacher', PRETRAIN) and trains_teacher(definition) and configs.reads_teacher(config):
        config.model.teacher.checkpoint = str(_last_file(definition.out / TEACHER))
    return config


def _last_file(folder: Path) -> Path:
    """Return the checkpoint of a run that others read. Before the run has ended, its name is a guess."""
    result = read_json(folder / 'result.json')
    return folder / (result['checkpoint'] if result else 'missing.pth')


def hash_of(definition: Definition, run: Run) -> str:
    """Return the config hash of a run. It covers how its teacher and its first weights are made."""
    teacher = None
    if run.kind not in ('teacher', PRETRAIN) and definition.teacher is not None and trains_teacher(definition):
        made = config_hash(configs.teacher_config(definition, definition.teacher), folder=definition.path.parent)
        teacher = f'{made} seed {definition.teacher.seed}'
    tests_teacher = run.kind == 'teacher' and not trains_teacher(definition)
    config, start = _unstarted(definition, run), _backbone_start(definition, run)
    if start is not None:
        with naming(f'{definition.path}: methods.{run.name}'):
            configs.mark(config, start, _made(definition, start))
    return config_hash(config, teacher, tests_teacher, definition.path.parent)


def hashes(definition: Definition, of: Iterable[Run]) -> Iterator[tuple[Run, str | None]]:
    """Yield each run with its config hash, computed once a row; ``None`` until the row's search has ended."""
    known: dict[str, str] = {}
    for run in of:
        row = f'{run.kind} {run.name} {run.choice}'
        if run.choice is not None and row not in known:
            known[row] = hash_of(definition, run)
        yield run, known.get(row)


def _made(definition: Definition, start: Start) -> str:
    """Return how a start is made, in words that are the same on every machine and for every seed of a row."""
    if start.config is None:
        return f'{start.checkpoint or start.name} {start.prefix or ""}'
    seed = 'of each run' if start.seed is None else start.seed
    made = config_hash(configs.pretrain_config(definition, start), folder=definition.path.parent)
    return f'{made} seed {seed}'


def score_of(definition: Definition, run: Run, metrics: Mapping[str, Mapping[str, float]]) -> float:
    """Return the score of a run in percent, on test, or on val for a search."""
    found = metrics['val' if run.kind == 'search' else 'test']
    if not found:  # mmdet returns no metric for a detector without a single detection
        return 0.0
    if definition.metric not in found:
        said = f'metric={definition.metric!r} is not in the result of the test: {", ".join(found)}'
        raise KeyError(f'{definition.path}: {said}')
    return found[definition.metric] * (100.0 if definition.percent else 1.0)


def scored(definition: Definition, run: Run) -> dict[str, Any] | None:
    """Return the result of a finished run with today's score: ``metric`` or ``percent`` may have been others then."""
    result = run.result
    if result is not None and result['score'] is not None:
        today = {'score': score_of(definition, run, result['metrics']), 'metric': definition.metric}
        if repr(today['score']) != repr(result['score']):
            result |= today
            write_json(run.folder / 'result.json', result)
    return result


def results(definition: Definition) -> dict[str, dict[int, dict[str, Any]]]:
    """Return the results of the teacher, the control and the rows, by name and seed."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for run in runs(definition):
        result = None if run.kind in ('search', PRETRAIN) else scored(definition, run)
        if result is not None:
            found.setdefault(run.name, {})[run.seed] = result
    return {name: found[name] for name in (TEACHER, CONTROL, *definition.methods) if name in found}


def write_configs(definition: Definition, run: Run, config: Config) -> None:
    """Write both. ``run.py`` adds seed, folder, teacher and the suite's options; ``mim train`` takes it as well."""
    start = start_of(definition, run.name)
    if run.kind == 'teacher' and definition.teacher is not None:
        text = inheriting(definition.teacher.config, run.folder)
    elif run.kind == PRETRAIN and start is not None and start.config is not None:
        text = inheriting(start.config, run.folder)
    else:
        text = method_text(definition, definition.methods.get(run.name), run.folder)
    write_text(run.method_file, text)
    write_text(run.folder / 'run.py', run_text(Config.fromfile(run.method_file), config))


def method_text(definition: Definition, method: Method | None, folder: Path) -> str:
    """Return the config of a row for a folder: the shipped method on the recipe, the user's config, or the control."""
    if method is not None and method.options_file is not None:
        assert method.method is not None, 'it is a shipped method'
        written = distillers_of(definition, method)[0].to_dict() if method.settings else None
        return compose.config_text(method.method, definition.control, method.options_file, folder, written)
    base = definition.control if method is None or method.config is None else method.config
    return inheriting(base, folder)


def inheriting(base: Path, folder: Path) -> str:
    """Return the text of a config that only inherits another one."""
    return f'_base_ = [{compose.reference(base, folder)}]\n'


def run_text(inherited: Config, config: Config) -> str:
    """Return the text of ``run.py``: the config of a run, as changes of the inherited ``method.py`` beside it."""
    changed = _changes(inherited.to_dict(), config.to_dict())
    changed.pop('distillers', None)
    return f"_base_ = ['./method.py']\n{assignments(changed)}"


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The keys to merge over ``old``, by mmengine's rules, to get ``new``."""
    found: dict[str, Any] = {}
    for key, value in new.items():
        if key in old and isinstance(value, Mapping):
            replaces = not isinstance(old[key], Mapping) or set(old[key]) - set(value)
            inner = {'_delete_': True, **value} if replaces else _changes(old[key], value)
            if inner:
                found[key] = inner
        elif key not in old or value != old[key]:
            found[key] = value
    return found
