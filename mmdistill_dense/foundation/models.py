"""The vision transformers that have a name here, and those that a config describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from mmdistill_dense.utils.messages import close_or_all
from mmdistill_dense.utils.validate import check_count, check_option

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
SATELLITE = ((109.65, 104.805, 75.48), (54.315, 39.78, 36.465))  # .430 .411 .296 and .213 .156 .143 of 255
FFNS = ('mlp', 'swiglu')


@dataclass(frozen=True)
class Family:
    """What all models of a family share."""

    # ``'offset'``: learned, interpolated as DINO's code does; ``'size'``: learned, interpolated to the size with
    # antialiasing; ``'rope'``: rotary
    positions: str
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
    patch: int  # side of a patch in pixels
    dim: int  # channels
    depth: int  # number of blocks
    heads: int  # number of attention heads
    registers: int = 0  # number of register tokens; DINOv3 calls them storage tokens
    # height and width, in tokens, of the file's position embeddings. Defaults to the family's.
    native: tuple[int, int] | None = None
    ffn: str = 'mlp'  # ``'mlp'`` or ``'swiglu'``
    # hidden channels of the FFN. Defaults to 4 x dim, for SwiGLU to 2/3 of 4 x dim (DINOv2) or of 6 x dim (DINOv3),
    # rounded up to a multiple of 8.
    hidden: int = 0
    qkv_bias: bool = True  # whether queries, keys and values have a bias; the keys of DINOv3 never have
    # mean and standard deviation of the pictures, RGB, 0 to 255
    pixels: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    name: str = ''  # for messages

    def __post_init__(self) -> None:
        check_option('model.family', self.family, tuple(FAMILIES))
        check_option('model.ffn', self.ffn, FFNS)
        for name in ('patch', 'dim', 'depth', 'heads'):
            check_count(f'model.{name}', getattr(self, name), 1)
        check_count('model.registers', self.registers, 0)
        parts = 4 * self.heads if self.rotary else self.heads
        if self.dim % parts:
            of = '4 x heads, for the rotary positions' if self.rotary else 'heads'
            raise ValueError(f'model.dim must be a multiple of {of} ({parts}), got {self.dim}.')
        side = FAMILIES[self.family].native // self.patch
        object.__setattr__(self, 'native', None if self.rotary else _grid(self.native, side))
        object.__setattr__(self, 'hidden', self.hidden or self._usual_hidden())

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

    def _usual_hidden(self) -> int:
        if self.ffn == 'mlp':
            return 4 * self.dim
        wide = (6 if self.family == 'dinov3' else 4) * self.dim * 2 // 3
        return wide + -wide % 8


def _grid(native: Any, side: int) -> tuple[int, int]:
    if native is None:
        return side, side
    if not isinstance(native, (tuple, list)) or len(native) != 2:
        raise ValueError(f'model.native is the height and width of a grid of tokens, e.g. (37, 37), got {native!r}.')
    for number in native:
        check_count('model.native', number, 1)
    return native[0], native[1]


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
        'dinov3_vitl16_sat493m': Architecture('dinov3', 16, *large, 4, pixels=SATELLITE),
        'dinov3_vitl16plus': Architecture('dinov3', 16, *large, 4, ffn='swiglu'),
        'dinov3_vith16plus': Architecture('dinov3', 16, *huge, 20, 4, ffn='swiglu'),
        'dinov3_vit7b16': Architecture('dinov3', 16, 4096, 40, 32, 4, ffn='swiglu', hidden=8192, qkv_bias=False),
        'dinov3_vit7b16_sat493m': Architecture(
            'dinov3', 16, 4096, 40, 32, 4, ffn='swiglu', hidden=8192, qkv_bias=False, pixels=SATELLITE
        ),
    }
    rows['vit_tiny16'] = Architecture('dinov3', 16, 192, 12, 3)  # a student: DeiT's tiny with rotary positions
    for size in 'sblg':
        rows[f'dinov2_vit{size}14_reg'] = replace(rows[f'dinov2_vit{size}14'], registers=4)
    return {name: replace(row, name=name) for name, row in rows.items()}


MODELS_BY_NAME = _table()


def architecture(model: str | Mapping[str, Any]) -> Architecture:
    """Return the architecture of an option ``model``."""
    if isinstance(model, str):
        if model not in MODELS_BY_NAME:
            raise ValueError(
                f'model={model!r} is no known vision transformer. {close_or_all(model, MODELS_BY_NAME)} Another one is '
                'described: model=dict(family=…, patch=…, dim=…, depth=…, heads=…).'
            )
        return MODELS_BY_NAME[model]
    known = [field.name for field in fields(Architecture) if field.name not in ('pixels', 'name')]
    if not isinstance(model, Mapping) or not set(known[:5]) <= set(model) <= set(known):
        raise ValueError(
            f'model must be a name (dinov2_vits14, …) or a dict of {", ".join(known)}, the first five required; got '
            f'{model!r}.'
        )
    return Architecture(**model, name=described(model))


def described(model: Mapping[str, Any]) -> str:
    """Return a description as a config has it."""
    return f'dict({", ".join(f"{name}={value!r}" for name, value in model.items())})'
