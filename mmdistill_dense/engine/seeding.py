"""Random streams: kept apart at construction, restarted at every iteration."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def mix(*numbers: int) -> int:
    """Return a 32-bit seed that differs for different tuples of integers."""
    return zlib.crc32('/'.join(str(int(number)) for number in numbers).encode())


@contextmanager
def fork_rng() -> Iterator[None]:
    """Leave the global torch, numpy and python random streams behind as they were found."""
    python, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)


def seed_everything(seed: int) -> None:
    """Seed python's, numpy's and torch's global streams."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class WorkerSeed:
    """A ``worker_init_fn`` that seeds a loader's worker from (seed, rank, worker, epoch); picklable for spawned
    workers."""

    def __init__(self, seed: int, rank: int, epoch: int) -> None:
        self.place = (seed, rank, epoch)

    def __call__(self, worker_id: int) -> None:
        seed, rank, epoch = self.place
        seed_everything(mix(seed, rank, worker_id, epoch))
