"""The scores that the evaluators of mmseg and mmdet give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_COCO = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
_IOU = {'mIoU': ('mIoU', 'mAcc'), 'mDice': ('mDice', 'mAcc'), 'mFscore': ('mFscore', 'mPrecision', 'mRecall')}


def scores_of(evaluator: Mapping[str, Any]) -> set[str] | None:
    """Return the names, without those of single classes; ``None`` for an evaluator that is not known here."""
    kind, prefix = evaluator.get('type'), evaluator.get('prefix')
    name = getattr(kind, '__name__', str(kind)).rpartition('.')[2]
    if name == 'IoUMetric':
        found = {'aAcc'}.union(*(_IOU.get(one, ()) for one in _several(evaluator.get('iou_metrics', 'mIoU'))))
        return {f'{prefix}/{one}' if prefix else one for one in found}
    kinds = _several(evaluator.get('metric', 'bbox'))
    if name != 'CocoMetric' or not set(kinds) <= {'bbox', 'segm'}:
        return None
    return {f'{prefix or "coco"}/{one}_{item}' for one in kinds for item in evaluator.get('metric_items') or _COCO}


def may_give(evaluator: Mapping[str, Any], score: str) -> bool:
    """Tell whether an evaluator gives a score, as far as is known; with ``classwise`` also those of single classes."""
    names = scores_of(evaluator)
    return names is None or score in names or bool(evaluator.get('classwise') and score.endswith('_precision'))


def _several(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
