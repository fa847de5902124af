"""The recipe that trains student and teacher of a project alike: optimizer, rate, schedule, length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mmdistill_dense.apps.project.sides import Side
from mmdistill_dense.config.values import optimizer_of

LEAST_STEPS, MOST_STEPS = 2000, 80_000
PASSES = 100  # over the data, within these limits
# docs/results.md has the rates and optimizers that were tried, and how far each was from the best
RANDOM_RATE, PRETRAINED_RATE = 0.004, 0.002
_DECAY = 0.05
_CLIP = {'max_norm': 10.0, 'norm_type': 2}
_WARM_SHARE = 20  # the rate rises for a twentieth of the training
_PLAIN = {'norm_decay_mult': 0.0, 'bias_decay_mult': 0.0, 'bypass_duplicate': True}


@dataclass(frozen=True)
class Training:
    """How a network is trained."""

    optim_wrapper: dict[str, Any]
    param_scheduler: list[dict[str, Any]]  # in steps
    steps: int  # their number
    start: str | None  # weights of the whole network, in the place of those of its config
    note: str  # what was decided


def length(pictures: int, batch: int) -> int:
    """Return the steps of a training over so many ``pictures``: ``PASSES`` over them, within the limits."""
    return min(MOST_STEPS, max(LEAST_STEPS, math.ceil(PASSES * pictures / batch)))


def recipe(side: Side, pictures: int, batch: int, steps: int) -> Training:
    """Return the training of a network: AdamW, a warm-up, a cosine to 0, half precision on a GPU."""
    rate, why, parts = _rate(side)
    warm = max(1, steps // _WARM_SHARE)
    half = torch.cuda.is_available()
    cosine = {'type': 'CosineAnnealingLR', 'T_max': steps - warm, 'eta_min': 0, 'begin': warm, 'end': steps}
    rounds = f'{steps * batch / pictures:.0f}'
    note = f'AdamW at lr {rate} ({why}), cosine to 0, {steps} steps of {batch} pictures '
    note += f'({rounds} pass{"" if rounds == "1" else "es"} over the data){", half precision" if half else ""}'
    return Training(
        {
            'type': 'AmpOptimWrapper' if half else 'OptimWrapper',
            'optimizer': {'type': 'AdamW', 'lr': rate, 'weight_decay': _DECAY},
            'clip_grad': _CLIP,
            **parts,
        },
        [
            {'type': 'LinearLR', 'start_factor': 0.01, 'begin': 0, 'end': warm, 'by_epoch': False},
            {**cosine, 'by_epoch': False},
        ],
        steps,
        side.start,
        note,
    )


def _rate(side: Side) -> tuple[float, str, dict[str, Any]]:
    """Return the rate of a network, why, and which of its parts learn more slowly.

    A config that has Adam itself knows the rate of its pre-trained weights, mostly those of a transformer, and the
    factors of its parts. These do not hold for random weights.
    """
    wrapper: Mapping[str, Any] = side.config.get('optim_wrapper') or {}
    paramwise = {**_PLAIN, **(wrapper.get('paramwise_cfg') or {})}
    if side.random:
        return RANDOM_RATE, 'from random weights', {'paramwise_cfg': _PLAIN}
    optimizer = optimizer_of(side.config)
    constructor = {'constructor': wrapper['constructor']} if wrapper.get('constructor') else {}
    parts = {'paramwise_cfg': paramwise, **constructor}
    if str(optimizer.get('type')).startswith('Adam') and optimizer.get('lr'):
        return optimizer['lr'], 'as its config', parts
    return PRETRAINED_RATE, 'from pre-trained weights', parts
