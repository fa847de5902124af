"""Plan the measurements of balanced distillers, hold their weights, and keep both in checkpoints."""

from __future__ import annotations

from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.optim import SGD

from mmdistill_dense.distillers.balance import Balancer
from mmdistill_dense.distillers.base import Distiller
from mmdistill_dense.distillers.schedule import in_iterations
from mmdistill_dense.engine.single_gradients import loss_scale, no_single_gradients
from mmdistill_dense.model.balanced_step import balanced_of, balanced_place, choose_ratios
from mmdistill_dense.model.distillation import distillers_of
from mmdistill_dense.utils.distributed import unwrap
from mmdistill_dense.utils.runner_internals import built_loop, resumes, wrappers_of
from mmdistill_dense.utils.tracked import write_scalars


class Balancing(Hook):
    """Runs the option ``balance`` of distillers; has no effect on a run without it.

    The state is in ``checkpoint['balance']``: all measurements by distiller, and the weight if it is held.
    """

    def __init__(self) -> None:
        self._balanced: dict[str, tuple[Distiller, Balancer]] = {}

    def before_run(self, runner: Runner) -> None:
        """Refuse a run whose weights cannot be measured, before anything is loaded.

        Raises:
            ValueError: Names the option and what to do.
        """
        self._balanced = {} if built_loop(runner) is None else balanced_of(distillers_of(unwrap(runner.model)))
        for distiller, balancer in self._balanced.values():
            _check(runner, distiller, balancer)
        if self._balanced:
            sgd = all(isinstance(one.optimizer, SGD) for one in wrappers_of(runner.optim_wrapper))
            for line in choose_ratios(distillers_of(unwrap(runner.model)), sgd):
                runner.logger.info(line)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """On resume, restore the measurements."""
        state = checkpoint.get('balance', {}) if resumes(runner) else {}
        for name, (_, balancer) in self._balanced.items():
            if name in state:
                balancer.load(state[name])

    def before_train(self, runner: Runner) -> None:
        """Make the plans, and log them."""
        if not self._balanced:
            return
        place, _ = balanced_place(unwrap(runner.model))
        for distiller, balancer in self._balanced.values():
            balancer.start(runner.max_iters, len(self._balanced))
            plan = f'{len(balancer.plan)} measurements until iteration {balancer.window:g}, gradients of {place}'
            told = plan if balancer.unit is None else f'weight {balancer.weight:g}, measured before'
            runner.logger.info(f'{distiller.key}.balance: ratio {balancer.ratio:.3g}, {told}')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Say which distillers this step measures; hold weights at the end of the window."""
        for distiller, balancer in self._balanced.values():
            factor = distiller.schedule.factor(runner.iter, runner.max_iters)
            for level, line in balancer.begin(runner.iter, factor, distiller.key):
                runner.logger.log(level, line)
            if balancer.due:
                distiller.state.loss_scale = loss_scale(runner)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Log what the step measured; the weights are in the log of every step."""
        model: Any = unwrap(runner.model)
        measured: dict[str, float] = model.distillation.measured if self._balanced else {}
        if measured and is_main_process():
            write_scalars(runner, measured, runner.iter + 1)
            text = ', '.join(f'{name} {value:.3g}' for name, value in measured.items())
            runner.logger.info(f'balance, iteration {runner.iter + 1}: {text}')
        measured.clear()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the measurements if a run can resume from the file."""
        if self._balanced and 'optimizer' in checkpoint:
            checkpoint['balance'] = {name: balancer.state() for name, (_, balancer) in self._balanced.items()}


def _check(runner: Runner, distiller: Distiller, balancer: Balancer) -> None:
    key = f'model.{distiller.key}.balance'
    reason = no_single_gradients(runner, unwrap(runner.model))
    if reason:
        raise ValueError(
            f'{key}: {reason}, so gradients of single losses cannot be taken. Switch that off; or make a short run '
            'without it and set balance=None and loss_weight to the weight that its log prints.'
        )
    if not getattr(unwrap(runner.model), 'has_task', True):
        raise ValueError(
            f'{key}: {type(unwrap(runner.model)).__name__} has no task that the ratio could refer to: set balance=None '
            'and give loss_weight.'
        )
    window, end = in_iterations(balancer.option.until, runner.max_iters), distiller.schedule.end(runner.max_iters)
    if window > end:
        raise ValueError(
            f'{key}.until={balancer.option.until} is iteration {window:g}, but the schedule ends at iteration {end:g}: '
            'measure until a point before that.'
        )
