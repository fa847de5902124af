"""TokenRelations: similarities between the positions of a picture."""

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
from mmdistill_dense.utils.validate import (
    Align,
    Resize,
    check_count,
    check_directions,
    check_map,
    check_positions,
    check_positive,
)


@DISTILLERS.register_module()
class TokenRelations(FeatureDistiller):
    """Match, for each position, the distribution of its similarities to all positions of the same picture.

    With the unit vectors ``s`` of the student's map behind a 1x1 convolution and ``t`` of the teacher's, N = H x W
    positions a picture::

        loss_relations = mean_b mean_m KL(softmax_n(t_bm . t_bn / tau) || softmax_n(s_bm . s_bn / tau))

    Only relations count: a rotation of the student's vectors changes nothing. Positions outside the pictures of a
    padded batch take no part. Cost O(B M N C) with M rows, memory O(B M N).

    Source: the local term of the third distillation method of lightly-train 0.18, with ``num_pixels=None``; no paper
    is named there. Ours: ``diagonal``, the choice of rows, averaging where a map shrinks, the treatment of padding.

    Args:
        student_tap: Defaults to the last stage of the backbone.
        teacher_tap: Defaults to the same; ``'map'`` of a foundation model.
        temperature: tau. Defaults to 0.07.
        diagonal: Whether the similarity of a position to itself counts. It is 1 on both sides: where a picture's
            vectors differ much it takes nearly all of the mass, and the loss has hardly a gradient. Defaults to True,
            as released.
        num_pixels: Rows m compared of each picture, drawn anew in each step; positions n are all. ``None`` is all.
        align: Defaults to ``'conv'``: a convolution also where channels agree.
        resize: Whose map is brought to the other's grid, averaged if larger, else bilinear. Defaults to ``'student'``.
        **kwargs: ``teacher``, ``loss_weight``, ``balance``, ``schedule``, ``clip_max_norm`` of :class:`Distiller`.

    Raises:
        ValueError: For an option out of range; in :meth:`setup` for taps that are no maps of two positions (three
            without the diagonal) and two channels or more.

    Example:
        ``dict(type='TokenRelations', student_tap='backbone[-1]', teacher_tap='map')``
    """

    averages: ClassVar[bool] = True

    def __init__(
        self,
        student_tap: TapOption = 'backbone[-1]',
        teacher_tap: TapOption | None = None,
        *,
        temperature: float = 0.07,
        diagonal: bool = True,
        num_pixels: int | None = 2048,
        align: Align = 'conv',
        resize: Resize | None = 'student',
        **kwargs: Any,
    ) -> None:
        super().__init__(student_tap, teacher_tap, align=align, resize=resize, **kwargs)
        check_positive('temperature', temperature)
        if num_pixels is not None:
            check_count('num_pixels', num_pixels, 1)
        self.temperature = temperature
        self.diagonal = diagonal
        self.num_pixels = num_pixels

    def build_align(self, level: Level) -> nn.Module | None:
        """Return the convolution; check that the level has positions and directions to compare."""
        check_map(self.key, level.name, level.student)
        check_positions(self.key, level.name, level.student, level.teacher, least=2 if self.diagonal else 3)
        check_directions(self.key, level.name, level.teacher[0])
        return super().build_align(level)

    def level_loss(self, student: Tensor, teacher: Tensor, level: int, data_samples: Samples) -> Losses:
        """Return ``loss_relations`` of one level."""
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
