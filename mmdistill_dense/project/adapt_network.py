"""What own data change in a network of the zoo, as overrides for ``student=dict(cfg=…, **overrides)``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmdistill_dense.guards.class_counts import num_classes

# parts whose class counts are not those of the data, or that have none
_APART = ('backbone', 'neck', 'rpn_head', 'semantic_head', 'data_preprocessor', 'text_encoder', 'teacher_bbox_head')
_LARGE = 4_000_000  # pixels: a larger picture is tested in windows


def overrides(model: Mapping[str, Any], classes: int, key: str) -> dict[str, Any]:
    """Return what sets the number of classes: of every head, members of lists, and weights of the classes in losses."""
    old = _classes_of(model)
    if old is None:
        raise ValueError(
            f'{key}: no head of {model.get("type")} says num_classes, so the number of classes cannot be set. Choose '
            'a segmentor or a detector, or write the pair by hand: docs/own_pair.md.'
        )
    fusion = model.get('panoptic_fusion_head') or {}
    if fusion.get('num_stuff_classes'):
        raise ValueError(
            f'{key}: {model.get("type")} is trained on panoptic labels, which the data do not have. Choose the config '
            'for instances (coco without -panoptic in its name), or a segmentor of mmseg.'
        )
    return _counts(model, old, classes)


def _classes_of(model: Mapping[str, Any]) -> int | None:
    heads = {name: part for name, part in model.items() if name not in _APART and name.endswith('head')}
    return num_classes(model) or next(class_counts(heads), None)


def class_counts(node: Any) -> Iterator[int]:
    """Yield the class counts inside a part, also those that stand deeper than :func:`num_classes` looks."""
    if isinstance(node, Mapping):
        yield from (node[key] for key in ('num_classes', 'num_things_classes') if isinstance(node.get(key), int))
    members = node.values() if isinstance(node, Mapping) else node if isinstance(node, (list, tuple)) else ()
    for member in members:
        yield from class_counts(member)


def _counts(node: Any, old: int, new: int) -> dict[str, Any]:
    """Return the changes inside a part; a member of a list has its number as key, as :func:`resolve.merge` reads it."""
    members = enumerate(node) if isinstance(node, (list, tuple)) else node.items() if isinstance(node, Mapping) else ()
    found: dict[str, Any] = {}
    for name, value in members:
        if name in ('num_classes', 'num_things_classes') and value == old != new:
            found[name] = new
        elif name == 'class_weight' and isinstance(value, Sequence) and len(value) in (old, old + 1):
            found[name] = [1.0] * new + list(value[old:]) if len(value) > old else None
        elif name not in _APART:
            inside = _counts(value, old, new)
            if inside:
                found[str(name)] = inside
    return found


def seg_size(model: Mapping[str, Any], crop: tuple[int, int], picture: tuple[int, int]) -> dict[str, Any]:
    """Return what sets the crop of a segmentor: in its preprocessor, and in its test by windows."""
    preprocessor = model.get('data_preprocessor') or {}
    found: dict[str, Any] = {'data_preprocessor': {'size': crop}}
    if preprocessor.get('size_divisor') is not None:
        found['data_preprocessor']['size_divisor'] = None
    slides = (model.get('test_cfg') or {}).get('mode') == 'slide'
    inside = picture[0] <= crop[0] and picture[1] <= crop[1]
    if picture[0] * picture[1] > _LARGE or (slides and not inside):
        stride = tuple(max(1, 2 * side // 3) for side in crop)
        found['test_cfg'] = {'_delete_': True, 'mode': 'slide', 'crop_size': crop, 'stride': stride}
    elif slides:
        found['test_cfg'] = {'_delete_': True, 'mode': 'whole'}
    return found


def det_size(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return what keeps a detector from padding or resizing batches to the sizes of its own data."""
    preprocessor = model.get('data_preprocessor') or {}
    return {'data_preprocessor': {'batch_augments': None}} if preprocessor.get('batch_augments') else {}


def without_weights(model: Any) -> dict[str, Any]:
    """Return what takes out all start weights (``pretrained=False``), and what only such weights allow.

    mmdet freezes stages and batch norms of its backbones, which random weights must not be.
    """
    backbone = model.get('backbone') or {}
    thawed: dict[str, Any] = {}
    if (backbone.get('frozen_stages') or -1) >= 0:
        thawed['frozen_stages'] = -1
    if backbone.get('norm_eval'):
        thawed['norm_eval'] = False
    if (backbone.get('norm_cfg') or {}).get('requires_grad') is False:
        thawed['norm_cfg'] = {'requires_grad': True}
    return {'pretrained': False, **({'backbone': thawed} if thawed else {})}


def joined_overrides(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested overrides merged into one."""
    found: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            both = isinstance(value, Mapping) and isinstance(found.get(name), Mapping)
            found[name] = joined_overrides(found[name], value) if both else value
    return found


def predicts_masks(model: Mapping[str, Any]) -> bool:
    """Tell whether a detector is trained on masks."""
    inside = model.get('roi_head') or {}
    heads = (model.get('mask_head'), model.get('panoptic_head'), inside.get('mask_head'))
    named = (str(model.get('type')), str((model.get('bbox_head') or {}).get('type')))
    return any(heads) or any(word in name for word in ('CondInst', 'RTMDetIns') for name in named)


def check_masks(model: Mapping[str, Any], masks: bool, key: str) -> None:
    """Refuse a detector whose labels the data do not have."""
    if predicts_masks(model) and not masks:
        raise ValueError(
            f'{key}: {model.get("type")} is trained on masks, and not every object of the label files has a '
            'segmentation. Choose a config for boxes, such as faster-rcnn in place of mask-rcnn.'
        )
    if (model.get('roi_head') or {}).get('semantic_head') or model.get('semantic_head'):
        raise ValueError(
            f'{key}: {model.get("type")} has a semantic_head, which needs maps of stuff that the data do not have. '
            'Choose a config without it (htc-without-semantic for HTC).'
        )
