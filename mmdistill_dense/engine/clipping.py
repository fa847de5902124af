"""Clip the gradients of each distiller by its own limit, and exclude them from the user's clipping."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor
from torch.optim import Optimizer

from mmdistill_dense.distillers.base import Distiller
from mmdistill_dense.model.distillation import distillers_of
from mmdistill_dense.utils.distributed import unwrap
from mmdistill_dense.utils.runner_internals import wrappers_of


class Clipping(Hook):
    """Clips when the optimizer begins its step, so after gradient accumulation and the user's clipping."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], Any]] = []

    def before_train(self, runner: Runner) -> None:
        """Clip in every step of a runner's optimizer until the training ends.

        Raises:
            ValueError: For a distiller that several optimizers train, or one that hides the scale of mixed precision.
        """
        self.after_train(runner)  # remove the hooks of a training that was interrupted
        distillers = distillers_of(unwrap(runner.model))
        wrappers = wrappers_of(runner.optim_wrapper)
        for name, distiller in distillers.items():
            trains = any(parameter.requires_grad for parameter in distiller.parameters())
            if distiller.clip_max_norm is not None and trains:
                wrapper = _holder(name, distiller, wrappers)
                clip = partial(_clip, runner, name, distiller)
                self._undo.append(wrapper.optimizer.register_step_pre_hook(clip).remove)
        owned = {id(parameter) for distiller in distillers.values() for parameter in distiller.parameters()}
        for wrapper in (one for one in wrappers if one.clip_grad_kwargs):
            # It clips all parameters together; a large distiller gradient must not shrink the student's.
            self._undo.append(partial(setattr, wrapper, 'clip_func', wrapper.clip_func))
            wrapper.clip_func = partial(_clip_students, wrapper.clip_func, owned)

    def after_train(self, runner: Runner) -> None:
        """Restore the runner."""
        while self._undo:
            self._undo.pop()()


def _holder(name: str, distiller: Distiller, wrappers: Sequence[OptimWrapper]) -> OptimWrapper:
    key = f'model.distillers.{name}.clip_max_norm'
    owned = {id(parameter) for parameter in distiller.parameters()}
    holders = [one for one in wrappers if any(id(p) in owned for group in one.param_groups for p in group['params'])]
    if len(holders) != 1:
        raise ValueError(f'{key} is for parameters of one optimizer, but {len(holders)} train them: set it to None.')
    (wrapper,) = holders
    if hasattr(wrapper, 'loss_scaler') and 'grad_scaler' in inspect.signature(wrapper.optimizer.step).parameters:
        raise ValueError(
            f'{key}: {type(wrapper.optimizer).__name__}.step uses the scaler of mixed precision itself, so the scale '
            'of the gradients is unknown; set clip_max_norm=None, or use an optimizer of torch.'
        )
    return wrapper


def clip_unscaled(distiller: Distiller, optimizer: Optimizer) -> Tensor | None:
    """Clip the gradients of a distiller by their norm without the loss scale.

    Returns:
        The norm before; ``None`` if the optimizer will skip the step, and then nothing is clipped.
    """
    # A GradScaler sets these attributes on a fused optimizer, which unscales the gradients and skips steps with
    # infinite ones by itself. The scale is None if the gradients were unscaled for the user's clipping.
    scale, infinite = (getattr(optimizer, attribute, None) for attribute in ('grad_scale', 'found_inf'))
    if infinite is not None and infinite:
        return None
    return distiller.clip_gradients(1.0 if scale is None else scale)


def _clip(runner: Runner, name: str, distiller: Distiller, optimizer: Optimizer, *_: Any) -> None:
    norm = clip_unscaled(distiller, optimizer)
    if norm is not None:
        runner.message_hub.update_scalar(f'train/distill.{name}.grad_norm', norm)


def _clip_students(clip: Callable[..., Any], owned: set[int], parameters: Sequence[Tensor], **options: Any) -> Any:
    """Do the user's clipping over the parameters that no distiller owns."""
    return clip([parameter for parameter in parameters if id(parameter) not in owned], **options)
