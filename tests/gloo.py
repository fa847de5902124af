"""Processes of a test that train together."""

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests import toys
from tests.engine.processes import environment

QUICKEST = 'fork' if sys.platform == 'linux' and not torch.cuda.is_available() else 'spawn'  # a copy has all imports


def start(function: Callable[..., None], *args: Any, processes: int = 2, method: str = QUICKEST) -> None:
    """Run ``function(rank, *args)`` in processes and wait for them; an error in one of them is raised here."""
    with mock.patch.dict(os.environ, environment()):
        mp.start_processes(function, args, nprocs=processes, start_method=method)


def join(rank: int, folder: str, teacher: str, size: int = 2) -> Path:
    """Join the other processes through a file in the folder; the teacher is the one that the parent has made."""
    torch.set_num_threads(1)
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(size))
    toys.teacher_file = lambda *_, **__: teacher
    rendezvous = f'file://{folder}/rendezvous'
    dist.init_process_group('gloo', init_method=rendezvous, rank=rank, world_size=size, timeout=timedelta(seconds=120))
    return Path(folder)


def results(function: Callable[..., Any], folder: Path, *args: Any, size: int = 2) -> list[Any]:
    """What ``function(rank, folder, *args)`` returns in each of some processes that have joined."""
    start(_keep, function, str(folder), toys.teacher_file('fcn'), size, *args, processes=size)
    return [torch.load(folder / f'rank{rank}.pth') for rank in range(size)]


def _keep(rank: int, function: Callable[..., Any], folder: str, teacher: str, size: int, *args: Any) -> None:
    rendezvous = join(rank, folder, teacher, size)
    torch.save(function(rank, rendezvous, *args), rendezvous / f'rank{rank}.pth')
    dist.destroy_process_group()
