"""What a distilled student holds besides its modules: frozen teachers, state of the run, what it inherits."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from mmdistill_dense.config.resolve import ModelConfig
from mmdistill_dense.distillers.base import Distiller, RunState
from mmdistill_dense.model.unlabelled import Unlabelled
from mmdistill_dense.networks.inherit import Inherit
from mmdistill_dense.networks.recording import Recorder
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.networks.trace import Traced


def distillers_of(model: nn.Module) -> dict[str, Distiller]:
    """Return the distillers of a model by name; an ordinary student has none."""
    return dict(getattr(model, 'distillers', {}).items())


@dataclass(eq=False)
class Distillation:
    """Frozen teachers, state of the run, what is inherited.

    A copy of the student has its own ``Distillation`` and shares the teachers until one of the two is moved or cast.

    Attributes:
        teachers: By name.
        student: The config that the student was built from, resolved.
        state: How far the run is; the distillers read it.
        inherit: What to copy from teachers; empty once that is done, and where the student's weights come from a file.
        traced: What the trace found in the student.
        unlabelled: The pictures without labels; ``None`` without the option.
        hook_attached: Whether ``DistillHook`` runs with the training.
        measured: What the last step measured for balanced distillers; ``DistillHook`` logs and empties it.
    """

    teachers: dict[str, FrozenTeacher]
    student: ModelConfig
    state: RunState = field(default_factory=RunState)
    inherit: Sequence[Inherit] = ()
    traced: Traced = field(default_factory=Traced)
    unlabelled: Unlabelled | None = None
    hook_attached: bool = False
    measured: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for teacher in self.teachers.values():
            teacher.users.add(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Distillation:
        state, second = copy.deepcopy(self.state, memo), self.unlabelled and self.unlabelled.without_batch()
        return replace(self, teachers=dict(self.teachers), state=state, unlabelled=second, measured={})

    def __reduce__(self) -> Any:
        unlabelled = self.unlabelled and self.unlabelled.without_batch()
        return Distillation, (self.teachers, self.student, self.state, self.inherit, self.traced, unlabelled)

    def enter_run(self, max_iters: int, seed: int = 0, rank: int = 0, iteration: int = 0) -> None:
        """Set the state of the run; ``DistillHook`` calls this before training."""
        state = self.state
        state.max_iters, state.seed, state.rank, state.iteration = max_iters, seed, rank, iteration
        self.hook_attached = True

    def inherit_nothing(self) -> None:
        """Copy nothing from teachers any more: the weights come from a file, or were copied already."""
        self.inherit = ()

    @contextlib.contextmanager
    def set_aside(self) -> Iterator[None]:
        """Load no teacher and inherit nothing while the context is open: the student initialises itself alone."""
        kept = self.teachers, self.inherit
        self.teachers, self.inherit = {}, ()
        try:
            yield
        finally:
            self.teachers, self.inherit = kept

    def recorder(self, student: nn.Module, taps: Iterable[Tap]) -> Recorder:
        """Return a recorder of the student's taps; it copies tensors that the trace saw being overwritten."""
        return Recorder(student, taps, 'student_tap', overwritten=self.traced.overwritten)

    def part_from(self, name: str) -> FrozenTeacher:
        """Return an unloaded copy of a shared teacher, put in its place for this student; the next step loads it."""
        self.teachers[name].users.discard(self)
        self.teachers[name] = self.teachers[name].unloaded()
        self.teachers[name].users.add(self)
        return self.teachers[name]

    def check_ready(self) -> None:
        """Raise a ``RuntimeError`` unless ``DistillHook`` runs and every teacher is loaded."""
        if not self.hook_attached:
            raise RuntimeError(
                'A DistillModel is trained without DistillHook, which sets its schedules, random streams and '
                'checkpoints. Add to the config: default_hooks = '
                "dict(distill=dict(type='mmdistill_dense.DistillHook'))."
            )
        for teacher in self.teachers.values():
            if teacher.taps and teacher.network is None and teacher.receipt is None:
                raise RuntimeError(
                    f'{teacher.key} is not loaded: call init_weights() before training, as the runner does.'
                )
