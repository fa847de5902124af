"""CanKD: the student's positions read the whole map of the teacher."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdistill_dense.distillers.base import Losses
from mmdistill_dense.distillers.feature import FeatureDistiller, Level
from mmdistill_dense.losses import instance_distance, linear_read
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.validate import check_directions


@DISTILLERS.register_module()
class CanKD(FeatureDistiller):
    """Compare maps after each position of the student has read the teacher's map, by attention without softmax.

    With the student's map ``S`` (after the align), the teacher's ``T`` (C, H, W), and 1x1 convolutions to C/2 channels,
    those of the teacher pooled to N of its H W positions::

        Z = S + norm(out(mean_n (theta(S) . phi(T)_n) g(T)_n))
        loss_cankd = sum_levels mean (n(Z) - n(T))^2          n: each channel of a picture has mean 0, variance 1

    The batch norm begins with the weight 0, so ``Z = S`` at first.

    Source: "CanKD: Cross-Attention-based Non-local operation for Feature-based Knowledge Distillation", WACV 2026,
    https://arxiv.org/abs/2511.21503. Ours: the order of the products, which needs no matrix of all pairs of positions;
    resizing. Options: [docs/methods/cankd.md](../methods/cankd.md).
    """

    needs: ClassVar[tuple[str, ...]] = ('map', 'positions')

    student_tap, resize = 'neck', 'student'

    def build_level(self, level: Level) -> nn.Module:
        check_directions(self.key, level.name, level.teacher[0])
        return CrossRead(level.teacher[0])

    def loss(self, student: Tensor, teacher: Tensor, level: int) -> Losses:
        return {'loss_cankd': instance_distance(self.parts[level](student, teacher), teacher)}


class CrossRead(nn.Module):
    """Adds to a map what its positions read in another map of as many channels; nothing at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.theta, self.phi, self.g = (nn.Conv2d(channels, channels // 2, 1) for _ in range(3))
        self.out = nn.Conv2d(channels // 2, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        if student.shape[2:].numel() * len(student) < 2:  # there is nothing to standardise; DDP wants all parameters
            return student + 0 * torch.stack([p.sum() for p in self.parameters()]).sum().to(student.dtype)
        pool = [min(2, side) for side in teacher.shape[2:]]
        key, value = (F.max_pool2d(conv(teacher), pool) for conv in (self.phi, self.g))
        return student + self.norm(self.out(linear_read(self.theta(student), key, value).to(student.dtype)))
