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
from mmdistill_dense.model.distill_model import distillers_of
from mmdistill_dense.networks.modes import attributes, without_side_effects
from mmdistill_dense.networks.recording import Recorder
from mmdistill_dense.utils.distributed import unwrap
from mmdistill_dense.utils.runner_internals import Network

TASK = 'task'
BACKBONE = 'backbone'
TAP = 'tap '  # before the name of a tapped map
ParameterGroups = Mapping[str, Sequence[Tensor]]


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
    # by place: ``'backbone'`` (all its trained parameters) and each tapped map, as ``'tap <name>'``
    pulls: Mapping[str, Pull]


def pulls_of(losses: Mapping[str, Any], groups: ParameterGroups) -> list[Term]:
    """Measure the terms of a loss by its graph, which is kept, with a backward pass each; no ``.grad`` is touched."""
    terms = split_terms(losses)
    numbers, task = dict[str, dict[str, tuple[float, float]]](), dict[str, Tensor]()
    for name in sorted(terms, key=lambda name: name != TASK):  # all others are compared with the task's
        gradients = flat_gradients(terms[name], groups)
        task = gradients if name == TASK else task
        numbers[name] = {group: _norm_and_cosine(x, task.get(group)) for group, x in gradients.items()}
    values = {name: float(term.detach()) for name, term in terms.items()}
    total, norms = sum(values.values()), {group: sum(numbers[name][group][0] for name in terms) for group in groups}
    rows = []
    for name, value in values.items():
        pulls = {
            group: Pull(norm, norm / norms[group] if norms[group] else 0.0, cosine)
            for group, (norm, cosine) in numbers[name].items()
        }
        rows.append(Term(name, value, value / total if total else 0.0, pulls))
    return rows


def measure_gradients(model: Network, data: Mapping[str, Any]) -> list[Term]:
    """Measure the terms of a training step on one batch, and leave everything as it was.

    One forward pass in training mode and in the parameters' own precision (no autocast), one backward pass per term.
    Weights, ``.grad``, buffers (batch statistics, queues), modes, random streams and the batch stay as they are;
    mmseg's and mmdet's activation checkpointing (``with_cp``) is off in that pass.
    Of several processes, each gets the numbers of its own batch.
    """
    model = unwrap(model)
    active = [distiller for distiller in distillers_of(model).values() if distiller.weight() != 0]
    taps = list(dict.fromkeys(tap for distiller in active for tap in distiller.student_taps))
    recorders = [Recorder(model, taps, 'student_tap', copies=copies) for copies in (False, True)]
    recomputing = [module for module in model.modules() if getattr(module, 'with_cp', False) is True]
    runs = [model.distillation] if hasattr(model, 'distillation') else []  # which a runner starts
    with (
        without_side_effects(model),
        attributes(*recomputing, with_cp=False),
        attributes(*runs, started=True),
        torch.enable_grad(),
        recorders[0].recording() as maps,
        recorders[1].recording() as as_recorded,
    ):
        model.train()
        ready = model.data_preprocessor(copy.deepcopy(data), True)
        with torch.autocast(next(model.parameters()).device.type, enabled=False):
            losses = model(**ready, mode='loss')
        for name, tensors in as_recorded.items():
            if not all(map(torch.equal, tensors, maps[name])):  # overwritten after the comparison: nothing to measure
                del maps[name]
        tapped = {f'{TAP}{name}': tensors for name, tensors in maps.items()}
        return pulls_of(losses, {BACKBONE: backbone_parameters(model), **tapped})


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
    filled = (torch.zeros_like(x) if g is None else g for x, g in zip(inputs, gradients, strict=True))
    vectors = iter([x.flatten().to(loss_dtype(x)) for x in filled])
    return {
        name: torch.cat([next(vectors) for _ in tensors]) if tensors else term.new_zeros(1)
        for name, tensors in groups.items()
    }


def _norm_and_cosine(gradient: Tensor, task: Tensor | None) -> tuple[float, float]:
    """Return the norm of a gradient, and its cosine with the task's."""
    exact, reference = sum_dtype(gradient), gradient.new_zeros(()) if task is None else task
    norm, other = (float(torch.linalg.vector_norm(x, dtype=exact)) for x in (gradient, reference))
    product = float((gradient.to(exact) * reference.to(exact)).sum())
    return norm, product / (norm * other) if norm * other > 0 else math.nan
