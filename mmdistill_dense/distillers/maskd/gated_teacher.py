"""The frozen teacher in its own training loss, with the masks of its tokens between two of its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmdistill_dense.distillers.maskd.token_files import Values, level_of
from mmdistill_dense.losses import gate, mask_dice, mask_weights, token_masks
from mmdistill_dense.networks.recording import replacing
from mmdistill_dense.networks.taps import Tap


@dataclass(frozen=True)
class GatedTap:
    """A tap of the teacher, and the levels of tokens that belong to its tensors."""

    tap: Tap
    first: int
    count: int


_EVALUATED = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)


@contextmanager
def training_objective(network: nn.Module) -> Iterator[None]:
    """Let a frozen network compute its training loss: heads behave as in training, normalisation and dropout do not.

    Some detection heads return other things when ``training`` is False. Normalisation and dropout are leaves of the
    module tree or torch's own compositions (attention). Modes and buffers are afterwards what they were.
    """
    modes = [(module, module.training) for module in network.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        for module, _ in modes:
            composed = any(True for _ in module.children()) and not type(module).__module__.startswith('torch.')
            # not train(), which backbones override; timm's norms hold their activation and are no leaves
            module.training = composed and not isinstance(module, _EVALUATED)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


@contextmanager
def only_possible_heads(network: nn.Module, data_samples: Sequence[Any]) -> Iterator[bool]:
    """Take the mask branch of a two-stage teacher off while the data hold no instance masks; yield whether it is."""
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


def task_loss(network: Any, inputs: Tensor, data_samples: Any) -> Tensor:
    """Return the network's training loss, summed as mmengine does."""
    with only_possible_heads(network, data_samples):
        return network.parse_losses(network.loss(inputs, data_samples))[0]


@dataclass
class GatedLoss:
    """What one batch gives: the task loss behind the gate and, per level, Dice and mean mask area."""

    task: Tensor
    dice: list[Tensor]
    area: list[Tensor]


def gated_loss(network: Any, taps: Sequence[GatedTap], values: Values, inputs: Tensor, data_samples: Any) -> GatedLoss:
    """Run the training loss of a teacher on its own masked maps: ``x' = x * sum_i p_i m_i`` (or ``sum_i m_i``).

    Args:
        network: The frozen teacher.
        taps: Where its maps are gated.
        values: The tokens.
        inputs: Batch, normalised as the teacher's.
        data_samples: Its labels.

    Returns:
        Differentiable in the values alone.
    """
    dice, area = {}, {}

    def gated(first: int) -> Callable[[int, Tensor], Tensor]:
        def replace(index: int, x: Tensor) -> Tensor:
            tokens, branch = level_of(values, first + index)
            masks = token_masks(tokens, x)
            dice[first + index], area[first + index] = mask_dice(masks), masks.detach().mean()
            return gate(x, masks, None if branch is None else mask_weights(branch, x))

        return replace

    with ExitStack() as stack:
        for one in taps:
            stack.enter_context(replacing(network, one.tap, gated(one.first), 'teacher_tap'))
        task = task_loss(network, inputs, data_samples)
    levels = [level for one in taps for level in range(one.first, one.first + one.count)]
    if sorted(dice) != sorted(levels):
        raise RuntimeError(f'{len(dice)} maps were gated in the teacher, {len(levels)} were seen when it was traced.')
    return GatedLoss(task, [dice[level] for level in levels], [area[level] for level in levels])
