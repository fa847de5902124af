"""``DistillHook``, the one hook that a distilled run needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import FlexibleRunner, Runner

from mmdistill_dense.engine.balancing import Balancing
from mmdistill_dense.engine.clipping import Clipping
from mmdistill_dense.engine.distiller_state import DistillerState
from mmdistill_dense.engine.early_stopping import EarlyStopping
from mmdistill_dense.engine.loss_guard import LossGuard
from mmdistill_dense.engine.pending_validation import PendingValidation
from mmdistill_dense.engine.resume_file import ResumeFile
from mmdistill_dense.engine.run_guards import RunGuards
from mmdistill_dense.engine.seeded_streams import SeededStreams
from mmdistill_dense.engine.unlabelled_stream import UnlabelledStream
from mmdistill_dense.registry import HOOKS
from mmdistill_dense.weights.mmengine_loader import install_reader


@HOOKS.register_module()
class DistillHook(Hook):
    """Calls hooks that do one thing each; the ``default_hooks`` of every schedule hold it.

    For every model, :class:`RunGuards` refuses a config that cannot work, :class:`SeededStreams` and
    :class:`ResumeFile` make an interrupted run resume to the same bits, :class:`EarlyStopping` lets it end where it
    would have, :class:`PendingValidation` runs a validation that an interruption prevented, and :class:`LossGuard`
    stops at a loss that is not finite. For a ``DistillModel``, :class:`DistillerState` also tells the distillers how
    far the run is, prepares them and keeps their state in ``checkpoint['distillers']``, :class:`Balancing` plans the
    measurements for balanced ones, :class:`Clipping` clips their gradients, and :class:`UnlabelledStream` reads the
    pictures of ``model.unlabelled``.

    Args:
        resume_changed: Resume although teacher or distillers differ from those of the checkpoint. Distillers that are
            not in it start from scratch, and so does the optimizer's state of all distillers. Defaults to False.
        skip_nonfinite: How many steps in a row may be skipped because their loss is not finite; one more stops the
            run and names the loss. Defaults to 0: the first one stops it. See
            :mod:`mmdistill_dense.engine.loss_guard`.

    Raises:
        ValueError: At start, for the mistakes in :mod:`mmdistill_dense.guards`; on resume, for another teacher or other
            distillers.
        RuntimeError: For a loss that is not finite, before the step; for weights that are not, before they are saved.
    """

    priority = 'HIGH'

    def __init__(self, resume_changed: bool = False, skip_nonfinite: int = 0) -> None:
        install_reader()  # a control is built without our code, so nothing else installs it
        self.resume_file = ResumeFile()
        # In this order at every event: a file is checked before its state is taken.
        self.parts: tuple[Hook, ...] = (
            RunGuards(),
            self.resume_file,
            SeededStreams(),
            DistillerState(resume_changed),
            Balancing(),
            UnlabelledStream(),
            LossGuard(skip_nonfinite),
            Clipping(),
            EarlyStopping(),
            PendingValidation(),
        )
        self._begun = False

    def before_run(self, runner: Runner) -> None:
        """Before any weight is loaded."""
        for part in () if self._begun else self.parts:
            part.before_run(runner)
        self._begun = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """After the file is read, before the network is loaded."""
        if isinstance(runner, FlexibleRunner):  # which loads before its `before_run`
            self.before_run(runner)
            self._begun = True
        for part in self.parts:
            part.after_load_checkpoint(runner, checkpoint)


def _forwarded(event: str) -> Callable[..., None]:
    def call(self: DistillHook, runner: Runner, *args: Any, **kwargs: Any) -> None:
        for part in self.parts:
            getattr(part, event)(runner, *args, **kwargs)

    return call


for _event in (
    'before_train',
    'before_train_epoch',
    'before_train_iter',
    'after_train_iter',
    'after_val_epoch',
    'before_save_checkpoint',
    'after_train',
):
    setattr(DistillHook, _event, _forwarded(_event))
