"""Run the validation that is missing if a run was interrupted between a checkpoint and its validation."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from mmdistill_dense.utils.runner_internals import built_loop, renew_val_interval, resumes

_DONE = 'distill_validated'  # in the message hub, and so in the checkpoints


class PendingValidation(Hook):
    """Runs a missing validation, with its scores and, if it is the best one, its checkpoint.

    mmengine saves a checkpoint first and validates then; a run that is resumed from this checkpoint would train on.
    Loops of your own are left alone.
    """

    def before_run(self, runner: Runner) -> None:
        """Catch up when all other hooks are ready, before the loop asks whether the training was stopped."""
        if resumes(runner) and _validates(built_loop(runner)):
            runner.register_hook(_CatchUp(), 'LOWEST')

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Note which validation is done; mmengine writes the best checkpoint after this."""
        loop = built_loop(runner)
        if loop is not None and _validates(loop):
            runner.message_hub.update_info(_DONE, _place(loop))


class _CatchUp(Hook):
    """Validates before a resumed training, also if nothing is left to train."""

    def before_train(self, runner: Runner) -> None:
        """Validate if the checkpoint was saved before its validation."""
        loop = runner.train_loop
        place = _place(loop)
        if runner.val_loop is None or place == runner.message_hub.get_info(_DONE, 0):
            return
        renew_val_interval(loop)
        last = loop.max_epochs if isinstance(loop, EpochBasedTrainLoop) else loop.max_iters
        if place >= loop.val_begin and (place % loop.val_interval == 0 or place == last):
            runner.logger.info(f'The run ended before the validation after {place} was done and saved: it is done now.')
            now = {'epoch': runner.epoch, 'iter': runner.iter}
            for name, value in now.items():  # mmengine validates before it counts the step
                runner.message_hub.update_info(name, max(value - 1, 0))
            runner.val_loop.run()
            for name, value in now.items():
                runner.message_hub.update_info(name, value)


def _validates(loop: BaseLoop | None) -> bool:
    return isinstance(loop, (EpochBasedTrainLoop, IterBasedTrainLoop))


def _place(loop: BaseLoop) -> int:
    """Return the number of finished epochs or iterations."""
    return loop.epoch if isinstance(loop, EpochBasedTrainLoop) else loop.iter
