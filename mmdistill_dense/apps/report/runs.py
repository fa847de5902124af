"""The runs on a page: their names, controls and settings, and what mmengine logged of them."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from mmengine.config import Config

from mmdistill_dense.apps.suite.configs import written_config
from mmdistill_dense.apps.suite.definition import CONTROL, TEACHER
from mmdistill_dense.apps.suite.plan import SEED, read_list
from mmdistill_dense.config.resolve import is_distill_model, teachers_of
from mmdistill_dense.config.values import type_name
from mmdistill_dense.engine.work_folder import latest_checkpoint
from mmdistill_dense.utils.files import read_json, read_progress

DUMPED_CONFIG = 'vis_data/config.py'  # in the folder of a start


@dataclass(frozen=True)
class TrainedRun:
    """One training. Its name is that of the method's folder. ``suite`` is the suite's folder."""

    folder: Path
    name: str
    suite: Path | None = None

    @property
    def home(self) -> Path:
        """The folder of the method: the one above ``seed<k>``, else the run's own."""
        return self.folder.parent if SEED.fullmatch(self.folder.name) else self.folder

    @cached_property
    def config(self) -> Config:
        """The whole config that the runner wrote at the newest start with a log; a test writes one too."""
        files = [file for start in starts_of(self.folder) if (file := start / DUMPED_CONFIG).is_file()]
        logged = [file for file in files if (log := file.with_name('scalars.json')).is_file() and log.stat().st_size]
        file = (logged or files)[-1]
        return written_config(file)

    @cached_property
    def log(self) -> Log:
        """What mmengine logged of its newest training."""
        return read_log(self.folder)

    @property
    def model(self) -> Mapping[str, Any]:
        return self.config.get('model') or {}

    @property
    def distillers(self) -> dict[str, Any]:
        """The options of the distillers by name; none for a control."""
        return dict(self.model.get('distillers') or {}) if is_distill_model(self.model) else {}

    @property
    def teachers(self) -> dict[str, Any]:
        return teachers_of(self.model) if is_distill_model(self.model) else {}

    @property
    def is_control(self) -> bool:
        """Whether it is a control: by its name in a suite, elsewhere if it takes nothing from a teacher."""
        return self.home.name == CONTROL if self.suite else not (self.distillers or self.model.get('inherit'))

    @property
    def seed(self) -> int | None:
        """The seed of the run; ``None`` if it was drawn."""
        return (self.config.get('randomness') or {}).get('seed')

    @property
    def title(self) -> str:
        return self.name if self.seed is None else f'{self.name}, seed {self.seed}'

    @cached_property
    def result(self) -> dict[str, Any]:
        """The result that a suite wrote; empty elsewhere."""
        return read_json(self.folder / 'result.json') or {}

    @property
    def state(self) -> dict[str, Any]:
        """The last report of its training in a suite; empty elsewhere."""
        return read_progress(self.folder / 'state.json')

    @property
    def checkpoint(self) -> Path | None:
        """The complete checkpoint that was written last; the one with the largest number if that is not known."""
        pointer = self.folder / 'last_checkpoint'
        noted = pointer.read_text(encoding='utf-8').strip() if pointer.is_file() else ''
        # an earlier training in the folder may have left files with larger numbers
        files = (self.folder / name for name in (self.result.get('checkpoint') or '', Path(noted).name))
        return next(filter(zipfile.is_zipfile, files), None) or latest_checkpoint(self.folder)


def find_runs(folder: str | Path) -> list[TrainedRun]:
    """Return the run in a folder, or the runs of a suite below it, ordered by seed."""
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f'{str(folder)!r}: no such work dir (working folder {Path.cwd()})')
    root = root.resolve()
    seeds = ([path for path in root.glob(pattern) if SEED.fullmatch(path.name)] for pattern in ('seed*', '*/seed*'))
    for folders in ([root], *seeds):
        folders.sort(key=lambda path: (path.parent, int(path.name[4:]) if path is not root else 0))
        if runs := [_run(path) for path in folders if is_run(path)]:
            return runs
    if runs := suite_runs(root):
        return runs
    lacks = "it has neither <timestamp>/vis_data/config.py nor seed<k>, nor a suite's runs/<name>/seed<k>"
    remedy = 'Give the folder that `mmdistill train --work-dir` wrote to'
    raise ValueError(f'{str(folder)!r} is no work dir: {lacks}. {remedy}.')


def suite_runs(suite: Path) -> list[TrainedRun]:
    """Return the students of a suite that have begun, as its newest start lists them, ordered by seed."""
    runs = [run for run in read_list(suite) if not run.is_teacher and is_run(run.folder)]
    return [TrainedRun(run.folder, run.name, suite) for run in sorted(runs, key=lambda run: (run.name, run.seed))]


def _run(folder: Path) -> TrainedRun:
    home = TrainedRun(folder, folder.name).home
    in_suite = home != folder and home.parent.name == 'runs'
    return TrainedRun(folder, home.name, home.parent.parent if in_suite else None)


def is_run(folder: Path) -> bool:
    return any(folder.glob(f'*/{DUMPED_CONFIG}'))


@dataclass(frozen=True)
class Comparison:
    """The runs on a page, their controls, and the run that trained the teacher, if its folder is known."""

    runs: tuple[TrainedRun, ...]
    controls: tuple[TrainedRun, ...]
    teacher: TrainedRun | None = None

    @property
    def students(self) -> tuple[TrainedRun, ...]:
        return (*self.controls, *self.runs)

    @property
    def names(self) -> list[str]:
        """Each method once, the control first."""
        return list(dict.fromkeys(run.name for run in self.students))

    def runs_of(self, name: str) -> list[TrainedRun]:
        return [run for run in self.students if run.name == name]

    def controls_for(self, run: TrainedRun) -> list[TrainedRun]:
        """Return the controls of a run: of its suite, else those outside any suite, else of the only suite with any."""
        same, plain = ([control for control in self.controls if control.suite == suite] for suite in (run.suite, None))
        suites = {control.suite for control in self.controls}
        return same or plain or (list(self.controls) if len(suites) == 1 else [])

    def control_of(self, run: TrainedRun) -> TrainedRun | None:
        """Return the control of the same seed, else the first; ``None`` for a control."""
        if run in self.controls:
            return None
        return min(self.controls_for(run), key=lambda control: control.seed != run.seed, default=None)

    @property
    def first_runs(self) -> list[TrainedRun]:
        """The first run of each method that has a checkpoint: the one for pictures."""
        candidates = [[run for run in self.runs_of(name) if run.checkpoint] for name in self.names]
        return [runs[0] for runs in candidates if runs]

    def teacher_score(self, metric: str | None) -> float | None:
        """Return the teacher's score on val at the checkpoint that taught, else at its last evaluation."""
        if self.teacher is None or metric is None or metric not in self.teacher.log.metrics:
            return None
        series, ends = self.teacher.log.metrics[metric], {at: last for last, at in self.teacher.log.epochs.items()}
        for file in teacher_files(self.students):
            match = re.search(r'(iter|epoch)_(\d+)$', file.stem)
            if match and file.parent == self.teacher.folder:
                step = float(match[2]) if match[1] == 'iter' else ends.get(float(match[2]), float(match[2]))
                if step in series:
                    return series[step]
        return [*series.values()][-1]


def compare(folders: Sequence[str | Path], control: str | Path | None = None) -> Comparison:
    """Find runs, their teacher and controls: the controls asked for, else the suite's, else runs without distillers."""
    all_runs = list(dict.fromkeys(run for folder in folders for run in find_runs(folder)))
    teacher_folders = _teacher_folders(all_runs)
    runs = [run for run in all_runs if not (run.is_control and run.folder in teacher_folders)]
    controls = find_runs(control) if control else [run for run in runs if run.is_control]
    for suite in dict.fromkeys(run.suite for run in runs if run.suite and not control):
        of_suite = [run for run in suite_runs(suite) if run.is_control]
        seeds = {run.seed for run in runs if run.suite == suite}
        controls += [run for run in of_suite if run.seed in seeds] or of_suite  # all if no seed is the same
    controls = list(dict.fromkeys(controls))
    by_seed: dict[tuple[Path | None, int | None], TrainedRun] = {}
    for run in controls:
        other = by_seed.setdefault((run.suite, run.seed), run)
        if other is not run and run.seed is not None:  # the page could show one gain alone
            problem = f'{str(other.folder)!r} and {str(run.folder)!r} are both controls of seed {run.seed}'
            raise ValueError(f'{problem}: name the one to compare with by --control.')
    students = [run for run in runs if run not in controls]
    names = _unique_names([*students, *controls])
    students, controls = ([replace(run, name=names[run.home]) for run in group] for group in (students, controls))
    return Comparison(tuple(students), tuple(controls), _teacher_run([*students, *controls]))


def _unique_names(runs: Sequence[TrainedRun]) -> dict[Path, str]:
    """Return a name for the folder of each method. Equal names get as many parent folders as make them differ."""
    paths = {run.home: ((*run.suite.parts, run.name) if run.suite else run.home.parts) for run in runs}
    names: dict[Path, str] = {}
    for home, parts in paths.items():
        same = [other for other in paths.values() if other[-1] == parts[-1]]
        depths = range(1, max(map(len, same)) + 1)
        unique = ('/'.join(parts[-depth:]) for depth in depths if len({other[-depth:] for other in same}) == len(same))
        names[home] = next(unique, str(home))  # of a suite's runs/kd and a folder kd in the same place
    return names


def _teacher_folders(runs: Sequence[TrainedRun]) -> list[Path]:
    suites = dict.fromkeys(run.suite for run in runs if run.suite)
    teachers = (run.folder for suite in suites for run in read_list(suite) if run.is_teacher)
    return [*teachers, *(file.parent for file in teacher_files(runs))]


def teacher_files(runs: Sequence[TrainedRun]) -> list[Path]:
    """Return the checkpoints of the runs' teachers."""
    files = [str(option.get('checkpoint') or '') for run in runs for option in run.teachers.values()]
    return [Path(file).resolve() for file in files if file]


def _teacher_run(runs: Sequence[TrainedRun]) -> TrainedRun | None:
    """Return the run of the teacher: the suites' teacher, else one that was evaluated on the pictures of the runs.

    ``None`` for several teachers whose scores differ.
    """
    folders = list(dict.fromkeys(_teacher_folders(runs)))
    of_suites = [folder for folder in folders if is_run(folder) and any(run.suite == folder.parent for run in runs)]
    teachers = [TrainedRun(folder, TEACHER) for folder in of_suites or folders]
    if of_suites:
        is_unique = len({run.result.get('score', run.folder) for run in teachers}) == 1
    else:
        is_unique = len(teachers) == 1 and is_run(folders[0]) and {*map(val_set, runs)} == {val_set(teachers[0])}
    return teachers[0] if is_unique else None


def val_set(run: TrainedRun) -> str:
    """Name the pictures of a run's evaluation."""
    dataset = (run.config.get('val_dataloader') or {}).get('dataset') or {}
    root, folders = os.path.realpath(dataset.get('data_root') or '.'), dataset.get('data_prefix') or {}
    return str([type_name(dataset), root, dataset.get('ann_file') or '', sorted(folders.items())])


# What mmengine logged


_RESUMES = re.compile(r'^resume\s*=(?!\s*(?:False|None)\b)', re.MULTILINE)
# about the runner, not about the training
_RUNNER_FIELDS = ('lr', 'base_lr', 'momentum', 'data_time', 'time', 'memory', 'iter', 'epoch', 'step', 'eta')


def starts_of(folder: Path) -> list[Path]:
    """Return the starts of a work dir's newest training: the last that trained and did not resume, and later ones."""
    files = [*folder.glob('*/vis_data/*'), *folder.glob('*/*.log')]
    starts = sorted({folder / file.relative_to(folder).parts[0] for file in files})  # named by the time of their start
    newest = 0
    for index, start in enumerate(starts):
        file = start / DUMPED_CONFIG
        # mmengine writes `resume = True` into the config of a start that resumed
        is_new = file.is_file() and not _RESUMES.search(file.read_text(encoding='utf-8'))
        newest = index if is_new and any(map(_is_training_record, _records(start))) else newest
    return starts[newest:]


def _records(start: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a start's ``vis_data/scalars.json``; none without the file."""
    file, last = start / 'vis_data/scalars.json', 0
    for line in file.read_text(encoding='utf-8').splitlines() if file.is_file() else []:
        with suppress(ValueError):  # cut off by a kill
            if isinstance(record := json.loads(line), dict):
                last = record['iter'] if _is_training_record(record) else last
                # by default, LoggerHook counts epochs: all evaluations of a run of iterations are of epoch 0
                yield {**record, 'step': last} if record.get('step') == 0 else record


def _is_training_record(record: Mapping[str, Any]) -> bool:
    """Tell whether mmengine wrote a record about training steps; hooks write others with an iteration."""
    return 'iter' in record and not record.keys().isdisjoint(('loss', 'lr', 'time'))


Series = dict[float, float]  # a logged quantity: its value by iteration, in their order


@dataclass(frozen=True)
class Log:
    terms: dict[str, Series]  # values of training steps: losses, shares, accuracies
    metrics: dict[str, Series]  # values of evaluations
    seconds: float | None  # median wall time of an iteration; ``None`` if not logged
    epochs: dict[float, float]  # the epoch by its last logged iteration; empty for a run that counts iterations alone


def read_log(folder: Path) -> Log:
    """Read ``vis_data/scalars.json`` of the newest training; where its starts overlap, the last one counts."""
    records = [record for start in starts_of(folder) for record in _records(start)]
    training = [record for record in records if _is_training_record(record)]
    ends = {record['epoch']: record['iter'] for record in training if 'epoch' in record}
    terms, metrics = dict[str, Series](), dict[str, Series]()
    for record in records:
        evaluated = 'iter' not in record and 'time' in record
        kind = terms if _is_training_record(record) else metrics if evaluated else {}  # hooks log other values
        step = record.get('iter', record.get('step'))
        for name, value in record.items():
            if name not in _RUNNER_FIELDS and step is not None and isinstance(value, (int, float)):
                # an evaluation between epochs is logged under the number of the epoch
                kind.setdefault(name, {})[ends.get(step, step) if evaluated else step] = float(value)
    times = [record['time'] for record in training if 'time' in record]
    epochs = {last: epoch for epoch, last in ends.items()}
    ordered = ({name: dict(sorted(series.items())) for name, series in kind.items()} for kind in (terms, metrics))
    terms, metrics = ordered
    return Log(terms, metrics, median(times) if times else None, epochs)
