"""QueryMatch: the student's positions look up where the teacher has what they need."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmdistill_dense import losses
from mmdistill_dense.distillers.base import Losses
from mmdistill_dense.distillers.feature import FeatureDistiller, Level
from mmdistill_dense.distillers.pcd.heads import inside_on_device
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.runner_internals import Samples
from mmdistill_dense.utils.validate import Resize, check_directions, check_map


@DISTILLERS.register_module()
class QueryMatch(FeatureDistiller):
    """Query-based soft distillation: rebuild the teacher's map by attention of the student to the teacher.

    With layer norm LN over the channels, two linear layers ``W_q``, ``W_v`` and the teacher's vectors ``t`` as keys::

        q_m, v_m = W_q LN(s_m), W_v LN(s_m)
        x_m = sum_n softmax_n(q_m . t_n) v_n
        loss_query = mean_b mean_m mean_c (x_bm - t_bm)^2

    There is one head, no division by the root of the channels, and no projection of the keys. Positions outside the
    pictures of a padded batch are neither m nor n. Cost O(B N^2 D), memory as torch's fused attention.

    Source: Lv et al., "Generalizable Knowledge Distillation from Vision Foundation Models for Semantic Segmentation"
    (GKD), 2026, https://arxiv.org/abs/2603.02554: its term of the patches. Its terms of the class token and of masked
    patches need a transformer as student and are left out. Ours: averaging where a map shrinks, padding.

    Args:
        student_tap: Defaults to the last stage of the backbone.
        teacher_tap: Defaults to the same; ``'map'`` of a foundation model.
        resize: Whose map is brought to the other's grid, averaged if larger, else bilinear. Defaults to ``'student'``.
        **kwargs: ``teacher``, ``loss_weight``, ``balance``, ``schedule``, ``clip_max_norm`` of :class:`Distiller`.

    Raises:
        ValueError: In :meth:`setup` for taps that are no maps of two channels or more.

    Example:
        ``dict(type='QueryMatch', student_tap='backbone[-1]', teacher_tap='map')``
    """

    averages: ClassVar[bool] = True

    def __init__(
        self,
        student_tap: TapOption = 'backbone[-1]',
        teacher_tap: TapOption | None = None,
        *,
        resize: Resize | None = 'student',
        **kwargs: Any,
    ) -> None:
        super().__init__(student_tap, teacher_tap, align='conv', resize=resize, **kwargs)

    def build_align(self, level: Level) -> nn.Module:
        """Return the layers of queries and values; check that the level is a map."""
        check_map(self.key, level.name, level.student)
        check_directions(self.key, level.name, level.student[0])  # LN of one channel is 0
        return QueryValue(level.student[0], level.teacher[0])

    def level_loss(self, student: Tensor, teacher: Tensor, level: int, data_samples: Samples) -> Losses:
        """Return ``loss_query`` of one level; ``student`` holds queries and values."""
        query, value = student.chunk(2, dim=1)
        inside = inside_on_device(data_samples, student)
        return {'loss_query': losses.query_match(query, value, teacher, inside=inside)}


class QueryValue(nn.Module):
    """Layer norm and two linear layers: queries and values of a map, (B, 2 D, H, W).

    Args:
        channels: C of the student's map.
        out: D of the teacher's.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, out)
        self.value = nn.Linear(channels, out)

    def forward(self, x: Tensor) -> Tensor:
        """Return queries and values of (B, C, H, W) ``x``, one after the other."""
        x = self.norm(x.movedim(1, -1))
        return torch.cat([self.query(x), self.value(x)], -1).movedim(-1, 1)
