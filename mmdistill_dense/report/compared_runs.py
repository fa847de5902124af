"""The runs on a page, their names, and the control of each run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmdistill_dense.report.trained_run import TrainedRun, find_runs, is_run, seeds_in
from mmdistill_dense.suite.plan.runs import CONTROL, TEACHER


@dataclass(frozen=True)
class Comparison:
    """The runs on a page, their controls, and the run that trained the teacher, if its folder is known."""

    runs: tuple[TrainedRun, ...]
    controls: tuple[TrainedRun, ...]
    teacher: TrainedRun | None = None

    @property
    def students(self) -> tuple[TrainedRun, ...]:
        """The controls, then the runs."""
        return (*self.controls, *self.runs)

    @property
    def names(self) -> list[str]:
        """Each method once, the control first."""
        return list(dict.fromkeys(run.name for run in self.students))

    def of(self, name: str) -> list[TrainedRun]:
        """Return the runs of a method."""
        return [run for run in self.students if run.name == name]

    def controls_for(self, run: TrainedRun) -> list[TrainedRun]:
        """Return the controls that a run is compared with, at most one per seed.

        They are those of its suite, else those outside of suites, else those of the only suite that has some.
        """
        own = [one for one in self.controls if run.suite is not None and one.suite == run.suite]
        plain = [one for one in self.controls if one.suite is None]
        suites = {one.suite for one in self.controls}
        return own or plain or (list(self.controls) if len(suites) == 1 else [])

    def control_of(self, run: TrainedRun) -> TrainedRun | None:
        """Return the control of the same seed, else the first; ``None`` for a control."""
        if run in self.controls:
            return None
        controls = self.controls_for(run)
        same = [one for one in controls if one.seed == run.seed]
        return next(iter([*same, *controls]), None)

    @property
    def shown(self) -> list[TrainedRun]:
        """The first run of each method that has a checkpoint: the one for pictures."""
        found = [[run for run in self.of(name) if run.checkpoint] for name in self.names]
        return [runs[0] for runs in found if runs]


def compare(folders: Sequence[str | Path], control: str | Path | None = None) -> Comparison:
    """Find runs, their controls and their teacher.

    The control is the given folder, else that of the suite, else every given run without distillers that did not train
    a teacher of the others.
    """
    given = list(dict.fromkeys(run for folder in folders for run in find_runs(folder)))
    places = _teacher_places(given)
    runs = [run for run in given if not (run.alone and run.folder in places)]
    alone = [run for run in runs if run.alone]
    controls = list(dict.fromkeys([*alone, *_suite_controls(runs)] if control is None else find_runs(control)))
    _refuse_two_of_a_seed(controls)
    rest = [run for run in runs if run not in controls]
    names = _distinct([*rest, *controls])
    rest, controls = ([replace(run, name=names[run]) for run in some] for some in (rest, controls))
    places = _teacher_places([*rest, *controls])
    teacher = next((TrainedRun(place, TEACHER) for place in places if is_run(place)), None)
    return Comparison(tuple(rest), tuple(controls), teacher)


def _distinct(runs: Sequence[TrainedRun]) -> dict[TrainedRun, str]:
    """Return one name per method. Equal names get as many of the folders above as tell them apart."""
    places = {run.home: ((*run.suite.parts, run.name) if run.suite else run.home.parts) for run in runs}
    names: dict[Path, str] = {}
    for home, parts in places.items():
        same = [other for other in places.values() if other[-1] == parts[-1]]
        for length in range(1, max(map(len, same)) + 1):
            shown = [other[-length:] for other in same]
            if len(set(shown)) == len(shown):
                names[home] = '/'.join(parts[-length:])
                break
        else:  # a suite's runs/kd and a folder kd in the same place
            names[home] = str(home)
    return {run: names[run.home] for run in runs}


def _suite_controls(runs: Sequence[TrainedRun]) -> list[TrainedRun]:
    """Return the controls of the runs' suites at the same seeds, or all controls if no seed is the same."""
    found: list[TrainedRun] = []
    for suite in dict.fromkeys(run.suite for run in runs if run.suite):
        own = seeds_in(suite / 'runs' / CONTROL, 'seed*')
        seeds = {run.seed for run in runs if run.suite == suite}
        found += [run for run in own if run.seed in seeds] or own
    return found


def _refuse_two_of_a_seed(controls: Sequence[TrainedRun]) -> None:
    """Raise ValueError for two controls of a suite, or outside of suites, with one seed: the page could show one gain.

    Runs whose seeds were drawn are not paired.
    """
    known: dict[tuple[Path | None, int], TrainedRun] = {}
    for run in controls:
        if run.seed is None:
            continue
        other = known.setdefault((run.suite, run.seed), run)
        if other is not run:
            raise ValueError(
                f'{str(other.folder)!r} and {str(run.folder)!r} are both controls of seed {run.seed}: name the one '
                'to compare with by --control.'
            )


def _teacher_places(runs: Sequence[TrainedRun]) -> list[Path]:
    """Return the teacher folders of the suites, then the folders of the teachers' checkpoints."""
    places = [run.suite / TEACHER for run in runs if run.suite]
    files = [str(option.get('checkpoint') or '') for run in runs for option in run.teachers.values()]
    return [*places, *(Path(file).resolve().parent for file in files if file)]
