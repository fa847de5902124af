"""Convert a batch that the student's data preprocessor normalised to the teacher's normalisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from torch import Tensor

from mmdistill_dense.utils.random_streams import fork_rng

_FLIPS = ('bgr_to_rgb', 'rgb_to_bgr', 'to_rgb')  # the last is mmpretrain's


class Renormaliser:
    """The map from the student's normalised pixels to the teacher's.

    Args:
        scale: Factor of each channel, in the student's order of channels; one number serves all channels.
        shift: Added to each channel, in the same order.
        flip: Whether the teacher takes the colours in the opposite order.
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
        outputs = inputs * factor + summand
        # Preprocessors change the order of colours only, not that of other channels.
        return outputs.flip(1) if self.flip and outputs.shape[1] == 3 else outputs


def renormaliser(
    student: Mapping[str, Any] | None, teacher: Mapping[str, Any] | None, key: str = 'model.teacher'
) -> Renormaliser | None:
    """Return the map from the student's normalised pixels to the teacher's, or ``None`` when they are the same.

    Pixels that the student's preprocessor padded with 0 become the student's mean colour in the teacher's
    normalisation.

    Args:
        student: Config of the student's data preprocessor: ``mean``, ``std`` and ``bgr_to_rgb``, ``rgb_to_bgr`` or
            ``to_rgb``, or a ``data_preprocessor`` that holds them.
        teacher: The same for the teacher.
        key: The config key of the teacher, for errors.

    Raises:
        ValueError: When the numbers of channels differ, and neither side has one number for all channels.
    """
    mean_s, std_s, flip_s = normalisation(student)
    mean_t, std_t, flip_t = normalisation(teacher)
    channels = max(map(len, (mean_s, std_s, mean_t, std_t)))
    if any(len(values) not in (1, channels) for values in (mean_s, std_s, mean_t, std_t)):
        raise ValueError(
            f"The student's data_preprocessor has mean={mean_s}, std={std_s} and that of {key} mean={mean_t}, "
            f'std={std_t}: both networks see the same pictures, so both need the same number of channels. '
            'Give both the same number of means and standard deviations, or take a teacher for such pictures.'
        )
    mean_s, std_s, mean_t, std_t = (values * (channels // len(values)) for values in (mean_s, std_s, mean_t, std_t))
    flip = flip_s != flip_t
    if flip and channels == 3:
        mean_t, std_t = mean_t[::-1], std_t[::-1]
    if not flip and mean_s == mean_t and std_s == std_t:
        return None
    scale = [s / t for s, t in zip(std_s, std_t, strict=True)]
    shift = [(s - t) / d for s, t, d in zip(mean_s, mean_t, std_t, strict=True)]
    return Renormaliser(scale, shift, flip)


def completed(preprocessor: Mapping[str, Any] | None, scope: str | None) -> Mapping[str, Any]:
    """Return the config of a data preprocessor with the normalisation that its class sets where the config says none.

    Args:
        preprocessor: With a ``type``; without one it is returned as it is.
        scope: What it is built in.
    """
    if not preprocessor or 'type' not in preprocessor:
        return preprocessor or {}
    # The network's own preprocessor may be on the meta device, where its buffers hold no numbers.
    place = {} if scope is None else dict(_scope_=scope)
    with fork_rng(), torch.device('cpu'):
        built = MODELS.build(ConfigDict(preprocessor, **place))
    found = dict(preprocessor)
    own = {name: value for name in ('mean', 'std') if isinstance(value := getattr(built, name, None), Tensor)}
    if found.get('mean') is None and len(own) == 2:
        found.update({name: value.flatten().tolist() for name, value in own.items()})
    if getattr(built, '_channel_conversion', False) and not any(found.get(name) for name in _FLIPS):
        found['bgr_to_rgb'] = True
    return found


def normalisation(preprocessor: Mapping[str, Any] | None) -> tuple[list[float], list[float], bool]:
    """Return mean and std, for each channel or one for all, and whether the colours are turned round."""
    options = preprocessor or {}
    while isinstance(options.get('data_preprocessor'), Mapping):  # MultiBranchDataPreprocessor of mmdet
        options = options['data_preprocessor']
    mean = [float(value) for value in options.get('mean') or [0.0]]
    std = [float(value) for value in options.get('std') or [1.0]]
    return mean, std, any(options.get(name) for name in _FLIPS)
