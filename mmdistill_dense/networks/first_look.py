"""A look at the first batch of a teacher: whether its pictures are normalised as it expects, and its maps vary."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object
from torch import Tensor

from mmdistill_dense.guards.config import normalising
from mmdistill_dense.networks.inputs import normalisation
from mmdistill_dense.utils.messages import some

# The largest number in a preprocessor's mean and std, its unit, says which pixels it is for: above 58 for pixels from 0
# to 255, at most 1 for pixels from 0 to 1. Pixels that were normalised before, or are from 0 to 1, are at most 5.
NORMALISED = 8.0
SMALL, LARGE = (
    0.08,
    50.0,
)  # units: pixels are too small for a preprocessor if all are below, too large if some are above
ROUNDING = 1e-6  # of the largest value of a map


@dataclass(frozen=True)
class Look:
    """What a teacher saw and gave in one pass."""

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
    def at(cls, inputs: Tensor, preprocessor: Mapping[str, Any] | None, maps: Mapping[str, Sequence[Tensor]]) -> Look:
        """Return the look at a batch (B, C, H, W) in the normalisation of ``preprocessor``, and at the tapped maps."""
        mean, std, _ = normalisation(preprocessor)
        places = (0, *range(2, inputs.dim()))
        shift, factor = (torch.tensor(values).view(-1, *[1] * (len(places) - 1)).to(inputs) for values in (mean, std))
        pixels = inputs * factor + shift
        exact = inputs.dtype in (torch.float32, torch.float64)  # half precision rounds whole numbers
        whole = not exact or bool((pixels - pixels.round()).abs().amax() < 0.01)
        flat = {name: [one for one in map(_is_flat, found) if one is not None] for name, found in maps.items()}
        return cls(
            float(pixels.amin()),
            float(pixels.amax()),
            bool((inputs.amax(places) > inputs.amin(places)).any()),
            whole,
            max(map(abs, [*mean, *std])) if any(mean) or {*std} != {1.0} else 0.0,
            {name: all(found) for name, found in flat.items() if found},
        )


def refuse_blind(key: str, looks: Sequence[Look], config: Mapping[str, Any]) -> None:
    """Raise a ``ValueError`` for a teacher that sees or gives what cannot teach, in all processes alike."""
    steps = normalising((config.get('train_dataloader') or {}).get('dataset'))
    # Of caffe's normalisation, which only subtracts, the pixels do not show that it was done twice.
    shifted = any(np.any(step.get('mean') or 0) for step in steps)
    for found in zip_longest(*all_gather_object(looks)):
        one_pass = [look for look in found if look is not None]
        for problem in filter(None, (_wrong_pictures(one_pass, shifted), _constant_maps(one_pass))):
            held = f' train_dataloader.dataset has {" and ".join(map(str, steps))}.' if steps else ''
            raise ValueError(f'{key}: {problem}{held}')


def _wrong_pictures(looks: Sequence[Look], shifted: bool) -> str:
    seen = [look for look in looks if look.varies]
    largest = max((abs(pixel) for look in seen for pixel in (look.low, look.high)), default=0.0)
    unit = seen[0].unit if seen else 0.0
    too_small = unit > 2 and largest < min(SMALL * unit, NORMALISED) and not all(look.whole for look in seen)
    if not (too_small or (shifted and unit > 0) or (unit <= 2 and 0 < LARGE * unit < largest)):
        return ''
    low, high = min(look.low for look in seen), max(look.high for look in seen)
    return (
        f'mean and std of its data_preprocessor have numbers up to {unit:.3g}, but the pixels of the first batch are '
        f'from {low:.3g} to {high:.3g}. Usual reasons: a Normalize step in the training pipeline, pictures from 0 to '
        "1, another network's data_preprocessor. Let data_preprocessor alone normalise, in student and teacher, with "
        'mean and std for the pixels that the pipeline gives.'
    )


def _constant_maps(looks: Sequence[Look]) -> str:
    found: dict[str, bool] = {}
    for look in looks:
        found.update({tap: flat and found.get(tap, True) for tap, flat in look.flat.items() if look.varies})
    flat = [tap for tap, same in found.items() if same]
    if not flat:
        return ''
    return (
        f'its maps at {some(flat)} are the same at all positions of all pictures of the first batch, so there is '
        'nothing to learn. Usual reasons: a file of the teacher with damaged statistics (a huge running_var), pictures '
        'in another normalisation, a tap behind layers without weights from the file.'
    )


def _is_flat(tensor: Tensor) -> bool | None:
    """Tell whether all channels of maps (B, C, H, W) or tokens (B, N, C) are constant; ``None`` for a single place."""
    places = (1,) if tensor.dim() == 3 else tuple(range(2, tensor.dim()))
    if math.prod(tensor.shape[axis] for axis in places) < 2 or not tensor.is_floating_point():
        return None  # the only place of a picture may be equal in all pictures, if they are copies of one
    places = (0, *places)
    low, high = tensor.amin(places).float(), tensor.amax(places).float()
    return bool(((high - low) <= ROUNDING * torch.maximum(low.abs(), high.abs())).all())
