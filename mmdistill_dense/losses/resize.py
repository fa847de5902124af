"""Resize maps to one grid, and find their pixels inside the images of a padded batch."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


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
