"""Stop a run in its first step if a teacher sees or gives what cannot teach."""

from __future__ import annotations

from functools import partial
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmdistill_dense.model.distill_model import Distilled
from mmdistill_dense.networks.first_look import refuse_blind
from mmdistill_dense.utils.distributed import unwrap


class FirstStep(Hook):
    """Looks at the first batch of each teacher, also in a resumed run.

    The looks of all processes are compared, and all stop alike, before the backward pass. Later steps look at nothing.
    """

    def before_train(self, runner: Runner) -> None:
        """Let the teachers look at their next batch."""
        model = unwrap(runner.model)
        if isinstance(model, Distilled):
            for teacher in model.distillation.teachers.values():
                teacher.looks = []
            self._handle = model.register_forward_hook(partial(self._judge, runner))

    def after_train(self, runner: Runner) -> None:
        """Look no more, if a teacher was never asked."""
        model = unwrap(runner.model)
        if isinstance(model, Distilled):
            self._handle.remove()
            for teacher in model.distillation.teachers.values():
                teacher.looks = None

    def _judge(self, runner: Runner, model: nn.Module, *_: Any) -> None:
        teachers = model.distillation.teachers.values() if isinstance(model, Distilled) else ()
        for teacher in [one for one in teachers if one.looks]:
            looks, teacher.looks = teacher.looks or [], None
            refuse_blind(teacher.key, looks, runner.cfg)
        if all(one.looks is None for one in teachers):
            self._handle.remove()
