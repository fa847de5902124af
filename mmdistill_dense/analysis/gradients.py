"""Value and gradient of each term of the loss, and the cosine of that gradient with the task's."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from mmdistill_dense.losses.precision import sum_dtype
from mmdistill_dense.model.distillation import distillers_of
from mmdistill_dense.model.term_gradients import TASK, Places, backbone_parameters, flat_gradients, split_terms
from mmdistill_dense.networks.modes import untouched
from mmdistill_dense.networks.recording import Recorder
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.utils.distributed import mean_over_ranks, unwrap
from mmdistill_dense.utils.protocols import Network

BACKBONE = 'backbone'
TAP = 'tap '  # before the name of a tapped map


@dataclass(frozen=True)
class Pull:
    """The gradient of one term at one place.

    Attributes:
        norm: Its L2 norm.
        share: That norm over the sum of the norms of all terms there; 0 if all are zero.
        cosine: With the task's gradient at the same place; NaN where either is zero or there is no task.
    """

    norm: float
    share: float
    cosine: float


@dataclass(frozen=True)
class Term:
    """One term of the loss of a batch.

    Attributes:
        name: ``'task'`` for the student's own losses together, else ``'distill.<distiller>.loss_…'``.
        value: As it is summed, with its weights.
        share: Of the total loss.
        pulls: By place: ``'backbone'`` (all its trained parameters) and each tapped map, as ``'tap <name>'``.
    """

    name: str
    value: float
    share: float
    pulls: Mapping[str, Pull]


def student_taps(model: nn.Module) -> list[Tap]:
    """Return the student taps of a model's active distillers, without duplicates."""
    return list(dict.fromkeys(tap for d in distillers_of(model).values() if d.weight() != 0 for tap in d.student_taps))


def tapped(maps: Places) -> dict[str, Sequence[Tensor]]:
    """Return recorded taps as places."""
    return {f'{TAP}{name}': tensors for name, tensors in maps.items()}


def pulls_of(losses: Mapping[str, Any], places: Places, scale: float = 1.0) -> list[Term]:
    """Measure the terms of a loss by its graph, which is kept; no ``.grad`` is touched.

    Costs a backward pass per term.

    Args:
        losses: What ``model.loss`` returned.
        places: Tensors of the graph by name, e.g. ``{'backbone': parameters}``.
        scale: Multiplied into a term before its gradient is taken, and out of the norm again: the loss scale of
            float16. Defaults to 1.

    Returns:
        The terms in the order of the losses. With several processes, means over them of each one's own.
    """
    terms = split_terms(losses)
    if not terms:
        return []
    rows: list[Tensor] = []
    own: dict[str, Tensor] = {}
    for name in sorted(terms, key=lambda name: name != TASK):  # all others are compared with the task's
        found = flat_gradients(scale * terms[name], places)
        own = found if name == TASK else own
        value = terms[name].detach()
        rows.append(torch.stack([value.to(sum_dtype(value)), *_norms_and_products(found, own, scale)]))
    numbers = mean_over_ranks(torch.stack([row.to(rows[0].device) for row in rows])).tolist()
    values = dict(zip(sorted(terms, key=lambda name: name != TASK), numbers, strict=True))
    return _assemble({name: values[name] for name in terms}, list(places))


def measure_gradients(model: Network, data: Mapping[str, Any], places: Places | None = None) -> list[Term]:
    """Measure the terms of a training step on one batch, and leave everything as it was.

    One forward pass in training mode and in the parameters' own precision (no autocast), one backward pass per term.
    Weights, ``.grad``, buffers (batch statistics, queues), modes, random streams and the batch stay as they are;
    mmseg's and mmdet's activation checkpointing (``with_cp``) is off in that pass.

    Args:
        model: A built ``DistillModel`` with loaded teachers, and with what its distillers prepare (MasKD's tokens); or
            an ordinary student, or either of them inside DDP.
        data: A batch as the loader gives it.
        places: Further parameters by name, e.g. ``{'layer4': list(model.backbone.layer4.parameters())}``.
            ``'backbone'`` (all its trained parameters) and the tapped maps are always there.

    Returns:
        See :func:`pulls_of`.
    """
    model = unwrap(model)
    recorder = Recorder(model, student_taps(model), 'student_tap')
    with untouched(model), _ready(model), torch.enable_grad():
        model.train()
        ready = model.data_preprocessor(copy.deepcopy(data), True)
        with recorder.recording() as maps, torch.autocast(next(model.parameters()).device.type, enabled=False):
            losses = model(**ready, mode='loss')
        for name in recorder.changed():  # overwritten after the comparison: nothing to measure
            del maps[name]
        return pulls_of(losses, {BACKBONE: backbone_parameters(model), **(places or {}), **tapped(maps)})


def mean_terms(batches: Sequence[Sequence[Term]]) -> list[Term]:
    """Return the terms averaged over batches, each number over the batches in which it is finite."""
    names = list(dict.fromkeys(term.name for terms in batches for term in terms))
    return [_mean_term([term for terms in batches for term in terms if term.name == name]) for name in names]


def _mean_term(found: Sequence[Term]) -> Term:
    pulls = {
        place: Pull(*(_mean(getattr(term.pulls[place], key) for term in found) for key in ('norm', 'share', 'cosine')))
        for place in found[0].pulls
    }
    return Term(found[0].name, _mean(t.value for t in found), _mean(t.share for t in found), pulls)


def _mean(numbers: Iterator[float]) -> float:
    finite = [number for number in numbers if math.isfinite(number)]
    return fmean(finite) if finite else math.nan


def _norms_and_products(found: Mapping[str, Tensor], task: Mapping[str, Tensor], scale: float) -> list[Tensor]:
    """Return for each place the norm and the cosine with the task's gradient."""
    numbers = []
    for name, gradient in found.items():
        exact = sum_dtype(gradient)
        norm = torch.linalg.vector_norm(gradient, dtype=exact)
        numbers.append(norm / scale)
        if name in task:
            other = torch.linalg.vector_norm(task[name], dtype=exact)
            product = (gradient.to(exact) * task[name].to(exact)).sum()
            numbers.append(torch.where(norm * other > 0, product / (norm * other), math.nan))
        else:
            numbers.append(norm.new_full((), math.nan))
    return numbers


def _assemble(values: Mapping[str, Sequence[float]], places: Sequence[str]) -> list[Term]:
    total = sum(row[0] for row in values.values())
    norms = [sum(row[1 + 2 * i] for row in values.values()) for i in range(len(places))]
    terms = []
    for name, row in values.items():
        pulls = {
            place: Pull(row[1 + 2 * i], row[1 + 2 * i] / norms[i] if norms[i] else 0.0, row[2 + 2 * i])
            for i, place in enumerate(places)
        }
        terms.append(Term(name, row[0], row[0] / total if total else 0.0, pulls))
    return terms


@contextlib.contextmanager
def _ready(model: nn.Module) -> Iterator[None]:
    """Let a model run without a runner, and without recomputing activations."""
    distillation = getattr(model, 'distillation', None)
    attached = getattr(distillation, 'hook_attached', False)
    recomputing: list[Any] = [module for module in model.modules() if getattr(module, 'with_cp', False) is True]
    try:
        if distillation is not None:
            distillation.hook_attached = True
        for module in recomputing:
            module.with_cp = False
        yield
    finally:
        if distillation is not None:
            distillation.hook_attached = attached
        for module in recomputing:
            module.with_cp = True
