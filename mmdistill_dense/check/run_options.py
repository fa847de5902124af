"""Read from a config how long the run is, in which unit, and how the learning rate is scheduled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config


def type_of(option: Any) -> str:
    """Return the class name of an option, or of its ``type``, without scope and module: ``'DistillHook'``."""
    kind = option.get('type') if isinstance(option, Mapping) else option
    return getattr(kind, '__name__', str(kind)).rsplit('.', 1)[-1]


def counts_epochs(config: Config) -> bool:
    """Return whether ``train_cfg`` is a loop of epochs."""
    loop = config.get('train_cfg') or {}
    return type_of(loop) == 'EpochBasedTrainLoop' if 'type' in loop else bool(loop.get('by_epoch'))


def loop_length(config: Config) -> int | None:
    """Return ``max_epochs`` or ``max_iters``, ``None`` if the config trains nothing."""
    return (config.get('train_cfg') or {}).get('max_epochs' if counts_epochs(config) else 'max_iters')


def schedulers(config: Config) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield key and options of each scheduler; none for several optimizers, which have lists by name."""
    found = config.get('param_scheduler') or []
    if isinstance(found, Mapping):
        found = [found] if 'type' in found else []
    for place, one in enumerate(found):
        yield f'param_scheduler.{place}', one
