"""The runs of a suite, their dependencies, configs and results."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdistill_dense.apps.recipes import compose
from mmdistill_dense.apps.suite import configs, lengths
from mmdistill_dense.apps.suite.definition import Definition, Method
from mmdistill_dense.config.resolve import teachers_of
from mmdistill_dense.engine.resume import latest_checkpoint
from mmdistill_dense.utils.files import read_json, read_progress, write_json, write_text
from mmdistill_dense.utils.literals import assignments
from mmdistill_dense.utils.validate import some

TEACHER, CONTROL = 'teacher', 'control'


@dataclass(frozen=True)
class Run:
    name: str  # ``'teacher'``, ``'control'`` or the name of a row
    seed: int  # the seed of the run
    folder: Path  # the work folder
    after: tuple[Path, ...] = ()  # the folders of the runs whose results it needs

    @property
    def is_teacher(self) -> bool:
        return self.name == TEACHER

    @property
    def method_file(self) -> Path:
        """The config of the method on the recipe, without the settings of this run."""
        return self.folder / 'method.py'

    @property
    def title(self) -> str:
        return self.name if self.is_teacher else f'{self.name} seed {self.seed}'

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


def runs(definition: Definition) -> list[Run]:
    """Return all runs in their order: the teacher, then the rows seed by seed."""
    seed = definition.teacher.seed if definition.teacher is not None else 0
    trained = trains_teacher(definition)
    teachers = [Run(TEACHER, seed, definition.out / TEACHER)] if trained or definition.test_teacher else []
    before, students = ((definition.out / TEACHER,) if trained else ()), []
    all_wait = before and configs.reads_teacher(configs.control_config(definition))
    for seed, name in itertools.product(definition.seeds, (CONTROL, *definition.methods)):
        waits = all_wait or (name != CONTROL and definition.methods[name].distils)
        students.append(Run(name, seed, definition.out / 'runs' / name / f'seed{seed}', before if waits else ()))
    return [*teachers, *students]


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


def config_of(definition: Definition, run: Run) -> Config:
    """Return the config of a run, with its seed, folder and teacher, and without the settings of a resumption."""
    if run.is_teacher and definition.teacher is not None and trains_teacher(definition):
        config = configs.teacher_config(definition, definition.teacher)
    else:
        config = configs.row_config(definition, run.name)
    if not run.is_teacher:
        lengths.fit(definition, run.name, config)
    config.merge_from_dict({'randomness.seed': run.seed})
    config.work_dir = str(run.folder)
    if not run.is_teacher and trains_teacher(definition) and configs.reads_teacher(config):
        config.model.teacher.checkpoint = str(_last_file(definition.out / TEACHER))
    return config


def _last_file(folder: Path) -> Path:
    """Return the checkpoint of a run that others read. Before the run has ended, its name is a guess."""
    result = read_json(folder / 'result.json')
    return folder / (result['checkpoint'] if result else 'missing.pth')


def hash_of(definition: Definition, run: Run) -> str:
    """Return the hash of a run's config. It covers how its teacher is made."""
    folder, made = definition.path.parent, ''
    if not run.is_teacher and definition.teacher is not None and trains_teacher(definition):
        teacher = configs.teacher_config(definition, definition.teacher)
        made = f'{configs.config_hash(teacher, folder=folder)} seed {definition.teacher.seed}'
    return configs.config_hash(config_of(definition, run), made, folder)


def check_unchanged(definition: Definition, runs: Iterable[Run]) -> None:
    """Refuse runs that were begun with another config than the definition gives now."""
    known: dict[str, str] = {}
    for run in runs:
        begun = run.state if latest_checkpoint(run.folder) else None
        hashes = [
            str(content['config_hash']) for content in (run.result, begun) if content and 'config_hash' in content
        ]
        for found in dict.fromkeys(hashes):
            if run.name not in known:
                known[run.name] = hash_of(definition, run)
            if found == known[run.name]:
                continue
            keys = configs.changed_keys(run.folder, config_of(definition, run))
            if keys or len(found) >= configs.DIGITS:
                told = some(keys) or 'its teacher'
                raise ValueError(
                    f'{run.title}: {run.folder} was made with another config than the definition gives now ({told}). '
                    'Undo the change, set another `out`, or remove that folder to repeat the run.'
                )


def score_of(definition: Definition, run: Run, metrics: Mapping[str, Mapping[str, float]]) -> float:
    """Return the score of a run in percent."""
    found = metrics['test']
    if not found:  # mmdet returns no metric for a detector without a single detection
        return 0.0
    if definition.metric not in found:
        said = f'metric={definition.metric!r} is not in the result of the test: {", ".join(found)}'
        raise KeyError(f'{definition.path}: {said}')
    return found[definition.metric] * (100.0 if definition.percent else 1.0)


def scored(definition: Definition, run: Run) -> dict[str, Any] | None:
    """Return the result of a finished run with today's score: ``metric`` or ``percent`` may have been others then."""
    result = run.result
    if result is not None:
        today = {'score': score_of(definition, run, result['metrics']), 'metric': definition.metric}
        if repr(today['score']) != repr(result['score']):
            result |= today
            write_json(run.folder / 'result.json', result)
    return result


def results(definition: Definition) -> dict[str, dict[int, dict[str, Any]]]:
    """Return the results of the teacher, the control and the rows, by name and seed."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for run in runs(definition):
        if (result := scored(definition, run)) is not None:
            found.setdefault(run.name, {})[run.seed] = result
    return {name: found[name] for name in (TEACHER, CONTROL, *definition.methods) if name in found}


def write_configs(definition: Definition, run: Run, config: Config) -> None:
    """Write both. ``run.py`` adds seed, folder, teacher and the suite's options; ``mim train`` takes it as well."""
    if run.is_teacher and definition.teacher is not None:
        text = inheriting(definition.teacher.config, run.folder)
    else:
        text = method_text(definition, definition.methods.get(run.name), run.folder)
    write_text(run.method_file, text)
    write_text(run.folder / 'run.py', run_text(Config.fromfile(run.method_file), config))


def method_text(definition: Definition, method: Method | None, folder: Path) -> str:
    """Return the config of a row for a folder: the shipped method on the recipe, the user's config, or the control."""
    if method is not None and method.options_file is not None:
        assert method.method is not None, 'it is a shipped method'
        written = None
        if method.settings:
            shipped = configs.read(method.options_file).distillers
            written = configs.with_settings(definition, method, shipped).to_dict()
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
