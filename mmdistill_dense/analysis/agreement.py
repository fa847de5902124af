"""Agreement between a student and its teacher at a distiller's taps."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense.distillers.base import Distiller, Recorded
from mmdistill_dense.distillers.feature import FeatureDistiller
from mmdistill_dense.distillers.pcd.pcd import PCD
from mmdistill_dense.networks.modes import untouched
from mmdistill_dense.pretrain.measures import measure_levels
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
        Several maps of a tap are numbered, ``'cosine.neck.0'``; a student's tap that meets several of the teacher's
        is followed by theirs. Of several views of a picture it is the mean. Pairs of other shapes are left out.
    """
    if isinstance(distiller, PCD):
        levels = measure_levels(distiller, student, teacher, data_samples)
        names = _names(distiller, [count for _, count in distiller.traced['student']])
        return {f'cosine.{name}': level['positive'] for name, level in zip(names, levels, strict=True)}
    found: dict[str, list[Tensor]] = {}
    for name, s, t in _pairs(distiller, student, teacher):
        if s.ndim > 1 and s.shape == t.shape:
            found.setdefault(f'cosine.{name}', []).append(F.cosine_similarity(s.float(), t.float(), dim=1).mean())
        elif s.ndim == t.ndim == 4 and len(s) == len(t):
            found.setdefault(f'energy.{name}', []).append(_energy_cosine(s.float(), t.float()))
    return {name: torch.stack(values).mean() for name, values in found.items()}


def _pairs(distiller: Distiller, student: Recorded, teacher: Recorded) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield the name, the student's map (aligned if the distiller aligns) and the teacher's map of each pair."""
    if isinstance(distiller, FeatureDistiller):
        names = _names(distiller, distiller.counts)
        for view in distiller.views(student, teacher):
            for level, (name, s, t) in enumerate(zip(names, *view, strict=True)):
                with untouched(distiller.aligns[level]):
                    yield name, *distiller.matched(s, t, level)
        return
    taps = zip(distiller.student_taps, distiller.teacher_taps, strict=True)
    pairs = [list(zip(student.get(str(s), []), teacher.get(str(t), []), strict=False)) for s, t in taps]
    names = _names(distiller, [len(found) for found in pairs])
    yield from ((name, s, t) for name, (s, t) in zip(names, [pair for found in pairs for pair in found], strict=True))


def _names(distiller: Distiller, counts: list[int]) -> list[str]:
    """Return the names of the levels: the student's tap, and what tells levels of one tap apart."""
    taps, names = [str(tap) for tap in distiller.student_taps], []
    for tap, other, count in zip(taps, distiller.teacher_taps, counts, strict=True):
        name = tap if taps.count(tap) == 1 else f'{tap}.{other}'
        names += [f'{name}.{index}' for index in range(count)] if count > 1 else [name] * count
    return names


def _energy_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    s, t = (x.square().sum(1, keepdim=True) for x in (student, teacher))
    if s.shape != t.shape:
        t = F.interpolate(t, s.shape[2:], mode='bilinear', align_corners=False)
    return F.cosine_similarity(s.flatten(1), t.flatten(1), dim=1).mean()
