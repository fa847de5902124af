"""The strong view: the student sees the teacher's pictures with other colours, blurred, with erased boxes.

FixMatch (2001.07685) for dense predictors: UniMatch (2208.09910) for segmentation, Unbiased Teacher (2102.09480) for
detection. The geometry stays, so the teacher's answer on the plain picture fits the strong one at every pixel.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense.config.unknown_keys import check_known
from mmdistill_dense.distillers.schedule import check_point
from mmdistill_dense.networks.inputs import innermost, normalisation
from mmdistill_dense.utils.reproducible import mix
from mmdistill_dense.utils.runner_internals import Samples
from mmdistill_dense.utils.validate import check_option, is_number

KEY = 'model.unlabelled.strong'
_AMOUNTS = ('brightness', 'contrast', 'saturation', 'hue')
_LUMA = (0.299, 0.587, 0.114)  # of red, green, blue
_LARGEST_SIGMA = 2.0
_SMALL_PIXELS = 2.0  # a mean and std up to this are for pixels from 0 to 1
# Boxes of Unbiased Teacher: probability, area as part of the picture, height over width; the last one again for more.
_BOXES = ((0.7, (0.05, 0.2), (0.3, 3.3)), (0.5, (0.02, 0.2), (0.1, 6.0)), (0.3, (0.02, 0.2), (0.05, 8.0)))
_MOST_BOXES = 5
_NUMBERS = 12 + 5 * _MOST_BOXES  # of a picture, always as many


@dataclass(frozen=True)
class StrongOption:
    """Options of ``model.unlabelled.strong``. ``True`` is UniMatch's, the defaults; ``'det'`` is Unbiased Teacher's.

    Args:
        jitter: Largest change of brightness, contrast and saturation, as part of them, and of hue, as part of the
            circle. Defaults to (0.5, 0.5, 0.5, 0.25).
        jitter_prob: Probability that these four change, in random order. Defaults to 0.8.
        grey: Probability that the colours go. Defaults to 0.2.
        blur: Probability of a Gaussian blur. Defaults to 0.5.
        sigma: Least and largest width of the blur in pixels. Defaults to (0.1, 2).
        erase: Number of boxes that may be erased. Defaults to 0; 3 for ``'det'``.
        on: ``'unlabelled'``: the pictures without labels; ``'all'``: the labelled ones too. Defaults to the first.
        start: Iteration (int) or part of the run (float) before which the student sees plain pictures. Defaults to 0.
    """

    jitter: Sequence[float] = (0.5, 0.5, 0.5, 0.25)
    jitter_prob: float = 0.8
    grey: float = 0.2
    blur: float = 0.5
    sigma: Sequence[float] = (0.1, 2.0)
    erase: int = 0
    on: str = 'unlabelled'
    start: int | float = 0

    def __post_init__(self) -> None:
        for name in ('jitter_prob', 'grey', 'blur'):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value <= 1:
                raise ValueError(f'{KEY}.{name} must be a probability from 0 to 1, got {value!r}.')
        if not _numbers(self.jitter, 4) or min(self.jitter) < 0 or self.jitter[3] > 0.5:
            raise ValueError(
                f'{KEY}.jitter must be four numbers >= 0 for {", ".join(_AMOUNTS)}, hue at most 0.5, got '
                f'{self.jitter!r}.'
            )
        if not _numbers(self.sigma, 2) or not 0 < self.sigma[0] <= self.sigma[1] <= _LARGEST_SIGMA:
            raise ValueError(
                f'{KEY}.sigma must be two rising numbers above 0 and at most {_LARGEST_SIGMA:g} pixels, got '
                f'{self.sigma!r}.'
            )
        if isinstance(self.erase, bool) or not isinstance(self.erase, int) or not 0 <= self.erase <= _MOST_BOXES:
            raise ValueError(f'{KEY}.erase must be a number of boxes from 0 to {_MOST_BOXES}, got {self.erase!r}.')
        check_option(f'{KEY}.on', self.on, ('unlabelled', 'all'))
        check_point(f'{KEY}.start', self.start)
        if not (self.jitters or self.grey or self.blur or self.erase):
            raise ValueError(f'{KEY} changes nothing with these options: remove it.')

    @property
    def jitters(self) -> bool:
        """Whether colours may change."""
        return self.jitter_prob > 0 and max(self.jitter) > 0

    @classmethod
    def parse(cls, option: Any) -> StrongOption | None:
        """Return the options of a config, ``None`` for ``None`` or ``False``."""
        if option is None or option is False:
            return None
        if option is True:
            return cls()
        if isinstance(option, str):
            check_option(KEY, option, ('det',))
            return cls(jitter=(0.4, 0.4, 0.4, 0.1), erase=3)
        if not isinstance(option, Mapping):
            raise TypeError(f"{KEY} must be True, 'det' or a dict, e.g. dict(blur=0.5, erase=3), got {option!r}.")
        check_known(KEY, option, [one.name for one in fields(cls)])
        return cls(**option)

    def __str__(self) -> str:
        amounts = ' '.join(f'{one:g}' for one in self.jitter)
        parts = [
            f'jitter {self.jitter_prob:g} ({amounts})' if self.jitters else '',
            f'grey {self.grey:g}' if self.grey else '',
            f'blur {self.blur:g} ({self.sigma[0]:g} to {self.sigma[1]:g} pixels)' if self.blur else '',
            f'at most {self.erase} erased {"box" if self.erase == 1 else "boxes"}' if self.erase else '',
        ]
        return ', '.join(filter(None, parts))


@dataclass(frozen=True)
class Pixels:
    """How a network's pictures are normalised: ``pixel = input * std + mean``."""

    mean: Sequence[float]
    std: Sequence[float]
    rgb: bool  # whether red comes first
    white: float  # 255, or 1

    @classmethod
    def of(cls, preprocessor: Mapping[str, Any] | None) -> Pixels:
        """Return what the config of a data preprocessor says; see :func:`mmdistill_dense.networks.inputs.completed`."""
        mean, std, _ = normalisation(preprocessor)
        options = innermost(preprocessor)
        unit = max(map(abs, [*mean, *std]))
        small = unit <= _SMALL_PIXELS and (any(mean) or {*std} != {1.0})
        return cls(mean, std, bool(options.get('bgr_to_rgb') or options.get('to_rgb')), 1.0 if small else 255.0)


@torch.no_grad()
def strong_view(inputs: Tensor, samples: Samples, option: StrongOption, pixels: Pixels, seed: int) -> Tensor:
    """Return a batch as the student is to see it; its padding is unchanged, and so are all global random streams.

    ``inputs`` (B, C, H, W) are preprocessed, normalised as ``pixels`` say; without three channels they have no colours
    to change. A picture's random numbers follow from ``seed`` and the name of its file, in whichever process it is;
    without a name from its place in the batch.
    """
    seen = inputs.clone()
    for place, (picture, sample) in enumerate(zip(seen, samples, strict=True)):
        height, width = sample.metainfo['img_shape'][:2]
        shown = picture[:, :height, :width]
        name = os.path.basename(sample.metainfo.get('img_path') or '')
        drawn = _drawn(mix(seed, *(name.encode() or [place])))
        shown.copy_(_changed(shown, option, pixels, drawn))
    return seen


def _drawn(seed: int) -> list[float]:
    """Return uniform numbers of the CPU: the device is not waited for, and what is done draws no further ones."""
    return torch.rand(_NUMBERS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()


def _changed(picture: Tensor, option: StrongOption, pixels: Pixels, drawn: Sequence[float]) -> Tensor:
    """Return the strong view of one normalised picture (C, H, W) in float32."""
    mean, std = ([float(one) for one in values] for values in (pixels.mean, pixels.std))
    channels = [values * (len(picture) // len(values)) for values in (mean, std)]
    raw = torch.stack([one.float() * s + m for one, m, s in zip(picture, *channels, strict=True)])
    jitter, *turns = drawn[:9]
    grey, blur, width = drawn[9:12]
    if len(raw) == 3:
        rgb = raw if pixels.rgb else raw.flip(0)
        if option.jitters and jitter < option.jitter_prob:
            rgb = jittered(rgb / pixels.white, option.jitter, turns[:4], turns[4:]) * pixels.white
        if grey < option.grey:
            rgb = luma(rgb).expand_as(rgb)
        raw = rgb if pixels.rgb else rgb.flip(0)
    if blur < option.blur:
        raw = blurred(raw, _between(option.sigma, width))
    seen = torch.stack([(one - m) / s for one, m, s in zip(raw, *channels, strict=True)])
    for number in range(option.erase):
        top, bottom, left, right = _box(seen.shape[1:], number, drawn[12 + 5 * number : 17 + 5 * number])
        seen[:, top:bottom, left:right] = 0  # the mean colour
    return seen


def luma(rgb: Tensor) -> Tensor:
    """Return the brightness (1, H, W) of pixels (3, H, W)."""
    return sum((part * one for part, one in zip(_LUMA, rgb, strict=True)), start=torch.zeros_like(rgb[0]))[None]


def jittered(
    rgb: Tensor, amounts: Sequence[float], factors: Sequence[float], order: Sequence[float] = (0, 1, 2, 3)
) -> Tensor:
    """Return a picture (3, H, W) of 0 to 1 with changed brightness, contrast, saturation and hue, of these amounts.

    Each of ``factors`` is a number from 0 to 1: where in ``[max(0, 1 - amount), 1 + amount]`` the factor lies, of hue
    where in ``[-amount, amount]`` its turn. The change with the smallest number in ``order`` comes first.
    """
    for number in sorted(range(4), key=lambda one: order[one]):
        amount, place = amounts[number], factors[number]
        if not amount:
            continue
        if number == 3:
            rgb = turned(rgb, _between((-amount, amount), place))
            continue
        factor = _between((max(0.0, 1 - amount), 1 + amount), place)
        base = (torch.zeros_like(rgb), luma(rgb).mean(), luma(rgb))[number]
        rgb = (base + factor * (rgb - base)).clamp(0, 1)
    return rgb


def turned(rgb: Tensor, turn: float) -> Tensor:
    """Return a picture (3, H, W) whose hue is turned by a part of the circle; HSV's saturation and value stay."""
    value, least = rgb.amax(0), rgb.amin(0)
    chroma = value - least
    red, green, blue = rgb
    safe = chroma.masked_fill(chroma == 0, 1)
    hue = torch.where(value == red, (green - blue) / safe,
                      torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4))  # fmt: skip
    places = [(number + hue + 6 * turn) % 6 for number in (5, 3, 1)]
    return torch.stack([value - chroma * torch.minimum(one, 4 - one).clamp(0, 1) for one in places])


def blurred(picture: Tensor, sigma: float) -> Tensor:
    """Return a picture (C, H, W) after a Gaussian of width ``sigma`` up to 3 sigma, its border reflected.

    Shifted sums: a depthwise convolution takes 15 to 25 times as long on a CPU.
    """
    for axis in (1, 2):
        radius = min(math.ceil(3 * sigma), picture.shape[axis] - 1)
        weights = [math.exp(-0.5 * (place / sigma) ** 2) for place in range(-radius, radius + 1)]
        border = (0, 0, radius, radius) if axis == 1 else (radius, radius, 0, 0)
        wide, length = F.pad(picture[None], border, mode='reflect')[0], picture.shape[axis]
        picture = torch.zeros_like(picture)
        for place, weight in enumerate(weights):
            picture.add_(wide.narrow(axis, place, length), alpha=weight / sum(weights))
    return picture


def _box(size: Sequence[int], number: int, drawn: Sequence[float]) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of an erased box; empty if it is not drawn."""
    probability, area, ratio = _BOXES[min(number, len(_BOXES) - 1)]
    if drawn[0] >= probability:
        return 0, 0, 0, 0
    pixels = _between(area, drawn[1]) * size[0] * size[1]
    aspect = math.exp(_between([math.log(one) for one in ratio], drawn[2]))
    height = min(size[0], max(1, round(math.sqrt(pixels * aspect))))
    width = min(size[1], max(1, round(math.sqrt(pixels / aspect))))
    top, left = int(drawn[3] * (size[0] - height + 1)), int(drawn[4] * (size[1] - width + 1))
    return top, top + height, left, left + width


def _between(ends: Sequence[float], part: float) -> float:
    return ends[0] + part * (ends[1] - ends[0])


def _numbers(values: Any, count: int) -> bool:
    return isinstance(values, (list, tuple)) and len(values) == count and all(map(is_number, values))
