"""Start processes as copies of one that has imported the packages: the imports take longer than most of what they do.

Of the packages alone: where the project is, such a process does not know before it is told.
"""

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

multiprocessing.set_forkserver_preload(['pytest', 'mmengine.runner', 'mmseg.datasets', 'mmseg.models', 'mmdet.models'])


def spawn(function: Callable[..., None], args: tuple = (), nprocs: int = 1) -> Any:
    """Run ``function(rank, *args)`` in ``nprocs`` processes, as ``torch.multiprocessing.spawn`` does."""
    return mp.start_processes(function, args=args, nprocs=nprocs, start_method='forkserver')
