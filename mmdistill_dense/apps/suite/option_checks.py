"""What a definition names that nothing reads: a score, and keys of its options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine import registry
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from mmdistill_dense.apps.recipes.compose import unknown
from mmdistill_dense.config.data_sets import may_give, scores_of
from mmdistill_dense.config.unknown_keys import options_of
from mmdistill_dense.config.values import flat, listed

_REGISTRIES = (
    registry.LOOPS, registry.OPTIMIZERS, registry.OPTIM_WRAPPERS, registry.PARAM_SCHEDULERS, registry.HOOKS,
    registry.DATASETS, registry.TRANSFORMS, registry.METRICS, registry.DATA_SAMPLERS,
)  # fmt: skip
# keys that mmengine reads itself
_READ = {'type', '_scope_', '_delete_', 'by_epoch', 'constructor', 'paramwise_cfg', 'convert_to_iter_based'}
_READ |= {'dataset', 'num_batch_per_epoch'}


def check_metric(config: Config, metric: str, place: str) -> None:
    """Refuse a metric that evaluators of mmseg and mmdet do not return, and evaluators that give no score."""
    for split in ('val_evaluator', 'test_evaluator'):
        several = listed(config.get(split))
        if any(one.get('format_only') for one in several):
            raise ValueError(f'{place}: {split}.format_only=True writes predictions and gives no score: leave it out.')
        if several and not any(may_give(one, metric) for one in several):
            names = set().union(*(scores_of(one) or () for one in several))
            raise ValueError(f'{place}: metric: {unknown(f"score of {split}", metric, names)}')


def check_options(options: Mapping[str, Any], recipe: Config, config: Config, place: str) -> None:
    """Refuse a new key of ``recipe`` that nothing reads, as ``train_cfg.max_itrs``; networks check their own."""
    for key in flat(options):
        words = key.split('.')
        for depth in range(1, 0 if words[0] == 'model' else len(words)):
            path, word = words[:depth], words[depth]
            before, after = _at(recipe, path), _at(config, path)
            if not isinstance(after, Mapping) or (isinstance(before, Mapping) and word in before):
                continue
            taken = _taken(path, after)
            if taken is not None and word not in taken | _READ:
                what = f'option of {".".join(path)}'
                raise ValueError(f'{place}.{key}: {unknown(what, word, taken)}')


def _at(node: Any, path: Sequence[str]) -> Any:
    for word in path:
        if isinstance(node, (list, tuple)) and word.isdigit() and int(word) < len(node):
            node = node[int(word)]
        else:
            node = node.get(word) if isinstance(node, Mapping | Config) else None
    return node


def _taken(path: Sequence[str], option: Mapping[str, Any]) -> set[str] | None:
    """Return the names of the arguments; ``None`` if any name is accepted, or if they are unknown."""
    if path == ['randomness']:
        return _arguments(Runner.set_randomness)
    if len(path) == 1 and path[0].endswith('_dataloader'):
        return _arguments(DataLoader)
    if path == ['train_cfg'] and 'type' not in option:
        return _arguments(EpochBasedTrainLoop if option.get('by_epoch') else IterBasedTrainLoop)
    kind = option.get('type')
    built = next((found for one in _REGISTRIES if (found := one.get(kind))), None) if isinstance(kind, str) else kind
    return _arguments(built) if callable(built) else None


def _arguments(built: Any) -> set[str] | None:
    """Return the arguments of a function, or of a class with its bases; ``None`` if it accepts any name."""
    parameters = inspect.signature(built).parameters.values()
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        known = options_of(built) if inspect.isclass(built) else None
        return None if known is None else set(known)
    return {one.name for one in parameters} - {'self'}
