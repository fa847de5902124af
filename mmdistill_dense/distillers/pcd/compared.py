"""The data of one PCD step: views of the taps, pairs of views, and pixels of their maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmdistill_dense.losses import centres_inside, pixel_info_nce, to_device
from mmdistill_dense.utils.distributed import MIN_COUNT, mean_over_ranks
from mmdistill_dense.utils.protocols import Samples


class Views(NamedTuple):
    """The maps of one level, student's and teacher's by view, and the pairs of views to compare."""

    students: Sequence[Tensor]
    teachers: Sequence[Tensor]
    pairs: Sequence[tuple[int, int]]

    def averaged(self, data_samples: Samples) -> Views:
        """Return maps of one position, the means (B, C, 1, 1) over the positions inside the pictures."""
        samples = data_samples if len(self.students) == 1 else []  # views have no shapes of their own
        students, teachers = (
            [masked_mean(x, inside_on_device(samples, x))[..., None, None] for x in maps]
            for maps in (self.students, self.teachers)
        )
        return Views(students, teachers, self.pairs)


def views_of(recorded: Mapping[str, list[Tensor]], counts: Sequence[tuple[str, int]], side: str) -> list[list[Tensor]]:
    """Split the recorded tensors into views.

    Args:
        recorded: Tensors by tap.
        counts: The taps, and how many tensors per view each gives.
        side: Whose taps these are; begins an error message.

    Raises:
        RuntimeError: For taps that recorded different numbers of views.
    """
    views = [[recorded[tap][i : i + n] for i in range(0, len(recorded[tap]), n)] for tap, n in counts]
    if len({len(view) for view in views}) > 1:
        found = ', '.join(f'{tap}: {len(view)}' for (tap, _), view in zip(counts, views, strict=True))
        raise RuntimeError(f'{side} taps recorded different numbers of views ({found}).')
    return [[x for maps in view for x in maps] for view in zip(*views, strict=True)]


def view_pairs(pairing: str | None, views: int, key: str) -> list[tuple[int, int]]:
    """Return the pairs (student's view, teacher's view) to compare.

    Raises:
        ValueError: For ``'cross'`` with a number of views other than two; names the config key.
    """
    pairing = pairing or ('cross' if views == 2 else 'same')
    if pairing == 'cross' and views != 2:
        raise ValueError(
            f"{key}.view_pairing='cross' needs two views, the step has {views}; use 'same', or data with MultiView."
        )
    return [(0, 1), (1, 0)] if pairing == 'cross' else [(view, view) for view in range(views)]


@dataclass
class Compared:
    """The tensors that one level of a step compares.

    Attributes:
        maps: The student's map of each view, on the compared grid.
        heads: Its output of attention, projector and predictor, (B, C, h, w) or the chosen pixels.
        own: The teacher's map of the first view, on the student's grid.
        mask: (B, H, W), the pixels inside the pictures; ``None`` is all.
        valid: The same for the chosen pixels.
        rows: Unit student rows, unit teacher rows and weights of each pair of views.
        inside: ``mask`` on the CPU, where pixels are drawn.
    """

    maps: Sequence[Tensor]
    heads: list[Tensor]
    own: Tensor
    mask: Tensor | None
    valid: Tensor | None
    rows: list[tuple[Tensor, Tensor, Tensor]]
    inside: Tensor | None = None

    def contrast(self, negatives: Tensor, temperature: float) -> Tensor:
        """Return the loss, a mean over pairs of means over pixels; averaged by DDP it is that of all processes."""
        student, teacher, weight = (torch.cat([row[k] for row in self.rows]) for k in range(3))
        counts = mean_over_ranks(torch.stack([row[2].sum() for row in self.rows])).clamp_min(MIN_COUNT)
        share = torch.cat([count.expand(len(row[2])) for row, count in zip(self.rows, counts, strict=True)])
        weight = weight / share / len(self.rows)
        return pixel_info_nce(student, teacher, negatives, temperature, weight)[0]

    def pooled(self) -> Tensor:
        """Return the student's mean output for each picture of the first view, without gradient."""
        return masked_mean(self.heads[0].detach().to(self.own.dtype), self.valid)

    def key(self) -> Tensor:
        """Return the teacher's mean vector for each picture of the first view."""
        return masked_mean(self.own, self.mask)


def masked_mean(x: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean (B, C) of a map over its valid pixels, 0 where there is none."""
    if valid is None:
        return x.mean((2, 3))
    weight = valid[:, None].to(x.dtype)
    return (x * weight).sum((2, 3)) / weight.sum((2, 3)).clamp_min(1)


def random_pixels(x: Tensor, valid: Tensor | None, count: int, generator: torch.Generator) -> Tensor:
    """Return ``count`` random valid pixels of each image of a map, with replacement: (images * count, C).

    Images without a valid pixel are left out. ``valid`` and the generator are on the CPU.
    """
    share = torch.ones(len(x), x.shape[2:].numel()) if valid is None else valid.flatten(1).float()
    images = share.any(1).nonzero()[:, 0]
    drawn = torch.multinomial(share[images], count, replacement=True, generator=generator)
    return x.flatten(2)[to_device(images[:, None], x), :, to_device(drawn, x)].flatten(0, 1)


def take_pixels(x: Tensor, chosen: Tensor | None) -> Tensor:
    """Return the pixels at the flat indices ``chosen`` (``None``: all), (B, C, n, 1) or, of (B, H, W), (B, n, 1)."""
    return x if chosen is None else x.flatten(-2)[..., to_device(chosen, x), None]


def inside_images(data_samples: Samples, x: Tensor) -> Tensor | None:
    """Return the (B, H, W) mask, on the CPU, of a map's pixels inside the images of a padded batch; ``None`` is all.

    Both mmseg and mmdet write the shapes of the image and of the batch into the data samples.
    """
    metas = [getattr(sample, 'metainfo', {}) for sample in data_samples] if isinstance(data_samples, list) else []
    images: list[Any] = [meta.get('img_shape') for meta in metas]
    padded: list[Any] = [meta.get('batch_input_shape', meta.get('pad_shape')) for meta in metas]  # of mmdet, of mmseg
    if not metas or None in images or None in padded:
        return None
    batch = tuple(max(shape[axis] for shape in padded) for axis in (0, 1))
    if all(tuple(image[:2]) == batch for image in images):
        return None
    return centres_inside(images, batch, x.shape[2:])


def inside_on_device(data_samples: Samples, x: Tensor) -> Tensor | None:
    """Return :func:`inside_images` on the device of the map."""
    inside = inside_images(data_samples, x)
    return None if inside is None else to_device(inside, x)
