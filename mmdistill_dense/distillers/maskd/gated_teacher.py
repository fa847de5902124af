"""The training loss of the frozen teacher, computed on its maps masked by the tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmdistill_dense.distillers.maskd.token_files import Values, level_of
from mmdistill_dense.losses import gate, mask_dice, mask_weights, token_masks
from mmdistill_dense.networks.modes import kept
from mmdistill_dense.networks.recording import replacing
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.utils.runner_internals import Network, Samples

# of all tokens, a level and its map: the map that replaces it, and its masks
Gate = Callable[[Values, int, Tensor], tuple[Tensor, list[Tensor]]]


def token_gate(values: Values, level: int, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return ``x * sum_i p_i m_i`` (or ``sum_i m_i``), the gate of MasKD."""
    tokens, branch = level_of(values, level)
    masks = token_masks(tokens, x)
    return gate(x, masks, None if branch is None else mask_weights(branch, x)), [masks]


@dataclass(frozen=True)
class GatedTap:
    """A tap of the teacher with its token levels: ``first`` to ``first + count - 1``, one per tensor."""

    tap: Tap
    first: int
    count: int
    gate: Gate = token_gate


_EVALUATED = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)


@contextmanager
def training_objective(network: nn.Module) -> Iterator[None]:
    """Put a frozen network's heads, but not its normalisation and dropout, into training mode.

    Some detection heads return other outputs when ``training`` is False. Normalisation and dropout are modules without
    children, or in torch's own compositions (attention). Modes and buffers are restored at the end.
    """
    with kept(network.modules(), network.buffers()):
        for module in network.modules():
            composed = any(True for _ in module.children()) and not type(module).__module__.startswith('torch.')
            # not train(), which backbones override; timm's norms have a child, their activation
            module.training = composed and not isinstance(module, _EVALUATED)
        yield


@contextmanager
def only_possible_heads(network: nn.Module, data_samples: Samples) -> Iterator[bool]:
    """Remove the mask branch of a two-stage teacher if the data hold no instance masks; yield whether it did."""
    roi_head: Any = getattr(network, 'roi_head', None)
    wanting = getattr(roi_head, 'with_mask', False) and not all(
        'masks' in getattr(sample, 'gt_instances', ()) for sample in data_samples
    )
    if not wanting:
        yield False
        return
    mask_head = roi_head.mask_head
    roi_head.mask_head = None
    try:
        yield True
    finally:
        roi_head.mask_head = mask_head


def task_loss(network: Network, inputs: Tensor, data_samples: Samples) -> Tensor:
    """Return the network's training loss, summed as by mmengine."""
    with only_possible_heads(network, data_samples):
        return network.parse_losses(network.loss(inputs, data_samples))[0]


@dataclass
class GatedLoss:
    """Loss terms of one batch: the task loss on the masked maps and, per level, Dice (summed over bands) and area."""

    task: Tensor
    dice: list[Tensor]
    area: list[Tensor]


def gated_loss(
    network: Network, taps: Sequence[GatedTap], values: Values, inputs: Tensor, data_samples: Samples
) -> GatedLoss:
    """Return the training loss of a teacher on its own masked maps."""
    dice, area = {}, {}

    def gated(one: GatedTap) -> Callable[[int, Tensor], Tensor]:
        def replace(index: int, x: Tensor) -> Tensor:
            level = one.first + index
            masked, masks = one.gate(values, level, x)
            dice[level] = torch.stack([mask_dice(mask) for mask in masks]).sum()
            area[level] = torch.stack([mask.detach().mean() for mask in masks]).mean()
            return masked

        return replace

    with ExitStack() as stack:
        for one in taps:
            stack.enter_context(replacing(network, one.tap, gated(one), 'teacher_tap'))
        task = task_loss(network, inputs, data_samples)
    levels = [level for one in taps for level in range(one.first, one.first + one.count)]
    if sorted(dice) != sorted(levels):
        raise RuntimeError(f'{len(dice)} maps were masked in the teacher, but its trace had {len(levels)}.')
    return GatedLoss(task, [dice[level] for level in levels], [area[level] for level in levels])
