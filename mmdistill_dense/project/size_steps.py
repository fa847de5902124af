"""The step in which a network takes sizes: DDRNet adds maps that fit only if the picture is a multiple of 8."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.networks.building import build_network
from mmdistill_dense.project.sides import Side
from mmdistill_dense.utils.silence import quiet

_STEPS = (1, 8, 16, 32, 64)
_ODD = (165, 203)  # pixels; a multiple of no step


def size_step(side: Side) -> int:
    """Return the step: 1 for a network that takes any size, or that cannot be tried without arithmetic."""
    with quiet(), torch.no_grad():
        try:
            with torch.device('meta'):
                network: Any = build_network(load_model(side.option, side.key), pretrained=False).eval()
        except Exception as error:  # a constructor that reads numbers out of tensors
            logging.getLogger(__name__).debug('%s', side.name, exc_info=error)
            return 1
        return next((step for step in _STEPS if _runs(network, step)), 1)


def _runs(network: Any, step: int) -> bool:
    height, width = (-(-side // step) * step for side in _ODD)
    try:
        network.extract_feat(torch.zeros(1, 3, height, width, device='meta'))
    except Exception:  # any code may run here; the check before the training says what is wrong
        return False
    return True


def padded_batches(side: Side, step: int) -> Mapping[str, Any]:
    """Return what pads the batches of a detector to multiples of the step; RTMDet's own configs pad every picture."""
    own = (side.model.get('data_preprocessor') or {}).get('pad_size_divisor') or 1
    if own % step == 0:
        return {}
    side.notes.append(f'it takes sizes that are multiples of {step}: batches are padded')
    return {'data_preprocessor': {'pad_size_divisor': step}}


def padded_tests(side: Side, step: int, crop: tuple[int, int]) -> Mapping[str, Any]:
    """Return what pads tested pictures to multiples of the step; the prediction is cut to the picture.

    Raises:
        ValueError: If the training crop is none.
    """
    if any(one % step for one in crop):
        fitting = ' '.join(str(-(-one // step) * step) for one in crop)
        raise ValueError(
            f'{side.key} {side.name}: it takes multiples of {step} as sizes, and the crop is {crop[0]}x{crop[1]}. '
            f'Write --size {fitting}.'
        )
    side.notes.append(f'it takes sizes that are multiples of {step}: tested pictures are padded')
    return {'data_preprocessor': {'test_cfg': {'size_divisor': step}}}
