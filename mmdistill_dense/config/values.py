"""What configs hold: values laid flat, the data set below its wrappers, scores of evaluators, numbers of classes."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


def mappings(value: Any) -> Iterator[Any]:
    """Yield every mapping in a value, an outer one before those that it holds by then."""
    if isinstance(value, Mapping):
        yield value
        value = list(value.values())
    for member in value if isinstance(value, (list, tuple)) else ():
        yield from mappings(member)


def flat(value: Any, key: str = '') -> dict[str, Any]:
    """Return the values of nested mappings by dotted key; of lists only those that hold mappings are laid flat."""
    if isinstance(value, Mapping):  # an empty one counts as none
        parts = [(str(name), item) for name, item in value.items()]
    elif isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
        parts = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {key: list(value) if isinstance(value, tuple) else value}
    leaves: dict[str, Any] = {}
    for name, item in parts:
        leaves |= flat(item, f'{key}.{name}' if key else name)
    return leaves


def listed(option: Any) -> list[Any]:
    """Return the members of an option that may be one or several, none if it is not set."""
    return list(option) if isinstance(option, (list, tuple)) else [option] if option else []


def plain(value: Any, written: Callable[[str], str] = str) -> Any:
    """Return dicts, lists, numbers and texts as JSON takes them; each text as ``written`` gives it, a class by name."""
    if isinstance(value, Mapping):
        return {str(key): plain(item, written) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, written) for item in value]
    if isinstance(value, str):
        return written(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if hasattr(value, 'tolist'):  # an array
        return value.tolist()
    return getattr(value, '__qualname__', type(value).__qualname__)


def type_name(option: Any) -> str:
    """Return the class name of an option's ``type``, or of a type, without scope and module: ``'DistillHook'``.

    A type is a text or, in new configs, a class.
    """
    kind = option.get('type', '') if isinstance(option, Mapping) else option
    return getattr(kind, '__name__', str(kind)).rpartition('.')[2]


# Data sets and their scores


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
        for index, member in enumerate(option):
            yield from layers(member, f'{key}.{index}')
    elif isinstance(option, Mapping):
        for name in ('dataset', 'datasets'):
            yield from layers(option.get(name), f'{key}.{name}')
        yield key, option


def tested_set(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options of the test set. A config without one gives those of validation, else a ``ValueError``."""
    loader = config.get('test_dataloader') or config.get('val_dataloader')
    if not loader:
        problem = 'The config has neither test_dataloader nor val_dataloader'
        raise ValueError(f'{problem}: set test_dataloader, e.g. that of training without random steps.')
    return loader['dataset']


_COCO = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
_IOU = {'mIoU': ('mIoU', 'mAcc'), 'mDice': ('mDice', 'mAcc'), 'mFscore': ('mFscore', 'mPrecision', 'mRecall')}


def evaluator_scores(evaluator: Mapping[str, Any]) -> set[str] | None:
    """Return the names of the scores of all classes together; ``None`` for an evaluator that is not known here."""
    name, prefix = type_name(evaluator), evaluator.get('prefix')
    if name == 'IoUMetric':
        names = {'aAcc'}.union(*(_IOU.get(metric, ()) for metric in listed(evaluator.get('iou_metrics', 'mIoU'))))
        return {f'{prefix}/{score}' if prefix else score for score in names}
    kinds = listed(evaluator.get('metric', 'bbox'))
    if name != 'CocoMetric' or not set(kinds) <= {'bbox', 'segm'}:
        return None
    return {f'{prefix or "coco"}/{kind}_{item}' for kind in kinds for item in evaluator.get('metric_items') or _COCO}


def may_give(evaluator: Mapping[str, Any], score: str) -> bool:
    """Tell whether an evaluator may give a score; with ``classwise`` it also gives those of single classes."""
    names = evaluator_scores(evaluator)
    return names is None or score in names or bool(evaluator.get('classwise') and score.endswith('_precision'))


# of mmdet and mmseg, by the last part of their names: a larger value of these is worse
_FALLING = ('mMR', 'abs_rel', 'sq_rel', 'rmse', 'rmse_log', 'log10', 'silog')


def falls(score: str) -> bool:
    """Tell whether a score gets smaller as a network gets better, as a miss rate or an error of depth."""
    return score.rpartition('/')[2] in _FALLING


def pipeline_of(dataset: Any) -> list[Mapping[str, Any]]:
    """Return the steps of a data set's pipelines."""
    return [step for _, layer in layers(dataset) for step in layer.get('pipeline') or [] if isinstance(step, Mapping)]


def normalising(dataset: Any) -> list[Mapping[str, Any]]:
    """Return the steps of a data set's pipelines that normalise pictures."""
    return [dict(step) for step in pipeline_of(dataset) if type_name(step).endswith('Normalize')]


# How many classes a model config says that its network predicts

# where mmseg and mmdet say it
HEADS = (
    'decode_head', 'decode_head.kernel_generate_head', 'bbox_head', 'roi_head.bbox_head', 'panoptic_head', 'mask_head',
)  # fmt: skip
OTHER_HEADS = ('auxiliary_head', 'decode_head.kernel_update_head', 'roi_head.mask_head')


def with_one_more_class(model: Any) -> Any:
    """Return the config of the same network whose heads predict one more class."""
    wider = copy.deepcopy(model)
    head: Any
    for _, head in heads_with_classes(wider, (*HEADS, *OTHER_HEADS)):
        for name in ('out_channels', 'num_classes') if head.get('out_channels') != 1 else ():  # one for two classes
            if head.get(name) is not None:
                head[name] += 1
    return wider


def num_classes(model: Mapping[str, Any]) -> int | None:
    """Return the number of classes of a mmseg or mmdet model config, or ``None`` if it does not say."""
    return next((head['num_classes'] for _, head in heads_with_classes(model, HEADS)), None)


def accumulated(config: Mapping[str, Any]) -> int:
    """Return how many iterations of a run make one step of its optimizer."""
    return int((config.get('optim_wrapper') or {}).get('accumulative_counts', 1))


def optimizer_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options of a config's optimizer, empty if it names none."""
    option = (config.get('optim_wrapper') or {}).get('optimizer') or {}
    return option if 'type' in option else {}


def ignored_labels(model: Mapping[str, Any]) -> set[int]:
    """Return the labels of pixels that the heads of a segmentor leave out: their ``ignore_index``, 255 by default."""
    labels = {head.get('ignore_index', 255) for _, head in heads_with_classes(model, HEADS)}
    return labels - {None}


def heads_with_classes(model: Mapping[str, Any], heads: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the key and the config of every head that says its number of classes, members of lists too.

    A head for masks of any class (``class_agnostic``) counts none.
    """
    for path in heads:
        node: Any = model
        for name in path.split('.'):
            node = node.get(name) if isinstance(node, Mapping) else None
        is_list = isinstance(node, (list, tuple))
        for index, head in enumerate(node if is_list else [node]):
            counts = isinstance(head, Mapping) and not head.get('class_agnostic')
            if counts and isinstance(head.get('num_classes'), int):
                yield f'{path}.{index}' if is_list else path, head
