"""FGD: focal and global distillation."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmdistill_dense import losses
from mmdistill_dense.distillers.base import Losses
from mmdistill_dense.distillers.feature import FeatureDistiller, Level
from mmdistill_dense.distillers.ground_truth import boxes_on_map
from mmdistill_dense.distillers.presets import AUTO, Settings
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.runner_internals import Samples
from mmdistill_dense.utils.validate import Resize, check_map, check_positive


@DISTILLERS.register_module()
class FGD(FeatureDistiller):
    """Imitate objects and background separately, weighted by the teacher's attention, and their global relations.

    Per level, with maps ``F_s, F_t (B, C, H, W)`` (the student's after a 1x1 convolution where channels differ),
    attention ``A(F) = H W softmax_hw(mean_c |F| / T)`` over the positions and ``A'(F) = C softmax_c(mean_hw |F| / T)``
    over the channels, foreground weights ``W_f``: the inverse area of the smallest annotated box over the cell, and
    background weights ``W_b``: the inverse of the number of cells outside all boxes::

        focal     = 1/B sum_{b,h,w} (alpha W_f + beta W_b) A(F_t) sum_c A'(F_t)_c (F_s - F_t)_c^2
        attention = gamma / B (sum |A(F_s) - A(F_t)| + sum |A'(F_s) - A'(F_t)|)
        relation  = lambda / B sum (R_s(F_s) - R_t(F_t))^2,   R(F) = F + W_2 ReLU(LN(W_1 sum_hw softmax_hw(w F) F))

    returned as ``loss_focal``, ``loss_attention``, ``loss_relation``, each summed over the levels. ``R`` is a global
    context block; student and teacher have one each, both are trained, as released.

    Source: Yang et al., "Focal and Global Knowledge Distillation for Detectors", CVPR 2022,
    https://arxiv.org/abs/2111.11837, eq. 3 to 15, and its released code: a box covers cells from floor to ceil, both
    included; ``W_1`` and ``W_2`` have biases; ``W_2`` starts at 0. Ours: boxes are scaled by the level's stride, the
    power of two that gives the map's size (released: map over the picture before padding, which shifts boxes of padded
    pictures and stretches them on P6 and P7), and one pass over the differences instead of masked copies of the maps.
    The released code taps the FPN before its normalisation where it has one (RepPoints); here it is the neck's output.

    Cost: linear in the maps; about ``2 C^2`` parameters a level, in training only.

    Args:
        student_tap: Defaults to the neck, all its levels.
        teacher_tap: Defaults to the same.
        temperature: T.
        alpha: Weight of the foreground.
        beta: Weight of the background.
        gamma: Weight of the attention.
        lambda_: Weight of the relation. The defaults are those of RetinaNet.
        resize: Whose map is resized where the sizes differ. Defaults to ``'student'``.
        **kwargs: ``align``, ``teacher``, ``loss_weight``, ``balance``, ``schedule``, ``clip_max_norm`` of
            :class:`FeatureDistiller`.

    Raises:
        ValueError: For an option out of range; in :meth:`setup` for a tap that gives no (B, C, H, W) map of at least 2
            channels; in training for a batch without boxes.

    Example:
        >>> distiller = FGD('neck')
        >>> shapes = {'neck': [torch.Size((1, 4, 8, 8))]}
        >>> distiller.setup(shapes, shapes)
        >>> from mmengine.structures import BaseDataElement, InstanceData
        >>> sample = BaseDataElement(metainfo=dict(img_shape=(64, 64)))
        >>> sample.gt_instances = InstanceData(bboxes=torch.tensor([[0.0, 0, 16, 24]]))
        >>> sorted(distiller({'neck': [torch.ones(1, 4, 8, 8)]}, {'neck': [torch.ones(1, 4, 8, 8)]}, [sample]))
        ['loss_attention', 'loss_focal', 'loss_relation']
    """

    SETTINGS: ClassVar[Settings] = {AUTO: {'det': dict(student_tap='auto')}}
    needs_labels = True

    def __init__(
        self,
        student_tap: TapOption = 'neck',
        teacher_tap: TapOption | None = None,
        *,
        temperature: float = 0.5,
        alpha: float = 1e-3,
        beta: float = 5e-4,
        gamma: float = 5e-4,
        lambda_: float = 5e-6,
        resize: Resize | None = 'student',
        **kwargs: Any,
    ) -> None:
        super().__init__(student_tap, teacher_tap, resize=resize, **kwargs)
        weights = dict(alpha=alpha, beta=beta, gamma=gamma, lambda_=lambda_)
        check_positive('temperature', temperature)
        for name, value in weights.items():
            if value < 0:
                raise ValueError(f'{name} must be >= 0, got {value!r}.')
        self.temperature = temperature
        self.alpha, self.beta, self.gamma, self.lambda_ = weights.values()

    def build_level(self, level: Level) -> nn.Module:
        check_map(self.key, level.name, level.teacher)
        if level.teacher[0] < 2:
            raise ValueError(
                f'{self.key}: {level.name} must hold maps of at least 2 channels, got '
                f'{tuple(level.teacher)}; tap the neck.'
            )
        return nn.ModuleDict({side: GlobalContext(level.teacher[0]) for side in ('student', 'teacher')})

    def level_loss(self, student: Tensor, teacher: Tensor, level: int, data_samples: Samples) -> Losses:
        """Return ``loss_focal``, ``loss_attention`` and ``loss_relation`` of one level."""
        where = losses.spatial_attention(teacher, self.temperature)
        which = losses.channel_attention(teacher, self.temperature)
        attention = losses.absolute_error(losses.spatial_attention(student, self.temperature), where)
        attention = attention + losses.absolute_error(losses.channel_attention(student, self.temperature), which)
        parts: Any = self.parts[level]
        shift = parts['student'](student) - parts['teacher'](teacher)
        position = self.position_weights(student, data_samples) * where
        return {
            'loss_focal': losses.focal_error(student, teacher, position, which),
            'loss_attention': self.gamma * attention,
            'loss_relation': self.lambda_ * losses.shifted_error(student, teacher, shift),
        }

    @torch.no_grad()
    def position_weights(self, x: Tensor, data_samples: Samples) -> Tensor:
        """Return ``alpha W_f + beta W_b`` (B, H, W), in float32 at least, for a map of the batch."""
        like = x.new_zeros((), dtype=losses.loss_dtype(x))
        height, width = x.shape[2:]
        boxes = boxes_on_map(data_samples, (height, width), self.key, like)
        foreground = torch.stack([losses.box_weights(one, height, width) for one in boxes])
        return self.alpha * foreground + self.beta * losses.background_weights(foreground)


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
        share = self.mask(x).flatten(2).softmax(2)
        return self.transform(torch.bmm(x.flatten(2), share.mT.to(x.dtype))[..., 0])
