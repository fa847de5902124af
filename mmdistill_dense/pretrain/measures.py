"""Measure the features in a training step (spread; for PCD also similarities and ranks) without side effects."""

from __future__ import annotations

import torch
from torch import Tensor

from mmdistill_dense import losses
from mmdistill_dense.distillers.base import Recorded
from mmdistill_dense.distillers.feature import FeatureDistiller
from mmdistill_dense.distillers.pcd.compared import Views
from mmdistill_dense.distillers.pcd.pcd import PCD
from mmdistill_dense.losses.precision import sum_dtype
from mmdistill_dense.networks.modes import untouched
from mmdistill_dense.utils.distributed import mean_over_ranks
from mmdistill_dense.utils.protocols import Samples

_ROWS = 512  # pixels for which the hardest negative is searched
_BLOCK = 4096  # queue rows compared at a time


@torch.no_grad()
def measure_step(
    distiller: PCD | FeatureDistiller, student: Recorded, teacher: Recorded, data_samples: Samples
) -> dict[str, float]:
    """Measure the tensors that a step is about to compare; called with the arguments of the distiller's ``forward``.

    The student's outputs are computed once more, as the step computes them; batch statistics, random streams, the queue
    and autocast's cache of weights stay as they were.

    Returns:
        Means over the levels, and over the processes:

        - ``positive``: cosine of a student pixel and its teacher pixel;
        - ``negative``: its cosine with the nearest key of the queue (of 512 pixels at most);
        - ``top1``, ``top5``: percentage of pooled student vectors of the first view with no, or fewer than five,
          queue keys nearer than their own;
        - ``out_std``, ``map_std``, ``teacher_std``: spread of the unit pixels of the student's output, of its tapped
          map, and of the teacher's map, see :func:`spread`; 1 at best, 0 collapsed;
        - ``out_within``, ``map_within``, ``teacher_within``: share of it that lies between pixels of one picture.

        While the queue is empty, ``negative`` and ranks are left out. Other methods have the spreads alone: ``out`` is
        then the student's map behind the alignment, ``teacher`` the map that it is compared with. Nothing is returned
        for taps that give no maps (B, C, H, W).
    """
    if isinstance(distiller, PCD):
        found = measure_levels(distiller, student, teacher, data_samples)
    else:
        found = _spreads(distiller, student, teacher)
    names = [name for name in found[0] if all(name in one for one in found)]
    if not names:
        return {}
    means = torch.stack([torch.stack([one[name] for one in found]).mean() for name in names])
    means = means.to(sum_dtype(means))
    return dict(zip(names, mean_over_ranks(means).tolist(), strict=True))


@torch.no_grad()
def measure_levels(
    distiller: PCD, student: Recorded, teacher: Recorded, data_samples: Samples
) -> list[dict[str, Tensor]]:
    """Return the figures of :func:`measure_step` for each level, of this process alone."""
    levels = enumerate(distiller.levels(student, teacher))
    return [_measure_level(distiller, level, views, data_samples) for level, views in levels]


def _measure_level(distiller: PCD, level: int, views: Views, data_samples: Samples) -> dict[str, Tensor]:
    parts = (distiller._part(name, level) for name in ('attention', 'projector', 'predictor'))
    with untouched(*parts):
        seen = distiller.compare(level, views, data_samples)
    with torch.autocast(seen.own.device.type, enabled=False):
        pixels, targets, weight = (torch.cat([row[k] for row in seen.rows]) for k in range(3))
        found = {'positive': ((pixels * targets).sum(1) * weight).sum() / weight.sum().clamp_min(1)}
        negatives = distiller._queue(level).negatives()
        if len(negatives):
            found['negative'] = hardest(pixels[weight > 0], negatives)
            ranks = losses.key_ranks(seen.pooled(), seen.key(), negatives)
            found |= {f'top{n}': 100 * (ranks < n).to(seen.own.dtype).mean() for n in (1, 5)}
        places = {
            'out': (seen.heads[0], seen.valid),
            'map': (seen.maps[0], seen.mask),
            'teacher': (seen.own, seen.mask),
        }
        for name, (x, inside) in places.items():
            found[f'{name}_std'], found[f'{name}_within'] = spread(x, inside)
    return found


def _spreads(distiller: FeatureDistiller, student: Recorded, teacher: Recorded) -> list[dict[str, Tensor]]:
    found = []
    students, teachers = distiller.views(student, teacher)[0]
    for level, (tapped, taught) in enumerate(zip(students, teachers, strict=True)):
        with untouched(distiller.aligns[level]):
            own, target = distiller.matched(tapped, taught, level)
        figures = {}
        with torch.autocast(tapped.device.type, enabled=False):
            for name, x in {'out': own, 'map': tapped, 'teacher': target}.items():
                if x.ndim == 4:
                    figures[f'{name}_std'], figures[f'{name}_within'] = spread(x.float())
        found.append(figures)
    return found


def hardest(rows: Tensor, negatives: Tensor) -> Tensor:
    """Return the mean over unit rows (N, C), 512 evenly spaced ones at most, of the cosine with the nearest negative.

    Args:
        rows: Unit rows; none give 0.
        negatives: (K, C) unit rows, at least one.
    """
    if not len(rows):
        return rows.new_zeros(())
    rows = rows[:: -(-len(rows) // _ROWS)]
    blocks = [(rows @ block.to(rows.dtype).t()).amax(1) for block in negatives.split(_BLOCK)]
    return torch.stack(blocks).amax(0).mean()


def spread(x: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return how far the directions of a map's pixels lie apart, and the share of it inside pictures.

    With unit pixels ``u``: ``std = sqrt(mean |u - mean u|^2)``, which is the standard deviation per channel times the
    root of the number of channels: 1 for directions that cancel out, 0 where all pixels are alike (collapse).
    ``within`` is the part of ``std^2`` that is left when each picture's own mean is taken away: 0 where each picture
    has one vector, so that nothing dense is left.

    Args:
        x: (B, C, H, W) map.
        valid: (B, H, W) bool, the pixels that count. Defaults to all.
    """
    rows, weight = losses.normalize_pixels(x, valid)  # pixels that do not count are zero
    images = len(x)
    counts = weight.view(images, -1).sum(1)
    means = rows.view(images, -1, rows.shape[1]).sum(1) / counts.clamp_min(1)[:, None]
    shares = counts / counts.sum().clamp_min(1)
    total = (1 - (means * shares[:, None]).sum(0).square().sum()).clamp_min(0)
    within = (1 - (means.square().sum(1) * shares).sum()).clamp_min(0)
    return total.sqrt(), (within / total.clamp_min(torch.finfo(total.dtype).eps)).clamp(0, 1)
