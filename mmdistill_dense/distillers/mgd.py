"""MGD: masked generative distillation."""

from typing import Any, ClassVar

from torch import Tensor, nn

from mmdistill_dense import losses
from mmdistill_dense.distillers.base import Losses
from mmdistill_dense.distillers.feature import FeatureDistiller, Level, PublishedSum
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.validate import Positive, Reduction, Share


@DISTILLERS.register_module()
class MGD(FeatureDistiller):
    """Mask the student's map at random and generate the teacher's whole map from it by a small convolutional block.

    With a mask ``M`` (B, 1, H, W) that drops each position with probability ``mask_ratio``, drawn anew in each step,
    and a block ``G`` of a 3x3 convolution, ReLU and a 3x3 convolution, all with the teacher's Ct channels::

        loss_mgd = alpha * sum_levels sum_{b,c,h,w} (G(M * align(F_s)) - F_t)^2 / B

    Source: Yang et al., "Masked Generative Distillation", ECCV 2022, https://arxiv.org/abs/2205.01529, eq. 4 and 5, and
    its released code. Ours: the mask depends only on seed, process and iteration. Options:
    [docs/methods/mgd.md](../methods/mgd.md).
    """

    needs: ClassVar[tuple[str, ...]] = ('map',)

    student_tap, resize = 'neck', 'student'
    mask_ratio: Share = 0.65
    alpha: Positive = 2e-5
    reduction: Reduction = 'sum'
    published_sum: ClassVar[PublishedSum] = PublishedSum('alpha', 'reduction', (2048 * 64 * 64,), '168', '168')

    def build_level(self, level: Level) -> nn.Module:
        channels = level.teacher[0]
        conv1, conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        return nn.Sequential(conv1, nn.ReLU(inplace=True), conv2)

    def loss(self, student: Tensor, teacher: Tensor, level: int) -> Losses:
        block: Any = self.parts[level]
        b, _, h, w = student.shape
        generated = losses.masked_conv(student, self.keep((b, h, w), level), block[0].weight, block[0].bias)
        generated = block[2](block[1](generated))
        return {'loss_mgd': self.alpha * losses.feature_mimic(generated, teacher, reduction=self.reduction)}

    def keep(self, shape: tuple[int, int, int], level: int) -> Tensor:
        """Return this iteration's (B, 1, H, W) mask of a level, True where kept."""
        return losses.random_keep(shape, self.mask_ratio, self.generator(level))
