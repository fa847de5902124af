"""Value and gradient of each term of the loss of a training step."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmdistill_dense.losses import loss_dtype
from mmdistill_dense.losses.tensors import sum_dtype
from mmdistill_dense.networks.modes import attributes, without_side_effects
from mmdistill_dense.utils.distributed import unwrap
from mmdistill_dense.utils.runner_internals import Network

TASK = 'task'
BACKBONE = 'backbone'


@dataclass(frozen=True)
class Pull:
    norm: float  # its L2 norm
    share: float  # that norm over the sum of the norms of all terms there; 0 if all are zero
    cosine: float  # with the task's gradient at the same place; NaN where either is zero or there is no task


@dataclass(frozen=True)
class Term:
    """One term of the loss of a batch."""

    name: str  # ``'task'`` for the student's own losses together, else ``'distill.<distiller>.loss_…'``
    value: float  # as it is summed, with its weights
    share: float  # of the total loss
    pulls: Mapping[str, Pull]  # ``'backbone'``: at all its trained parameters


def pulls_of(losses: Mapping[str, Any], parameters: Sequence[Tensor]) -> list[Term]:
    """Measure the terms of a loss by its graph, which is kept, with a backward pass each; no ``.grad`` is touched."""
    terms = split_terms(losses)
    numbers, task = dict[str, tuple[float, float]](), None
    for name in sorted(terms, key=lambda name: name != TASK):  # all others are compared with the task's
        gradient = flat_gradient(terms[name], parameters)
        task = gradient if name == TASK else task
        numbers[name] = _norm_and_cosine(gradient, task)
    values = {name: float(term.detach()) for name, term in terms.items()}
    total, norms = sum(values.values()), sum(numbers[name][0] for name in terms)
    rows = []
    for name, value in values.items():
        norm, cosine = numbers[name]
        pull = Pull(norm, norm / norms if norms else 0.0, cosine)
        rows.append(Term(name, value, value / total if total else 0.0, {BACKBONE: pull}))
    return rows


def measure_gradients(model: Network, data: Mapping[str, Any]) -> list[Term]:
    """Measure the terms of a training step on one batch, and leave everything as it was.

    One forward pass in training mode and in the parameters' own precision (no autocast), one backward pass per term.
    Weights, ``.grad``, buffers (batch statistics, queues), modes, random streams and the batch stay as they are;
    mmseg's and mmdet's activation checkpointing (``with_cp``) is off in that pass.
    Of several processes, each gets the numbers of its own batch.
    """
    model = unwrap(model)
    recomputing = [module for module in model.modules() if getattr(module, 'with_cp', False) is True]
    runs = [model.distillation] if hasattr(model, 'distillation') else []  # which a runner starts
    with (
        without_side_effects(model),
        attributes(*recomputing, with_cp=False),
        attributes(*runs, started=True),
        torch.enable_grad(),
    ):
        model.train()
        ready = model.data_preprocessor(copy.deepcopy(data), True)
        with torch.autocast(next(model.parameters()).device.type, enabled=False):
            losses = model(**ready, mode='loss')
        return pulls_of(losses, backbone_parameters(model))


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
    backbone = getattr(model, 'backbone', None)
    parameters = (backbone if isinstance(backbone, nn.Module) else model).named_parameters()
    return [value for name, value in parameters if value.requires_grad and not name.startswith('distillers.')]


def flat_gradient(term: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Return the gradient of a term as one vector; the graph is kept, and no ``.grad`` is touched."""
    gradients: Sequence[Tensor | None] = [None] * len(parameters)
    if parameters and term.requires_grad:
        try:
            gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
        except RuntimeError as error:
            if 'heckpoint' not in str(error):
                raise
            problem = 'the student recomputes its activations, so the gradient of a single loss cannot be taken'
            raise ValueError(f'{problem}: switch activation_checkpointing and with_cp off.') from error
    filled = [torch.zeros_like(x) if g is None else g for x, g in zip(parameters, gradients, strict=True)]
    return torch.cat([x.flatten().to(loss_dtype(x)) for x in filled]) if filled else term.new_zeros(1)


def _norm_and_cosine(gradient: Tensor, task: Tensor | None) -> tuple[float, float]:
    """Return the norm of a gradient, and its cosine with the task's."""
    exact, reference = sum_dtype(gradient), gradient.new_zeros(()) if task is None else task
    norm, other = (float(torch.linalg.vector_norm(x, dtype=exact)) for x in (gradient, reference))
    product = float((gradient.to(exact) * reference.to(exact)).sum())
    return norm, product / (norm * other) if norm * other > 0 else math.nan
