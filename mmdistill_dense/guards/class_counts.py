"""Checks that networks and data set have the same classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mmdistill_dense.utils.messages import some

# Where mmseg and mmdet say how many classes a network predicts.
_HEADS = (
    'decode_head', 'decode_head.kernel_generate_head', 'bbox_head', 'roi_head.bbox_head', 'panoptic_head', 'mask_head',
)  # fmt: skip
_OTHER_HEADS = ('auxiliary_head', 'decode_head.kernel_update_head', 'roi_head.mask_head')


def check_student_classes(data: Sequence[str] | None, model: Mapping[str, Any]) -> None:
    """Refuse a student with a head for other classes than the training set's; see the two checks below."""
    check_num_classes(data, 'model.student', model)
    check_other_heads(data, 'model.student', model)
    check_class_weights('model.student', model)


def check_num_classes(data: Sequence[str] | None, key: str, model: Mapping[str, Any]) -> None:
    """Refuse a network whose head does not predict as many classes as the training set has."""
    if data is None:
        return
    for head, count in _class_counts(model, _HEADS):
        if count != len(data):
            raise _other_count(key, f'{key}.{head}', count, data)


def check_other_heads(data: Sequence[str] | None, key: str, model: Mapping[str, Any]) -> None:
    """Refuse an auxiliary or mask head with more classes than the data: it would train outputs that never occur.

    Fewer are left to the loss: some auxiliary heads have classes of their own, such as STDC's head for edges.
    """
    if data is None:
        return
    for head, count in _class_counts(model, _OTHER_HEADS):
        if count > len(data):
            raise _other_count(f'{key}.{head}', f'{key}.{head}', count, data)


def _other_count(what: str, head: str, count: int, data: Sequence[str]) -> ValueError:
    features = f', or {what}.allow_other_classes=True if only features are distilled' if 'teacher' in what else ''
    return ValueError(
        f'{what} predicts {count} classes, the training data set has {len(data)} ({some(data)}): set '
        f'{head}.num_classes={len(data)}{features}.'
    )


def check_class_weights(key: str, model: Mapping[str, Any]) -> None:
    """Refuse a head whose loss weighs another number of classes; such weights stay when ``num_classes`` is changed."""
    for head, count, losses in _losses(model):
        for place, loss in losses:
            weights = loss.get('class_weight')
            if isinstance(weights, (list, tuple)) and len(weights) not in (count, count + 1):  # with no object
                raise ValueError(
                    f'{key}.{place}.class_weight holds {len(weights)} weights, {head} has num_classes={count}: set '
                    f'{key}.{place}.class_weight to {count} numbers ({count + 1} where no object is a class), or None '
                    'if the loss does not need them.'
                )


def _losses(model: Mapping[str, Any]) -> Iterator[tuple[str, int, list[tuple[str, Mapping[str, Any]]]]]:
    """Yield the key of every head with a number of classes, that number, and its losses by key."""
    for path, head in _heads(model, (*_HEADS, *_OTHER_HEADS)):
        found = []
        for name, value in head.items():
            for index, one in enumerate(value) if isinstance(value, (list, tuple)) else [(None, value)]:
                if str(name).startswith('loss') and isinstance(one, Mapping):
                    found.append((f'{path}.{name}' if index is None else f'{path}.{name}.{index}', one))
        yield path, head['num_classes'], found


def check_teacher_classes(data: Sequence[str] | None, teacher: Any, distillers: Iterable[Any] = ()) -> Sequence[str]:
    """Refuse a teacher that predicts, or was trained on, other classes than the data set's.

    With its option ``classes``, resolve it and refuse distillers that cannot use it; return what to tell of that.
    """
    if teacher.option.classes is not None:
        return teacher.match_classes(data, distillers)
    if data is None or teacher.option.allow_other_classes:
        return []
    check_num_classes(data, teacher.key, teacher.config.model)
    if teacher.classes is not None and list(teacher.classes) != list(data):
        raise ValueError(
            f'{teacher.key}.checkpoint was trained on {len(teacher.classes)} classes ({some(teacher.classes)}), but '
            f'the data set has {len(data)} ({some(data)}). Choose a teacher for the same data set, or set '
            f'{teacher.key}.allow_other_classes=True if only features are distilled, or name the classes that both '
            f"have: {teacher.key}.classes='auto', see docs/other_classes.md."
        )
    return []


def num_classes(model: Mapping[str, Any]) -> int | None:
    """Return the number of classes of a mmseg or mmdet model config, or ``None`` if it does not say."""
    return next((count for _, count in _class_counts(model, _HEADS)), None)


def ignored_labels(model: Mapping[str, Any]) -> set[int]:
    """Return the labels of pixels that the heads of a segmentor leave out: their ``ignore_index``, 255 by default."""
    return {head.get('ignore_index', 255) for _, head in _heads(model, _HEADS)}


def _class_counts(model: Mapping[str, Any], heads: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield the key and the number of classes of every head that says it."""
    for path, head in _heads(model, heads):
        yield path, head['num_classes']


def _heads(model: Mapping[str, Any], heads: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the key and the config of every head that says its number of classes, members of lists too.

    A head for masks of any class (``class_agnostic``) counts none.
    """
    for path in heads:
        node: Any = model
        for name in path.split('.'):
            node = node.get(name) if isinstance(node, Mapping) else None
        several = isinstance(node, (list, tuple))
        for index, head in enumerate(node if several else [node]):
            counts = isinstance(head, Mapping) and not head.get('class_agnostic')
            if counts and isinstance(head.get('num_classes'), int):
                yield f'{path}.{index}' if several else path, head
