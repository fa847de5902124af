"""QueryMatch: the student's positions look up where the teacher has what they need."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from mmdistill_dense import losses
from mmdistill_dense.distillers.base import Losses
from mmdistill_dense.distillers.feature import FeatureDistiller, Level
from mmdistill_dense.distillers.pcd.parts import inside_on_device
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.runner_internals import Samples


@DISTILLERS.register_module()
class QueryMatch(FeatureDistiller):
    """Query-based soft distillation: rebuild the teacher's map by attention of the student to the teacher.

    With layer norm LN over the channels, two linear layers ``W_q``, ``W_v`` and the teacher's vectors ``t`` as keys::

        q_m, v_m = W_q LN(s_m), W_v LN(s_m)
        x_m = sum_n softmax_n(q_m . t_n) v_n
        loss_query = mean_b mean_m mean_c (x_bm - t_bm)^2

    Source: Lv et al., "Generalizable Knowledge Distillation from Vision Foundation Models for Semantic Segmentation"
    (GKD), 2026, https://arxiv.org/abs/2603.02554: its term of the patches; its other terms need a transformer as
    student. Ours: averaging where a map shrinks, padding. Options:
    [docs/methods/query_match.md](../methods/query_match.md).
    """

    averages: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ('map', 'directions')  # the layer norm of one channel is 0

    fixed: ClassVar[tuple[str, ...]] = ('align',)
    student_tap, resize = 'backbone[-1]', 'student'

    def build_align(self, level: Level) -> nn.Module:
        """Return the layers of queries and values."""
        return QueryValue(level.student[0], level.teacher[0])

    def level_loss(self, student: Tensor, teacher: Tensor, level: int, data_samples: Samples) -> Losses:
        """Return ``loss_query``; ``student`` holds queries and values."""
        query, value = student.chunk(2, dim=1)
        inside = inside_on_device(data_samples, student)
        return {'loss_query': losses.query_match(query, value, teacher, inside=inside)}


class QueryValue(nn.Module):
    """Layer norm and two linear layers: queries and values (B, 2 D, H, W) of a map, one after the other."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, out)
        self.value = nn.Linear(channels, out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x.movedim(1, -1))
        return torch.cat([self.query(x), self.value(x)], -1).movedim(-1, 1)
