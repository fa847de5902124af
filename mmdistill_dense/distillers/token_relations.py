"""TokenRelations: similarities between the positions of a picture."""

from typing import ClassVar

import torch
from torch import Tensor

from mmdistill_dense import losses
from mmdistill_dense.distillers.base import Losses
from mmdistill_dense.distillers.feature import FeatureDistiller, Level
from mmdistill_dense.distillers.pcd.parts import inside_on_device
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.runner_internals import Samples
from mmdistill_dense.utils.validate import Count, Positive, check_directions, check_positions


@DISTILLERS.register_module()
class TokenRelations(FeatureDistiller):
    """Match, for each position, the distribution of its similarities to all positions of the same picture.

    With the unit vectors ``s`` of the student's map behind a 1x1 convolution and ``t`` of the teacher's::

        loss_relations = mean_b mean_m KL(softmax_n(t_bm . t_bn / tau) || softmax_n(s_bm . s_bn / tau))

    Only relations count: a rotation of the student's vectors changes nothing. Of each picture, ``num_pixels`` rows m
    are drawn anew in each step; positions n are all inside the picture. Cost O(B M N C), memory O(B M N).

    Source: the local term of the third distillation method of lightly-train 0.18, with ``num_pixels=None``; no paper is
    named there. Ours: ``diagonal``, the choice of rows, averaging, padding. Options:
    [docs/methods/token_relations.md](../methods/token_relations.md).
    """

    averages: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ('map',)

    student_tap, align, resize = 'backbone[-1]', 'conv', 'student'
    temperature: Positive = 0.07
    diagonal: bool = True
    num_pixels: Count | None = 2048

    def build_level(self, level: Level) -> None:
        """Check that the level has positions and directions to compare."""
        check_positions(self.key, level.name, level.student, level.teacher, least=2 if self.diagonal else 3)
        check_directions(self.key, level.name, level.teacher[0])

    def level_loss(self, student: Tensor, teacher: Tensor, level: int, data_samples: Samples) -> Losses:
        inside = inside_on_device(data_samples, student)
        rows, pixels = None, student.shape[2:].numel()
        if self.num_pixels is not None and pixels > self.num_pixels:
            drawn = torch.randperm(pixels, generator=self.generator(level))[: self.num_pixels]
            rows = losses.to_device(drawn, student)
        return {
            'loss_relations': losses.token_relations(
                student, teacher, temperature=self.temperature, diagonal=self.diagonal, rows=rows, inside=inside
            )
        }
