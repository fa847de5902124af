"""Clips the gradients of distillers, each by a limit of its own, and keeps them out of the user's clipping."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor
from torch.optim import Optimizer

from mmdistill_dense.distillers.base import Distiller
from mmdistill_dense.utils.distributed import unwrap


class Clipping(Hook):
    """Clips at the last moment, as the optimizer begins its step, so behind accumulation and the user's clipping."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], Any]] = []

    def before_train(self, runner: Runner) -> None:
        """Clip the steps of a runner's optimizer until the training ends.

        Raises:
            ValueError: For a run with several optimizers, or with one that hides the scale of mixed precision.
        """
        self.after_train(runner)  # of a training that was broken off
        distillers: Mapping[str, Distiller] = getattr(unwrap(runner.model), 'distillers', {})
        wrapper: Any = runner.optim_wrapper
        for name, distiller in distillers.items():
            trains = any(parameter.requires_grad for parameter in distiller.parameters())
            if distiller.clip_max_norm is not None and trains:
                _check(name, wrapper)
                clip = partial(_clip, runner, name, distiller)
                self._undo.append(wrapper.optimizer.register_step_pre_hook(clip).remove)
        if getattr(wrapper, 'clip_grad_kwargs', None):
            owned = {id(parameter) for distiller in distillers.values() for parameter in distiller.parameters()}
            self._undo.append(partial(setattr, wrapper, 'clip_func', wrapper.clip_func))
            wrapper.clip_func = partial(_clip_students, wrapper.clip_func, owned)

    def after_train(self, runner: Runner) -> None:
        """Leave the runner as it was."""
        while self._undo:
            self._undo.pop()()


def _check(name: str, wrapper: Any) -> None:
    key = f'model.distillers.{name}.clip_max_norm'
    if not hasattr(wrapper, 'optimizer'):
        raise ValueError(f'{key} needs one optimizer, this run has several ({type(wrapper).__name__}); set it to None.')
    if hasattr(wrapper, 'loss_scaler') and 'grad_scaler' in inspect.signature(wrapper.optimizer.step).parameters:
        raise ValueError(
            f'{key}: {type(wrapper.optimizer).__name__}.step takes the scaler of mixed precision itself, and the scale '
            'of the gradients cannot be known; set clip_max_norm=None, or take an optimizer of torch.'
        )


def clip_unscaled(distiller: Distiller, optimizer: Optimizer) -> Tensor | None:
    """Clip the gradients of a distiller as an optimizer begins its step, by their size without the loss scale.

    Returns:
        Their norm before; ``None``, and nothing is clipped, where the step is left out.
    """
    # A GradScaler leaves unscaling, and the omission of a step with infinite gradients, to a fused optimizer: it sets
    # both attributes for the step; the scale is None where the gradients were unscaled for the user's clipping.
    scale, infinite = (getattr(optimizer, attribute, None) for attribute in ('grad_scale', 'found_inf'))
    if infinite is not None and infinite:
        return None
    return distiller.clip_gradients(1.0 if scale is None else scale)


def _clip(runner: Runner, name: str, distiller: Distiller, optimizer: Optimizer, *_: Any) -> None:
    norm = clip_unscaled(distiller, optimizer)
    if norm is not None:
        runner.message_hub.update_scalar(f'train/distill.{name}.grad_norm', norm)


def _clip_students(clip: Callable[..., Any], owned: set[int], parameters: Sequence[Tensor], **options: Any) -> Any:
    """The user's own clipping, over the student's parameters alone: a large distiller gradient must not shrink its
    step."""
    return clip([parameter for parameter in parameters if id(parameter) not in owned], **options)
