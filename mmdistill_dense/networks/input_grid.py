"""The size at which a teacher sees the student's pictures; maps still cover the whole picture and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense.utils.validate import check_option

_LEAST = 4  # cells; fewer are no map
_SHRUNK = 2 / 3


@dataclass(frozen=True)
class InputGrid:
    """The options ``scale`` and ``fit`` of a teacher.

    Attributes:
        scale: Pixels of the teacher for one of the student: 0.5 halves the sides.
        fit: ``'resize'``: resize to the nearest multiple of the divisor; ``'pad'``: pad right and below with the
            teacher's mean colour, and bring the maps back to the picture's extent.
        divisor: What both sides of the teacher's picture are multiples of; 1 for any size.
    """

    scale: float = 1.0
    fit: str = 'resize'
    divisor: int = 1

    @classmethod
    def parse(cls, option: Mapping[str, Any], key: str) -> InputGrid | None:
        """Return the grid of a teacher's option without its divisor, or None where neither option is set.

        Raises:
            ValueError: For a scale that is no number above 0, an unknown fit, or ``'pad'`` with a scale.
        """
        scale, fit = option.get('scale', 1.0), option.get('fit', 'resize')
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
            raise ValueError(
                f'{key}.scale must be a number > 0, got {scale!r}: 0.5 shows the teacher half as many pixels a side.'
            )
        check_option(f'{key}.fit', fit, ('resize', 'pad'))
        if fit == 'pad' and scale != 1:
            raise ValueError(
                f"{key}.fit='pad' keeps every pixel, so it does not go with {key}.scale={scale!r}: leave one out."
            )
        return None if scale == 1 and fit == 'resize' else cls(float(scale), fit)

    def whole(self, divisor: int, key: str) -> InputGrid:
        """Return the grid for a network whose pictures have sides that are multiples of ``divisor``.

        Raises:
            ValueError: For ``'pad'`` with a network that takes any size.
        """
        if self.fit == 'pad' and divisor == 1:
            raise ValueError(
                f"{key}.fit='pad': nothing says to which multiple the pictures are padded. Set "
                f'{key}.data_preprocessor=dict(size_divisor=32), or leave fit out: the network takes any size.'
            )
        return replace(self, divisor=divisor)

    def __call__(self, pictures: Tensor) -> Tensor:
        """Return (B, C, H', W') for (B, C, H, W).

        Raises:
            ValueError: Where fewer than four cells are left.
        """
        if self.fit == 'pad':
            height, width = (-side % self.divisor for side in pictures.shape[2:])
            return F.pad(pictures, (0, width, 0, height))
        height, width = cells(pictures, self.divisor, self.scale)
        if height * width < _LEAST:
            raise ValueError(
                f'teacher.scale={self.scale} leaves {height} x {width} cells of {self.divisor} pixels of pictures of '
                f'{tuple(pictures.shape[2:])}: use a larger scale, or larger pictures.'
            )
        return resized(pictures, (height * self.divisor, width * self.divisor))

    def restored(self, recorded: Mapping[str, Sequence[Tensor]], size: Sequence[int]) -> dict[str, list[Tensor]]:
        """Return recorded tensors with each map brought back to the extent of pictures of this size."""
        return {name: [self._restore(tensor, size) for tensor in found] for name, found in recorded.items()}

    def _restore(self, tensor: Tensor, size: Sequence[int]) -> Tensor:
        if self.fit != 'pad' or tensor.ndim != 4:
            return tensor
        padded = [side + -side % self.divisor for side in size]
        if padded == list(size):
            return tensor
        counts = [
            max(1, round(of * side / whole)) for of, side, whole in zip(tensor.shape[2:], size, padded, strict=True)
        ]
        rows, columns = (
            (torch.arange(count, device=tensor.device) + 0.5) * (2 * side / (count * whole)) - 1
            for count, side, whole in zip(counts, size, padded, strict=True)
        )
        places = torch.stack(torch.meshgrid(columns, rows, indexing='xy'), -1).expand(len(tensor), -1, -1, -1)
        sampled = F.grid_sample(tensor.float(), places.to(torch.float32), padding_mode='border', align_corners=False)
        return sampled.to(tensor.dtype)


def cells(pictures: Tensor, divisor: int, scale: float = 1.0) -> tuple[int, int]:
    """Return the height and width in cells of ``divisor`` pixels that are nearest to scaled pictures, at least 1."""
    height, width = (max(1, math.floor(scale * side / divisor + 0.5)) for side in pictures.shape[2:])
    return height, width


def resized(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Return pictures of a size, bilinear, each pixel at its place.

    A side that shrinks by a third or more is resized to a whole multiple that is no smaller, whose pixels are averaged:
    else pixels would be left out. torch's antialiasing would do so too, but its filter is sampled at whole pixels and
    moves things by up to 0.02 pixels.
    """
    sides = tuple(pictures.shape[2:])
    if sides == size:
        return pictures
    # CPUs do not interpolate in half precision everywhere.
    exact = pictures.to(torch.promote_types(pictures.dtype, torch.float32))
    steps = [math.ceil(side / new) if _SHRUNK * side >= new else 1 for side, new in zip(sides, size, strict=True)]
    finer = [step * new for step, new in zip(steps, size, strict=True)]
    exact = F.interpolate(exact, finer, mode='bilinear', align_corners=False)
    return F.avg_pool2d(exact, steps).to(pictures.dtype)
