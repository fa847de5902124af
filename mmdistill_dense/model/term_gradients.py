"""The terms of a loss and their gradients, taken from the graph of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmdistill_dense.losses import loss_dtype

TASK = 'task'
PSEUDO = 'unlabelled'  # the student's own loss on labels of the teacher
Places = Mapping[str, Sequence[Tensor]]


def split_terms(losses: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the terms of a model's losses, scalars that sum to what mmengine back-propagates.

    Args:
        losses: What ``model.loss`` returns: tensors and lists of them; names without ``loss`` are ignored.
    """
    terms: dict[str, Tensor] = {}
    for name, value in losses.items():
        if 'loss' not in name:
            continue
        key = name if name.startswith('distill.') else PSEUDO if name.startswith(f'{PSEUDO}.') else TASK
        summed = torch.stack([one.mean() for one in ([value] if isinstance(value, Tensor) else value)]).sum()
        terms[key] = terms[key] + summed if key in terms else summed
    return terms


def backbone_parameters(model: nn.Module) -> list[Tensor]:
    """Return the trained parameters of the student's backbone, or of the whole student if it has none."""
    network = getattr(model, 'backbone', None)
    named = (network if isinstance(network, nn.Module) else model).named_parameters()
    return [value for name, value in named if value.requires_grad and not name.startswith('distillers.')]


def flat_gradients(term: Tensor, places: Places) -> dict[str, Tensor]:
    """Return the gradient of a term at each place as one vector; the graph is kept, and no ``.grad`` is touched.

    Args:
        term: A scalar; without a graph, its gradients are zero.
        places: Tensors of the graph by name; a place without tensors gives one zero.
    """
    inputs = [tensor for tensors in places.values() for tensor in tensors]
    found: Sequence[Tensor | None] = [None] * len(inputs)
    if term.requires_grad:
        try:
            found = torch.autograd.grad(term, inputs, retain_graph=True, allow_unused=True)
        except RuntimeError as error:
            if 'heckpoint' not in str(error):
                raise
            raise ValueError(
                'the student recomputes its activations (activation_checkpointing, with_cp=True), so the gradient of a '
                'single loss cannot be taken: switch that off to measure.'
            ) from error
    dense = [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]
    vectors = iter([x.flatten().to(loss_dtype(x)) for x in dense])
    return {
        name: torch.cat([next(vectors) for _ in tensors]) if tensors else term.new_zeros(1)
        for name, tensors in places.items()
    }
