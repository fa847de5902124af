"""Read labels and boxes from a batch, and the number of classes from a teacher's config."""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from mmdistill_dense.config.values import listed, num_classes, plain, type_name
from mmdistill_dense.losses import to_device
from mmdistill_dense.networks.taps import DECODER
from mmdistill_dense.registry import class_of, derives
from mmdistill_dense.utils.runner_internals import IGNORED, Sample, Samples

if TYPE_CHECKING:
    from mmdistill_dense.config.resolve import ModelConfig
    from mmdistill_dense.networks.taps import Tap
    from mmdistill_dense.networks.teacher import FrozenTeacher


_OUTSIDE = -1e6  # pixels


def semantic_labels(data_samples: Samples, size: Sequence[int], key: str, ignored: Collection[int] = ()) -> Tensor:
    """Return the class of each position of a map, from the nearest pixel of the label map."""
    if not data_samples or any('gt_sem_seg' not in sample for sample in data_samples):
        raise ValueError(
            f'{key} compares classes and needs label maps (gt_sem_seg), which the batch does not hold: use '
            "segmentation data with LoadAnnotations in the pipeline, or another method, e.g. type='CWD'. "
            'A class of your own that reads labels sets needs_labels = True.'
        )
    labels = torch.stack([sample.gt_sem_seg.data for sample in data_samples])
    labels = F.interpolate(labels.float(), tuple(size), mode='nearest')[:, 0].long()
    return reduce(lambda target, label: target.masked_fill(target == label, IGNORED), ignored, labels)


def classes_of_head(teacher: FrozenTeacher | None, path: str) -> int | None:
    """Return the number of classes of a teacher's head, or ``None`` if its config does not have it."""
    head = _head_config(teacher, path)
    return None if head is None else int(head['num_classes'])


def check_outputs(
    key: str, taps: Iterable[tuple[Tap, Tap]], student: ModelConfig, teacher: ModelConfig, activation: str | None
) -> None:
    """Refuse outputs of heads that mean something else on both sides, though their shapes are equal."""
    for pair in taps:
        sides = [*zip(('student', 'teacher'), pair, (student, teacher), strict=True)]
        heads = [dense_head(tap, config) for _, tap, config in sides]
        for (side, tap, config), head in zip(sides, heads, strict=True):
            name, inside = tap.path.partition('.')[::2]
            of_queries = name == 'bbox_head' and tap.argument is None
            if of_queries and hasattr(class_of(config.model, config.scope), DECODER):
                problem = f'{tap} of the {side} are answers to queries, whose numbers mean nothing'
                raise ValueError(f"{key}: {problem}. Use type='KDDETR', or tap the neck.")
            if activation == 'sigmoid':
                check_independent(key, side, head or {}, not inside)
        if None in heads:
            continue
        name, inside = pair[0].path.partition('.')[::2]
        options = ['anchor_generator', 'strides']  # which objects a level finds where
        if any(part in inside for part in ('reg', 'bbox')) if inside else pair[0].index not in (0, 2):
            options += ['bbox_coder', 'reg_max', 'norm_on_bbox', *(['exp_on_reg'] if inside else [])]
        s_spec, t_spec = (_spec_of(head, config, options) for head, (_, _, config) in zip(heads, sides, strict=True))
        for option in (candidate for candidate in options if candidate in s_spec and candidate in t_spec):
            if _build_option(s_spec[option], student) != _build_option(t_spec[option], teacher):
                problem = f'the student has {name}.{option}={s_spec[option]}, the teacher {t_spec[option]}'
                raise ValueError(f'{key}: {problem}: their outputs mean something else. Give both the same.')


def dense_head(tap: Tap, config: ModelConfig) -> Mapping[str, Any] | None:
    """Return the config of the dense detection head that a tap reads, or ``None`` for other taps."""
    name = tap.path.partition('.')[0]
    head = config.model.get(name) if name in ('bbox_head', 'rpn_head') else None
    if tap.argument is not None or not isinstance(head, Mapping):
        return None
    return head if derives(head, config.scope, 'BaseDenseHead') else None


def _spec_of(head: Any, config: ModelConfig, names: Sequence[str]) -> dict[str, Any]:
    """Return the named options of a dense head, with the defaults of its class where that is mmdet's."""
    kind, defaults = class_of(head, config.scope), {}
    if kind.__module__.startswith('mmdet.'):  # a class of the user's may fix an option in its constructor
        for base in reversed(kind.__mro__):
            defaults.update({k: v.default for k, v in inspect.signature(base.__init__).parameters.items()})
    return {name: head.get(name, defaults.get(name)) for name in names if name in {**defaults, **head}}


def _build_option(value: Any, config: ModelConfig) -> Any:
    """Return what an option means: one that is written out, and one that is left to its default, may mean the same."""
    if isinstance(value, Mapping):
        from mmdet.registry import TASK_UTILS

        try:
            coder = TASK_UTILS.build({**value, '_scope_': config.scope or 'mmdet'})
        except Exception:  # not to be built alone
            return plain(value)
        names = ('strides', 'base_anchors', 'offset', 'means', 'stds', 'normalizer')
        return type(coder), *(str(getattr(coder, name, None)) for name in names)
    return plain(value)


def class_lengths(teacher: FrozenTeacher | None, classes: int | None) -> tuple[int, int]:
    """Return the numbers of classes of the student, which a model tells, and of the teacher."""
    teacher_classes = None if teacher is None else num_classes(teacher.config.model)
    if classes is None or teacher_classes is None:
        key = 'model.teacher' if teacher is None else teacher.key
        raise ValueError(f'{key}.classes needs heads with num_classes in both networks.')
    return classes, teacher_classes


def scores_of_head(teacher: FrozenTeacher | None, path: str) -> int | None:
    """Return the length of the class scores of a teacher's head, or ``None`` if its config does not have it.

    The length includes the background where it has a score of its own; it is 1 for a binary head (``out_channels=1``).
    """
    head = _head_config(teacher, path)
    if head is None:
        return None
    # the default of mmdet's heads, which is not that of every loss
    background = 'loss_cls' in head and not head['loss_cls'].get('use_sigmoid', False)
    outputs = head.get('out_channels')  # YOLOv3's are the widths of its features
    return outputs if isinstance(outputs, int) else int(head['num_classes']) + background


def _head_config(teacher: FrozenTeacher | None, path: str) -> Mapping[str, Any] | None:
    model = {} if teacher is None else teacher.config.model
    head = model.get(path.split('.')[0])
    return head if isinstance(head, Mapping) and 'num_classes' in head else None


_OTHER_SCORES = ('SSDHead', 'YOLOV3Head')  # a background, boxes among them
_SEGMENTATION = ('CrossEntropyLoss', 'OhemCrossEntropy', 'FocalLoss')  # losses that say whether classes compete
_PROBABILITIES = ('TOODHead', 'CenterNetHead')  # as outputs; their convolutions give logits


def check_independent(key: str, side: str, head: Mapping[str, Any], output: bool = True) -> None:
    """Refuse a dense head whose class scores are not the logits of independent yes/no decisions."""
    kind = getattr(head.get('type'), '__name__', str(head.get('type'))).rpartition('.')[2]
    unsupported = _OTHER_SCORES + (_PROBABILITIES if output else ())
    if kind in unsupported or not (head.get('loss_cls') or {}).get('use_sigmoid', True):
        problem = f'scores of the {side} ({kind}) are no logits of independent yes/no decisions'
        raise ValueError(f"{key}: {problem}. Compare the neck, e.g. by type='PKD'.")


def check_competing(key: str, teacher: FrozenTeacher | None, taps: Iterable[Tap]) -> None:
    """Refuse a softmax over the independent yes/no scores of a head."""
    for tap in taps:
        head = _head_config(teacher, tap.path) or {}
        decode = [loss for loss in listed(head.get('loss_decode')) if type_name(loss) in _SEGMENTATION]
        independent = [type_name(loss) == 'FocalLoss' or loss.get('use_sigmoid', False) for loss in decode]
        if type_name(head) in _PROBABILITIES and '.' not in tap.path:
            raise ValueError(f"{key}: {tap} gives probabilities ({type_name(head)}): compare the neck by type='PKD'.")
        loss = head.get('loss_cls') or {}
        if loss.get('use_sigmoid', type_name(loss) == 'GaussianFocalLoss') or (decode and all(independent)):
            option = 'loss_decode' if decode else 'loss_cls.use_sigmoid'
            problem = f'are independent yes/no scores ({option} of their head), which do not compete'
            raise ValueError(f"{key}: {tap} {problem}: set {key}.activation='sigmoid'.")


class AnchorTargets(NamedTuple):
    """What an anchor head of mmdet learns from a batch of B pictures; lists are of the levels, of A anchors each."""

    metas: list[Any]
    instances: list[Any]
    anchors: list[Tensor]  # (A, 4), the same in every picture
    valid: list[Tensor]  # of each picture, which anchors of all levels lie in it before padding
    label_weights: list[Tensor]  # (B, A), 0 for ignored anchors
    box_weights: list[Tensor]  # (B, A, 4), above 0 for positive anchors
    positives: int  # at least 1 for each picture


_LAYERS = 'type', 'in_channels', 'feat_channels', 'stacked_convs', 'conv_cfg', 'norm_cfg', 'conv_bias', 'init_cfg'
_ASSIGNING = 'get_anchors', 'get_targets', '_get_targets_single'


def assigned_by_student(head: str, student: ModelConfig, teacher: ModelConfig) -> list[str]:
    """Return the method that assigns the targets in the student's own loss, if they are those of the teacher's head.

    Two heads of one class assign alike if their configs differ in layers and losses alone.
    """
    specs = []
    for side in (student, teacher):
        option = side.model.get(head) or {}
        kind = class_of(option, side.scope)
        rules = {key: value for key, value in option.items() if key not in _LAYERS and not key.startswith('loss_')}
        specs.append(([getattr(kind, name, None) for name in _ASSIGNING], rules, side.model.get('train_cfg')))
    return [f'{head}.get_targets'] if specs[0] == specs[1] else []


@torch.no_grad()
def anchor_targets(
    head: Any, sizes: Sequence[Sequence[int]], data_samples: Samples, name: str, device: torch.device, calls: Any = ()
) -> AnchorTargets:
    """Return the targets of a head for maps of these sizes: those that were assigned, else by its own assigner.

    ``calls`` holds arguments and result of the calls of ``get_targets`` in the student's own loss.
    """
    metas, instances, ignored = annotated(data_samples, name)
    if calls:
        (anchors, flags, *_), targets = calls[-1]
    else:
        anchors, flags = head.get_anchors(sizes, metas, device=device)
        targets = head.get_targets(anchors, flags, instances, metas, batch_gt_instances_ignore=ignored)
    targets = targets[:-1] if isinstance(targets[-1], list) else targets  # PISA's sampling results come last
    *_, label_weights, _, box_weights, positives = targets  # ATSS and GFL put anchors before their labels
    flat, *_ = (_of_all_levels(picture_anchors) for picture_anchors in anchors)
    levels = list(flat.split([x.shape[1] for x in label_weights]))
    return AnchorTargets(metas, instances, levels, [*map(_of_all_levels, flags)], label_weights, box_weights, positives)


def _of_all_levels(levels: Any) -> Tensor:
    """Return what a picture has of each level in one tensor, as ``get_targets`` of some heads leaves it."""
    return levels if isinstance(levels, Tensor) else torch.cat(levels)  # (A, ...)


def annotated(data_samples: Samples, name: str) -> tuple[list[Any], list[Any], list[Any]]:
    """Return metadata, annotated instances and ignored ones of each picture, as the heads of mmdet take them."""
    if not data_samples or any('gt_instances' not in sample for sample in data_samples):
        problem = f'distillers.{name} needs boxes (gt_instances), which the batch does not hold'
        raise ValueError(f'{problem}: use detection data with LoadAnnotations(with_bbox=True) in the pipeline.')
    keys = ('metainfo', 'gt_instances')
    metas, instances = ([getattr(sample, key) for sample in data_samples] for key in keys)
    return metas, instances, [sample.get('ignored_instances') for sample in data_samples]


def boxes_in_pixels(data_samples: Samples, key: str, like: Tensor) -> list[Tensor]:
    """Return the annotated boxes of each picture in pixels of the batch."""
    if not data_samples or any('bboxes' not in sample.get('gt_instances', ()) for sample in data_samples):
        raise ValueError(
            f'{key} needs boxes (gt_instances.bboxes), which the batch does not hold: use detection data with '
            "LoadAnnotations(with_bbox=True) in the pipeline, or another method, e.g. type='MGD'."
        )
    boxes = (sample.gt_instances.bboxes for sample in data_samples)
    return [getattr(picture_boxes, 'tensor', picture_boxes).to(like) for picture_boxes in boxes]


def boxes_on_map(data_samples: Samples, size: Sequence[int], key: str, like: Tensor) -> Tensor:
    """Return the annotated boxes of the pictures, (B, R, 4), in cells of a map that covers the padded pictures.

    A picture with fewer boxes than another has further ones that lie outside of every map.
    """
    boxes = boxes_in_pixels(data_samples, key, like)
    strides = torch.tensor([_strides(sample, size) for sample in data_samples])
    return pad_sequence(boxes, True, _OUTSIDE) / to_device(strides, like).to(like.dtype)[:, None]


def on_map(boxes: Sequence[Tensor], data_samples: Samples, size: Sequence[int]) -> list[Tensor]:
    """Return the boxes of each picture, given in pixels, in cells of a map that covers the padded picture."""
    strides = to_device(torch.tensor([_strides(sample, size) for sample in data_samples]), boxes[0]).to(boxes[0].dtype)
    return [picture_boxes / stride for picture_boxes, stride in zip(boxes, strides, strict=True)]


def _strides(sample: Sample, size: Sequence[int]) -> list[float]:
    """Return the strides of a map: the power of two that divides a side into its cells, rounded up, else the ratio.

    If the side is no multiple of the stride, as at the coarse levels of an FPN, the last cell lies partly outside.
    """
    meta, strides = sample.metainfo, []
    whole = meta.get('batch_input_shape') or meta.get('pad_shape') or meta['img_shape']
    for pixels, cells in zip(whole[:2], size, strict=True):
        stride = 2.0 ** math.ceil(math.log2(pixels / cells))
        strides.append(stride if math.ceil(pixels / stride) == cells else pixels / cells)
    return strides[::-1] * 2
