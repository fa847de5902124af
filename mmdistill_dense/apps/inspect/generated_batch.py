"""A generated batch of pictures and labels, in the form that a data loader gives."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.structures import InstanceData, PixelData
from torch import nn

from mmdistill_dense.config.values import chain, mappings, pipeline_of
from mmdistill_dense.registry import DATASETS
from mmdistill_dense.utils.runner_internals import Sample

Size = tuple[int, int]
BOXES = 8  # an image of COCO has 7 on average


def training_batch(network: Any, config: Mapping[str, Any], images: int, size: Size | None = None) -> dict[str, Any]:
    """Return a generated batch in the form that a data loader gives."""
    draw = torch.Generator().manual_seed(0)
    if hasattr(network, 'decode_head'):
        size, sample = size or getattr(network.data_preprocessor, 'size', None), _labels
        problem = 'the student has no data_preprocessor.size, the training crop; give --size'
    elif hasattr(network, 'bbox_head') or hasattr(network, 'roi_head'):
        dataset, sample = config['train_dataloader'].get('dataset', {}) if size is None else {}, _boxes
        size = size or pipeline_size(dataset)
        if size is None and pipeline_of(dataset):  # that of the first picture, after its pipeline
            size = tuple(DATASETS.build(dataset)[0]['inputs'].shape[1:])
        problem = 'no step of train_dataloader.dataset.pipeline has a scale; give --size'
    else:
        needs = 'the student must have a decode_head, bbox_head or roi_head'
        size, problem = None, f'{needs}, {type(network).__name__} has none of them'
    if size is None:
        raise ValueError(f'step benchmark: {problem}')
    samples = [sample(network, (size[0], size[1]), draw) for _ in range(images)]
    inputs = [torch.randint(256, (3, *size), generator=draw, dtype=torch.uint8) for _ in range(images)]
    return {'inputs': inputs, 'data_samples': samples}


def pipeline_size(dataset: Mapping[str, Any]) -> Size | None:
    """Return the height and width that a detector's pipeline crops to, else the largest that it resizes to."""
    steps = list(mappings([layer.get('pipeline') or [] for layer in chain(dataset)]))  # also those of branches
    for step in reversed(steps):
        if step.get('type') == 'RandomCrop' and step.get('crop_type', 'absolute') == 'absolute':
            width, height = step['crop_size']  # the order of mmdet
            return height, width
    scales = [pair for step in steps for pair in _pairs(step.get('scale') or step.get('scales') or [])]
    width, height = max(scales, key=lambda scale: scale[0] * scale[1], default=(0, 0))
    return (height, width) if scales else None


def _pairs(scale: Any) -> Sequence[Size]:
    """Return the scales of a step, which has one or several of them, or the side of a square."""
    if isinstance(scale, int):
        return [(scale, scale)]
    return scale if not scale or isinstance(scale[0], (list, tuple)) else [scale]


def _labels(network: Any, size: Size, draw: torch.Generator) -> Sample:
    from mmseg.structures import SegDataSample

    labels = torch.randint(network.decode_head.num_classes, (1, *size), generator=draw)
    edges = PixelData(data=labels % 2)  # PIDNet's
    return SegDataSample(gt_sem_seg=PixelData(data=labels), gt_edge_map=edges, metainfo={'img_shape': size})


def _boxes(network: Any, size: Size, draw: torch.Generator) -> Sample:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    meta = {'img_shape': size, 'ori_shape': size, 'pad_shape': size, 'scale_factor': (1.0, 1.0)}
    limits = torch.tensor([size[1], size[0]])
    sides = limits * 2 ** -(1 + 3 * torch.rand(BOXES, 2, generator=draw))  # 1/16 to 1/2 of the image
    corners = (limits - sides) * torch.rand(BOXES, 2, generator=draw)
    boxes = torch.cat([corners, corners + sides], 1)
    heads = network.bbox_head if hasattr(network, 'bbox_head') else network.roi_head.bbox_head
    head: Any = heads[0] if isinstance(heads, nn.ModuleList) else heads
    instances = InstanceData(bboxes=boxes, labels=torch.randint(head.num_classes, (BOXES,), generator=draw))
    if getattr(network, 'with_mask', False):
        ys, xs = torch.arange(size[0])[None, :, None], torch.arange(size[1])[None, None]
        left, top, right, bottom = (side[:, None, None] for side in boxes.T)
        filled = (xs >= left) & (xs < right) & (ys >= top) & (ys < bottom)
        instances.masks = BitmapMasks(filled.to(torch.uint8).numpy(), *size)
    return DetDataSample(metainfo=meta, gt_instances=instances)
