"""Access to private members of mmengine's runner, all in one place.

They have the same names in mmengine 0.10 and in the fork's 0.10.12 and later. Adapt this module to a version that
renames one.
"""

from __future__ import annotations

from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import BaseLoop, Runner


def resumes(runner: Runner) -> bool:
    """Tell whether a run resumes from a checkpoint."""
    return bool(runner._resume)


def start_file(runner: Runner) -> str | None:
    """Return the file that a run resumes from or starts with, or ``None`` if none is named."""
    return runner._load_from


def name_start_file(runner: Runner, path: str) -> None:
    """Set the file to load for a runner that has loaded nothing yet."""
    runner._load_from = path


def take_weights_from(runner: Runner, path: str) -> None:
    """Make a runner load the weights of a file before it goes on, although it has loaded others."""
    runner._resume, runner._load_from, runner._has_loaded = False, path, False


def has_loaded(runner: Runner) -> bool:
    """Tell whether a runner has loaded weights from a file."""
    return bool(runner._has_loaded)


def built_loop(runner: Runner, name: str = 'train') -> BaseLoop | None:
    """Return the loop ``'train'``, ``'val'`` or ``'test'``, or None if there is none or it is not built yet."""
    loop = getattr(runner, f'_{name}_loop')
    return loop if isinstance(loop, BaseLoop) else None


def renew_val_interval(loop: BaseLoop) -> None:
    """Make a training loop update its validation interval to the current iteration (``dynamic_intervals``)."""
    loop._decide_current_val_interval()


def count_left_out(wrapper: OptimWrapper) -> None:
    """Let an ``OptimWrapper`` count a backward pass that was left out, for gradient accumulation."""
    wrapper._inner_count += 1


def wrappers_of(wrapper: OptimWrapper | OptimWrapperDict) -> list[OptimWrapper]:
    """Return the optimizer wrappers of a run, of which most have one."""
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]
