"""The teacher's pictures: normalised its own way, at a size that it takes, and looked at in the first step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.dist import all_gather_object
from mmengine.registry import MODELS
from torch import Tensor

from mmdistill_dense.config.unknown_keys import read_options
from mmdistill_dense.config.values import normalising
from mmdistill_dense.utils.reproducible import fork_rng
from mmdistill_dense.utils.validate import Positive, some

# The largest of a preprocessor's mean and std, its unit, tells the pixel range: above 58 is 0 to 255, at most 1 is 0 to
# 1. Pixels that were normalised before, or are from 0 to 1, are at most 5.
NORMALISED = 8.0
# units: pixels are too small for a preprocessor if all are below, too large if some are above
SMALL, LARGE = 0.08, 50.0
ROUNDING = 1e-6  # of the largest value of a map


@dataclass(frozen=True)
class InputStats:
    """Statistics of what a teacher saw and gave in one pass."""

    low: float
    high: float
    varies: bool  # whether a channel of the pictures has different pixels; a constant batch tells nothing
    whole: bool  # whether all pixels are whole numbers, as those of dark pictures are
    unit: float  # the largest number in the mean and std of that preprocessor; 0 if it does not normalise
    # for each tap, whether its maps are the same at all positions of all pictures; without those that have one place a
    # picture
    flat: Mapping[str, bool]

    @classmethod
    @torch.no_grad()
    def of(cls, x: Tensor, preprocessor: Mapping[str, Any] | None, maps: Mapping[str, Sequence[Tensor]]) -> InputStats:
        """Return those of a batch x (B, C, H, W) in the normalisation of ``preprocessor``, and of the tapped maps."""
        mean, std, _ = read_normalisation(preprocessor)
        axes = (0, *range(2, x.dim()))
        shift, factor = (torch.tensor(values).view(-1, *[1] * (len(axes) - 1)).to(x) for values in (mean, std))
        pixels = x * factor + shift
        exact = x.dtype in (torch.float32, torch.float64)  # half precision rounds whole numbers
        whole = not exact or bool((pixels - pixels.round()).abs().amax() < 0.01)
        flat = {name: [flag for flag in map(_is_flat, tensors) if flag is not None] for name, tensors in maps.items()}
        return cls(
            float(pixels.amin()),
            float(pixels.amax()),
            bool((x.amax(axes) > x.amin(axes)).any()),
            whole,
            max(map(abs, [*mean, *std])) if any(mean) or {*std} != {1.0} else 0.0,
            {name: all(flags) for name, flags in flat.items() if flags},
        )


def check_teacher_inputs(key: str, stats: Sequence[InputStats], config: Mapping[str, Any]) -> None:
    """Raise a ``ValueError`` on every rank if a teacher's inputs are unusable or its maps constant on any rank."""
    steps = normalising((config.get('train_dataloader') or {}).get('dataset'))
    # Of caffe's normalisation, which only subtracts, the pixels do not show that it was done twice.
    subtracts_mean = any(np.any(step.get('mean') or 0) for step in steps)
    for stats_of_ranks in zip_longest(*all_gather_object(stats)):
        entries = [entry for entry in stats_of_ranks if entry is not None]
        for problem in filter(None, (_pixel_range_problem(entries, subtracts_mean), _constant_map_problem(entries))):
            hint = f' train_dataloader.dataset has {" and ".join(map(str, steps))}.' if steps else ''
            raise ValueError(f'{key}: {problem}{hint}')


def _pixel_range_problem(stats: Sequence[InputStats], subtracts_mean: bool) -> str:
    usable = [entry for entry in stats if entry.varies]
    largest = max((abs(pixel) for entry in usable for pixel in (entry.low, entry.high)), default=0.0)
    unit = usable[0].unit if usable else 0.0
    too_small = unit > 2 and largest < min(SMALL * unit, NORMALISED) and not all(entry.whole for entry in usable)
    if not (too_small or (subtracts_mean and unit > 0) or (unit <= 2 and 0 < LARGE * unit < largest)):
        return ''
    low, high = min(entry.low for entry in usable), max(entry.high for entry in usable)
    return (
        f'mean and std of its data_preprocessor have numbers up to {unit:.3g}, but the pixels of the first batch are '
        f'from {low:.3g} to {high:.3g}. Usual reasons: a Normalize step in the training pipeline, pictures from 0 to '
        "1, another network's data_preprocessor. Let data_preprocessor alone normalise, for the pixels that it gets."
    )


def _constant_map_problem(stats: Sequence[InputStats]) -> str:
    constant: dict[str, bool] = {}
    for entry in stats:
        constant.update({tap: flat and constant.get(tap, True) for tap, flat in entry.flat.items() if entry.varies})
    flat = [tap for tap, same in constant.items() if same]
    problem = (
        f'its maps at {some(flat)} are the same at all positions of all pictures of the first batch, so there is '
        'nothing to learn. Usual reasons: damaged statistics (a huge running_var) in its file, pictures in another '
        'normalisation, a tap behind layers without weights from the file.'
    )
    return problem if flat else ''


def _is_flat(tensor: Tensor) -> bool | None:
    """Tell whether all channels of maps (B, C, H, W) or tokens (B, N, C) are constant; ``None`` for a single place."""
    axes = (1,) if tensor.dim() == 3 else tuple(range(2, tensor.dim()))
    if math.prod(tensor.shape[axis] for axis in axes) < 2 or not tensor.is_floating_point():
        return None  # the only place of a picture may be equal in all pictures, if they are copies of one
    axes = (0, *axes)
    low, high = tensor.amin(axes).float(), tensor.amax(axes).float()
    return bool(((high - low) <= ROUNDING * torch.maximum(low.abs(), high.abs())).all())


_FLIPS = ('bgr_to_rgb', 'rgb_to_bgr', 'to_rgb')  # the last is mmpretrain's


class Renormaliser:
    """The map from the student's normalised pixels to the teacher's, which may take the colours in the opposite order.

    ``scale`` and ``shift`` are those of the channels in the student's order; one number serves all.
    """

    def __init__(self, scale: Sequence[float], shift: Sequence[float], flip: bool) -> None:
        self.constants = self.moved = torch.tensor([scale, shift], dtype=torch.float64).view(2, 1, -1, 1, 1)
        self.flip = flip

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), 'moved': self.constants}  # the machine that unpickles may lack the device

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return (B, C, H, W) pixels in the teacher's normalisation; grey pixels get all its channels."""
        if (self.moved.device, self.moved.dtype) != (inputs.device, inputs.dtype):
            self.moved = self.constants.to(inputs)  # kept, because a copy waits for the device
        factor, summand = self.moved
        if inputs.shape[1] not in (1, factor.shape[1]) and factor.shape[1] > 1:
            problem = f'model.teacher: mean and std of both data_preprocessors are for {factor.shape[1]} channels'
            raise ValueError(f'{problem}; the pictures have {inputs.shape[1]}. Take a teacher for such pictures.')
        outputs = inputs * factor + summand
        # Preprocessors change the order of colours only, not that of other channels.
        return outputs.flip(1) if self.flip and outputs.shape[1] == 3 else outputs


def grey_copies(student: int | None, teacher: int | None, key: str) -> int:
    """Return how many channels a teacher of colours gets of grey pictures, else 1; refuse other channels."""
    if student == teacher or None in (student, teacher):  # no picture passes where nothing is tapped
        return 1
    if (student, teacher) != (1, 3):
        sizes = f'{key} takes pictures of {teacher} channels, model.student of {student}, and both see the same'
        keys = f'mean and std of model.student.data_preprocessor and {key}.data_preprocessor, and in_channels'
        raise ValueError(f'{sizes}. Use networks of as many channels ({keys}); a grey student may have one of colours.')
    return 3


def make_renormaliser(
    student: Mapping[str, Any] | None, teacher: Mapping[str, Any] | None, key: str = 'model.teacher', copies: int = 1
) -> Renormaliser | None:
    """Return the map from the student's normalised pixels to the teacher's, or ``None`` when they are the same.

    Both are configs of data preprocessors; grey pixels get ``copies`` channels. Pixels that the student's padded with 0
    become its mean colour in the teacher's normalisation.
    """
    mean_s, std_s, flip_s = read_normalisation(student)
    mean_t, std_t, flip_t = read_normalisation(teacher)
    channels = max(copies, *map(len, (mean_s, std_s, mean_t, std_t)))
    if any(len(values) not in (1, channels) for values in (mean_s, std_s, mean_t, std_t)):
        statistics = f'mean={mean_s}, std={std_s}'
        problem = f"The student's data_preprocessor has {statistics}; that of {key} mean={mean_t}, std={std_t}"
        raise ValueError(f'{problem}: both see the same pictures, so give both the same number of channels.')
    mean_s, std_s, mean_t, std_t = (values * (channels // len(values)) for values in (mean_s, std_s, mean_t, std_t))
    flip = flip_s != flip_t
    if flip and channels == 3:
        mean_t, std_t = mean_t[::-1], std_t[::-1]
    if not flip and mean_s == mean_t and std_s == std_t and copies == 1:
        return None
    scale = [s / t for s, t in zip(std_s, std_t, strict=True)]
    shift = [(s - t) / d for s, t, d in zip(mean_s, mean_t, std_t, strict=True)]
    return Renormaliser(scale, shift, flip)


def with_normalisation(preprocessor: Mapping[str, Any] | None, scope: str | None) -> Mapping[str, Any]:
    """Return the config of a data preprocessor, with the normalisation of its class where the config says none."""
    if not preprocessor or 'type' not in preprocessor:
        return preprocessor or {}
    # The network's own preprocessor may be on the meta device, where its buffers hold no numbers.
    options = {} if scope is None else dict(_scope_=scope)
    with fork_rng(), torch.device('cpu'):
        module = MODELS.build(ConfigDict(preprocessor, **options))
    config = dict(preprocessor)
    buffers = {name: value for name in ('mean', 'std') if isinstance(value := getattr(module, name, None), Tensor)}
    if config.get('mean') is None and len(buffers) == 2:
        config.update({name: value.flatten().tolist() for name, value in buffers.items()})
    if getattr(module, '_channel_conversion', False) and not any(config.get(name) for name in _FLIPS):
        config['bgr_to_rgb'] = True
    return config


def read_normalisation(preprocessor: Mapping[str, Any] | None) -> tuple[list[float], list[float], bool]:
    """Return mean and std, for each channel or one for all, and whether the colours are turned round."""
    options = preprocessor or {}
    while isinstance(options.get('data_preprocessor'), Mapping):  # MultiBranchDataPreprocessor of mmdet
        options = options['data_preprocessor']
    mean = [float(value) for value in options.get('mean') or [0.0]]
    std = [float(value) for value in options.get('std') or [1.0]]
    return mean, std, any(options.get(name) for name in _FLIPS)


_LEAST = 4  # cells; fewer are no map
_SHRUNK = 2 / 3


@dataclass(frozen=True)
class InputGrid:
    """The options ``scale`` and ``fit`` of a teacher."""

    scale: Positive = 1.0  # pixels of the teacher for one of the student: 0.5 halves the sides
    # 'resize' to the nearest multiple of the divisor, or 'pad' right and below with the teacher's mean colour and bring
    # the maps back to the picture's extent
    fit: Literal['resize', 'pad'] = 'resize'
    divisor: int = 1  # what both sides of the teacher's picture are multiples of; 1 for any size

    @classmethod
    def parse(cls, option: Mapping[str, Any], key: str) -> InputGrid | None:
        """Return the grid of a teacher's option without its divisor, or None where neither option is set."""
        grid = read_options(cls, {name: option[name] for name in ('scale', 'fit') if name in option}, key)
        if grid.fit == 'pad' and grid.scale != 1:
            problem = f"{key}.fit='pad' keeps every pixel, so it does not go with {key}.scale={grid.scale!r}"
            raise ValueError(f'{problem}: leave one out.')
        return None if grid == cls() else grid

    def whole(self, divisor: int, key: str) -> InputGrid:
        """Return the grid for a network whose pictures have sides that are multiples of ``divisor``."""
        if self.fit == 'pad' and divisor == 1:
            remedy = f'set {key}.data_preprocessor=dict(size_divisor=32), or leave fit out'
            raise ValueError(f"{key}.fit='pad': nothing says to which multiple the pictures are padded: {remedy}.")
        return replace(self, divisor=divisor)

    def __call__(self, pictures: Tensor) -> Tensor:
        """Return (B, C, H', W') for (B, C, H, W)."""
        if self.fit == 'pad':
            height, width = (-side % self.divisor for side in pictures.shape[2:])
            return F.pad(pictures, (0, width, 0, height))
        height, width = cells(pictures, self.divisor, self.scale)
        if height * width < _LEAST:
            grid = f'{height} x {width} cells of {self.divisor} pixels of pictures of {tuple(pictures.shape[2:])}'
            raise ValueError(f'teacher.scale={self.scale} leaves {grid}: use a larger scale, or larger pictures.')
        return resized(pictures, (height * self.divisor, width * self.divisor))

    def restored(self, recorded: Mapping[str, Sequence[Tensor]], size: Sequence[int]) -> dict[str, list[Tensor]]:
        """Return recorded tensors with each map brought back to the extent of pictures of this size."""
        return {name: [self._restore(tensor, size) for tensor in tensors] for name, tensors in recorded.items()}

    def _restore(self, tensor: Tensor, size: Sequence[int]) -> Tensor:
        if self.fit != 'pad' or tensor.ndim != 4:
            return tensor
        padded = [side + -side % self.divisor for side in size]
        if padded == list(size):
            return tensor
        lines = []
        for cells_here, side, whole in zip(tensor.shape[2:], size, padded, strict=True):
            count = max(1, round(cells_here * side / whole))
            lines.append((torch.arange(count, device=tensor.device) + 0.5) * (2 * side / (count * whole)) - 1)
        rows, columns = lines
        positions = torch.stack(torch.meshgrid(columns, rows, indexing='xy'), -1).expand(len(tensor), -1, -1, -1)
        sampled = F.grid_sample(tensor.float(), positions.to(torch.float32), padding_mode='border', align_corners=False)
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
