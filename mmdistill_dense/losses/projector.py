"""Masks of Af-DCD and the folded first convolution behind them."""

import torch
import torch.nn.functional as F
from torch import Tensor


def random_keep(shape: tuple[int, int, int], ratio: float, generator: torch.Generator | None = None) -> Tensor:
    """Draw a mask that drops each position of each image independently with probability ``ratio``.

    Args:
        shape: (B, H, W).
        ratio: Probability to drop, in [0, 1].
        generator: CPU generator the draws come from. Defaults to torch's own.

    Returns:
        (B, 1, H, W) bool on the CPU, True where kept.
    """
    b, h, w = shape
    return torch.rand(b, 1, h, w, generator=generator) <= 1 - ratio


def centre_keep(shape: tuple[int, int, int]) -> Tensor:
    """Return the fixed mask that drops the middle third of rows and columns (1/9 of the area): (B, 1, H, W) bool."""
    b, h, w = shape
    keep = torch.ones(b, 1, h, w, dtype=torch.bool)
    keep[:, :, h // 3 : 2 * h // 3, w // 3 : 2 * w // 3] = False
    return keep


def masked_align_conv(
    feat: Tensor, keep: Tensor, align_weight: Tensor, align_bias: Tensor, conv_weight: Tensor, conv_bias: Tensor
) -> Tensor:
    """``conv(keep * align(feat))`` with the 1x1 align folded into the convolution where that is less work.

    The mask is one value per position, so it commutes with the align: one convolution with weight ``conv_weight . [W |
    b]`` over the Cs masked channels and ``keep`` itself (which carries the masked bias) gives the same output and,
    through autograd of the product, the same gradients, without the two (B, Ct, H, W) maps between.

    Args:
        feat: (B, Cs, H, W) student map.
        keep: (B, 1, H, W) mask, True (1) where kept; moved to the map's device.
        align_weight: (Ct, Cs, 1, 1).
        align_bias: (Ct,).
        conv_weight: (Co, Ct, k, k), k odd; stride 1, zero padding k // 2.
        conv_bias: (Co,).

    Returns:
        (B, Co, H, W).

    Raises:
        ValueError: When the mask is not (B, 1, H, W) of this map.
    """
    b, _, h, w = feat.shape
    if keep.shape != (b, 1, h, w):
        raise ValueError(f'keep must be {(b, 1, h, w)} for a map of {tuple(feat.shape)}, got {tuple(keep.shape)}')
    keep = keep.to(feat, non_blocking=True)
    padding = conv_weight.shape[-1] // 2
    if not _folding_pays(b * h * w, align_weight, conv_weight):
        return F.conv2d(F.conv2d(feat, align_weight, align_bias) * keep, conv_weight, conv_bias, padding=padding)
    align = torch.cat([align_weight.flatten(1), align_bias[:, None]], 1)  # (Ct, Cs + 1)
    # as a 1x1 convolution over the weight read as Co images: no transposed copy of it
    folded = F.conv2d(conv_weight, align.t()[..., None, None])  # (Co, Cs + 1, k, k)
    return F.conv2d(torch.cat([feat * keep, keep], 1), folded, conv_bias, padding=padding)


def _folding_pays(positions: int, align_weight: Tensor, conv_weight: Tensor) -> bool:
    """Compare multiply-adds: folding costs a product of weights per call, too much for small maps or wide students."""
    ct, cs = align_weight.shape[:2]
    co, taps = conv_weight.shape[0], conv_weight[0, 0].numel()
    return taps * co * (cs + 1) * (positions + ct) < positions * ct * (cs + taps * co)
