"""How a spawned process of a test becomes one of two that train together."""

import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from tests import toys


def join(rank: int, folder: str, teacher: str) -> Path:
    """Join the other process through a file in the folder; the teacher is the one that the parent has made."""
    torch.set_num_threads(1)
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE='2')
    toys.teacher_file = lambda *_, **__: teacher
    rendezvous = f'file://{folder}/rendezvous'
    dist.init_process_group('gloo', init_method=rendezvous, rank=rank, world_size=2, timeout=timedelta(seconds=120))
    return Path(folder)
