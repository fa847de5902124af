"""LinearHead: one linear layer on the maps of a frozen network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmcv.cnn import build_norm_layer
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor

from mmdistill_dense.registry import MODELS


@MODELS.register_module()
class LinearHead(BaseDecodeHead):
    """Scores of the classes from a batch norm over all channels and a 1x1 convolution.

    The head with which DINOv2 (2304.07193) and DINOv3 (2508.10104) are evaluated: ``z = W BN(concat(f)) + c``. The maps
    are resized to the first one's size.

    Args:
        in_channels: Of each map.
        in_index: Which maps. Defaults to all.
        dropout_ratio: Before the convolution. Defaults to 0.
        norm_cfg: The norm. Defaults to a batch norm of one process.
        **kwargs: Of ``BaseDecodeHead``: ``num_classes``, ``loss_decode``, ``ignore_index`` …
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_index: Sequence[int] | None = None,
        dropout_ratio: float = 0.0,
        norm_cfg: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        channels = sum(in_channels)
        super().__init__(
            in_channels=list(in_channels),
            in_index=list(range(len(in_channels)) if in_index is None else in_index),
            input_transform='resize_concat',
            channels=channels,
            dropout_ratio=dropout_ratio,
            norm_cfg=dict(norm_cfg or {'type': 'BN'}),
            **kwargs,
        )
        _, self.norm = build_norm_layer(self.norm_cfg, channels)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return scores (B, classes, h, w) of maps (B, C, h, w)."""
        return self.cls_seg(self.norm(self._transform_inputs(inputs)))
