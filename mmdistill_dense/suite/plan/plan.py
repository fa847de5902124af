"""The runs of a suite, what each one waits for, and what they gave."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

from mmengine.config import Config

from mmdistill_dense.config.resolve import teachers_of
from mmdistill_dense.suite.definition.definition import Definition
from mmdistill_dense.suite.definition.starts import RANDOM, Start
from mmdistill_dense.suite.plan import configs, start_weights
from mmdistill_dense.suite.plan.identity import config_hash
from mmdistill_dense.suite.plan.runs import CONTROL, PRETRAIN, TEACHER, Choice, Run, choice_name
from mmdistill_dense.utils.atomic import read_json
from mmdistill_dense.weights.locate import local_file


def runs(definition: Definition) -> list[Run]:
    """Return every run, in the order in which they are started: teacher, pre-trainings, searches, then seed by seed."""
    teacher = [Run(TEACHER, 'teacher', _teacher_seed(definition), definition.out / TEACHER, (), {})]
    teacher = teacher if has_teacher_run(definition) else []
    before = tuple(run.folder for run in teacher) if trains_teacher(definition) else ()
    searches = {name: _searches(definition, name, before) for name in definition.grid}
    chosen = _chosen(searches)
    all_wait = before and configs.reads_teacher(configs.control_config(definition))
    students = []
    for seed, name in itertools.product(definition.seeds, (CONTROL, *definition.methods)):
        folder = definition.out / 'runs' / name / f'seed{seed}'
        tried = searches.get(name, [])
        after = before + tuple(run.folder for run in tried) if all_wait or _reads_teacher(definition, name) else ()
        after += _pretrained(definition, name, seed)
        students.append(Run(name, 'run', seed, folder, after, chosen[name] if tried else {}))
    students = [*itertools.chain(*searches.values()), *students]
    return [*teacher, *_pretrainings(definition, students), *students]


def _reads_teacher(definition: Definition, name: str) -> bool:
    start = start_of(definition, name)
    return name != CONTROL and (definition.methods[name].distils or bool(start and start.inherit))


def _pretrainings(definition: Definition, students: Sequence[Run]) -> list[Run]:
    """What students start from: a pre-training for all seeds, or each one's own."""
    found: dict[Path, Run] = {}
    for run in students:
        start = start_of(definition, run.name)
        for folder in _pretrained(definition, run.name, run.seed):
            assert start is not None, 'it has a folder'
            found.setdefault(
                folder, Run(f'{PRETRAIN}/{start.name}', PRETRAIN, start.seed_for(run.seed), folder, (), {})
            )
    return list(found.values())


def _pretrained(definition: Definition, name: str, seed: int) -> tuple[Path, ...]:
    start = start_of(definition, name)
    if start is None or start.config is None:
        return ()
    return (definition.out / PRETRAIN / start.name / f'seed{start.seed_for(seed)}',)


def start_of(definition: Definition, name: str) -> Start | None:
    """Return what a row's students start from, or a pre-training makes; ``None``: nothing of its own."""
    kind, _, start = name.partition('/')
    if kind == PRETRAIN and start:
        return definition.starts[start]
    method = definition.methods.get(name)
    return None if method is None or method.start is None else definition.starts[method.start]


def start_file(definition: Definition, run: Run) -> Path | None:
    """Return the file that a student starts from; of a pre-training the name is a guess before it has ended.

    Returns:
        ``None`` for random weights, and for a run that starts as the control does.

    Raises:
        FileNotFoundError: When a given file does not exist.
    """
    start = start_of(definition, run.name)
    if start is None or start.inherit or start.name == RANDOM or run.kind == PRETRAIN:
        return None
    if start.config is None:
        return local_file(start.given, None, start.key)
    return _last_file(_pretrained(definition, run.name, run.seed)[0])


def trains_teacher(definition: Definition) -> bool:
    """Tell whether the suite trains the teacher itself: a config is given, and the pair's file is not there.

    A suite that began to train it goes on, whatever appears elsewhere meanwhile.
    """
    if definition.teacher is None:
        return False
    begun = (definition.out / TEACHER / 'state.json').is_file()
    (option,) = _teachers(definition).values()
    file = option.get('checkpoint')
    return begun or not (file and Path(file).is_file())


def has_teacher_run(definition: Definition) -> bool:
    """Tell whether there is a teacher to train, or to test alone."""
    return trains_teacher(definition) or definition.test_teacher


def _teachers(definition: Definition) -> dict[str, Any]:
    found = teachers_of(configs.read(definition.control).model)
    if len(found) != 1 and (definition.teacher is not None or definition.test_teacher):
        raise ValueError(
            f'{definition.path}: teacher and test_teacher are for pairs with one teacher, this one has {len(found)}: '
            'train them with tools/train.py and leave both keys out.'
        )
    return found


def _teacher_seed(definition: Definition) -> int:
    return definition.teacher.seed if definition.teacher is not None else 0


def _searches(definition: Definition, name: str, before: tuple[Path, ...]) -> list[Run]:
    values = definition.grid[name]
    choices = [dict(zip(values, tried, strict=True)) for tried in itertools.product(*values.values())]
    root = definition.out / 'search' / name
    return [
        Run(
            name,
            'search',
            seed,
            root / choice_name(choice) / f'seed{seed}',
            before + _pretrained(definition, name, seed),
            choice,
        )
        for choice, seed in itertools.product(choices, definition.grid_seeds)
    ]


def searched(definition: Definition) -> dict[str, list[tuple[Choice, list[float | None]]]]:
    """Return, by method, each tried choice with its score on val for every search seed (``None``: not yet)."""
    tried = [run for run in runs(definition) if run.kind == 'search']
    return {name: _scores([run for run in tried if run.name == name]) for name in definition.grid}


def chosen(definition: Definition) -> dict[str, Choice | None]:
    """Return, by method with a search, the choice that is best on val on average, ``None`` before all have ended."""
    return {name: _best(scores) for name, scores in searched(definition).items()}


def _chosen(searches: Mapping[str, Sequence[Run]]) -> dict[str, Choice | None]:
    return {name: _best(_scores(tried)) for name, tried in searches.items()}


def _scores(tried: Sequence[Run]) -> list[tuple[Choice, list[float | None]]]:
    found: dict[str, tuple[Choice, list[float | None]]] = {}
    for run in tried:
        result = run.result
        _, scores = found.setdefault(choice_name(run.choice or {}), (run.choice or {}, []))
        scores.append(None if result is None else result['score'])
    return list(found.values())


def _best(scores: Sequence[tuple[Choice, list[float | None]]]) -> Choice | None:
    means = []
    for _, values in scores:
        if any(value is None for value in values):
            return None
        means.append(fmean(-math.inf if value is None or math.isnan(value) else value for value in values))
    return scores[means.index(max(means))][0]  # of equal ones the first


def config_of(definition: Definition, run: Run) -> Config:
    """Return the config of a run: seed, folder and teacher set, nothing of a resumption.

    Raises:
        RuntimeError: When a result that it waits for is missing.
        ValueError: For options that do not fit, see :mod:`mmdistill_dense.suite.plan.configs`.
    """
    config = _unstarted(definition, run)
    start = start_of(definition, run.name)
    if start is not None and not start.inherit and run.kind != PRETRAIN:
        with _named(definition, run):
            start_weights.start_from(config, start, start_file(definition, run))
    return config


@contextmanager
def _named(definition: Definition, run: Run) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f'{definition.path}: methods.{run.name}: {error}') from error


def _unstarted(definition: Definition, run: Run) -> Config:
    """The config of a run whose student starts as the control's."""
    start = start_of(definition, run.name)
    if run.kind == PRETRAIN:
        assert start is not None, 'it makes one'
        config = configs.pretrain_config(definition, start)
    elif run.kind == 'teacher' and definition.teacher is not None and trains_teacher(definition):
        config = configs.teacher_config(definition, definition.teacher)
    elif run.name in (CONTROL, TEACHER):
        config = configs.control_config(definition)
    else:
        config = configs.method_config(definition, definition.methods[run.name], _decided(run))
    config.merge_from_dict({'randomness.seed': run.seed})
    config.work_dir = str(run.folder)
    if run.kind not in ('teacher', PRETRAIN) and trains_teacher(definition) and configs.reads_teacher(config):
        config.model.teacher.checkpoint = str(teacher_file(definition))
    return config


def _decided(run: Run) -> Choice:
    if run.choice is None:
        raise RuntimeError(f'{run.title}: its search has not ended; `suite.py run` runs it first.')
    return run.choice


def teacher_file(definition: Definition) -> Path:
    """Return the weights of the teacher that the suite trains; the name is a guess before it has ended."""
    return _last_file(definition.out / TEACHER)


def _last_file(folder: Path) -> Path:
    result = read_json(folder / 'result.json')
    return folder / (result['checkpoint'] if result else 'missing.pth')


def hash_of(definition: Definition, run: Run) -> str:
    """Return the config hash of a run, which covers how its teacher and what it starts from are made."""
    teacher = None
    if run.kind not in ('teacher', PRETRAIN) and definition.teacher is not None and trains_teacher(definition):
        made = config_hash(configs.teacher_config(definition, definition.teacher))
        teacher = f'{made} seed {definition.teacher.seed}'
    tests_teacher = run.kind == 'teacher' and not trains_teacher(definition)
    config, start = _unstarted(definition, run), start_of(definition, run.name)
    if start is not None and not start.inherit and run.kind != PRETRAIN:
        with _named(definition, run):
            start_weights.mark(config, start, _made(definition, start))
    return config_hash(config, teacher, tests_teacher)


def _made(definition: Definition, start: Start) -> str:
    """How a start comes about, the same on every machine and for every seed of a row."""
    if start.config is None:
        return f'{start.checkpoint or start.name} {start.prefix or ""}'
    seed = 'of each run' if start.seed is None else start.seed
    return f'{config_hash(configs.pretrain_config(definition, start))} seed {seed}'


def results(definition: Definition) -> dict[str, dict[int, dict[str, Any]]]:
    """Return the results of finished runs by name (teacher, control, methods in order) and seed; no searches."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for run in runs(definition):
        result = None if run.kind in ('search', PRETRAIN) else run.result
        if result is not None:
            found.setdefault(run.name, {})[run.seed] = result
    return {name: found[name] for name in (TEACHER, CONTROL, *definition.methods) if name in found}
