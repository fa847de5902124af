"""What we need of mmengine's runner and has no public name, all in one place.

mmengine 0.10 and the fork's 0.10.12 and later agree in these names; a version that renames one is mended here.
"""

from __future__ import annotations

from typing import Any

from mmengine.runner import BaseLoop, Runner


def resumes(runner: Runner) -> bool:
    """Tell whether a run goes on from a checkpoint."""
    return bool(runner._resume)


def start_file(runner: Runner) -> str | None:
    """Return the file that a run resumes from or begins with, as far as it is named."""
    return runner._load_from


def name_start_file(runner: Runner, path: str) -> None:
    """Let a run that has loaded nothing yet take a file."""
    runner._load_from = path


def take_weights_from(runner: Runner, path: str) -> None:
    """Let a runner load the weights of a file before it goes on, although it has loaded others."""
    runner._resume, runner._load_from, runner._has_loaded = False, path, False


def has_loaded(runner: Runner) -> bool:
    """Tell whether weights were loaded from a file."""
    return bool(runner._has_loaded)


def built_loop(runner: Runner, name: str = 'train') -> Any:
    """Return the loop ``'train'``, ``'val'`` or ``'test'``; None before it is built, and where there is none."""
    loop = getattr(runner, f'_{name}_loop')
    return loop if isinstance(loop, BaseLoop) else None


def renew_val_interval(loop: Any) -> None:
    """Let a training loop find out how often it validates at this place (``dynamic_intervals``)."""
    loop._decide_current_val_interval()


def count_left_out(wrapper: Any) -> None:
    """Count a part of accumulated gradients in an ``OptimWrapper`` that was not computed."""
    wrapper._inner_count += 1
