"""DeFeat: objects and background of the neck's maps, imitated apart."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mmdistill_dense import losses
from mmdistill_dense.distillers.base import Losses
from mmdistill_dense.distillers.feature import FeatureDistiller, Level
from mmdistill_dense.distillers.ground_truth import boxes_in_pixels, on_map
from mmdistill_dense.losses.tensors import sum_dtype
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.distributed import mean_over_ranks
from mmdistill_dense.utils.runner_internals import Samples
from mmdistill_dense.utils.validate import Positive, check_weights


@DISTILLERS.register_module()
class DeFeat(FeatureDistiller):
    """Match the maps inside the boxes of a level and outside of them, each with a weight of its own.

    Per level l of L, with maps ``F`` (B, C, H, W), the student's behind a 3x3 convolution ``r``, and the mask ``m``
    (B, H, W) of the cells that the boxes of the level cover::

        level of a box  = floor(log2(sqrt((w + 1) (h + 1)) / base_size + 1e-6)), at least 0, at most L - 1
        loss_foreground = foreground_weight * mean_l  sum_{b,c,h,w} m (r(F_s) - F_t)^2 / (2 C sum m)
        loss_background = background_weight * mean_l  sum_{b,c,h,w} (1 - m) (r(F_s) - F_t)^2 / (2 C sum (1 - m))

    Source: Guo et al., "Distilling Object Detectors via Decoupled Features", CVPR 2021,
    https://arxiv.org/abs/2103.14475: the neck term of its released code. Ours: ``sum m`` is that of all processes.
    Options: [docs/methods/defeat.md](../methods/defeat.md).
    """

    needs: ClassVar[tuple[str, ...]] = ('map',)
    needs_labels = True

    student_tap, resize = 'neck', 'student'
    foreground_weight: float = 3.0
    background_weight: float = 12.0
    base_size: Positive = 56.0
    align: Literal['conv3', 'none'] = 'conv3'  # type: ignore[assignment]

    def __init__(self, *taps: TapOption | None, **options: Any) -> None:
        super().__init__(*taps, **options)
        self.weights = self.foreground_weight, self.background_weight
        check_weights(foreground_weight=self.foreground_weight, background_weight=self.background_weight)

    def build_align(self, level: Level) -> nn.Module | None:
        """Return a 3x3 convolution whose output starts near 0, as released."""
        if self.align == 'none':
            return None
        conv = nn.Conv2d(level.student[0], level.teacher[0], 3, padding=1)
        with torch.no_grad():
            conv.weight.normal_().fmod_(2).mul_(1e-4)
        return conv

    def level_loss(self, student: Tensor, teacher: Tensor, level: int, data_samples: Samples) -> Losses:
        mask = self.foreground(student, data_samples, level)
        totals = mean_over_ranks(torch.stack([mask.sum(), (1 - mask).sum()]))
        values = losses.decoupled_squares(student, teacher, mask, totals)
        parts = zip(('loss_foreground', 'loss_background'), self.weights, values, strict=True)
        return {name: weight / len(self.levels) * value for name, weight, value in parts if weight}

    @torch.no_grad()
    def foreground(self, x: Tensor, data_samples: Samples, level: int) -> Tensor:
        """Return which cells (B, H, W) of a level's map its boxes cover, 1 or 0, in float32 at least."""
        like = x.new_zeros((), dtype=losses.loss_dtype(x))
        height, width = x.shape[2:]
        pixels = boxes_in_pixels(data_samples, self.key, like)
        masks = []
        for boxes, cells in zip(pixels, on_map(pixels, data_samples, (height, width)), strict=True):
            sides = boxes[:, 2:].to(sum_dtype(boxes)) - boxes[:, :2].to(sum_dtype(boxes)) + 1
            levels = (sides.prod(1).sqrt() / self.base_size + 1e-6).log2().floor()  # (R,)
            chosen = levels.clamp(0, len(self.levels) - 1) == level
            masks.append(losses.covered_cells(cells, height, width, chosen))
        return torch.stack(masks)
