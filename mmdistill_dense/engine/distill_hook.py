"""The hook that attends a distilled run."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdistill_dense.engine.clipping import Clipping
from mmdistill_dense.engine.distiller_state import DistillerState
from mmdistill_dense.engine.loss_guard import LossGuard
from mmdistill_dense.engine.pending_validation import PendingValidation
from mmdistill_dense.engine.resume_file import ResumeFile
from mmdistill_dense.engine.run_guards import RunGuards
from mmdistill_dense.engine.seeded_streams import SeededStreams
from mmdistill_dense.registry import HOOKS
from mmdistill_dense.weights.mmengine_loader import install_reader


@HOOKS.register_module()
class DistillHook(Hook):
    """Attends training; it stands in ``default_hooks`` of every schedule. It calls hooks that do one thing each.

    For every model :class:`RunGuards` refuses what cannot work, :class:`SeededStreams` and :class:`ResumeFile` let an
    interrupted run resume to the same bits, :class:`PendingValidation` makes up for a missed validation and
    :class:`LossGuard` stops at a loss that is not finite. For a ``DistillModel`` :class:`DistillerState` also tells the
    distillers where the run stands, prepares them and keeps their state in ``checkpoint['distillers']``, and
    :class:`Clipping` clips their gradients.

    Args:
        resume_changed: Resume although teacher or distillers differ from those of the checkpoint; distillers that are
            not in it start anew, and with them the optimizer's state of all distillers. Defaults to False.
        skip_nonfinite: How many steps in a row may be left out because their loss is not finite; one more stops the
            run and names the loss. Defaults to 0: the first one does. See :mod:`mmdistill_dense.engine.loss_guard`.

    Raises:
        ValueError: At start, for the mistakes in :mod:`mmdistill_dense.guards`; on resume, for another teacher or other
            distillers.
        RuntimeError: At a loss that is not finite, before the step; at weights that are not, before they are saved.
    """

    priority = 'HIGH'

    def __init__(self, resume_changed: bool = False, skip_nonfinite: int = 0) -> None:
        install_reader()  # of a control too, which is built without us
        self.resume_file = ResumeFile()
        # In this order at every event: a file is looked at before its state is taken, state before it is checked.
        self.parts: tuple[Hook, ...] = (
            RunGuards(),
            self.resume_file,
            SeededStreams(),
            DistillerState(resume_changed),
            LossGuard(skip_nonfinite),
            Clipping(),
            PendingValidation(),
        )

    def before_run(self, runner: Runner) -> None:
        """Before any weight is loaded."""
        for part in self.parts:
            part.before_run(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """With what was read, before the network takes it."""
        for part in self.parts:
            part.after_load_checkpoint(runner, checkpoint)

    def before_train(self, runner: Runner) -> None:
        """Before the first iteration."""
        for part in self.parts:
            part.before_train(runner)

    def before_train_epoch(self, runner: Runner) -> None:
        """Before the first batch of an epoch is drawn."""
        for part in self.parts:
            part.before_train_epoch(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Before each step."""
        for part in self.parts:
            part.before_train_iter(runner, batch_idx, data_batch)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Behind each validation."""
        for part in self.parts:
            part.after_val_epoch(runner, metrics)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Before a file is written."""
        for part in self.parts:
            part.before_save_checkpoint(runner, checkpoint)

    def after_train(self, runner: Runner) -> None:
        """Behind the last step."""
        for part in self.parts:
            part.after_train(runner)
