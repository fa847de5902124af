"""Whether a run can take gradients of single losses in its steps, and by what they are scaled."""

from __future__ import annotations

from mmengine.runner import Runner
from torch import nn

from mmdistill_dense.utils.runner_internals import wrappers_of


def loss_scale(runner: Runner) -> float:
    """Return the current loss scale of float16, of several the largest, 1 without one; on a GPU, the CPU waits."""
    scalers = [getattr(wrapper, 'loss_scaler', None) for wrapper in wrappers_of(runner.optim_wrapper)]
    return max([float(scaler.get_scale()) for scaler in scalers if scaler is not None], default=1.0)


def no_single_gradients(runner: Runner, model: nn.Module) -> str | None:
    """Return why gradients of single losses cannot be taken in training, or ``None`` if they can."""
    if runner.cfg.get('compile'):
        return 'the model is compiled'
    if runner.cfg.get('activation_checkpointing') or any(getattr(m, 'with_cp', False) is True for m in model.modules()):
        return 'activations are recomputed (activation_checkpointing, with_cp=True)'
    return None
