"""Generated training batches for a network of mmseg or mmdet: noise with random labels or boxes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

from mmdistill_dense.config.data_sets import chain
from mmdistill_dense.registry import DATASETS
from mmdistill_dense.utils.protocols import Network, Sample

BOXES = 8  # an image of COCO has 7 on average

Size = tuple[int, int]


def training_batch(network: Any, config: Mapping[str, Any], images: int, size: Size | None = None) -> dict[str, Any]:
    """Return a generated batch in the form that a data loader gives.

    Args:
        network: A segmenter with a ``decode_head``, or a detector.
        config: The config, which has a detector's image size.
        images: Number of images.
        size: Height and width. Defaults to a segmenter's training crop; for a detector, to the size that its training
            pipeline crops to, the largest that it resizes to, or the first picture's.
    """
    draw = torch.Generator().manual_seed(0)
    if hasattr(network, 'decode_head'):
        size, sample = size or _crop(network), _labels
    elif hasattr(network, 'bbox_head') or hasattr(network, 'roi_head'):
        size, sample = size or _training_size(config), _boxes
    else:
        raise ValueError(
            f'step benchmark: the student must have a decode_head, bbox_head or roi_head, {type(network).__name__} has '
            'none of them'
        )
    samples = [sample(network, size, draw) for _ in range(images)]
    inputs = [torch.randint(256, (3, *size), generator=draw, dtype=torch.uint8) for _ in range(images)]
    return {'inputs': inputs, 'data_samples': samples}


def picture_size(dataset: Mapping[str, Any]) -> Size:
    """Return height and width of the first picture of a data set, after its pipeline."""
    picture = DATASETS.build(dataset)[0]['inputs']
    return picture.shape[1], picture.shape[2]


def _crop(network: Network) -> Size:
    size = getattr(network.data_preprocessor, 'size', None)
    if size is None:
        raise ValueError('step benchmark: the student has no data_preprocessor.size, the training crop; give --size')
    return tuple(size)


def _training_size(config: Mapping[str, Any]) -> Size:
    dataset = config['train_dataloader'].get('dataset', {})
    size = pipeline_size(dataset)
    if size is None and _pipeline(dataset):  # generated at its size
        return picture_size(dataset)
    if size is None:
        raise ValueError('step benchmark: no step of train_dataloader.dataset.pipeline has a scale; give --size')
    return size


def pipeline_size(dataset: Mapping[str, Any]) -> Size | None:
    """Return the height and width that a detector's pipeline crops to, else the largest that it resizes to."""
    steps = _pipeline(dataset)
    for step in reversed(steps):
        if step['type'] == 'RandomCrop' and step.get('crop_type', 'absolute') == 'absolute':
            width, height = step['crop_size']  # the order of mmdet
            return height, width
    scales = list(_scales(steps))
    if not scales:
        return None
    width, height = max(scales, key=lambda scale: scale[0] * scale[1])
    return height, width


def _pipeline(dataset: Mapping[str, Any]) -> Sequence[Any]:
    return chain(dataset)[0].get('pipeline', [])


def _scales(steps: Iterable[Any]) -> Iterator[Size]:
    for step in steps:
        if not isinstance(step, Mapping):  # one of several branches
            yield from _scales(step)
            continue
        yield from _pairs(step.get('scale') or step.get('scales') or [])
        yield from _scales(step.get('transforms', []))


def _pairs(scale: Any) -> Sequence[Size]:
    """Return the scales of a step, which has one or several of them, or the side of a square."""
    if isinstance(scale, int):
        return [(scale, scale)]
    return scale if not scale or isinstance(scale[0], (list, tuple)) else [scale]


def _labels(network: Network, size: Size, draw: torch.Generator) -> Sample:
    from mmseg.structures import SegDataSample

    head: Any = network.decode_head
    labels = torch.randint(head.num_classes, (1, *size), generator=draw)
    return SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo={'img_shape': size})


def _boxes(network: Network, size: Size, draw: torch.Generator) -> Sample:
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


def _num_classes(network: Network) -> int:
    head: Any = network if hasattr(network, 'bbox_head') else network.roi_head
    first: Any = head.bbox_head[0] if isinstance(head.bbox_head, nn.ModuleList) else head.bbox_head
    return first.num_classes
