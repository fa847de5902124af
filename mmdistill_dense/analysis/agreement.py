"""Agreement between a student and its teacher at a distiller's taps."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense.distillers.base import Distiller, Recorded
from mmdistill_dense.distillers.feature import FeatureDistiller
from mmdistill_dense.distillers.pcd.pcd import PCD
from mmdistill_dense.pretrain.measures import measure_step, untouched
from mmdistill_dense.utils.protocols import Samples


@torch.no_grad()
def tap_agreement(
    distiller: Distiller, student: Recorded, teacher: Recorded, data_samples: Samples = ()
) -> dict[str, Tensor]:
    """Return the agreement at each pair of taps; called with the arguments of the distiller's ``forward``.

    The student's maps go through the distiller's alignment first; the training is not affected.

    Returns:
        Scalars in [-1, 1] by ``'cosine.<student tap>'``: the mean over pixels of the cosine of both vectors, for
        ``PCD`` of the pixels that it compares. Where the channels differ after the alignment (methods that compare
        relations), ``'energy.<student tap>'``: the cosine of the maps of squared length, mean over the pictures.
        Several maps of a tap are numbered, ``'cosine.neck.0'``. Pairs of other shapes are left out.
    """
    if isinstance(distiller, PCD):
        positive = measure_step(distiller, student, teacher, data_samples)['positive']
        return {f'cosine.{distiller.student_taps[0]}': teacher[str(distiller.teacher_taps[0])][0].new_tensor(positive)}
    found = {}
    for name, s, t in _pairs(distiller, student, teacher):
        if s.ndim > 1 and s.shape == t.shape:
            found[f'cosine.{name}'] = F.cosine_similarity(s.float(), t.float(), dim=1).mean()
        elif s.ndim == t.ndim == 4 and len(s) == len(t):
            found[f'energy.{name}'] = _energy_cosine(s.float(), t.float())
    return found


def _pairs(distiller: Distiller, student: Recorded, teacher: Recorded) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield the name, the student's map (aligned if the distiller aligns) and the teacher's map of each pair."""
    number = 0
    for s_tap, t_tap in zip(distiller.student_taps, distiller.teacher_taps, strict=True):
        students, teachers = student.get(str(s_tap), []), teacher.get(str(t_tap), [])
        for index, (s, t) in enumerate(zip(students, teachers, strict=False)):
            if isinstance(distiller, FeatureDistiller):
                with untouched(distiller.aligns[number]):
                    s, t = distiller.matched(s, t, number)
            yield (f'{s_tap}.{index}' if len(students) > 1 else str(s_tap)), s, t
            number += 1


def _energy_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    s, t = (x.square().sum(1, keepdim=True) for x in (student, teacher))
    if s.shape != t.shape:
        t = F.interpolate(t, s.shape[2:], mode='bilinear', align_corners=False)
    return F.cosine_similarity(s.flatten(1), t.flatten(1), dim=1).mean()
