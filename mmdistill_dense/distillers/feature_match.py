"""FeatureMatch: directions and values of a standardised map, for the maps of foundation models."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdistill_dense import losses
from mmdistill_dense.distillers.base import Losses, Recorded
from mmdistill_dense.distillers.feature import FeatureDistiller, Level
from mmdistill_dense.distillers.pcd.modules import ExactBuffers, inside_on_device
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.distributed import MIN_COUNT, mean_over_ranks, world_size
from mmdistill_dense.utils.runner_internals import Samples
from mmdistill_dense.utils.validate import Count, check_directions, check_weights


@DISTILLERS.register_module()
class FeatureMatch(FeatureDistiller):
    """Predict the teacher's standardised map: cosine, smooth L1 and squares, position by position.

    With the student's map behind a 1x1 convolution ``y`` and the teacher's ``t``, (B, D, H, W)::

        z = (t - mean_c) / max(std_c, 1e-3)                    standardise='channel'
        loss_match = mean_b mean_p [ a (1 - cos(y, z)) + b mean_c huber(y - z) + c mean_c (y - z)^2 ]

    mean and std of each channel are those of all positions of the first ``steps`` steps, of all processes; then they
    stay.

    Source: the loss of UNIC, https://arxiv.org/abs/2408.05088, and DUNE, https://arxiv.org/abs/2503.14405 (a = b =
    0.5); Theia, https://arxiv.org/abs/2407.20179, weighs a cosine by 0.9 and L1 by 0.1. Ours: statistics that stay,
    averaging where a map shrinks, the treatment of padding. Options:
    [docs/methods/feature_match.md](../methods/feature_match.md).
    """

    averages: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ('map',)

    student_tap, align, resize = 'backbone[-1]', 'conv', 'student'
    cosine: float = 0.5
    smooth_l1: float = 0.5
    mse: float = 0.0
    standardise: Literal['channel', 'token'] | None = 'channel'
    steps: Count = 1000

    def __init__(self, *taps: TapOption | None, **options: Any) -> None:
        super().__init__(*taps, **options)
        self.weights = dict(cosine=self.cosine, smooth_l1=self.smooth_l1, mse=self.mse)
        check_weights(**self.weights)

    def build_level(self, level: Level) -> nn.Module | None:
        """Return the statistics of the teacher's map."""
        if not self.weights['smooth_l1'] and not self.weights['mse']:
            check_directions(self.key, level.name, level.teacher[0])
        return ChannelStatistics(level.teacher[0], self.steps) if self.standardise == 'channel' else None

    def forward(self, student: Recorded, teacher: Recorded, data_samples: Samples) -> Losses:
        """Add the teacher's maps to the statistics, then return the loss."""
        if self.training and self.standardise == 'channel':
            views = [teachers for _, teachers in self.views(student, teacher)]
            for part, maps in zip(self.parts, zip(*views, strict=True), strict=True):
                assert isinstance(part, ChannelStatistics)
                part.update(maps, inside_on_device(data_samples, maps[0]), counts=not self.state.part)
        return super().forward(student, teacher, data_samples)

    def matched(self, student: Tensor, teacher: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """Return the student's aligned map and the teacher's standardised one, on one grid."""
        with torch.autocast(teacher.device.type, enabled=False):
            teacher = teacher.to(losses.loss_dtype(teacher))
            if self.standardise == 'token':
                teacher = F.layer_norm(teacher.movedim(1, -1), teacher.shape[1:2]).movedim(-1, 1)  # by (B, H, W, C)
            else:
                teacher = self.parts[level](teacher)
        return super().matched(student, teacher, level)

    def level_loss(self, student: Tensor, teacher: Tensor, level: int, data_samples: Samples) -> Losses:
        inside = inside_on_device(data_samples, student)
        return {'loss_match': losses.feature_match(student, teacher, **self.weights, inside=inside)}


class ChannelStatistics(ExactBuffers):
    """Standardises the channels of a map by the mean and variance of all maps of its first ``steps`` steps.

    Buffers: ``mean`` and ``var`` (C,), ``count`` (1,) the positions and ``seen`` (1,) the steps that entered; equal on
    every process. A map that comes before any has entered is returned as it is.
    """

    floor = 1e-3  # of the standard deviation
    mean: Tensor
    var: Tensor
    count: Tensor
    seen: Tensor

    def __init__(self, channels: int, steps: int) -> None:
        super().__init__()
        self.register_buffer('mean', torch.zeros(channels))
        self.register_buffer('var', torch.ones(channels))
        self.register_buffer('count', torch.zeros(1))
        self.register_buffer('seen', torch.zeros(1, dtype=torch.long))
        self.steps = steps
        self._seen: int | None = None  # seen, as a number; None until it is read

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W) ``x`` standardised."""
        scale = self.var.sqrt().clamp_min(self.floor).to(x.dtype)
        return (x - self.mean.to(x.dtype)[:, None, None]) / scale[:, None, None]

    @torch.no_grad()
    def update(self, maps: Sequence[Tensor], inside: Tensor | None, counts: bool = True) -> None:
        """Let the maps of a step, or of a part of it, enter at the positions inside the pictures, unless all have."""
        if self._seen is None:
            self._seen = int(self.seen)  # waits for the device
        if self._seen >= self.steps:
            return
        rows = torch.cat([x.movedim(1, -1).flatten(0, 2) for x in maps]).to(self.var)  # (n, C)
        mask = rows.new_ones(len(rows)) if inside is None else inside.flatten().to(rows).repeat(len(maps))  # (n,)
        weight = mask[:, None]
        sums = mean_over_ranks(torch.cat([(weight * rows).sum(0), weight.sum(0)]))  # (C + 1,)
        number = sums[-1].clamp_min(MIN_COUNT)
        mean = sums[:-1] / number
        var = mean_over_ranks((weight * (rows - mean).square()).sum(0)) / number
        # Two sets join: the variance of all is the mean of the variances and that between the two means.
        positions = number * world_size()
        share = positions / (self.count + positions)
        shift = mean - self.mean
        moments = self.mean + share * shift, (1 - share) * (self.var + share * shift.square()) + share * var
        finite = (mean + var).isfinite().all()  # a broken map, whose step is skipped, must not stay in here
        for buffer, new in zip((self.mean, self.var, self.count), (*moments, self.count + positions), strict=True):
            buffer.copy_(torch.where(finite, new, buffer))
        self.seen.add_(int(counts))
        self._seen += counts

    def forget_numbers(self) -> None:
        self._seen = None
