"""What counts along in a training and stands in no weight: saved with each checkpoint, restored on resume."""

from collections.abc import Iterator, Mapping
from copy import copy
from numbers import Number
from typing import Any

import numpy as np
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.runner import Runner
from torch import nn

from mmdistill_dense.utils.distributed import unwrap
from mmdistill_dense.utils.runner_internals import batch_augments, resumes

_STOPPING, _SIZES, _NUMBERS = 'early_stopping', 'batch_sizes', 'numbers'  # in the meta of a checkpoint


class Counters(Hook):
    """Saves and restores mmengine's ``EarlyStoppingHook``, mmdet's ``BatchSyncRandomResize`` and numbers of networks.

    The first has the best score and the number of validations since, the second a size for some steps, as for YOLOX.
    Some networks of mmdet count what they see, outside of their weights: DDOD, Dynamic R-CNN. In several processes the
    numbers of the first are kept.
    """

    _scores: Mapping[str, float] = {}  # of a validation that has not ended, in which the best file is written
    _counts: Mapping[int, tuple[float, float]] = {}  # what the first ones had counted before it
    _built: Mapping[str, tuple[Any, Mapping[str, Any]]] = {}  # by place, what holds numbers, and the first of these

    def before_run(self, runner: Runner) -> None:
        self._built = self._built or {place: (owner, _numbers(owner)) for place, owner in _owners(unwrap(runner.model))}

    def before_val_epoch(self, runner: Runner) -> None:
        self._counts = {id(hook): (hook.wait_count, hook.best_score) for hook in _counting(runner)[0]}

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._scores = metrics or {}

    def after_val(self, runner: Runner) -> None:
        self._scores = {}

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        stopping, resizing = _counting(runner)
        if stopping:
            twins = [copy(hook) for hook in stopping]
            for hook, twin in zip(stopping, twins, strict=True):  # they count after a best file is written
                if twin.monitor in self._scores and self._counts.get(id(hook)) == (twin.wait_count, twin.best_score):
                    twin._check_stop_condition(self._scores[twin.monitor])
            state = [(twin.monitor, int(twin.wait_count), float(twin.best_score)) for twin in twins]
            checkpoint['meta'][_STOPPING] = state
        if resizing:
            checkpoint['meta'][_SIZES] = [augment._input_size for augment in resizing]
        for place, (owner, built) in self._built.items():
            if changed := {name: value for name, value in _numbers(owner).items() if built.get(name) != value}:
                checkpoint['meta'].setdefault(_NUMBERS, {})[place] = changed

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Restore the saved numbers on resume. Early stopping by another ``monitor`` than before starts anew."""
        meta = (checkpoint.get('meta') or {}) if resumes(runner) else {}
        stopping, resizing = _counting(runner)
        for hook, (monitor, count, best) in zip(stopping, meta.get(_STOPPING, ()), strict=False):
            if hook.monitor == monitor:
                hook.wait_count, hook.best_score = count, best
        for augment, size in zip(resizing, meta.get(_SIZES, ()), strict=False):
            augment._input_size = size
        for place in self._built.keys() & meta.get(_NUMBERS, {}).keys():
            vars(self._built[place][0]).update(meta[_NUMBERS][place])


def _counting(runner: Runner) -> tuple[list[Any], list[Any]]:
    resizing = [augment for augment in batch_augments(unwrap(runner.model)) if hasattr(augment, '_input_size')]
    return [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)], resizing


def _owners(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield modules and the objects in their attributes by place. Distillers, which save their own, are left out."""
    for place, module in network.named_modules():
        parts = {f'{place}:{key}': part for key, part in vars(module).items() if hasattr(part, '__dict__')}
        owners = {place: module, **parts}.items()
        yield from ((name, owner) for name, owner in owners if not type(owner).__module__.startswith('mmdistill_dense'))


def _numbers(owner: Any) -> dict[str, Any]:
    """Return the public attributes that are numbers or lists of them, in Python's own types."""
    attributes = ((name, value if isinstance(value, list) else [value], value) for name, value in vars(owner).items())
    return {
        name: np.asarray(value).tolist()
        for name, values, value in attributes
        if name[0] != '_' and name != 'training' and all(isinstance(number, Number) for number in values)
    }
