"""From a network's outputs to what a user asks for: a label map, or boxes and masks in a picture's pixels."""

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdistill_dense.apps.export.graphs import group_levels

_MAX_BOXES = 5000  # boxes of a head without ``max_per_img``
_KNOWN_HEADS = ('BaseDenseHead', 'RPNHead', 'YOLOXHead')  # whose choice of boxes ``_select_boxes`` makes


class Labels(nn.Module):
    """The label map (H, W) of a picture from the logits of its prepared image, as mmseg makes it."""

    names = ('labels',)

    def __init__(self, network: Any, description: Mapping[str, Any]) -> None:
        super().__init__()
        self.align, self.threshold = network.align_corners, description.get('threshold')

    def forward(self, frame: Tensor, factor: Tensor, canvas: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
        logits = maps[0][:, :, : frame.shape[2], : frame.shape[3]]
        logits = F.interpolate(logits, canvas.shape[:2], mode='bilinear', align_corners=self.align)
        labels = logits.argmax(1) if self.threshold is None else logits[:, 0].sigmoid() > self.threshold
        return (labels[0].to(torch.uint8 if logits.shape[1] <= 256 else torch.int32),)


@torch.library.custom_op('mmdistill_dense::suppress', mutates_args=())
def suppress(boxes: Tensor, scores: Tensor, overlap: float, limit: int) -> Tensor:
    """Return the numbers of the boxes that stay, best first, then -1 up to ``limit``; scores are above 0."""
    from mmcv.ops import nms  # which mmcv-lite has not; segmentors need none

    valid = (scores > 0).nonzero().squeeze(1)
    rows = valid[nms(boxes[valid], scores[valid], overlap)[1][:limit]] if len(valid) else valid
    return F.pad(rows, (0, limit - len(rows)), value=-1)


suppress.register_fake(lambda boxes, scores, overlap, limit: boxes.new_empty(limit, dtype=torch.long))


@torch.library.custom_op('mmdistill_dense::align', mutates_args=())
def align(maps: Tensor, rois: Tensor, size: int, scale: float, sampling: int, aligned: bool) -> Tensor:
    """Return what RoIAlign takes from maps for each region (number of the picture, x1, y1, x2, y2)."""
    from mmcv.ops import roi_align

    return roi_align(maps, rois, size, scale, sampling, 'avg', aligned)


align.register_fake(lambda maps, rois, size, *_: maps.new_empty(rois.shape[0], maps.shape[1], size, size))


def translations() -> dict[Any, Any]:
    """Return how ONNX writes the operations of this file."""
    from onnxscript import opset20 as op

    def ints(*values: int) -> Any:
        return op.Constant(value_ints=list(values))

    def write_nms(boxes: Any, scores: Any, overlap: float, limit: int) -> Any:
        overlaps, least = (op.Constant(value_floats=[value]) for value in (overlap, 0.0))
        boxes, scores = op.Unsqueeze(boxes, ints(0)), op.Unsqueeze(scores, ints(0, 1))
        selected = op.NonMaxSuppression(boxes, scores, ints(limit), overlaps, least)
        rows = op.Reshape(op.Gather(selected, ints(2), axis=1), ints(-1))
        filled = op.Concat(rows, op.Expand(ints(-1), ints(limit)), axis=0)
        return op.Slice(filled, ints(0), ints(limit))

    def write_roi_align(maps: Any, rois: Any, size: int, scale: float, sampling: int, aligned: bool) -> Any:
        mode = 'half_pixel' if aligned else 'output_half_pixel'
        options = {'output_height': size, 'output_width': size, 'sampling_ratio': sampling, 'spatial_scale': scale}
        boxes = op.Slice(rois, ints(1), ints(5), ints(1))
        pictures = op.Cast(op.Reshape(op.Slice(rois, ints(0), ints(1), ints(1)), ints(-1)), to=7)  # int64
        return op.RoiAlign(maps, boxes, pictures, coordinate_transformation_mode=mode, **options)

    space = torch.ops.mmdistill_dense
    return {space.suppress.default: write_nms, space.align.default: write_roi_align}


class Detections(nn.Module):
    """``boxes`` (n, 4), ``scores``, ``labels``, perhaps ``masks`` (n, H, W), from the maps of a detector's graph.

    mmdet's own methods decode; only what asks for values (thresholds, suppression, regions by level) is replaced.
    """

    def __init__(self, network: Any, description: Mapping[str, Any]) -> None:
        super().__init__()
        self.network, self.outputs = network, list(description['outputs'])
        self.two_stage = self.outputs[0].startswith('features_')
        self.masks = self.two_stage and network.roi_head.with_mask
        self.names = ('boxes', 'scores', 'labels', *(['masks'] if self.masks else []))
        check_decoding(network, self.two_stage)

    def forward(self, frame: Tensor, factor: Tensor, canvas: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
        outputs = group_levels(self.outputs, maps)
        meta = {'img_shape': frame.shape[2:], 'ori_shape': canvas.shape[:2], 'scale_factor': tuple(factor)}
        network = self.network
        with _traceable(network, self.two_stage):
            if self.two_stage:
                features, *outputs = outputs
                (instances,) = network.rpn_head.predict_by_feat(*outputs, batch_img_metas=[meta], rescale=False)
                (instances,) = network.roi_head.predict_bbox(features, [meta], [instances], network.roi_head.test_cfg)
                if self.masks:
                    (instances,) = network.roi_head.predict_mask(features, [meta], [instances], rescale=True)
            else:
                (instances,) = network.bbox_head.predict_by_feat(*outputs, batch_img_metas=[meta], rescale=True)
        real = (instances.scores > 0).nonzero().squeeze(1)
        boxes, scores, labels = instances.bboxes[real], instances.scores[real], instances.labels[real]
        boxes = boxes / torch.cat([factor, factor]) if self.two_stage else boxes
        if not self.masks:
            return boxes, scores, labels
        masks = paste_masks(instances.masks[real], boxes, *canvas.shape[:2])
        return boxes, scores, labels, masks >= network.roi_head.test_cfg.mask_thr_binary


class Queries(nn.Module):
    """``boxes`` (n, 4), ``scores`` and ``labels`` from the outputs of a DETR, as mmdet makes them."""

    names = ('boxes', 'scores', 'labels')

    def __init__(self, network: Any, description: Mapping[str, Any]) -> None:
        super().__init__()
        self.head = network.bbox_head
        check_method(self.head, 'predict_by_feat', 'DETRHead', 'DeformableDETRHead')
        check_method(self.head, '_predict_by_feat_single', 'DETRHead')

    def forward(self, frame: Tensor, factor: Tensor, canvas: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
        meta = {'img_shape': frame.shape[2:]}
        instances = self.head._predict_by_feat_single(maps[0][0], maps[1][0], meta, rescale=False)
        return instances.bboxes / factor.repeat(2), instances.scores, instances.labels


def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Return masks (n, s, s) of boxes as (n, height, width): bilinear, zero outside."""

    def weights(low: Tensor, high: Tensor, side: int, cells: int) -> Tensor:
        middle = torch.arange(side) + 0.5
        at = (middle - low[:, None]) / (high - low)[:, None] * cells - 0.5
        return (1 - (at[:, :, None] - torch.arange(cells)).abs()).clamp(min=0)

    x1, y1, x2, y2 = boxes.unbind(1)
    rows, columns = weights(y1, y2, height, masks.shape[1]), weights(x1, x2, width, masks.shape[2])
    return rows @ masks @ columns.transpose(1, 2)


def owner_of(part: Any, method: str) -> Any:
    """Return the class that defines a method."""
    return next((kind for kind in type(part).__mro__ if method in vars(kind)), object)


def check_method(part: Any, method: str, *owners: str) -> None:
    """Refuse a method that these graphs replace if none of these classes defines it."""
    if owner_of(part, method).__name__ not in owners:
        raise ValueError(
            f'{type(part).__name__} has its own {method}; whole graphs have that of {" and ".join(owners)}. Leave '
            '--whole out: mmdet makes the answer of what the bare graph gives.'
        )


def _replacements(network: Any, two_stage: bool) -> Iterator[tuple[Any, str, tuple[str, ...], Any]]:
    """Yield methods whose rows depend on values: part, name, the classes that may define it, and what replaces it."""
    dense = network.rpn_head if two_stage else network.bbox_head
    by_level = owner_of(dense, '_bbox_post_process').__name__ == 'RPNHead'
    yield dense, '_bbox_post_process', _KNOWN_HEADS, partial(_select_boxes, by_level=by_level)
    if owner_of(dense, 'predict_by_feat').__name__ == 'YOLOXHead':
        yield dense, 'predict_by_feat', ('YOLOXHead',), partial(_yolox, dense)
    owner = owner_of(dense, '_predict_by_feat_single')
    if owner.__name__ == 'RPNHead':
        yield dense, '_predict_by_feat_single', ('RPNHead',), super(owner, dense)._predict_by_feat_single
    for layer in network.roi_head.modules() if two_stage else ():
        if hasattr(layer, 'map_roi_levels'):
            yield layer, 'forward', ('SingleRoIExtractor',), partial(_extract_regions, layer)
        elif hasattr(layer, 'conv_logits') and hasattr(layer, 'class_agnostic'):
            yield layer, '_predict_by_feat_single', ('FCNMaskHead',), partial(_small_masks, layer)


def check_decoding(network: Any, two_stage: bool) -> None:
    """Refuse what decides in another way than these graphs do."""
    for part, method, owners, _ in _replacements(network, two_stage):
        check_method(part, method, *owners)
    for head in [network.rpn_head, network.roi_head] if two_stage else [network.bbox_head]:
        name, options = type(head).__name__, dict(head.test_cfg or {})
        kind, candidates = (options.get('nms') or {}).get('type', 'nms'), options.get('nms_pre', 1)
        if kind != 'nms':
            raise ValueError(f'{name} suppresses boxes by {kind}: ONNX has plain suppression alone')
        if candidates < 1:
            raise ValueError(f'{name} has nms_pre={candidates}: set how many candidates a level has')
    for layer in network.roi_head.modules() if two_stage else ():
        if type(layer).__name__ in ('GenericRoIExtractor', 'RoIPool'):
            raise ValueError(f'{type(layer).__name__} of {type(network.roi_head).__name__} is not known to ONNX')


@contextlib.contextmanager
def _traceable(network: Any, two_stage: bool) -> Iterator[None]:
    """Let mmdet's prediction run by our methods, and by our functions in the modules of its heads."""
    patches = [(part, method, new) for part, method, _, new in _replacements(network, two_stage)]
    parts = [network.rpn_head, *network.roi_head.modules()] if two_stage else [network.bbox_head]
    for module in {sys.modules[kind.__module__] for part in parts for kind in type(part).__mro__}:
        functions = {'filter_scores_and_topk': _top_scores, 'multiclass_nms': _multiclass}
        patches += [(module, name, new) for name, new in functions.items() if name in vars(module)]
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(mock.patch.object(*patch))
        yield


def _top_scores(scores: Tensor, score_thr: float, topk: int, results: Any = None) -> tuple[Any, ...]:
    """As mmdet's ``filter_scores_and_topk``, with ``topk`` rows; those that are too many have a score of -1."""
    classes = scores.shape[1]
    flat = torch.where(scores > score_thr, scores, -torch.ones(())).flatten()
    best, index = torch.cat([flat, -torch.ones(topk)]).topk(topk)
    keep = (index // classes).clamp(max=scores.shape[0] - 1)
    return best, index % classes, keep, None if results is None else {k: v[keep] for k, v in results.items()}


def _nms(boxes: Tensor, scores: Tensor, groups: Tensor, options: Mapping[str, Any], limit: int) -> tuple[Tensor, ...]:
    """Suppress within each group, as mmcv's ``batched_nms``; return rows and scores."""
    shifted_boxes = boxes if options.get('class_agnostic') else boxes + (groups * (boxes.max() + 1))[:, None]
    indices = suppress(shifted_boxes, scores, options.get('iou_threshold', options.get('iou_thr')), limit)
    rows = indices.clamp(min=0)
    return rows, torch.where(indices >= 0, scores[rows], -torch.ones(()))


def _select_boxes(results: Any, cfg: Any, rescale: bool, img_meta: Any, by_level: bool = False, **_: Any) -> Any:
    """As the ``_bbox_post_process`` of mmdet's dense heads and RPN, with ``max_per_img`` rows."""
    boxes, scores = results.bboxes, results.scores
    if rescale:
        boxes = boxes / torch.stack([*img_meta['scale_factor']] * 2)
    if 'score_factors' in results:
        scores = scores * results.score_factors
    if cfg.get('min_bbox_size', -1) >= 0:
        large = ((boxes[:, 2:] - boxes[:, :2]) > cfg.min_bbox_size).all(1)
        scores = torch.where(large, scores, -torch.ones(()))
    # the RPN has one class, and suppresses within each level
    groups = torch.arange(len(boxes)) // cfg.nms_pre if by_level else results.labels
    rows, scores = _nms(boxes, scores, groups, cfg.nms, cfg.get('max_per_img', _MAX_BOXES))
    return InstanceData(bboxes=boxes[rows], scores=scores, labels=results.labels[rows])


def _yolox(self: Any, cls_scores: Any, bbox_preds: Any, objectnesses: Any, batch_img_metas: Any, **_: Any) -> Any:
    """As the ``predict_by_feat`` of mmdet's ``YOLOXHead``, which takes boxes by their scores before suppression."""

    def rows(maps: Sequence[Tensor], width: int) -> Tensor:
        return torch.cat([level_map[0].permute(1, 2, 0).reshape(-1, width) for level_map in maps])

    sizes = [level_map.shape[2:] for level_map in cls_scores]
    priors = torch.cat(self.prior_generator.grid_priors(sizes, device='cpu', with_stride=True))
    best, labels = rows(cls_scores, self.cls_out_channels).sigmoid().max(1)
    scores = best * rows(objectnesses, 1)[:, 0].sigmoid()
    scores = torch.where(scores >= self.test_cfg.score_thr, scores, -torch.ones(()))
    boxes = self._bbox_decode(priors, rows(bbox_preds, 4)[None])[0]
    instances = InstanceData(bboxes=boxes, scores=scores, labels=labels)
    return [_select_boxes(instances, self.test_cfg, True, batch_img_metas[0])]


def _multiclass(boxes: Tensor, scores: Tensor, score_thr: float, nms_cfg: Any, max_num: int, **_: Any) -> Any:
    """As mmdet's ``multiclass_nms``, with ``max_num`` rows."""
    classes = scores.shape[1] - 1
    groups = torch.arange(classes).expand(scores.shape[0], -1).flatten()
    boxes = boxes.view(scores.shape[0], -1, 4).expand(-1, classes, 4).reshape(-1, 4)
    scores = torch.where(scores > score_thr, scores, -torch.ones(()))[:, :-1].flatten()
    rows, scores = _nms(boxes, scores, groups, nms_cfg, max_num)
    return torch.cat([boxes[rows], scores[:, None]], 1), groups[rows]


def _extract_regions(self: Any, feats: Sequence[Tensor], rois: Tensor, roi_scale_factor: float | None = None) -> Tensor:
    """As the ``forward`` of mmdet's ``SingleRoIExtractor``."""
    levels = self.map_roi_levels(rois, len(feats))
    if roi_scale_factor is not None:
        rois = self.roi_rescale(rois, roi_scale_factor)
    (size, _) = self.roi_layers[0].output_size
    features = feats[0].new_zeros(rois.shape[0], feats[0].shape[1], size, size)
    for level, (maps, layer) in enumerate(zip(feats, self.roi_layers, strict=False)):
        members = (levels == level).nonzero().squeeze(1)
        features[members] = align(maps, rois[members], size, layer.spatial_scale, layer.sampling_ratio, layer.aligned)
    return features


def _small_masks(self: Any, mask_preds: Tensor, labels: Tensor, activate_map: bool = False, **_: Any) -> Tensor:
    """As the ``_predict_by_feat_single`` of mmdet's mask heads before it pastes them into the picture."""
    masks = mask_preds if activate_map else mask_preds.sigmoid()
    return masks[:, 0] if self.class_agnostic else masks[torch.arange(len(labels)), labels]
