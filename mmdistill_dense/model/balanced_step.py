"""The measurement of a training step that the weights of balanced distillers follow from."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmdistill_dense.distillers.balance import AUTO, Balancer, Try, auto_ratio
from mmdistill_dense.distillers.base import Distiller, Losses
from mmdistill_dense.losses.precision import sum_dtype
from mmdistill_dense.model.distillation import Distillation, distillers_of
from mmdistill_dense.model.term_gradients import TASK, backbone_parameters, flat_gradients, split_terms
from mmdistill_dense.utils.distributed import mean_over_ranks

_PLACE = 'place'


def balanced_of(distillers: Mapping[str, Distiller]) -> dict[str, tuple[Distiller, Balancer]]:
    """Return the balanced ones of some distillers by name."""
    return {name: (one, one.balancer) for name, one in distillers.items() if one.balancer is not None}


def choose_ratios(distillers: Mapping[str, Distiller], sgd: bool) -> list[str]:
    """Give the distillers with ``balance='auto'`` their ratio; return a line for the log for each.

    Only a run knows its optimizer, so this is done at its start, not when the model is built.

    Args:
        distillers: All distillers of the model by name.
        sgd: Whether the student is trained by SGD.
    """
    open_ones = [(one, balancer) for one, balancer in balanced_of(distillers).values() if balancer.option.ratio == AUTO]
    for _, balancer in open_ones:
        balancer.choose_ratio(auto_ratio(len(open_ones), sgd))
    reason = ' with SGD' if sgd else ''
    reason += f', shared by {len(open_ones)} distillers' if len(open_ones) > 1 else ''
    return [f"{one.key}.balance='auto': ratio {balancer.ratio:.3g}{reason}" for one, balancer in open_ones]


def balanced_place(model: nn.Module) -> tuple[str, list[Tensor]]:
    """Return where gradients are compared, in words, and the parameters: the trained ones of the student's backbone.

    If the backbone is frozen whole, these are all others that the student trains.
    """
    if found := backbone_parameters(model):
        return 'backbone', found
    named = model.named_parameters()
    others: list[Tensor] = [
        value for name, value in named if value.requires_grad and not name.startswith('distillers.')
    ]
    return 'neck and heads, because the whole backbone is frozen', others


def balance(
    model: nn.Module, distillation: Distillation, losses: Mapping[str, Any], compared: Mapping[str, Losses]
) -> dict[str, Tensor]:
    """Measure the distillers for which it is due, before the step is weighted.

    A measurement costs a backward pass to the backbone for the task and one for each of these distillers, and a vector
    as long as the backbone's parameters for each; the CPU waits for the device once.

    Args:
        model: The student with its distillers.
        distillation: Its ``measured`` gets ``distill.<name>.ratio``, the norm of the distiller's weighted gradient over
            the task's. If several were measured, also the same of their sum as ``distill.ratio``, and
            ``distill.<name>.cosine.<other>``.
        losses: The student's own.
        compared: The terms of each distiller without weight.

    Returns:
        For each balanced distiller ``distill.<name>.weight``, on the CPU, for the log.
    """
    balanced = balanced_of(distillers_of(model))
    due = {name: one for name, one in balanced.items() if one[1].due}
    if due:
        distillation.measured = _measured_step(model, due, losses, compared)
    return {f'distill.{name}.weight': torch.tensor(one.weight()) for name, (one, _) in balanced.items()}


def _measured_step(
    model: nn.Module,
    due: Mapping[str, tuple[Distiller, Balancer]],
    losses: Mapping[str, Any],
    compared: Mapping[str, Losses],
) -> dict[str, float]:
    """Give each distiller its measurement; return the ratios and cosines."""
    task = split_terms(losses).get(TASK)
    if task is None:
        raise ValueError(
            f'distillers.{next(iter(due))}.balance: the student has no loss of its own that the ratio could refer to: '
            'set balance=None and give loss_weight.'
        )
    state = next(iter(due.values()))[0].state
    measured = _measure([task, *(_sum(compared[name], task) for name in due)], model, state.loss_scale)
    for (one, balancer), norm, value in zip(due.values(), measured.norms[1:], measured.values[1:], strict=True):
        warning = balancer.add(Try(state.iteration, measured.norms[0], norm), value, one.key)
        if warning:
            print_log(warning, logger='current', level=logging.WARNING)
    return _told({name: one.weight() for name, (one, _) in due.items()}, measured)


def _sum(terms: Losses, like: Tensor) -> Tensor:
    counted = [value for name, value in terms.items() if 'loss' in name]
    return torch.stack(counted).sum() if counted else like.new_zeros(())


@dataclass(frozen=True)
class _Measured:
    """Values and gradients of the task and of distillers, in this order.

    Attributes:
        values: Of the losses.
        norms: Of the gradients.
        products: Scalar products of the gradients of two distillers, by their numbers.
    """

    values: Sequence[float]
    norms: Sequence[float]
    products: Mapping[tuple[int, int], float]


def _measure(terms: Sequence[Tensor], model: nn.Module, scale: float) -> _Measured:
    """Measure terms; with several processes, their gradients are averaged before the norm.

    So all processes get the same numbers, those of one process with all pictures.
    """
    _, parameters = balanced_place(model)
    with torch.autocast(terms[0].device.type, enabled=False):
        found = [mean_over_ranks(flat_gradients(scale * term, {_PLACE: parameters})[_PLACE]) for term in terms]
        exact = sum_dtype(terms[0])
        norms = [torch.linalg.vector_norm(vector, dtype=exact) / scale for vector in found]
        pairs = list(combinations(range(1, len(terms)), 2))
        products = [(found[i].to(exact) * found[j].to(exact)).sum() / scale**2 for i, j in pairs]
    rows = torch.stack([*(term.detach().to(exact) for term in terms), *norms, *products])
    numbers = mean_over_ranks(rows).tolist()  # another device may round a norm in another way
    count = len(terms)
    return _Measured(numbers[:count], numbers[count : 2 * count], dict(zip(pairs, numbers[2 * count :], strict=True)))


def _told(weights: Mapping[str, float], measured: _Measured) -> dict[str, float]:
    """Return ratios and cosines by the names in the log; what is not finite is left out."""
    names, (task, *norms) = list(weights), measured.norms
    pulls = [weight * norm for weight, norm in zip(weights.values(), norms, strict=True)]
    told = {f'distill.{name}.ratio': _over(pull, task) for name, pull in zip(names, pulls, strict=True)}
    square = sum(pull**2 for pull in pulls)
    for (i, j), product in measured.products.items():
        first, second = names[i - 1], names[j - 1]
        told[f'distill.{first}.cosine.{second}'] = _over(product, norms[i - 1] * norms[j - 1])
        square += 2 * weights[first] * weights[second] * product
    if measured.products:
        told['distill.ratio'] = _over(max(square, 0.0) ** 0.5, task)
    return {name: value for name, value in told.items() if math.isfinite(value)}


def _over(number: float, by: float) -> float:
    return number / by if by > 0 else math.nan
