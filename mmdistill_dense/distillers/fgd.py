"""FGD: focal and global distillation."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmdistill_dense import losses
from mmdistill_dense.distillers.base import Losses
from mmdistill_dense.distillers.feature import FeatureDistiller, Level
from mmdistill_dense.distillers.ground_truth import boxes_on_map
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.runner_internals import Samples
from mmdistill_dense.utils.validate import NotNegative, Positive


@DISTILLERS.register_module()
class FGD(FeatureDistiller):
    """Imitate objects and background separately, weighted by the teacher's attention, and their global relations.

    Per level, with ``A(F) = H W softmax_hw(mean_c |F| / T)``, ``A'(F) = C softmax_c(mean_hw |F| / T)``, the inverse
    area ``W_f`` of the smallest box over a cell, and ``W_b``, the inverse of the number of cells outside all boxes::

        focal     = 1/B sum_{b,h,w} (alpha W_f + beta W_b) A(F_t) sum_c A'(F_t)_c (F_s - F_t)_c^2
        attention = gamma / B (sum |A(F_s) - A(F_t)| + sum |A'(F_s) - A'(F_t)|)
        relation  = lambda / B sum (R_s(F_s) - R_t(F_t))^2,   R(F) = F + W_2 ReLU(LN(W_1 sum_hw softmax_hw(w F) F))

    ``R`` is a :class:`GlobalContext` block; student and teacher have one each, both are trained, as released.

    Source: Yang et al., "Focal and Global Knowledge Distillation for Detectors", CVPR 2022,
    https://arxiv.org/abs/2111.11837, eq. 3 to 15, and its released code. Ours: boxes are scaled by the level's stride.
    Options: [docs/methods/fgd.md](../methods/fgd.md).
    """

    needs: ClassVar[tuple[str, ...]] = ('map',)
    needs_labels = True

    student_tap, resize = 'neck', 'student'
    temperature: Positive = 0.5
    alpha: NotNegative = 1e-3
    beta: NotNegative = 5e-4
    gamma: NotNegative = 5e-4
    lambda_: NotNegative = 5e-6

    def build_level(self, level: Level) -> nn.Module:
        if level.teacher[0] < 2:
            raise ValueError(f'{self.key}: {level.name} must hold maps of at least 2 channels: tap the neck.')
        return nn.ModuleDict({side: GlobalContext(level.teacher[0]) for side in ('student', 'teacher')})

    def level_loss(self, student: Tensor, teacher: Tensor, level: int, data_samples: Samples) -> Losses:
        where = losses.spatial_attention(teacher, self.temperature)
        which = losses.channel_attention(teacher, self.temperature)
        attention = losses.absolute_error(losses.spatial_attention(student, self.temperature), where)
        attention = attention + losses.absolute_error(losses.channel_attention(student, self.temperature), which)
        parts: Any = self.parts[level]
        shift = parts['student'](student) - parts['teacher'](teacher)
        like, size = student.new_zeros((), dtype=losses.loss_dtype(student)), student.shape[2:]
        foreground = losses.box_weights(boxes_on_map(data_samples, size, self.key, like), *size)
        position = (self.alpha * foreground + self.beta * losses.background_weights(foreground)) * where  # (B, H, W)
        return {
            'loss_focal': losses.focal_error(student, teacher, position, which),
            'loss_attention': self.gamma * attention,
            'loss_relation': self.lambda_ * losses.shifted_error(student, teacher, shift),
        }


class GlobalContext(nn.Module):
    """Global context block: the value that it adds to each channel of a map, (B, C) from (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mask = nn.Conv2d(channels, 1, 1, bias=False)  # the softmax after it would cancel a bias
        hidden = channels // 2
        self.transform = nn.Sequential(
            nn.Linear(channels, hidden), nn.LayerNorm(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels)
        )
        nn.init.kaiming_normal_(self.mask.weight, nonlinearity='relu')
        for parameter in self.transform[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        share = self.mask(x).flatten(2).softmax(2)  # (B, 1, H*W)
        return self.transform(torch.bmm(x.flatten(2), share.mT.to(x.dtype))[..., 0])  # (B, C)
