"""Look through the wrappers of a data set's config, and name the scores of its evaluators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def chain(option: Any) -> list[Mapping[str, Any]]:
    """Return the data set that reads files, then what wraps it, from the inside out; of joined ones, the first."""
    if isinstance(option, (list, tuple)):
        return chain(option[0]) if option else []
    if not isinstance(option, Mapping):
        return []
    return [*chain(option.get('dataset') or option.get('datasets')), option]


def layers(option: Any, key: str = '') -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield key and options of all data sets of a loader, from the inside out."""
    if isinstance(option, (list, tuple)):
        for place, one in enumerate(option):
            yield from layers(one, f'{key}.{place}')
    elif isinstance(option, Mapping):
        for name in ('dataset', 'datasets'):
            yield from layers(option.get(name), f'{key}.{name}')
        yield key, option


def members(option: Any, key: str = '') -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield key and options of those that read files."""
    return ((place, one) for place, one in layers(option, key) if not {'dataset', 'datasets'} & set(one))


def tested_set(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options of the test set, else of validation; ``ValueError`` where a config has neither."""
    loader = config.get('test_dataloader') or config.get('val_dataloader')
    if not loader:
        raise ValueError(
            'The config has neither test_dataloader nor val_dataloader, whose dataset.pipeline says how a picture is '
            'read and resized for the network. Set test_dataloader; it may be that of training without its labels and '
            'random steps.'
        )
    return loader['dataset']


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
