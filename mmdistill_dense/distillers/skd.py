"""SKD: structured distillation by similarities of all pairs of positions."""

from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from mmdistill_dense.distillers.feature import FeatureDistiller, Level
from mmdistill_dense.losses import pairwise_distance
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.validate import Count, check_positions


@DISTILLERS.register_module()
class SKD(FeatureDistiller):
    """Structured distillation, pair-wise: match the cosine similarities of all pairs of positions.

    A map ``(B, C, H, W)`` is max-pooled to N nodes; with the cosine ``a[b, i, j]`` of nodes ``i`` and ``j``::

        loss_skd = 1 / (B N²) * sum over b, i, j of  (a_s[b, i, j] - a_t[b, i, j])²

    Source: Liu et al., "Structured Knowledge Distillation for Semantic Segmentation", CVPR 2019,
    https://arxiv.org/abs/1903.04197, the pair-wise loss. Nodes are patches of 2 x 2 positions as in CIRKD's runs
    (``patch_size``), or a share of the map's sides as in the authors' code (``pool_scale=0.5``), whose gradient does
    not pass through the norms of the cosine. Options: [docs/methods/skd.md](../methods/skd.md).
    """

    needs: ClassVar[tuple[str, ...]] = ('map', 'positions', 'directions')
    aligns_channels: ClassVar[bool] = False  # similarities have none

    fixed: ClassVar[tuple[str, ...]] = ('align',)
    student_tap, resize = 'decode_head.conv_seg:input', 'student'
    patch_size: Count | None = None  # 2 without either
    pool_scale: Annotated[float, '> 0 and <= 1', lambda value: 0 < value <= 1] | None = None

    def __init__(self, *taps: TapOption | None, **options: Any) -> None:
        super().__init__(*taps, **options)
        if self.patch_size is not None and self.pool_scale is not None:
            settings = f'patch_size={self.patch_size} and pool_scale={self.pool_scale}'
            raise ValueError(f'{settings} both set the patch: give only one.')

    def build_level(self, level: Level) -> None:
        """Check that two nodes are left of the level."""
        nodes = self.nodes(torch.empty(1, 1, *self.grid(level)))
        check_positions(self.key, f'{level.name} after the pooling of patch_size or pool_scale', nodes.shape[1:])

    def nodes(self, x: Tensor) -> Tensor:
        """Return the map max-pooled to its nodes; an incomplete last patch is a node too."""
        scale, size = self.pool_scale, self.patch_size or 2
        patch = [min(size, side) if scale is None else max(1, int(scale * side)) for side in x.shape[2:]]
        return x if patch == [1, 1] else F.max_pool2d(x, patch, patch, ceil_mode=True)

    def loss(self, student: Tensor, teacher: Tensor, level: int) -> dict[str, Tensor]:
        through_norm = self.pool_scale is None
        return {'loss_skd': pairwise_distance(self.nodes(student), self.nodes(teacher), through_norm=through_norm)}
