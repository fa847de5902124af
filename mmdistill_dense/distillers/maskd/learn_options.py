"""Options of token learning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import torch
from mmengine.optim import OPTIMIZERS
from torch import Tensor

from mmdistill_dense.config.unknown_keys import hint
from mmdistill_dense.utils.validate import check_count, check_types


@dataclass(frozen=True)
class LearnOptions:
    """How tokens are learned on the teacher; defaults are those of the released detection configs.

    Args:
        max_iters: Iterations. Defaults to 2000.
        optimizer: Any optimizer that mmengine knows, with its ``lr``. Defaults to Adam, 0.01, weight decay 0.001.
        schedule: ``'cosine'``, or ``'poly'`` for ``lr (1 - k / max_iters)^power``, per iteration.
        eta_min: Learning rate at the end. Defaults to 1e-6 for cosine and 0 for poly.
        power: Exponent of the poly schedule. Defaults to 0.9.
        clip_grad: As in ``optim_wrapper``, e.g. ``dict(max_norm=35)``, over all gradients. Defaults to no clipping.
        dice_weight: Weight of the Dice term beside the teacher's task loss. Defaults to 1.
        save_interval: Iterations between two files from which interrupted learning continues.
        log_interval: Iterations between two log lines; for each, the teacher also runs once without masks.
    """

    max_iters: int = 2000
    optimizer: Mapping[str, Any] = field(default_factory=lambda: {'type': 'Adam', 'lr': 0.01, 'weight_decay': 1e-3})
    schedule: Literal['cosine', 'poly'] = 'cosine'
    eta_min: float | None = None
    power: float | None = None
    clip_grad: Mapping[str, Any] | None = None
    dice_weight: float = 1.0
    save_interval: int = 500
    log_interval: int = 50

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> LearnOptions:
        """Check the dict that a config holds.

        Raises:
            KeyError: For an unknown name.
            ValueError: For a value out of range, or one that would have no effect.
        """
        if not isinstance(options, Mapping):
            raise ValueError(f'learn must be a dict of options, got {options!r}.')
        known = [one.name for one in fields(cls)]
        for name in options:
            if name not in known:
                raise KeyError(f'learn.{name} is no option; known: {", ".join(known)}.{hint(name, known)}')
        check_types(cls, options, 'learn.')
        learn = cls(**_plain(options))
        learn._check()
        return learn

    def _check(self) -> None:
        for name in ('max_iters', 'save_interval', 'log_interval'):
            check_count(f'learn.{name}', getattr(self, name), 1)
        if self.power is not None and self.schedule != 'poly':
            raise ValueError("learn.power has an effect only with learn.schedule='poly'; set that or leave power out.")
        if not {'type', 'lr'} <= set(self.optimizer):
            raise ValueError(f"learn.optimizer must be dict(type='Adam', lr=…, …), got {self.optimizer!r}.")
        self.build_optimizer([torch.zeros(1, requires_grad=True)])  # fails now, not hours later
        clip = self.clip_grad
        if clip is not None and not {'max_norm'} <= set(clip) <= {'max_norm', 'norm_type'}:
            raise ValueError(f'learn.clip_grad must be None or dict(max_norm=…, norm_type=2), got {clip!r}.')
        if self.dice_weight < 0:
            raise ValueError(f'learn.dice_weight must be >= 0, got {self.dice_weight!r}.')

    def build_optimizer(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """Build the optimizer.

        Raises:
            ValueError: For a type that mmengine does not know, or an option that the type does not take.
        """
        try:
            return OPTIMIZERS.build({**self.optimizer, 'params': parameters})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f'learn.optimizer={dict(self.optimizer)!r} cannot be built: {error}') from error

    def rate(self, iteration: int) -> float:
        """Return the learning rate of an iteration, counted from 0."""
        first = float(self.optimizer['lr'])
        if self.schedule == 'cosine':
            last = 1e-6 if self.eta_min is None else self.eta_min
            return last + (first - last) * (1 + math.cos(math.pi * iteration / self.max_iters)) / 2
        last = 0.0 if self.eta_min is None else self.eta_min
        return last + (first - last) * (1 - iteration / self.max_iters) ** (0.9 if self.power is None else self.power)

    def identity(self) -> dict[str, Any]:
        """Return the options on which the learned values depend."""
        return {name: value for name, value in asdict(self).items() if name not in ('save_interval', 'log_interval')}


def _plain(value: Any) -> Any:
    """Return plain containers: token files hold the options and must load without mmengine's classes."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
