"""What distillers read from the ground truth of a detection batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmdistill_dense.losses import to_device


def boxes_on_map(data_samples: Any, size: Sequence[int], key: str, like: Tensor) -> list[Tensor]:
    """Return the annotated boxes of each picture in cells of a map of the whole (padded) batch, by the map's stride.

    Args:
        data_samples: mmdet's, each with ``gt_instances`` and, among its metadata, the batch's padded size.
        size: Height and width of the map.
        key: The distiller's config key, for the error.
        like: A tensor of the device and dtype to return.

    Returns:
        Per picture (R, 4): x1, y1, x2, y2. Ignored instances (crowds) are not among them.

    Raises:
        ValueError: When the samples hold no boxes.
    """
    if not data_samples or any('bboxes' not in sample.get('gt_instances', ()) for sample in data_samples):
        raise ValueError(
            f'{key} separates objects from background and needs boxes (gt_instances.bboxes), which the batch does not '
            'hold: it works for detection data whose pipeline has LoadAnnotations(with_bbox=True); choose another '
            "method, e.g. type='MGD', elsewhere."
        )
    return [_scaled(sample, size, like) for sample in data_samples]


def _scaled(sample: Any, size: Sequence[int], like: Tensor) -> Tensor:
    boxes = sample.gt_instances.bboxes
    meta = sample.metainfo
    height, width = meta.get('batch_input_shape') or meta.get('pad_shape') or meta['img_shape']
    y, x = (_stride(*sides) for sides in zip((height, width), size, strict=True))
    strides = to_device(torch.tensor([x, y, x, y]), like).to(like.dtype)
    return getattr(boxes, 'tensor', boxes).to(like) / strides


def _stride(pixels: int, cells: int) -> float:
    """Return the power of two that gives a side of so many cells, rounded up; the ratio where none does.

    Where the side is no multiple of the stride, as at the coarse levels of an FPN, the last cell lies partly outside.
    """
    stride = 2.0 ** math.ceil(math.log2(pixels / cells))
    return stride if math.ceil(pixels / stride) == cells else pixels / cells
