"""What our hooks write to the log, the message hub and the backends of the visualizer."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from mmengine.dist import is_main_process
from mmengine.runner import Runner


def write_scalars(runner: Runner, values: Mapping[str, float], step: int) -> None:
    """Write values of an iteration to every backend.

    They hold ``iter``, as those of mmengine do: its backend for W&B drops ``step`` and counts calls, so that W&B can
    draw only by a value among the others.
    """
    runner.visualizer.add_scalars({**values, 'iter': step}, step=step)


def write_monitored(runner: Runner, hook: str, values: Mapping[str, float], step: int) -> None:
    """Write what a hook measured as ``monitor/<name>``; one process does, and values that are not finite are logged."""
    if not is_main_process():
        return
    # Backends such as MLflow take no brackets, which taps have.
    names = {name: f'monitor/{re.sub(r"[^0-9A-Za-z_.-]+", ".", name).strip(".")}' for name in values}
    finite = {names[name]: value for name, value in values.items() if math.isfinite(value)}
    for name, value in finite.items():
        runner.message_hub.update_scalar(name, value)
    write_scalars(runner, finite, step)
    text = ', '.join(f'{name} {value:.3f}' for name, value in values.items())
    runner.logger.info(f'{hook}, iteration {step}: {text}')
