"""Generated training batches for a network of mmseg or mmdet: noise, with labels or boxes anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

BOXES = 8  # an image of COCO has 7 on average

Size = tuple[int, int]


def training_batch(network: Any, config: Mapping[str, Any], images: int, size: Size | None = None) -> dict[str, Any]:
    """Return a batch as a loader gives it.

    Args:
        network: A segmenter with a ``decode_head``, or a detector.
        config: The config, which tells a detector's image size.
        images: How many.
        size: Height and width. Defaults to a segmenter's training crop, and to the largest size that a detector's
            training pipeline resizes to.

    Raises:
        ValueError: For another network, or when there is no size to be found.
    """
    draw = torch.Generator().manual_seed(0)
    if hasattr(network, 'decode_head'):
        size, sample = size or _crop(network), _labels
    elif hasattr(network, 'bbox_head') or hasattr(network, 'roi_head'):
        size, sample = size or _pipeline_size(config), _boxes
    else:
        raise ValueError(
            f'step benchmark: the student must have a decode_head, bbox_head or roi_head, {type(network).__name__} has '
            'none of them'
        )
    samples = [sample(network, size, draw) for _ in range(images)]
    inputs = [torch.randint(256, (3, *size), generator=draw, dtype=torch.uint8) for _ in range(images)]
    return {'inputs': inputs, 'data_samples': samples}


def _crop(network: Any) -> Size:
    size = getattr(network.data_preprocessor, 'size', None)
    if size is None:
        raise ValueError('step benchmark: the student has no data_preprocessor.size, the training crop; give --size')
    return tuple(size)


def _pipeline_size(config: Mapping[str, Any]) -> Size:
    dataset = config['train_dataloader'].get('dataset', {})
    while 'dataset' in dataset:  # repeated, balanced
        dataset = dataset['dataset']
    scales: list[Any] = []
    for step in dataset.get('pipeline', []):
        scales += [step['scale']] if 'scale' in step else step.get('scales', [])
    if not scales:
        raise ValueError('step benchmark: no step of train_dataloader.dataset.pipeline has a scale; give --size')
    width, height = max(scales, key=lambda scale: scale[0] * scale[1])
    return height, width


def _labels(network: Any, size: Size, draw: torch.Generator) -> Any:
    from mmseg.structures import SegDataSample

    labels = torch.randint(network.decode_head.num_classes, (1, *size), generator=draw)
    return SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo={'img_shape': size})


def _boxes(network: Any, size: Size, draw: torch.Generator) -> Any:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    meta = {'img_shape': size, 'ori_shape': size, 'pad_shape': size, 'scale_factor': (1.0, 1.0)}
    limits = torch.tensor([size[1], size[0]])
    sides = limits * 2 ** -(1 + 3 * torch.rand(BOXES, 2, generator=draw))  # 1/16 to 1/2 of the image
    corners = (limits - sides) * torch.rand(BOXES, 2, generator=draw)
    boxes = torch.cat([corners, corners + sides], 1)
    labels = torch.randint(_num_classes(network), (BOXES,), generator=draw)
    instances = InstanceData(bboxes=boxes, labels=labels)
    if getattr(network, 'with_mask', False):
        instances.masks = BitmapMasks(_filled(boxes, size).numpy(), *size)
    return DetDataSample(metainfo=meta, gt_instances=instances)


def _filled(boxes: Tensor, size: Size) -> Tensor:
    ys, xs = torch.arange(size[0])[None, :, None], torch.arange(size[1])[None, None]
    left, top, right, bottom = (side[:, None, None] for side in boxes.T)
    return ((xs >= left) & (xs < right) & (ys >= top) & (ys < bottom)).to(torch.uint8)


def _num_classes(network: Any) -> int:
    head = network.bbox_head if hasattr(network, 'bbox_head') else network.roi_head.bbox_head
    first: Any = head[0] if isinstance(head, nn.ModuleList) else head
    return first.num_classes
