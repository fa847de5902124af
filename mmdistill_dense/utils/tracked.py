"""What our hooks write to the backends of the visualizer."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.runner import Runner


def write_scalars(runner: Runner, values: Mapping[str, float], step: int) -> None:
    """Write values of an iteration to every backend.

    They hold ``iter``, as those of mmengine do: its backend for W&B drops ``step`` and counts calls, so that W&B can
    draw only by a value among the others.
    """
    runner.visualizer.add_scalars({**values, 'iter': step}, step=step)
