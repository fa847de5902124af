"""Keep the distillers out of the averaged weights (``EMAHook``), and off the GPU in a run that only tests."""

from __future__ import annotations

import copy

from mmengine.hooks import EMAHook
from mmengine.runner import Runner
from torch import nn

from mmdistill_dense.model.distill_model import Distilled
from mmdistill_dense.utils.runner_internals import built_loop


def average_the_student(runner: Runner) -> None:
    """Make every ``EMAHook`` of a run average the student alone; nothing uses an average of distillers.

    They are removed from both sides of the average, since the hook pairs tensors by their order.
    """
    for hook in runner.hooks:
        average = getattr(hook, 'ema_model', None)
        if isinstance(hook, EMAHook) and average is not None and hasattr(average.module, 'distillers'):
            hook.src_model = _without_distillers(hook.src_model)
            average.module = _without_distillers(average.module)
            averaged = average.avg_parameters
            for name in [name for name in averaged if name.startswith('distillers.')]:
                del averaged[name]


def place_distillers(runner: Runner, model: Distilled) -> None:
    """Move the distillers to the student's device if the run trains, to the CPU if it only tests."""
    trains = built_loop(runner) is not None
    model.distillers.to(next(model.parameters()).device if trains else 'cpu')


def _without_distillers(model: nn.Module) -> nn.Module:
    """Return a shallow copy of a student that shares its modules and tensors and has no distillers."""
    view = copy.copy(model)
    view._modules = {**model._modules, 'distillers': nn.ModuleDict()}
    return view
