"""From a picture to a network's input, as the test pipeline and the preprocessor of a config do it, and its answer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.transforms import Compose
from torch import Tensor, nn

from mmdistill_dense.apps.export.without_package import drop_label_steps, read_files
from mmdistill_dense.apps.inspect.inference import predict_items
from mmdistill_dense.config.values import layers, tested_set, type_name


def test_steps(config: Mapping[str, Any]) -> list[Any]:
    """Return the steps of a plain config's test pipeline; none of a set without one."""
    return next((option['pipeline'] for _, option in layers(tested_set(config)) if option.get('pipeline')), [])


def picture_pipeline(network: Any, config: Mapping[str, Any]) -> tuple[Compose, Compose, Compose]:
    """Return what reads a picture's file, what takes pixels (BGR) in its place, and the other steps, without labels."""
    load, *others = drop_label_steps(test_steps(config))
    read_files(load := dict(load))
    scope = 'mmseg' if hasattr(network, 'decode_head') else 'mmdet'
    pixels = {'type': f'{scope}.LoadImageFromNDArray', 'to_float32': load.get('to_float32', False)}
    return Compose([load]), Compose([pixels]), Compose(others)


def predict_image(network: Any, config: Mapping[str, Any], image: np.ndarray) -> Any:
    """Return what a network predicts for a picture (H, W, 3), RGB, uint8, through the test pipeline of its config."""
    _, load, prepare = picture_pipeline(network, config)
    item = prepare(load({'img': np.ascontiguousarray(image[..., ::-1]), 'img_id': 0}))
    return predict_items(network, [item])[0][0]


def preparation(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``orientation``, ``resize`` and ``pad`` of a plain config's test pipeline, ``None`` without such a step.

    Photographs are read as ``'turned'`` by EXIF, or as ``'stored'``. ``resize`` has ``scale`` (width, height) and
    ``keep_ratio``; ``pad`` has ``size`` (width, height), ``divisor``, ``square`` and ``value``. A step that these words
    do not say raises.
    """
    steps: dict[str, Any] = {'orientation': 'turned', 'resize': None, 'pad': None}
    for step in test_steps(config):
        name, options = type_name(step), {key: value for key, value in step.items() if key != 'type'}
        scale, method = options.get('scale'), (options.get('interpolation', 'bilinear'), options.get('backend', 'cv2'))
        if name == 'Resize' and scale and method == ('bilinear', 'cv2') and not (steps['resize'] or steps['pad']):
            scale = [scale] * 2 if isinstance(scale, int) else [*scale]
            steps['resize'] = {'scale': scale, 'keep_ratio': bool(options.get('keep_ratio'))}
        elif name == 'Pad' and not steps['pad'] and options.get('padding_mode', 'constant') == 'constant':
            value = options.get('pad_val', 0)
            value = value.get('img', 0) if isinstance(value, Mapping) else value
            values = {*value} if isinstance(value, Sequence) else {value}
            if len(values) > 1:
                raise ValueError(f'Pad of the test pipeline has pad_val {value}, and not one value for all channels')
            steps['pad'] = {
                'size': list(options['size']) if options.get('size') else None,
                'divisor': options.get('size_divisor') or 1,
                'square': bool(options.get('pad_to_square')),
                'value': float(values.pop()),
            }
        elif name.startswith('LoadImage') and 'color_type' in options:
            if options['color_type'] == 'grayscale':
                raise ValueError('the test pipeline reads pictures as grayscale; known are three channels')
            steps['orientation'] = 'turned' if options['color_type'] == 'color' else 'stored'
        elif not name.startswith(('Load', 'Pack')):
            arguments = ', '.join(f'{key}={value!r}' for key, value in options.items())
            supported = 'known are one bilinear Resize to a scale and, after it, one Pad with a constant'
            raise ValueError(f'the test pipeline has {name}({arguments}); {supported}')
    return steps


class Prepare(nn.Module):
    """An RGB picture (H, W, 3) in uint8 to ``image``, ``frame``, ``factor``, ``shown``, by a description's ``input``.

    ``image`` is what the network takes, ``frame`` what the pipeline gives before that (boxes end at its edges),
    ``factor`` (2) the ratio of the resize in width and height, and ``shown`` the picture.
    """

    def __init__(self, description: Mapping[str, Any]) -> None:
        super().__init__()
        self.description = description
        self.order = [0, 1, 2] if description['channels'] == 'RGB' else [2, 1, 0]
        self.mean, self.std = (torch.tensor(description[name]).view(1, 3, 1, 1) for name in ('mean', 'std'))

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # sizes as tensors: float64 gives the sizes that mmcv gives
        ones = torch.ones_like(picture[:, :, 0], dtype=torch.float64)
        sides = torch.stack([ones[:, 0].sum(), ones[0].sum()])
        pixels, resize, factor = picture.float(), self.description['resize'], torch.ones(2)
        if resize:
            scale = resize['scale']
            target = torch.tensor(scale[::-1])
            if resize['keep_ratio']:
                target = (sides * torch.minimum(max(scale) / sides.max(), min(scale) / sides.min()) + 0.5).long()
            pixels = resize_pixels(pixels, sides, target)
            factor = (target / sides).float().flip(0)
        frame = pad_pixels(pixels.permute(2, 0, 1)[None], self.description['pad'] or {})
        image = (frame[:, self.order] - self.mean) / self.std
        image = pad_pixels(image, {**self.description['padding'], 'divisor': self.description['pad_size_divisor']})
        return image, frame, factor, picture.clone()


def resize_pixels(pixels: Tensor, sides: Tensor, target: Tensor) -> Tensor:
    """Resize pixels (H, W, 3) of whole numbers to ``target`` (height, width) with OpenCV's steps and roundings."""

    def taps(axis: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the two neighbours of each new row or column, and their weights in 2048ths."""
        count: Any = target[axis].item()
        torch._check(count >= 2)  # for torch.export, which reads the size from a tensor
        last = (sides[axis] - 1).long()
        position = ((torch.arange(count).double() + 0.5) * (1 / (target[axis] / sides[axis])) - 0.5).float()
        lower = position.floor()
        share = position - lower
        if axis == 1:  # of columns, OpenCV takes one neighbour beyond the edges; of rows, the same one twice
            share = torch.where((lower < 0) | (lower >= last), torch.zeros(()), share)
        units = (2048 * share).round()
        low, high = (torch.minimum((lower.long() + step).clamp(min=0), last) for step in (0, 1))
        return low, high, 2048 - units, units

    left_tap, right, near, far = taps(1)
    wide = pixels[:, left_tap] * near[:, None] + pixels[:, right] * far[:, None]
    wide = (wide / 16).floor()
    top, low, near, far = taps(0)
    near, far = near[:, None, None] / 65536, far[:, None, None] / 65536
    return (((wide[top] * near).floor() + (wide[low] * far).floor() + 2) / 4).floor()


def pad_pixels(pixels: Tensor, pad: Mapping[str, Any]) -> Tensor:
    """Pad pixels (1, 3, H, W) at the right and lower edge."""
    sides: list[Any] = list(pixels.shape[2:])
    if pad.get('square'):
        sides = [torch.sym_max(*sides)] * 2
    if pad.get('size'):
        sides = [torch.sym_max(side, least) for side, least in zip(sides, pad['size'][::-1], strict=True)]
    step = pad.get('divisor') or 1
    below, right = ((side + step - 1) // step * step - old for side, old in zip(sides, pixels.shape[2:], strict=True))
    if step == 1 and not pad.get('square') and not pad.get('size'):
        return pixels.clone()
    return F.pad(pixels, (0, right, 0, below), value=pad['value'])
