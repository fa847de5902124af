"""VisionTransformer: a vision transformer as a backbone of mm networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mmdistill_dense.foundation.models import architecture
from mmdistill_dense.foundation.vit import ViT
from mmdistill_dense.registry import MODELS


@MODELS.register_module()
class VisionTransformer(ViT):
    """The network of :class:`FoundationTeacher` as a backbone: it returns a tuple of maps (B, D, h, w).

    Its use here is ``SSLTeacher.backbone``, with MoCo v3's projection head behind it.

    Args:
        model: As of :class:`FoundationTeacher`.
        out_blocks: The blocks whose maps it returns; -1 is the last.
        norm: Apply the final norm to the maps.

    Raises:
        ValueError: For an unknown model, or a block that is not there.
    """

    def __init__(self, model: str | Mapping[str, Any], out_blocks: Sequence[int] = (-1,), norm: bool = True) -> None:
        super().__init__(architecture(model), norm)
        depth = self.shape.depth
        if not out_blocks or not all(-depth <= block < depth for block in out_blocks):
            raise ValueError(
                f'out_blocks must hold blocks of 0 to {depth - 1}, or -1 for the last, got {out_blocks!r}.'
            )
        self.out_blocks = [block % depth for block in out_blocks]

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Return the maps of normalised pictures (B, 3, H, W)."""
        return tuple(self.maps_of(pictures, self.out_blocks))
