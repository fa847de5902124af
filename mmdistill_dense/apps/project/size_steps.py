"""The sizes that a network takes: DDRNet's are multiples of 8; LRASPP's head and DETR's queries need large ones."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from mmdistill_dense.apps.project.picture_folders import Size, size_text
from mmdistill_dense.apps.project.sides import Side
from mmdistill_dense.apps.project.zoo_schedule import Loading
from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.networks.building import build_network
from mmdistill_dense.utils.quiet import quiet

_STEPS = (1, 8, 16, 32, 64)
_GRID = 32  # of sizes that are proposed


# where networks are tried, up to how many pixels, and the size on which a network runs if it runs there at all
_DEVICES = (('meta', math.inf, (1024, 1024)), ('cpu', 320 * 320, (512, 512)))
_ODD = (165, 203)  # pixels; a multiple of no step
_PROPOSALS = 4  # of the first stage; whether a network runs does not hang on their number, its seconds do


def size_step(network: Any) -> int:
    """Return the step of a network on the meta device: 1 if it takes any size, or could not be built there."""
    with quiet(), torch.no_grad():
        return 1 if network is None else next((step for step in _STEPS if _runs(network, step)), 1)


def built(side: Side, device: str) -> Any:
    """Return a network; ``None`` if it cannot be built on this device."""
    try:
        with quiet(), torch.device(device), torch.no_grad():
            return build_network(load_model(side.option, side.key), pretrained=False).eval()
    except Exception as error:  # a constructor that reads numbers out of tensors
        logging.getLogger(__name__).debug('%s', side.name, exc_info=error)
        return None


def _runs(network: Any, step: int) -> bool:
    height, width = (-(-side // step) * step for side in _ODD)
    try:
        network.extract_feat(torch.zeros(1, 3, height, width, device='meta'))
    except Exception:  # any code may run here; the check before the training says what is wrong
        return False
    return True


def check_large_enough(
    side: Side, usual: Size, loading: Loading, load: Callable[[Size], Loading], known: Any = None
) -> None:
    """Run a network (``known``: on the meta device) once on pictures as they train and as they are tested."""
    for device, most, sure in _DEVICES:
        network = known if device == 'meta' and known is not None else built(side, device)
        if network is None:
            continue
        if proposals := getattr(getattr(network, 'rpn_head', None), 'test_cfg', None):
            proposals.max_per_img = _PROPOSALS
        small = [size for size in dict.fromkeys(_seen(side, loading)) if size[0] * size[1] <= most]
        failed = {size: error for size in small if (error := _error(network, side.task, size, device))}
        if not failed:
            return
        if not _error(network, side.task, sure, device):
            break
    else:
        return
    size, error = next(iter(failed.items()))
    for short in range(_GRID, max(sure) + 1, _GRID):
        height, width = (-(-short * one // (min(usual) * _GRID)) * _GRID for one in usual)
        if not any(_error(network, side.task, one, device) for one in _seen(side, load((height, width)))):
            raise ValueError(
                f'{side.key} {side.name}: it cannot run on pictures of {size_text(size)} ({error}). --size {height} '
                f'{width} is the smallest that works for your pictures of {size_text(usual)}.'
            )


def _seen(side: Side, loading: Loading) -> list[Size]:
    """Return the sizes of the pictures that a network sees in training and test."""
    model = load_model(side.option, side.key).model
    preprocessor, height, width = model.get('data_preprocessor') or {}, *loading.tested
    if (model.get('test_cfg') or {}).get('mode') == 'slide':
        height, width = min(height, loading.crop[0]), min(width, loading.crop[1])
    tests = preprocessor.get('test_cfg') or {}
    step = preprocessor.get('pad_size_divisor') or tests.get('size_divisor') or 1
    padded = -(-height // step) * step, -(-width // step) * step
    return [loading.crop, padded] if side.task == 'seg' else [padded]


def _error(network: Any, task: str, size: Size, device: str) -> str:
    """Return the first line of the error with which a network stops on a picture of a size; empty if it runs."""
    options: dict[str, Any] = {}
    if task == 'det':
        from mmdet.structures import DetDataSample

        known = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), size)
        options['data_samples'] = [DetDataSample(metainfo={**known, 'scale_factor': (1.0, 1.0)})]
    try:
        with quiet(), torch.device(device), torch.no_grad():
            network(torch.zeros(1, 3, *size), mode='tensor', **options)
    except Exception as error:  # any code may run here
        return next(iter(str(error).splitlines()), type(error).__name__)
    return ''


def padded_batches(side: Side, step: int) -> Mapping[str, Any]:
    """Return what pads the batches of a detector to multiples of the step; RTMDet's own configs pad every picture."""
    own = (side.model.get('data_preprocessor') or {}).get('pad_size_divisor') or 1
    if own % step == 0:
        return {}
    side.notes.append(f'it takes sizes that are multiples of {step}: batches are padded')
    return {'data_preprocessor': {'pad_size_divisor': step}}


def padded_tests(side: Side, step: int, crop: tuple[int, int]) -> Mapping[str, Any]:
    """Return what pads tested pictures to multiples of the step; the prediction is cut to the picture."""
    if any(one % step for one in crop):
        fitting = ' '.join(str(-(-one // step) * step) for one in crop)
        raise ValueError(
            f'{side.key} {side.name}: it takes multiples of {step} as sizes, and the crop is {crop[0]}x{crop[1]}. '
            f'Write --size {fitting}.'
        )
    side.notes.append(f'it takes sizes that are multiples of {step}: tested pictures are padded')
    return {'data_preprocessor': {'test_cfg': {'size_divisor': step}}}
