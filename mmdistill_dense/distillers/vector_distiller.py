"""What the methods that compare one vector a picture share: its head, and the mean over the picture."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mmdistill_dense.config.unknown_keys import read_options
from mmdistill_dense.distillers.feature import FeatureDistiller, Level
from mmdistill_dense.distillers.pcd.modules import HEAD, Head, build_head, check_no_head, inside_on_device, masked_mean
from mmdistill_dense.losses import normalize_pixels
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.utils.runner_internals import Samples
from mmdistill_dense.utils.validate import check_directions


class VectorDistiller(FeatureDistiller):
    """Compares unit vectors: the mean of the student's map behind ``head``, and the mean of the teacher's.

    Vectors (B, D), such as ``'cls'`` of a foundation model, are taken as they are; padding takes no part.
    """

    student_tap = 'backbone[-1]'
    head: Mapping[str, Any] | None = HEAD

    def __init__(self, *taps: TapOption | None, **options: Any) -> None:
        super().__init__(*taps, **options)
        self.projection = None if self.head is None else read_options(Head, self.head, 'head')

    def build_align(self, level: Level) -> nn.Module | None:
        """Return the head, 1x1 convolutions on the pooled vector."""
        check_directions(self.key, level.name, level.teacher[0])
        if self.projection is None:
            return None
        return nn.Sequential(*build_head(self.projection, level.student[0], level.teacher[0], self.teacher).values())

    def _check_level(self, level: Level) -> None:
        for shape in (level.student, level.teacher):
            if len(shape) not in (1, 3):
                raise ValueError(
                    f'{self.key}: {level.name} gives {tuple(shape)} (without the batch), neither a map (C, H, W) nor a '
                    "vector (C,): tap a backbone stage, e.g. 'backbone[-1]', or 'cls' of a foundation model."
                )
        if self.head is None:
            check_no_head(self.key, level.name, level.student[0], level.teacher[0])

    def matched(self, student: Tensor, teacher: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """Return both as they are: what is compared are vectors, which have no grid."""
        return student, teacher

    def unit_vectors(
        self, student: Tensor, teacher: Tensor, level: int, data_samples: Samples
    ) -> tuple[Tensor, Tensor]:
        """Return the rows (B, D) of both, in float32 at least; one without a direction is zeros."""
        s, t = [
            x if x.ndim == 2 else masked_mean(x, inside_on_device(data_samples, x)) for x in (student, teacher)
        ]  # (B, C)
        return normalize_pixels(self.aligns[level](s[..., None, None]))[0], normalize_pixels(t[..., None, None])[0]
