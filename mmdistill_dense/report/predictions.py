"""The sections that run networks: predictions side by side, and where students and teacher disagree."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from mmdistill_dense.report.compared_runs import Comparison
from mmdistill_dense.report.drawing import (
    TEACHER_RIGHT,
    TEACHER_WRONG,
    disagreement_panel,
    labels_of,
    prediction_panel,
    truth_of,
    truth_panel,
)
from mmdistill_dense.report.scenes import Scenes, predict, scenes_of, student_of, teacher_of
from mmdistill_dense.report.section import Item, Key, Missing, Section, Table, Viewer, panel
from mmdistill_dense.report.trained_run import TrainedRun
from mmdistill_dense.utils.protocols import Sample

_MOST_KEYS = 30


class Predictions:
    """Predictions of each method's first run and of the teacher, for ``count`` pictures; 0 runs no network."""

    def __init__(self, comparison: Comparison, count: int) -> None:
        self.comparison = comparison
        self.controls = {run.name for run in comparison.controls}
        self.samples: dict[str, list[Sample]] = {}
        self.teachers: list[str] = []
        self.section = Section(
            'predictions',
            'Predictions',
            'Two predictions lie over each other: move the boundary with the slider or on the picture. Each small '
            'picture is a button that puts its prediction on the right.',
        )
        self.scenes: Scenes | None = None
        if count:
            self.section.attempt(partial(self._load, count))
        else:
            self.section.reasons.append('Pictures were switched off (--pictures 0).')

    def _load(self, count: int) -> None:
        shown = self.comparison.shown
        if not shown:
            raise Missing('No predictions: no run holds a checkpoint.')
        self.scenes = scenes_of(shown[0], count)
        for run in shown:
            self.section.attempt(partial(self._add_student, run))
        # the teacher that a control names may not exist
        teaching = sorted(shown, key=lambda run: (not run.teachers, not run.distillers))[0]
        if not teaching.teachers:
            self.section.reasons.append('No predictions of a teacher: the config has none.')
        for name in teaching.teachers:
            self.section.attempt(partial(self._add_teacher, teaching, name))

    def _add_student(self, run: TrainedRun) -> None:
        assert self.scenes is not None, 'pictures are chosen first'
        self.samples[run.name] = predict(student_of(run), self.scenes.pictures)

    def _add_teacher(self, run: TrainedRun, name: str) -> None:
        assert self.scenes is not None, 'pictures are chosen first'
        self.samples[name] = predict(teacher_of(run, name), self.scenes.pictures)
        self.teachers.append(name)

    # Side by side

    def side_by_side(self) -> Section:
        """Return a viewer for each picture: input, students, teacher, truth."""
        if self.scenes is not None and self.samples:
            for place in range(len(self.scenes.pictures)):
                self.section.attempt(partial(self._viewer, place))
            if self.section.items:
                self.section.legend = self._keys(self.scenes)
        return self.section

    def _viewer(self, place: int) -> Viewer:
        assert self.scenes is not None, 'pictures are chosen first'
        scene = self.scenes.pictures[place]
        panels = [panel(scene.image, 'input', f'The picture {scene.name}')]
        for name, samples in self.samples.items():
            panels.append(prediction_panel(self.scenes, scene, samples[place], name))
        truth = truth_panel(self.scenes, scene)
        panels += [truth] if truth else []
        last = len(panels) - 1
        return Viewer(scene.name, panels, min(1, last), min(2, last))  # the control follows the input

    def _keys(self, scenes: Scenes) -> list[Key]:
        known = zip(scenes.palette.tolist(), scenes.classes, strict=False)
        return [Key(_css(colour), name) for colour, name in known][:_MOST_KEYS]

    # Disagreement

    def disagreement(self) -> Section:
        """Return maps of the pixels where a student and the teacher predict different classes."""
        section = Section(
            'disagreement',
            'Where student and teacher disagree',
            'Before is the control, after is each distilled student.',
        )
        section.attempt(self._maps)
        if section.items:
            section.legend = [
                Key(_css(TEACHER_RIGHT), 'they differ, the teacher is right'),
                Key(_css(TEACHER_WRONG), 'they differ, the teacher is not right or nobody knows'),
            ]
        return section

    def _maps(self) -> list[Item]:
        students = [name for name in self.samples if name not in self.teachers]
        if self.scenes is None or not self.teachers or not students:
            raise Missing('No map: predictions of a student or of the teacher are missing, see above.')
        if not all('pred_sem_seg' in self.samples[name][0] for name in (*students, self.teachers[0])):
            raise Missing('No map: these networks predict boxes, not classes of pixels.')
        differing: dict[str, list[np.ndarray]] = {name: [] for name in students}
        viewers = []
        for place, scene in enumerate(self.scenes.pictures):
            teacher = labels_of(self.samples[self.teachers[0]][place])
            truth = truth_of(scene.item['data_samples'], teacher.shape)
            panels = []
            for name in students:
                own = labels_of(self.samples[name][place])
                differing[name].append(
                    np.stack([own != teacher, (own != teacher) & (False if truth is None else teacher == truth)])
                )
                panels.append(disagreement_panel(scene, own, teacher, truth, name))
            viewers.append(Viewer(scene.name, panels, 0, min(1, len(panels) - 1)))
        return [self._table(differing), *viewers]

    def _table(self, differing: dict[str, list[np.ndarray]]) -> Table:
        shares = {
            name: np.concatenate([one.reshape(2, -1) for one in maps], 1).mean(1) for name, maps in differing.items()
        }
        alone = next((shares[name] for name in shares if name in self.controls), None)
        rows = []
        for name, (differs, right) in shares.items():
            change = '' if alone is None or name in self.controls else f'{100 * (differs - alone[0]):+.1f} points'
            rows.append([name, f'{differs:.1%}', f'{right:.1%}', change])
        head = ['student', 'pixels that differ', 'with the teacher right', 'against the control']
        return Table('Disagreement with the teacher on the pictures below', head, rows)


def _css(colour: Sequence[int]) -> str:
    return f'rgb({colour[0]} {colour[1]} {colour[2]})'
