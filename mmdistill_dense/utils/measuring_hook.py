"""What our hooks measure in some steps, and write to the runner's log."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.hooks import RemovableHandle


def write_scalars(runner: Runner, values: Mapping[str, float], step: int) -> None:
    """Write values of an iteration to every backend.

    They hold ``iter``, as those of mmengine do: its backend for W&B drops ``step`` and counts calls, so that W&B can
    draw only by a value among the others.
    """
    runner.visualizer.add_scalars({**values, 'iter': step}, step=step)


class MeasuringHook(Hook):
    """Base of hooks that measure some steps, by hooks of modules that exist during such a step alone.

    What they find stands in ``_found``, and is written as ``monitor/<name>`` after the step.
    """

    priority = 'NORMAL'

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._found: dict[str, float] = {}

    def _end_step(self, runner: Runner) -> dict[str, float]:
        """Remove the hooks of a step; write and return what they found."""
        self._remove()
        found, self._found = self._found, {}
        if found:
            self._write(runner, found, runner.iter + 1)
        return found

    def _remove(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _write(self, runner: Runner, values: Mapping[str, float], step: int) -> None:
        """Write values from one process; of those that are not finite only the log tells."""
        if not is_main_process():
            return
        # Backends such as MLflow take no brackets, which taps have.
        names = {name: f'monitor/{re.sub(r"[^0-9A-Za-z_.-]+", ".", name).strip(".")}' for name in values}
        finite = {names[name]: value for name, value in values.items() if math.isfinite(value)}
        for name, value in finite.items():
            runner.message_hub.update_scalar(name, value)
        write_scalars(runner, finite, step)
        text = ', '.join(f'{name} {value:.3f}' for name, value in values.items())
        runner.logger.info(f'{type(self).__name__}, iteration {step}: {text}')
