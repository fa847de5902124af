"""Resize maps to one grid, and find their pixels inside the images of a padded batch."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense.losses.precision import loss_dtype


def to_grid(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize a map: adaptive average pooling where it is at least as large on both axes, else bilinear.

    Args:
        x: (B, C, H, W) map.
        size: Height and width to bring it to.

    Returns:
        (B, C, *size) map; ``x`` itself where it has that size.
    """
    height, width = size
    if x.shape[2:] == (height, width):
        return x
    if x.shape[2] >= height and x.shape[3] >= width:
        return F.adaptive_avg_pool2d(x, (height, width))
    return F.interpolate(x, (height, width), mode='bilinear', align_corners=False)


def centres_inside(image_shapes: Sequence[Sequence[int]], batch_shape: Sequence[int], size: Sequence[int]) -> Tensor:
    """Return which pixels of a map have their centre strictly inside the image; padding is at the right and bottom.

    Args:
        image_shapes: Height and width of each of the B images before padding.
        batch_shape: Height and width of the padded batch.
        size: Height and width of the map.

    Returns:
        (B, *size) bool on the CPU.
    """
    rows, columns = ((torch.arange(n) + 0.5) * (padded / n) for n, padded in zip(size, batch_shape, strict=True))
    shapes = torch.tensor([list(shape[:2]) for shape in image_shapes])
    inside_rows, inside_columns = rows < shapes[:, :1], columns < shapes[:, 1:]
    return inside_rows[:, :, None] & inside_columns[:, None]


def mean_weight(x: Tensor, inside: Tensor | None, rows: Tensor | None = None) -> Tensor:
    """Return the weights of positions for the mean over pictures of the means over a picture's positions.

    Args:
        x: (B, C, H, W) map.
        inside: (B, H, W) bool, the positions that count. ``None`` is all.
        rows: (M,) flat indices of the positions to weigh. Defaults to all.

    Returns:
        (B, M) weights, with a sum of 1 / B for each picture that has a position which counts; float32 or float64.

    Raises:
        ValueError: If ``x`` is no map, or ``inside`` does not fit it.
    """
    if x.ndim != 4 or (inside is not None and inside.shape != (len(x), *x.shape[2:])):
        found = None if inside is None else tuple(inside.shape)
        raise ValueError(f'maps must be (B, C, H, W) and inside (B, H, W), got {tuple(x.shape)} and {found}')
    dtype = loss_dtype(x)
    valid = x.new_ones(len(x), x.shape[2:].numel(), dtype=dtype) if inside is None else inside.flatten(1).to(dtype)
    valid = valid if rows is None else valid[:, rows]
    return valid / (valid.sum(1, keepdim=True).clamp_min(1) * max(len(x), 1))
