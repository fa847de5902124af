"""Value and gradient of each term of the loss of a training step."""

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmdistill_dense.losses import loss_dtype
from mmdistill_dense.losses.tensors import sum_dtype
from mmdistill_dense.model.distill_model import distillers_of
from mmdistill_dense.networks.modes import without_side_effects
from mmdistill_dense.networks.recording import Recorder
from mmdistill_dense.utils.distributed import mean_over_ranks, unwrap
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
    if not terms:
        return []
    rows: list[Tensor] = []
    task_gradients: dict[str, Tensor] = {}
    names = sorted(terms, key=lambda name: name != TASK)  # all others are compared with the task's
    for name in names:
        gradients = flat_gradients(terms[name], groups)
        task_gradients = gradients if name == TASK else task_gradients
        value = terms[name].detach()
        rows.append(torch.stack([value.to(sum_dtype(value)), *_norms_and_products(gradients, task_gradients)]))
    numbers = mean_over_ranks(torch.stack([row.to(rows[0].device) for row in rows])).tolist()
    values = dict(zip(names, numbers, strict=True))
    return _assemble({name: values[name] for name in terms}, list(groups))


def measure_gradients(model: Network, data: Mapping[str, Any]) -> list[Term]:
    """Measure the terms of a training step on one batch, and leave everything as it was.

    One forward pass in training mode and in the parameters' own precision (no autocast), one backward pass per term.
    Weights, ``.grad``, buffers (batch statistics, queues), modes, random streams and the batch stay as they are;
    mmseg's and mmdet's activation checkpointing (``with_cp``) is off in that pass.
    """
    model = unwrap(model)
    active = [distiller for distiller in distillers_of(model).values() if distiller.weight() != 0]
    taps = list(dict.fromkeys(tap for distiller in active for tap in distiller.student_taps))
    recorders = [Recorder(model, taps, 'student_tap', copies=copies) for copies in (False, True)]
    with contextlib.ExitStack() as stack:
        for context in (without_side_effects(model), _ready(model), torch.enable_grad()):
            stack.enter_context(context)
        model.train()
        ready = model.data_preprocessor(copy.deepcopy(data), True)
        maps, as_recorded = (stack.enter_context(recorder.recording()) for recorder in recorders)
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
    dense = [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, gradients, strict=True)]
    vectors = iter([x.flatten().to(loss_dtype(x)) for x in dense])
    return {
        name: torch.cat([next(vectors) for _ in tensors]) if tensors else term.new_zeros(1)
        for name, tensors in groups.items()
    }


def _norms_and_products(gradients: Mapping[str, Tensor], task: Mapping[str, Tensor]) -> list[Tensor]:
    """Return for each place the norm and the cosine with the task's gradient."""
    numbers = []
    for name, gradient in gradients.items():
        exact, reference = sum_dtype(gradient), task.get(name, gradient.new_zeros(()))
        norm, other = (torch.linalg.vector_norm(tensor, dtype=exact) for tensor in (gradient, reference))
        product = (gradient.to(exact) * reference.to(exact)).sum()
        numbers += [norm, torch.where(norm * other > 0, product / (norm * other), math.nan)]
    return numbers


def _assemble(values: Mapping[str, Sequence[float]], group_names: Sequence[str]) -> list[Term]:
    total = sum(row[0] for row in values.values())
    norms = [sum(row[1 + 2 * i] for row in values.values()) for i in range(len(group_names))]
    terms = []
    for name, row in values.items():
        pulls = {
            group: Pull(row[1 + 2 * i], row[1 + 2 * i] / norms[i] if norms[i] else 0.0, row[2 + 2 * i])
            for i, group in enumerate(group_names)
        }
        terms.append(Term(name, row[0], row[0] / total if total else 0.0, pulls))
    return terms


@contextlib.contextmanager
def _ready(model: nn.Module) -> Iterator[None]:
    """Let a model run without a runner, and without recomputing activations."""
    distillation = getattr(model, 'distillation', None)
    started = getattr(distillation, 'started', False)
    recomputing: list[Any] = [module for module in model.modules() if getattr(module, 'with_cp', False) is True]
    try:
        if distillation is not None:
            distillation.started = True
        for module in recomputing:
            module.with_cp = False
        yield
    finally:
        if distillation is not None:
            distillation.started = started
        for module in recomputing:
            module.with_cp = True
