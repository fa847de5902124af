"""Where a token is: learned embeddings brought to a grid, and the rotary positions of DINOv3."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_GRIDS = 16  # kept of each network: pictures of a data set have a few sizes


class GridCache:
    """Keeps what was computed for the last grids."""

    def __init__(self) -> None:
        self.kept: dict[Hashable, tuple[Tensor, ...]] = {}

    def get(self, key: Hashable, compute: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Return ``compute()``, computed once while the key is among the last ones."""
        if key not in self.kept:
            while len(self.kept) >= _GRIDS:
                del self.kept[next(iter(self.kept))]
            self.kept[key] = compute()
        return self.kept[key]

    def __deepcopy__(self, memo: object) -> GridCache:
        return GridCache()

    def __reduce__(self) -> tuple[type[GridCache], tuple[()]]:
        return GridCache, ()


def resample(stored: Tensor, native: tuple[int, int], grid: tuple[int, int], rule: str) -> Tensor:
    """Return position embeddings for a grid, as the original code of the family computes them.

    Args:
        stored: (1, 1 + n, D), the class token's first, the others row by row.
        native: Height and width of the stored grid.
        grid: Those of the wanted one.
        rule: ``'offset'`` (DINO, DINOv2 without registers): bicubic by a factor that is 0.1 of a token too large,
            without antialiasing; ``'size'`` (DINOv2 with registers): bicubic to the size, with antialiasing.

    Returns:
        (1, 1 + h w, D).
    """
    if grid == native:
        return stored
    dtype = torch.promote_types(stored.dtype, torch.float32)
    first, rest = stored[:, :1].to(dtype), stored[:, 1:].to(dtype)
    maps = rest.reshape(1, *native, -1).permute(0, 3, 1, 2)
    if rule == 'offset':
        factors = [(wanted + 0.1) / known for wanted, known in zip(grid, native, strict=True)]
        maps = F.interpolate(maps, scale_factor=factors, mode='bicubic')
    else:
        maps = F.interpolate(maps, grid, mode='bicubic', antialias=True)
    assert maps.shape[2:] == grid, (maps.shape, grid)
    return torch.cat([first, maps.flatten(2).mT], 1).to(stored.dtype)


class Rotary(nn.Module):
    """Rotary positions: pairs of channels are turned by angles that grow with the row, others with the column.

    Rows and columns are numbered from -1 to 1 whatever the size. Computed in float32 or better.

    Args:
        channels: Of one head.
        base: Ratio of the longest period to the shortest.
    """

    def __init__(self, channels: int, base: float = 100.0) -> None:
        super().__init__()
        count = channels // 4
        self.register_buffer('periods', base ** (2 * torch.arange(count, dtype=torch.float32) / (channels // 2)))
        self.periods: Tensor
        self.cache = GridCache()

    def forward(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return the sines and cosines of a grid, (h w, channels) each, row by row."""
        periods = self.periods
        key = (height, width, periods.dtype, periods.device, periods._version)
        sine, cosine = self.cache.get(key, lambda: self._of(height, width))
        return sine, cosine

    def _of(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(self.periods.dtype, torch.float32)
        rows, columns = (
            2 * (torch.arange(0.5, side, dtype=dtype, device=self.periods.device) / side) - 1
            for side in (height, width)
        )
        places = torch.stack(torch.meshgrid(rows, columns, indexing='ij'), -1).flatten(0, 1)
        angles = 2 * math.pi * places[:, :, None] / self.periods.to(dtype)
        angles = angles.flatten(1).tile(2)
        return angles.sin(), angles.cos()


def turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Return queries or keys (B, heads, N, C) with the last tokens, those of the grid, turned."""
    sine, cosine = turn
    first = x.shape[-2] - sine.shape[-2]
    moved = x[:, :, first:].to(torch.promote_types(x.dtype, sine.dtype))
    half, other = moved.chunk(2, -1)
    moved = moved * cosine + torch.cat([-other, half], -1) * sine
    return torch.cat([x[:, :, :first], moved.to(x.dtype)], -2)
