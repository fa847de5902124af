"""The vision transformer of DINO, MoCo v3, MAE, DINOv2 and DINOv3: the network, and the models that have a name."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdistill_dense.networks.inputs import cells, resized
from mmdistill_dense.utils.validate import Count, Whole, check_option, check_types, close_or_all

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
SATELLITE = ((109.65, 104.805, 75.48), (54.315, 39.78, 36.465))  # .430 .411 .296 and .213 .156 .143 of 255
Result = TypeVar('Result')
_GRIDS = 16  # kept of each network: pictures of a data set have a few sizes


@dataclass(frozen=True)
class Family:
    """What all models of a family share."""

    positions: str  # learned, interpolated as DINO's code does (``'offset'``) or antialiased (``'size'``); ``'rope'``
    eps: float = 1e-6  # of the layer norms
    layer_scale: bool = False  # whether each branch of a block is multiplied by a learned vector
    native: int = 224  # side in pixels of the pictures whose position embeddings the file holds


FAMILIES = {
    'dino': Family('offset'),
    'mocov3': Family('size'),
    'mae': Family('size'),
    'dinov2': Family('offset', layer_scale=True, native=518),
    'dinov3': Family('rope', eps=1e-5, layer_scale=True),
}


@dataclass(frozen=True)
class Architecture:
    """One vision transformer."""

    family: str  # A name of :data:`FAMILIES`
    patch: Count  # side of a patch in pixels
    dim: Count  # channels
    depth: Count  # number of blocks
    heads: Count  # number of attention heads
    registers: Whole = 0  # number of register tokens; DINOv3 calls them storage tokens
    # height and width, in tokens, of the file's position embeddings. Defaults to the family's.
    native: tuple[Count, Count] | None = None
    ffn: Literal['mlp', 'swiglu'] = 'mlp'
    # hidden channels of the FFN. Defaults to 4 x dim, for SwiGLU to 2/3 of 4 x dim (DINOv2) or of 6 x dim (DINOv3),
    # rounded up to a multiple of 8.
    hidden: int = 0
    qkv_bias: bool = True  # whether queries, keys and values have a bias; the keys of DINOv3 never have
    # mean and standard deviation of the pictures, RGB, 0 to 255
    pixels: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    name: str = ''  # for messages

    def __post_init__(self) -> None:
        check_option('model.family', self.family, tuple(FAMILIES))
        sizes = ('patch', 'dim', 'depth', 'heads', 'registers', 'native', 'ffn')
        check_types(Architecture, {name: getattr(self, name) for name in sizes}, 'model.')
        parts = 4 * self.heads if self.rotary else self.heads
        if self.dim % parts:
            of = '4 x heads, for the rotary positions' if self.rotary else 'heads'
            raise ValueError(f'model.dim must be a multiple of {of} ({parts}), got {self.dim}.')
        side = FAMILIES[self.family].native // self.patch
        native = None if self.rotary else self.native or (side, side)
        object.__setattr__(self, 'native', native and tuple(native))
        hidden = (6 if self.family == 'dinov3' else 4) * self.dim * 2 // 3
        usual = 4 * self.dim if self.ffn == 'mlp' else hidden + -hidden % 8
        object.__setattr__(self, 'hidden', self.hidden or usual)

    @property
    def rotary(self) -> bool:
        """Whether positions are rotary, without stored embeddings."""
        return FAMILIES[self.family].positions == 'rope'

    @property
    def positions(self) -> str:
        """How position embeddings are brought to another grid, see :class:`Family`; registers change DINOv2's rule."""
        rule = FAMILIES[self.family].positions
        return 'size' if self.registers and rule == 'offset' else rule

    @property
    def preprocessor(self) -> dict[str, Any]:
        """The normalisation of the pictures, as a ``data_preprocessor``."""
        mean, std = self.pixels
        return dict(mean=list(mean), std=list(std), bgr_to_rgb=True)


def _table() -> dict[str, Architecture]:
    small, base, large = (384, 12, 6), (768, 12, 12), (1024, 24, 16)
    huge = (1280, 32)
    rows = {
        'dino_vits16': Architecture('dino', 16, *small),
        'dino_vits8': Architecture('dino', 8, *small),
        'dino_vitb16': Architecture('dino', 16, *base),
        'dino_vitb8': Architecture('dino', 8, *base),
        'mocov3_vits16': Architecture('mocov3', 16, 384, 12, 12),  # 12 heads of 32 channels
        'mocov3_vitb16': Architecture('mocov3', 16, *base),
        'mae_vitb16': Architecture('mae', 16, *base),
        'mae_vitl16': Architecture('mae', 16, *large),
        'mae_vith14': Architecture('mae', 14, *huge, 16),
        'dinov2_vits14': Architecture('dinov2', 14, *small),
        'dinov2_vitb14': Architecture('dinov2', 14, *base),
        'dinov2_vitl14': Architecture('dinov2', 14, *large),
        'dinov2_vitg14': Architecture('dinov2', 14, 1536, 40, 24, ffn='swiglu'),
        'dinov3_vits16': Architecture('dinov3', 16, *small, 4),
        'dinov3_vits16plus': Architecture('dinov3', 16, *small, 4, ffn='swiglu'),
        'dinov3_vitb16': Architecture('dinov3', 16, *base, 4),
        'dinov3_vitl16': Architecture('dinov3', 16, *large, 4),
        'dinov3_vitl16plus': Architecture('dinov3', 16, *large, 4, ffn='swiglu'),
        'dinov3_vith16plus': Architecture('dinov3', 16, *huge, 20, 4, ffn='swiglu'),
        'dinov3_vit7b16': Architecture('dinov3', 16, 4096, 40, 32, 4, ffn='swiglu', hidden=8192, qkv_bias=False),
        'vit_tiny16': Architecture('dinov3', 16, 192, 12, 3),  # a student: DeiT's tiny with rotary positions
    }
    for name in ('dinov3_vitl16', 'dinov3_vit7b16'):
        rows[f'{name}_sat493m'] = replace(rows[name], pixels=SATELLITE)
    for size in 'sblg':
        rows[f'dinov2_vit{size}14_reg'] = replace(rows[f'dinov2_vit{size}14'], registers=4)
    return {name: replace(row, name=name) for name, row in rows.items()}


MODELS_BY_NAME = _table()


def architecture(model: str | Mapping[str, Any]) -> Architecture:
    """Return the architecture of an option ``model``."""
    if isinstance(model, str):
        if model not in MODELS_BY_NAME:
            raise ValueError(
                f'model={model!r} is no known vision transformer. {close_or_all(model, MODELS_BY_NAME)} Others are '
                'described: model=dict(family=…, patch=…, dim=…, depth=…, heads=…).'
            )
        return MODELS_BY_NAME[model]
    names = [field.name for field in fields(Architecture) if field.name not in ('pixels', 'name')]
    if not isinstance(model, Mapping) or not set(names[:5]) <= set(model) <= set(names):
        form = f'a name (dinov2_vits14, …) or a dict of {", ".join(names)}, the first five required'
        raise ValueError(f'model must be {form}; got {model!r}.')
    return Architecture(**model, name=f'dict({", ".join(f"{name}={value!r}" for name, value in model.items())})')


class GridCache(nn.Module):
    """Keeps what was computed for the last grids, until the network is cast or moved."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[Hashable, Any] = {}

    def get(self, source: Tensor, grid: tuple[int, int], compute: Callable[[], Result]) -> Result:
        """Return ``compute()`` of a tensor, once while this grid is among the last ones; a graph computes it itself."""
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return compute()
        key = (grid, source, source.dtype, source.device, source._version)
        if key not in self.entries:
            while len(self.entries) >= _GRIDS:
                del self.entries[next(iter(self.entries))]
            self.entries[key] = compute()
        return self.entries[key]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GridCache:
        self.entries.clear()
        return self

    def __deepcopy__(self, memo: object) -> GridCache:
        return GridCache()

    def __reduce__(self) -> tuple[type[GridCache], tuple[()]]:
        return GridCache, ()


def resample(stored: Tensor, native: tuple[int, int], grid: tuple[int, int], rule: str) -> Tensor:
    """Return position embeddings for a grid, as the original code of the family computes them."""
    if grid == native:
        return stored
    dtype = torch.promote_types(stored.dtype, torch.float32)
    cls_token, patches = stored[:, :1].to(dtype), stored[:, 1:].to(dtype)
    maps = patches.reshape(1, *native, -1).permute(0, 3, 1, 2)  # (1, D, h, w)
    if rule == 'offset':
        factors = [(side + 0.1) / native_side for side, native_side in zip(grid, native, strict=True)]
        maps = F.interpolate(maps, scale_factor=factors, mode='bicubic')
    else:
        maps = F.interpolate(maps, grid, mode='bicubic', antialias=True)
    assert maps.shape[2:] == grid, (maps.shape, grid)
    return torch.cat([cls_token, maps.flatten(2).mT], 1).to(stored.dtype)  # (1, 1 + h*w, D)


class Rotary(nn.Module):
    """Rotary positions: pairs of channels are turned by angles that grow with the row, others with the column.

    Rows and columns are numbered from -1 to 1 whatever the size. Computed in float32 or better. ``channels`` are those
    of one head, ``base`` the ratio of the longest period to the shortest.
    """

    def __init__(self, channels: int, base: float = 100.0) -> None:
        super().__init__()
        count = channels // 4
        self.register_buffer('periods', base ** (2 * torch.arange(count, dtype=torch.float32) / (channels // 2)))
        self.periods: Tensor
        self.cache = GridCache()

    def forward(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return the sines and cosines of a grid, (h w, channels) each, row by row."""
        return self.cache.get(self.periods, (height, width), partial(self._compute, height, width))

    def _compute(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(self.periods.dtype, torch.float32)
        device = self.periods.device
        sides = [2 * torch.arange(0.5, side, dtype=dtype, device=device) / side - 1 for side in (height, width)]
        positions = torch.stack(torch.meshgrid(*sides, indexing='ij'), -1).flatten(0, 1)  # (h*w, 2)
        angles = 2 * math.pi * positions[:, :, None] / self.periods.to(dtype)
        angles = angles.flatten(1).tile(2)  # (h*w, C)
        return angles.sin(), angles.cos()


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Return queries or keys (B, heads, N, C) with the last tokens, those of the grid, turned."""
    sine, cosine = turn
    start = x.shape[-2] - sine.shape[-2]
    turned = x[:, :, start:].to(torch.promote_types(x.dtype, sine.dtype))
    half, other = turned.chunk(2, -1)
    turned = turned * cosine + torch.cat([-other, half], -1) * sine  # (B, heads, h*w, C)
    return torch.cat([x[:, :, :start], turned.to(x.dtype)], -2)  # (B, heads, N, C)


Turn = tuple[Tensor, Tensor] | None


class PatchEmbed(nn.Module):
    """Pictures (B, 3, h p, w p) to tokens (B, h w, D), row by row."""

    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.proj(pictures).flatten(2).mT  # (B, h*w, D)


class Attention(nn.Module):
    """Self-attention; ``turn`` turns queries and keys by their tokens' positions. The keys of DINOv3 have no bias."""

    def __init__(self, dim: int, heads: int, qkv_bias: bool, key_bias: bool = True) -> None:
        super().__init__()
        self.heads, self.key_bias = heads, key_bias
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        if qkv_bias and not key_bias:
            nn.init.zeros_(self.qkv.bias.data.chunk(3)[1])
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, turn: Turn = None) -> Tensor:
        """Return (B, N, D) for (B, N, D)."""
        batch, count = x.shape[:2]
        bias = self.qkv.bias
        if self.key_bias or bias is None or not bias.requires_grad:
            qkv = self.qkv(x)
        else:  # in training, where the zeros would not stay
            qkv = F.linear(x, self.qkv.weight, bias * key_mask(bias))
        q, k, v = qkv.reshape(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (3, B, heads, N, D/heads)
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))  # (B, N, D)


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
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    """Two layers, the first one's SiLU gated by as many further channels."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w12, self.w3 = nn.Linear(dim, 2 * hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, -1)
        return self.w3(F.silu(gate) * value)


class LayerScale(nn.Module):
    """One learned factor for each channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
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
        return patches.mT.unflatten(2, grid)  # (B, D, h, w)


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
    whole picture; see :mod:`mmdistill_dense.networks.inputs`. Without ``norm`` the maps skip the final norm.
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
        patch = self.shape.patch
        if pictures.ndim != 4 or pictures.shape[1] != 3 or min(pictures.shape[2:]) < patch:
            raise ValueError(
                f'{self.shape.name} takes pictures (B, 3, H, W) of {patch} pixels or more, not {tuple(pictures.shape)}.'
            )
        grid = cells(pictures, self.stride)
        tokens = self._tokens(pictures, grid)
        turn = None if self.shape.native is not None else self.rope(*grid)
        norm = self.norm if self.normalises else nn.Identity()
        maps = {}
        for number, block in enumerate(self.blocks):
            tokens = block(tokens, turn)
            tap = self.maps[str(number)]
            # All maps of a ViT-S would take 8 % of its time.
            if number in blocks or tap._forward_hooks or tap._forward_pre_hooks:
                maps[number] = tap(tokens, grid, norm)
        self.map(tokens, grid, norm)
        self.cls(tokens, self.norm)
        return [maps[block] for block in blocks]

    def init_weights(self) -> None:
        """Draw random weights, for tests; layer scales stay 1, so that each block counts."""
        for name, parameter in self.named_parameters():
            if 'norm' not in name and not name.endswith(('.bias', '.gamma')):
                nn.init.trunc_normal_(parameter, std=0.02)

    def _tokens(self, pictures: Tensor, grid: tuple[int, int]) -> Tensor:
        size = grid[0] * self.shape.patch, grid[1] * self.shape.patch
        patches = self.patch_embed(resized(pictures, size))
        # In place of len(), which a traced graph takes for a constant.
        tokens = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], 1)  # (B, 1 + h*w, D)
        if self.shape.native is not None:
            stored = self.pos_embed
            compute = partial(resample, stored, self.shape.native, grid, self.shape.positions)
            tokens = tokens + (compute() if stored.requires_grad else self.cache.get(stored, grid, compute))
        if self.shape.registers:
            registers = self.register_tokens.expand(tokens.shape[0], -1, -1)
            tokens = torch.cat([tokens[:, :1], registers, tokens[:, 1:]], 1)  # (B, 1 + registers + h*w, D)
        return tokens
