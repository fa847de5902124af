"""The measurement of a training step that the weights of balanced distillers follow from."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmdistill_dense.distillers.base import Distiller, Losses
from mmdistill_dense.distillers.schedule import AUTO, Balancer, Measurement, auto_ratio
from mmdistill_dense.losses import loss_dtype
from mmdistill_dense.losses.tensors import sum_dtype
from mmdistill_dense.model.distill_model import StepPlugin, TrainStep, distillers_of
from mmdistill_dense.utils.distributed import mean_over_ranks

TASK = 'task'
ParameterGroups = Mapping[str, Sequence[Tensor]]


def split_terms(losses: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the terms of a model's losses, scalars that sum to what mmengine back-propagates."""
    terms: dict[str, Tensor] = {}
    for name, value in losses.items():
        if 'loss' not in name:
            continue
        key = name if name.startswith('distill.') else TASK
        term = torch.stack([part.mean() for part in ([value] if isinstance(value, Tensor) else value)]).sum()
        terms[key] = terms[key] + term if key in terms else term
    return terms


def backbone_parameters(model: nn.Module) -> list[Tensor]:
    """Return the trained parameters of the student's backbone, or of the whole student if it has none."""
    network = getattr(model, 'backbone', None)
    return _trained_parameters(network if isinstance(network, nn.Module) else model)


def _trained_parameters(network: nn.Module) -> list[Tensor]:
    parameters = network.named_parameters()
    return [value for name, value in parameters if value.requires_grad and not name.startswith('distillers.')]


def flat_gradients(term: Tensor, groups: ParameterGroups) -> dict[str, Tensor]:
    """Return the gradient of a term at each place as one vector; the graph is kept, and no ``.grad`` is touched."""
    inputs = [tensor for tensors in groups.values() for tensor in tensors]
    gradients: Sequence[Tensor | None] = [None] * len(inputs)
    if inputs and term.requires_grad:
        try:
            gradients = torch.autograd.grad(term, inputs, retain_graph=True, allow_unused=True)
        except RuntimeError as error:
            if 'heckpoint' not in str(error):
                raise
            problem = 'the student recomputes its activations, so the gradient of a single loss cannot be taken'
            raise ValueError(f'{problem}: switch activation_checkpointing and with_cp off.') from error
    dense = [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, gradients, strict=True)]
    vectors = iter([x.flatten().to(loss_dtype(x)) for x in dense])
    return {
        name: torch.cat([next(vectors) for _ in tensors]) if tensors else term.new_zeros(1)
        for name, tensors in groups.items()
    }


def balanced_of(distillers: Mapping[str, Distiller]) -> dict[str, tuple[Distiller, Balancer]]:
    """Return the balanced ones of some distillers by name."""
    return {name: (d, d.balancer) for name, d in distillers.items() if d.balancer is not None}


def choose_ratios(distillers: Mapping[str, Distiller], sgd: bool) -> list[str]:
    """Give the distillers with ``balance='auto'`` their ratio; return a line for the log for each.

    Only a run knows its optimizer, so this is done at its start, not when the model is built.
    """
    automatic = [(d, balancer) for d, balancer in balanced_of(distillers).values() if balancer.option.ratio == AUTO]
    for _, balancer in automatic:
        balancer.choose_ratio(auto_ratio(len(automatic), sgd))
    reason = ' with SGD' if sgd else ''
    reason += f', shared by {len(automatic)} distillers' if len(automatic) > 1 else ''
    return [f"{distiller.key}.balance='auto': ratio {balancer.ratio:.3g}{reason}" for distiller, balancer in automatic]


def balanced_place(model: nn.Module) -> tuple[str, list[Tensor]]:
    """Return where gradients are compared, in words, and the parameters: the trained ones of the student's backbone.

    If the backbone is frozen whole, these are all others that the student trains.
    """
    if parameters := backbone_parameters(model):
        return 'backbone', parameters
    return 'neck and heads, because the whole backbone is frozen', _trained_parameters(model)


class BalancedStep(StepPlugin):
    """Measures the distillers for which it is due, before the step is weighted.

    A measurement costs a backward pass to the backbone for the task and one for each of these distillers, and a vector
    as long as the backbone's parameters for each; the CPU waits for the device once.

    ``distillation.measured`` gets ``distill.<name>.ratio``, the norm of the distiller's weighted gradient over the
    task's. If several were measured, also the same of their sum as ``distill.ratio``, and
    ``distill.<name>.cosine.<other>``. The log of each step gets ``distill.<name>.weight``, a number on the CPU.
    """

    def add(self, step: TrainStep) -> None:
        """Measure, and tell the weights."""
        balanced = balanced_of(distillers_of(step.model))
        due = {name: pair for name, pair in balanced.items() if pair[1].due}
        if due:
            step.model.distillation.measured = _measured_step(step.model, due, step.losses, step.terms)
        weights = {f'distill.{name}.weight': torch.tensor(d.weight()) for name, (d, _) in balanced.items()}
        step.numbers = {**step.numbers, **weights}


def _measured_step(
    model: nn.Module,
    due: Mapping[str, tuple[Distiller, Balancer]],
    losses: Mapping[str, Any],
    compared: Mapping[str, Losses],
) -> dict[str, float]:
    """Give each distiller its measurement; return the ratios and cosines."""
    task = split_terms(losses).get(TASK)
    if task is None:
        key = f'distillers.{next(iter(due))}.balance'
        raise ValueError(f'{key}: the student has no own loss: set balance=None and loss_weight.')
    state = next(iter(due.values()))[0].state
    terms = [[value for key, value in compared[name].items() if 'loss' in key] for name in due]
    sums = [torch.stack(group).sum() if group else task.new_zeros(()) for group in terms]
    measured = _measure([task, *sums], model, state.loss_scale)
    for (distiller, balancer), norm, value in zip(due.values(), measured.norms[1:], measured.values[1:], strict=True):
        warning = balancer.add(Measurement(state.iteration, measured.norms[0], norm), value, distiller.key)
        if warning:
            print_log(warning, logger='current', level=logging.WARNING)
    return _log_numbers({name: distiller.weight() for name, (distiller, _) in due.items()}, measured)


@dataclass(frozen=True)
class _Norms:
    """Values and gradients of the task and of distillers, in this order."""

    values: Sequence[float]  # of the losses
    norms: Sequence[float]  # of the gradients
    products: Mapping[tuple[int, int], float]  # scalar products of the gradients of two distillers, by their numbers


def _measure(terms: Sequence[Tensor], model: nn.Module, scale: float) -> _Norms:
    """Measure terms; with several processes, their gradients are averaged before the norm.

    So all processes get the same numbers, those of one process with all pictures.
    """
    _, parameters = balanced_place(model)
    with torch.autocast(terms[0].device.type, enabled=False):
        vectors = [mean_over_ranks(flat_gradients(scale * term, {'': parameters})['']) for term in terms]
        exact = sum_dtype(terms[0])
        norms = [torch.linalg.vector_norm(vector, dtype=exact) / scale for vector in vectors]
        pairs = list(combinations(range(1, len(terms)), 2))
        products = [(vectors[i].to(exact) * vectors[j].to(exact)).sum() / scale**2 for i, j in pairs]
    rows = torch.stack([*(term.detach().to(exact) for term in terms), *norms, *products])
    numbers = mean_over_ranks(rows).tolist()  # another device may round a norm in another way
    count = len(terms)
    return _Norms(numbers[:count], numbers[count : 2 * count], dict(zip(pairs, numbers[2 * count :], strict=True)))


def _log_numbers(weights: Mapping[str, float], measured: _Norms) -> dict[str, float]:
    """Return ratios and cosines by the names in the log; what is not finite is left out."""
    names, (task, *norms) = list(weights), measured.norms
    pulls = [weight * norm for weight, norm in zip(weights.values(), norms, strict=True)]
    numbers = {f'distill.{name}.ratio': _ratio(pull, task) for name, pull in zip(names, pulls, strict=True)}
    square = sum(pull**2 for pull in pulls)
    for (i, j), product in measured.products.items():
        a, b = names[i - 1], names[j - 1]
        numbers[f'distill.{a}.cosine.{b}'] = _ratio(product, norms[i - 1] * norms[j - 1])
        square += 2 * weights[a] * weights[b] * product
    if measured.products:
        numbers['distill.ratio'] = _ratio(max(square, 0.0) ** 0.5, task)
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _ratio(number: float, by: float) -> float:
    return number / by if by > 0 else math.nan
