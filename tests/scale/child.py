"""What each of four processes does: the same with a group of four, of two, and alone."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import mmdet.models  # noqa: F401  (everything that a step needs is there before the fork)
import mmseg.models  # noqa: F401
import torch
import torch.distributed as dist

from mmdistill_dense.engine import DistillDDP
from tests import toys
from tests.scale import pairs

SIZES = (4, 2, 1)
STEPS = 3
UNEVEN = 10  # pictures: two and one for each of four processes
PATIENCE = timedelta(seconds=240)


def work(rank: int, folder: str, files: dict[str, str]) -> None:
    """Everything that this process has a part in, into ``<size>_<rank>.pth``."""
    torch.set_num_threads(1)
    toys.teacher_file = lambda kind, *_, **__: files[kind]
    for size in SIZES:
        if rank < size:
            _in_group(rank, size, Path(folder))


def _in_group(rank: int, size: int, folder: Path) -> None:
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(size))
    place = f'file://{folder}/rendezvous{size}'
    dist.init_process_group('gloo', init_method=place, rank=rank, world_size=size, timeout=PATIENCE)
    found: dict[str, Any] = {task: _step(task, rank, size) for task in pairs.METHODS}
    each = pairs.BATCH // size
    found['run'] = _trained(pairs.run(folder / f'run{size}', size, each, STEPS))
    if size < 4:
        parts = each // 2
        options = {'optim_wrapper.accumulative_counts': parts}
        found['accumulated'] = _trained(pairs.run(folder / f'parts{size}', size, 2, parts * STEPS, **options))
    if size == 4:
        found['uneven'] = _trained(pairs.epoch(folder / 'uneven', size, UNEVEN))
        found['refused'] = _refused(pairs.epoch(folder / 'refused', size, UNEVEN, round_up=False))
    torch.save(found, folder / f'{size}_{rank}.pth')
    dist.destroy_process_group()


def _step(task: str, rank: int, size: int) -> dict[str, Any]:
    student = pairs.pair(task)
    model = DistillDDP(student, broadcast_buffers=False) if size > 1 else student
    return pairs.one_step(task, model, student, rank, size)


def _trained(config: Any) -> dict[str, Any]:
    """Weights and queues at the end, and the number of iterations."""
    runner = toys.train(None, config)
    model = getattr(runner.model, 'module', runner.model)
    weights = {**model.state_dict(), **{f'distillers.{name}': v for name, v in model.distillers.state_dict().items()}}
    return dict(weights={name: value.clone() for name, value in weights.items()}, iterations=runner.iter)


def _refused(config: Any) -> str:
    try:
        toys.train(None, config)
    except ValueError as error:
        return str(error)
    return 'not refused'
