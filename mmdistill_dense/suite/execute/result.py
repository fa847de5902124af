"""The parts of a result other than its scores."""

from __future__ import annotations

import math
import platform
import re
import statistics
import sys
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.runner import Runner

from mmdistill_dense.distillers.maskd.maskd import MasKD
from mmdistill_dense.distillers.schedule import in_iterations
from mmdistill_dense.model.distillation import distillers_of
from mmdistill_dense.suite.plan.runs import Run
from mmdistill_dense.utils.distributed import unwrap
from mmdistill_dense.utils.version import __version__

PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmseg', 'mmdet')


def median_of(runner: Runner, name: str) -> float | None:
    """Return the median of a logged value over the run. Checkpoints keep the history, so restarts count as well."""
    values = _history(runner, name)
    return statistics.median(values) if values else None


def _history(runner: Runner, name: str) -> list[float]:
    scalars = runner.message_hub.log_scalars
    return [float(value) for value in scalars[name].data[0]] if name in scalars else []


def shares_of(runner: Runner) -> dict[str, float]:
    """Return the mean share of each distiller in the total loss."""
    found = (re.fullmatch(r'train/distill\.(.+)\.share', name) for name in runner.message_hub.log_scalars)
    return {match[1]: statistics.fmean(_history(runner, match[0])) for match in found if match}


def learning_of(runner: Runner) -> int:
    """Return the iterations that distillers learned before the training, or in an earlier start of it."""
    found = distillers_of(unwrap(runner.model)).values()
    return sum(one.learn.max_iters for one in found if isinstance(one, MasKD) and one.tokens is None)


def receipts_of(runner: Runner) -> dict[str, Any] | None:
    """Return the teacher's receipt, or the receipts of several teachers by name."""
    teachers = getattr(getattr(unwrap(runner.model), 'distillation', None), 'teachers', {})
    receipts = {str(name): teacher.receipt.as_dict() for name, teacher in teachers.items() if teacher.receipt}
    return next(iter(receipts.values())) if len(receipts) == 1 else receipts or None


def unlabelled_of(runner: Runner) -> dict[str, Any] | None:
    """Return the number of a run's pictures without labels, the hash of their names, ratio, and passes over them."""
    model = unwrap(runner.model)
    second = getattr(getattr(model, 'distillation', None), 'unlabelled', None)
    if second is None or not second.files:
        return None
    ends = [distillers_of(model)[name].schedule.end(runner.max_iters) for name in second.takers]
    end = math.inf if second.option.pseudo is not None else max(ends)
    steps = min(runner.max_iters, end) - in_iterations(second.option.start, runner.max_iters)
    batch: Any = runner.train_dataloader.batch_sampler
    seen = max(steps, 0) * second.option.count(batch.batch_size) * get_world_size()
    return {**second.files, 'passes': seen / second.files['pictures']}


def origin_of(run: Run, config_hash: str) -> dict[str, Any]:
    """Return the name of a run, and the machine and versions it ran on."""
    cuda = torch.cuda.is_available()
    versions = {name: str(getattr(sys.modules[name], '__version__', '')) for name in PACKAGES if name in sys.modules}
    return {
        'name': run.name,
        'seed': run.seed,
        'choice': dict(run.choice or {}),
        'config_hash': config_hash,
        'versions': {**versions, 'mmdistill_dense': __version__},
        'device': torch.cuda.get_device_name() if cuda else f'CPU {platform.machine()}',
        'threads': torch.get_num_threads(),
        'processes': get_world_size(),
    }


def plain(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that are single numbers, as floats."""
    return {
        name: float(value) for name, value in metrics.items() if isinstance(value, (int, float)) or _is_scalar(value)
    }


def _is_scalar(value: Any) -> bool:
    return getattr(value, 'size', None) == 1 or (isinstance(value, torch.Tensor) and value.numel() == 1)
