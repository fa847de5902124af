"""What a step of PCD compares: the views of its taps, which of them are pairs, and pixels of their maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmdistill_dense.losses import centres_inside, pixel_info_nce, to_device
from mmdistill_dense.utils.distributed import MIN_COUNT, mean_over_ranks


class Views(NamedTuple):
    """The maps of one level: of each view the student's and the teacher's, and which of them are compared."""

    students: Sequence[Tensor]
    teachers: Sequence[Tensor]
    pairs: Sequence[tuple[int, int]]


def views_of(recorded: Mapping[str, list[Tensor]], counts: Mapping[str, int], side: str) -> list[list[Tensor]]:
    """Cut what was recorded into views: each holds as many tensors of a tap as one view gives.

    Args:
        recorded: Tensors by tap.
        counts: How many of them one view gives, by tap.
        side: Begins an error, and says whose taps these are.

    Raises:
        RuntimeError: For taps that saw different numbers of views.
    """
    views = [[recorded[tap][i : i + n] for i in range(0, len(recorded[tap]), n)] for tap, n in counts.items()]
    if len({len(view) for view in views}) > 1:
        found = ', '.join(f'{tap}: {len(view)}' for tap, view in zip(counts, views, strict=True))
        raise RuntimeError(f'{side} taps saw different numbers of views ({found}).')
    return [[x for maps in view for x in maps] for view in zip(*views, strict=True)]


def view_pairs(pairing: str | None, views: int, key: str) -> list[tuple[int, int]]:
    """Return (student's view, teacher's view) of each pair that is compared.

    Raises:
        ValueError: For ``'cross'`` and another number of views than two; names the config key.
    """
    pairing = pairing or ('cross' if views == 2 else 'same')
    if pairing == 'cross' and views != 2:
        raise ValueError(
            f"{key}.view_pairing='cross' needs two views, the step has {views}; use 'same', or data with MultiView."
        )
    return [(0, 1), (1, 0)] if pairing == 'cross' else [(view, view) for view in range(views)]


@dataclass
class Compared:
    """What one level of a step compares.

    Attributes:
        maps: the student's map of each view, on the grid that is compared.
        heads: what attention, projector and predictor make of it, (B, C, h, w) or the chosen pixels.
        own: the teacher's map of the first view, on the student's grid.
        mask: (B, H, W), which pixels of a picture are no padding; ``None`` is all.
        valid: the same for the chosen pixels.
        rows: unit student rows, unit teacher rows and weights of each pair of views.
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
        """Return the mean over the pairs of the mean over their pixels; of all processes, once DDP has averaged."""
        student, teacher, weight = (torch.cat([row[k] for row in self.rows]) for k in range(3))
        counts = mean_over_ranks(torch.stack([row[2].sum() for row in self.rows])).clamp_min(MIN_COUNT)
        share = torch.cat([count.expand(len(row[2])) for row, count in zip(self.rows, counts, strict=True)])
        weight = weight / share / len(self.rows)
        return pixel_info_nce(student, teacher, negatives, temperature, weight)[0]

    def pooled(self) -> Tensor:
        """Return the student's mean output of each picture of the first view, without gradient."""
        return masked_mean(self.heads[0].detach().to(self.own.dtype), self.valid)

    def key(self) -> Tensor:
        """Return the teacher's mean vector of each picture of the first view."""
        return masked_mean(self.own, self.mask)


def masked_mean(x: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean (B, C) of a map over its valid pixels, 0 where there is none."""
    if valid is None:
        return x.mean((2, 3))
    weight = valid[:, None].to(x.dtype)
    return (x * weight).sum((2, 3)) / weight.sum((2, 3)).clamp_min(1)


def random_pixels(x: Tensor, valid: Tensor | None, count: int, generator: torch.Generator) -> Tensor:
    """Return ``count`` random valid pixels of each image of a map, with replacement: (images * count, C).

    Images without a valid pixel are left out. ``valid`` lies on the CPU, as the generator does.
    """
    share = torch.ones(len(x), x.shape[2:].numel()) if valid is None else valid.flatten(1).float()
    images = share.any(1).nonzero()[:, 0]
    drawn = torch.multinomial(share[images], count, replacement=True, generator=generator)
    return x.flatten(2)[to_device(images[:, None], x), :, to_device(drawn, x)].flatten(0, 1)


def take_pixels(x: Tensor, chosen: Tensor | None) -> Tensor:
    """Return the pixels of flat indices ``chosen`` (all for ``None``): of (B, C, H, W) a (B, C, n, 1), of (B, H, W) a
    (B, n, 1)."""
    return x if chosen is None else x.flatten(-2)[..., to_device(chosen, x), None]


def inside_images(data_samples: Any, x: Tensor) -> Tensor | None:
    """Return the (B, H, W) mask, on the CPU, of a map's pixels inside the images of a padded batch; ``None`` is all.

    Both mmseg and mmdet write an image's shape and the batch's into the data samples.
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
