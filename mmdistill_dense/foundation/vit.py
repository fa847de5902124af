"""The vision transformer of DINO, MoCo v3, MAE, DINOv2 and DINOv3, as a backbone and as a teacher."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdistill_dense.foundation.models import FAMILIES, Architecture
from mmdistill_dense.networks.inputs import cells, resized

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
    """Return position embeddings for a grid, as the original code of the family computes them."""
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


Turn = tuple[Tensor, Tensor] | None


class PatchEmbed(nn.Module):
    """Pictures (B, 3, h p, w p) to tokens (B, h w, D), row by row."""

    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)

    def forward(self, pictures: Tensor) -> Tensor:
        """Cut and project."""
        return self.proj(pictures).flatten(2).mT


class Attention(nn.Module):
    """Self-attention; ``turn`` turns queries and keys by their tokens' positions. The keys of DINOv3 have no bias."""

    def __init__(self, dim: int, heads: int, qkv_bias: bool, key_bias: bool = True) -> None:
        super().__init__()
        self.heads, self.key_bias = heads, key_bias
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, turn: Turn = None) -> Tensor:
        """Return (B, N, D) for (B, N, D)."""
        batch, count, dim = x.shape
        bias = self.qkv.bias
        if self.key_bias or bias is None or not bias.requires_grad:
            mixed = self.qkv(x)
        else:  # in training, where the zeros of a file would not stay
            mixed = F.linear(x, self.qkv.weight, bias * key_mask(bias))
        q, k, v = mixed.reshape(batch, count, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        if turn is not None:
            q, k = turned(q, turn), turned(k, turn)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, count, dim))


def key_mask(bias: Tensor) -> Tensor:
    """Return 1 for the biases of queries and values and 0 for those of keys, in the form of all three."""
    mask = torch.ones_like(bias)
    mask.chunk(3)[1].zero_()
    return mask


class MLP(nn.Module):
    """Two layers with GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to each token."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    """Two layers, the first one's SiLU gated by as many further channels."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w12, self.w3 = nn.Linear(dim, 2 * hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to each token."""
        gate, value = self.w12(x).chunk(2, -1)
        return self.w3(F.silu(gate) * value)


class LayerScale(nn.Module):
    """One learned factor for each channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply."""
        return x * self.gamma


class Block(nn.Module):
    """Attention and FFN, each behind its norm and beside a shortcut."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        family = FAMILIES[shape.family]
        self.norm1, self.norm2 = (nn.LayerNorm(shape.dim, eps=family.eps) for _ in range(2))
        self.attn = Attention(shape.dim, shape.heads, shape.qkv_bias, key_bias=not shape.rotary)
        self.mlp = (MLP if shape.ffn == 'mlp' else SwiGLU)(shape.dim, shape.hidden)
        self.ls1, self.ls2 = (LayerScale(shape.dim) if family.layer_scale else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor, turn: Turn = None) -> Tensor:
        """Return (B, N, D) for (B, N, D)."""
        x = x + self.ls1(self.attn(self.norm1(x), turn))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchMap(nn.Module):
    """The map of the patch tokens, a place to tap."""

    def forward(self, tokens: Tensor, grid: tuple[int, int], norm: Callable[[Tensor], Tensor]) -> Tensor:
        """Return (B, D, h, w) for tokens (B, 1 + registers + h w, D)."""
        patches = norm(tokens[:, tokens.shape[1] - grid[0] * grid[1] :])
        return patches.mT.unflatten(2, grid)


class ClassToken(nn.Module):
    """The class token, a place to tap."""

    def forward(self, tokens: Tensor, norm: Callable[[Tensor], Tensor]) -> Tensor:
        """Return (B, D) for tokens (B, N, D)."""
        return norm(tokens[:, 0])


class ViT(nn.Module):
    """A vision transformer.

    Taps: ``map`` (B, D, h, w), the patch tokens behind the last block; ``maps.8``, those behind block 8, counted from
    0; ``cls`` (B, D). All have passed the final norm. ``blocks.8`` is the raw output (B, 1 + registers + h w, D).

    Pictures whose sides are no multiples of the patch are resized to whole patches, so that the map always covers the
    whole picture; see :mod:`mmdistill_dense.networks.inputs`.

    Args:
        shape: The architecture.
        norm: Apply the final norm to the maps.
    """

    def __init__(self, shape: Architecture, norm: bool = True) -> None:
        super().__init__()
        self.shape = shape
        self.normalises, self.stride = norm, shape.patch
        self.patch_embed = PatchEmbed(shape.patch, shape.dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.dim))
        if shape.registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, shape.registers, shape.dim))
        if shape.native is not None:
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + shape.native[0] * shape.native[1], shape.dim))
        else:
            self.rope = Rotary(shape.dim // shape.heads)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.dim, eps=FAMILIES[shape.family].eps)
        self.maps = nn.ModuleDict({str(number): PatchMap() for number in range(shape.depth)})
        self.map, self.cls = PatchMap(), ClassToken()
        self.cache = GridCache()

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the map (B, D, h, w) of normalised pictures (B, 3, H, W)."""
        return self.maps_of(pictures, [self.shape.depth - 1])[0]

    def maps_of(self, pictures: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Return the maps behind some blocks; see :meth:`forward`."""
        self._check(pictures)
        grid = cells(pictures, self.stride)
        tokens = self._tokens(pictures, grid)
        turn = None if self.shape.native is not None else self.rope(*grid)
        norm = self.norm if self.normalises else nn.Identity()
        found = {}
        for number, block in enumerate(self.blocks):
            tokens = block(tokens, turn)
            place = self.maps[str(number)]
            # All maps of a ViT-S would take 8 % of its time.
            if number in blocks or place._forward_hooks or place._forward_pre_hooks:
                found[number] = place(tokens, grid, norm)
        self.map(tokens, grid, norm)
        self.cls(tokens, self.norm)
        return [found[block] for block in blocks]

    def init_weights(self) -> None:
        """Draw random weights, for tests; layer scales stay 1, so that each block counts."""
        for name, parameter in self.named_parameters():
            if 'norm' not in name and not name.endswith(('.bias', '.gamma')):
                nn.init.trunc_normal_(parameter, std=0.02)

    def _check(self, pictures: Tensor) -> None:
        patch = self.shape.patch
        if pictures.ndim != 4 or pictures.shape[1] != 3 or min(pictures.shape[2:]) < patch:
            raise ValueError(
                f'{self.shape.name} cuts pictures (B, 3, H, W) into patches of {patch} x {patch} pixels, got a batch '
                f'of shape {tuple(pictures.shape)}.'
            )

    def _tokens(self, pictures: Tensor, grid: tuple[int, int]) -> Tensor:
        size = grid[0] * self.shape.patch, grid[1] * self.shape.patch
        patches = self.patch_embed(resized(pictures, size))
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1)
        if self.shape.native is not None:
            tokens = tokens + self._positions(self.shape.native, grid)
        if self.shape.registers:
            registers = self.register_tokens.expand(len(tokens), -1, -1)
            tokens = torch.cat([tokens[:, :1], registers, tokens[:, 1:]], 1)
        return tokens

    def _positions(self, native: tuple[int, int], grid: tuple[int, int]) -> Tensor:
        stored, rule = self.pos_embed, self.shape.positions
        if stored.requires_grad:
            return resample(stored, native, grid, rule)
        key = (grid, stored.dtype, stored.device, stored._version)
        return self.cache.get(key, lambda: (resample(stored, native, grid, rule),))[0]
