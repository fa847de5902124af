"""A foundation model with a head as the teacher of a project: its network on the user's classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from mmengine.config import Config

from mmdistill_dense.apps.project.sides import Side
from mmdistill_dense.config.resolve import find_config, load_model
from mmdistill_dense.foundation.models import Architecture, architecture
from mmdistill_dense.utils.messages import some

HEADS = {'linear': 'seg', 'fcn': 'seg', 'upernet': 'seg', 'fpn': 'det', 'sfp': 'det'}
_RECIPES = {'seg': 'mmdistill_dense::teachers/dinov2-vits14_{head}_ade20k.py',
            'det': 'mmdistill_dense::teachers/dinov2-vits14_fpn_coco.py'}  # fmt: skip
_NORM = {'type': 'BN', 'requires_grad': True}
_EVEN = {24: (4, 11, 17, 23)}  # DINOv3's; for other depths the last block of each quarter
_FINEST = {8: 'fpn', 4: 'sfp'}  # by the finest stride of the student's levels


def check_head(head: str, teacher: str, is_model: bool, task: str) -> None:
    """Refuse a head for a network that has its own, or for the other task."""
    if not is_model:
        raise ValueError(
            f'--head {head}: --teacher {teacher} is a network with its own head. It is for MODEL:FILE, a foundation '
            'model (docs/foundation_head.md). Leave it out.'
        )
    if HEADS[head] != task:
        fitting = ', '.join(name for name, one in HEADS.items() if one == task)
        raise ValueError(f'--head {head}: it does not predict what the student does. These do: {fitting}.')


def head_side(head: str, foundation: Mapping[str, Any], student: Side) -> Side:
    """Return the teacher: a frozen foundation model with a head that is trained on the user's data.

    A detector is the student's own with another backbone and neck, so that all methods fit.

    Args:
        head: A name of :data:`HEADS`.
        foundation: The model and the file of its weights.
        student: Tells the task; for detection, the head and the levels.
    """
    shape = architecture(foundation['model'])
    recipe = _RECIPES[student.task].format(head=head)
    changes: dict[str, Any] = {
        'data_preprocessor': shape.preprocessor,
        'backbone': {
            'type': 'mmdistill_dense.VisionTransformer',
            'model': foundation['model'],
            'checkpoint': foundation['checkpoint'],
            'out_blocks': _blocks(head, shape.depth),
            'frozen': True,
        },
    }
    if student.task == 'seg':
        name = recipe
        changes['decode_head'] = {'in_channels': shape.dim if head == 'fcn' else [shape.dim] * 4}
        if head == 'upernet':
            changes['neck'] = {'embed_dim': shape.dim}
    else:
        name = student.name
        changes['backbone'] |= {'_delete_': True, 'stride': 16}  # whose pyramid has the strides of the student
        changes['neck'] = _pyramid(head, shape, student)
    side = Side('--teacher', name, Config.fromfile(find_config(recipe)), {}, student.task, fixed=changes, recipe=recipe)
    side.model = load_model(side.option, '--teacher').model
    side.notes.append(f'{foundation["model"]} stays as in {foundation["checkpoint"]}; its head {head} is trained')
    return side


def _blocks(head: str, depth: int) -> Sequence[int]:
    if head == 'linear':
        return (-4, -3, -2, -1)
    if head == 'upernet':
        return _EVEN.get(depth, tuple(quarter * depth // 4 - 1 for quarter in (1, 2, 3, 4)))
    return (-1,) if head == 'fcn' else (-1, -1, -1, -1)


def _pyramid(head: str, shape: Architecture, student: Side) -> list[dict[str, Any]]:
    """Return ViTDet's pyramid from the last map (2203.16527), and what gives it the student's levels and channels."""
    neck, strides = student.model.get('neck'), _strides(student.model)
    channels = neck.get('out_channels') if isinstance(neck, Mapping) else None
    kind = student.model.get('type')
    doubled = all(second == 2 * first for first, second in pairwise(strides))
    if not channels or len(strides) < 2 or not doubled or strides[0] not in _FINEST:
        raise ValueError(
            f'--head {head}: the levels of --student {student.name} ({kind}) are not those of a pyramid from stride 4 '
            f'or 8 ({some(strides) if strides else "none named"}), so a foundation model gets no neck that fits. Leave '
            '--head out, and distil its map.'
        )
    if _FINEST[strides[0]] != head:
        raise ValueError(
            f'--head {head}: the finest level of --student {student.name} has stride {strides[0]}: write --head '
            f'{_FINEST[strides[0]]}.'
        )
    first = {'type': 'mmseg.Feature2Pyramid', 'embed_dim': shape.dim, 'rescales': [4, 2, 1, 0.5], 'norm_cfg': _NORM}
    shared = {'in_channels': [shape.dim] * 4, 'out_channels': channels, 'num_outs': len(strides)}
    if head == 'sfp':
        norm = {'type': 'GN', 'num_groups': 32 if channels % 32 == 0 else 1}
        return [first, {'type': 'ChannelMapper', **shared, 'kernel_size': 3, 'norm_cfg': norm}]
    options = {'start_level': 1, 'add_extra_convs': 'on_output', 'norm_cfg': _NORM}
    return [first, {'type': 'FPN', **shared, **options}]


def _strides(model: Mapping[str, Any]) -> list[int]:
    """Return the strides of a detector's levels as its head names them; empty if it does not."""
    head = model.get('rpn_head') or model.get('bbox_head') or {}
    generator = head.get('anchor_generator') or head.get('prior_generator') or {}
    found = generator.get('strides') or head.get('strides') or head.get('point_strides') or []
    return [one[0] if isinstance(one, (list, tuple)) else one for one in found]
