"""Read a map of class scores out of what a segmentation head returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mmdistill_dense.losses.precision import loss_dtype, without_autocast

_LEAST = 1e-8  # a class that no query claims gets this probability


def semantic_scores(head: nn.Module, output: Any, key: str) -> Tensor:
    """Return the class scores (B, C, H, W) in the output of a segmentation head, as logits.

    Args:
        head: The head, for the error.
        output: A map; a list of maps (iterated kernels), whose last counts; or the class scores (B, Q, C + 1) and the
            masks (B, Q, H, W) of Q queries, as lists or stacks over the decoder's layers, whose last counts.
        key: The tap with its config key, for the error.

    Raises:
        ValueError: For another output.
    """
    scores = output if isinstance(output, Tensor) else _last(output)
    if _is_map(scores, head):
        return scores
    if isinstance(output, (tuple, list)) and len(output) == 2:
        parts = {part.dim(): part for part in map(_last, output) if isinstance(part, Tensor)}
        if set(parts) == {3, 4}:
            return mask_scores(parts[3], parts[4])
    raise ValueError(
        f'{key}: no map of class scores can be read out of what {type(head).__name__} returns. Compare maps instead, '
        "e.g. by type='CWD' with student_tap='auto'."
    )


def _is_map(value: Any, head: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 4 and value.shape[1] == getattr(head, 'out_channels', 0)


def _last(value: Any) -> Any:
    """Return the last of a list, or of a stack of tensors."""
    return value[-1] if isinstance(value, (tuple, list, Tensor)) and len(value) else value


@without_autocast
def mask_scores(classes: Tensor, masks: Tensor) -> Tensor:
    """Return ``log sum_q softmax(classes)_qc sigmoid(masks)_q`` of Q queries, the last class being none.

    Its softmax over the classes is the head's semantic map (Cheng et al., "Per-Pixel Classification is Not All You Need
    for Semantic Segmentation", 2021, https://arxiv.org/abs/2107.06278, section 3.4), made to sum to 1 at each place.

    Args:
        classes: (B, Q, C + 1).
        masks: (B, Q, H, W).

    Returns:
        (B, C, H, W), in float32 for half-precision inputs.
    """
    dtype = loss_dtype(masks)
    of_queries = classes.to(dtype).softmax(-1)[..., :-1]
    return torch.einsum('bqc,bqhw->bchw', of_queries, masks.to(dtype).sigmoid()).add(_LEAST).log()


class ForwardHook:
    """Calls a function with the arguments and the output of each ``forward`` of one module, until it is removed.

    mmseg's segmentors call ``head.forward`` directly, so hooks of torch do not fire.
    """

    def __init__(self, module: nn.Module, function: Callable[[nn.Module, tuple[Any, ...], Any], None]) -> None:
        self.module, self.before = module, vars(module).get('forward')
        forward = module.forward

        def noted(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            function(module, args, output)
            return output

        vars(module)['forward'] = noted

    def remove(self) -> None:
        """Call the module's own ``forward`` again; the hook that was made last goes first."""
        if self.before is None:
            del vars(self.module)['forward']
        else:
            vars(self.module)['forward'] = self.before
