"""The runs of a suite, what each one waits for, and what they gave."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from mmengine.config import Config

from mmdistill_dense.suite import configs
from mmdistill_dense.suite.definition import Definition
from mmdistill_dense.suite.files import read_json
from mmdistill_dense.suite.identity import config_hash

Choice = Mapping[str, Any]
TEACHER, CONTROL = 'teacher', 'control'


@dataclass(frozen=True)
class Run:
    """One training with its test.

    Attributes:
        name: ``'teacher'``, ``'control'`` or a method's.
        kind: ``'teacher'``, ``'search'`` or ``'run'``.
        seed: Of the run.
        folder: Its work folder.
        after: Folders whose results it needs.
        choice: Values of a search by option; of a run whose search has not ended ``None``, without one empty.
    """

    name: str
    kind: str
    seed: int
    folder: Path
    after: tuple[Path, ...] = ()
    choice: Choice | None = field(default=None, hash=False)

    @property
    def leaf(self) -> Path:
        """The method on the recipe."""
        return self.folder / 'leaf.py'

    @property
    def title(self) -> str:
        """Name, tried values and seed, for people."""
        tried = f' {choice_name(self.choice)}' if self.kind == 'search' and self.choice else ''
        return self.name if self.kind == 'teacher' else f'{self.name}{tried} seed {self.seed}'

    @property
    def result(self) -> dict[str, Any] | None:
        """What it gave, ``None`` while it has not."""
        return read_json(self.folder / 'result.json')

    @property
    def state(self) -> dict[str, Any]:
        """How far it was when it last said so."""
        return read_json(self.folder / 'state.json') or {}


def runs(definition: Definition) -> list[Run]:
    """Return every run, in the order in which they are started: teacher, searches, then seed by seed."""
    teacher = [Run(TEACHER, 'teacher', _teacher_seed(definition), definition.out / TEACHER, (), {})]
    teacher = teacher if has_teacher_run(definition) else []
    before = tuple(run.folder for run in teacher) if trains_teacher(definition) else ()
    searches = {name: _searches(definition, name, before) for name in definition.grid}
    chosen = _chosen(searches)
    control_waits = before and configs.reads_teacher(configs.control_config(definition))
    students = []
    for seed, name in itertools.product(definition.seeds, (CONTROL, *definition.methods)):
        folder = definition.out / 'runs' / name / f'seed{seed}'
        tried = searches.get(name, [])
        after = before + tuple(run.folder for run in tried) if name != CONTROL or control_waits else ()
        students.append(Run(name, 'run', seed, folder, after, chosen[name] if tried else {}))
    return [*teacher, *itertools.chain(*searches.values()), *students]


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
    found = configs.teachers_of(configs.read(definition.control).model)
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
        Run(name, 'search', seed, root / choice_name(choice) / f'seed{seed}', before, choice)
        for choice, seed in itertools.product(choices, definition.grid_seeds)
    ]


def choice_name(choice: Choice) -> str:
    """Return the folder of tried values."""
    return ','.join(f'{key.removeprefix("model.distillers.")}={value}' for key, value in choice.items()).replace(
        '/', '_'
    )


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
        ValueError: For options that do not fit, see :mod:`mmdistill_dense.suite.configs`.
    """
    if run.kind == 'teacher' and definition.teacher is not None and trains_teacher(definition):
        config = configs.teacher_config(definition, definition.teacher)
    elif run.name in (CONTROL, TEACHER):
        config = configs.control_config(definition)
    else:
        config = configs.method_config(definition, definition.methods[run.name], _decided(run))
    config.merge_from_dict({'randomness.seed': run.seed})
    config.work_dir = str(run.folder)
    if run.kind != 'teacher' and trains_teacher(definition) and configs.reads_teacher(config):
        config.model.teacher.checkpoint = str(teacher_file(definition))
    return config


def _decided(run: Run) -> Choice:
    if run.choice is None:
        raise RuntimeError(f'{run.title}: its search has not ended; `suite.py run` runs it first.')
    return run.choice


def teacher_file(definition: Definition) -> Path:
    """Return the weights of the teacher that the suite trains; the name is a guess before it has ended."""
    folder = definition.out / TEACHER
    result = read_json(folder / 'result.json')
    return folder / (result['checkpoint'] if result else 'missing.pth')


def hash_of(definition: Definition, run: Run) -> str:
    """Return the config hash of a run, which covers how its teacher is made."""
    teacher = None
    if run.kind != 'teacher' and definition.teacher is not None and trains_teacher(definition):
        made = config_hash(configs.teacher_config(definition, definition.teacher))
        teacher = f'{made} seed {definition.teacher.seed}'
    tests_teacher = run.kind == 'teacher' and not trains_teacher(definition)
    return config_hash(config_of(definition, run), teacher, tests_teacher)


def results(definition: Definition) -> dict[str, dict[int, dict[str, Any]]]:
    """Return the results of finished runs by name (teacher, control, methods in order) and seed; no searches."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for run in runs(definition):
        result = None if run.kind == 'search' else run.result
        if result is not None:
            found.setdefault(run.name, {})[run.seed] = result
    return {name: found[name] for name in (TEACHER, CONTROL, *definition.methods) if name in found}
