"""Random streams: kept apart at construction, restarted at every iteration."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, get_worker_info


def mix(*numbers: int) -> int:
    """Return a 32-bit seed that differs for different tuples of integers."""
    return zlib.crc32('/'.join(str(int(number)) for number in numbers).encode())


@contextmanager
def fork_rng() -> Iterator[None]:
    """Leave the global torch, numpy and python random streams behind as they were found."""
    python, array = random.getstate(), np.random.get_state()
    # Networks are built on the CPU or the meta device: other processes' devices are left alone.
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)


def stream_states() -> Any:
    """Return the places of the global torch, numpy and python random streams, for comparison."""
    array: Any = np.random.get_state()
    streams = [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [])]
    return random.getstate(), array[1].tobytes(), array[2:], [stream.numpy().tobytes() for stream in streams]


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


class SeededBatches:
    """The batch iterator of an iteration-based loop, with random streams that start anew at each batch.

    What the pipeline draws for a batch depends on (seed, rank, number of the batch) and not on the batches before it: a
    resumed loop skips those without loading them.

    Args:
        inner: The loop's own iterator; with workers it must not have started them yet.
        loader: Its data loader; ``worker_init_fn`` and ``collate_fn`` are set where there are workers.
        seed: Seed of the run.
        rank: Rank of the process.
    """

    def __init__(self, inner: Any, loader: DataLoader, seed: int, rank: int) -> None:
        self.inner = inner
        self.loader = loader
        self.place = (seed, rank)
        self.collate = loader.collate_fn
        self.position = 0
        # Starting the inner iterator draws a number: not from the stream of its first batch.
        loader.generator = loader.generator or torch.Generator().manual_seed(mix(seed, rank))

    def __iter__(self) -> SeededBatches:
        return self

    def __next__(self) -> Any:
        self._start_streams()
        self.position += 1
        return next(self.inner)

    def skip_iter(self, count: int) -> None:
        """Leave out ``count`` batches; mmengine's loop calls this on resume."""
        self._start_streams()
        self.inner.skip_iter(count)
        self.position += count

    def _start_streams(self) -> None:
        if self.loader.num_workers == 0:
            _seed_batch(self.place, self.position)
            return
        # Both are read when the inner iterator starts workers, which then begin with this batch.
        streams = _WorkerStreams(self.collate, self.place, self.position)
        self.loader.worker_init_fn = streams.begin
        self.loader.collate_fn = streams


class _WorkerStreams:
    """Collates batches in a worker, which gets every n-th of them, and starts the streams of its next one."""

    def __init__(self, collate: Callable[[Any], Any], place: tuple[int, int], first: int) -> None:
        self.collate = collate
        self.place = place
        self.first = first
        self.done = 0

    def begin(self, worker_id: int) -> None:
        _seed_batch(self.place, self.first + worker_id)

    def __call__(self, items: Any) -> Any:
        batch = self.collate(items)
        self.done += 1
        worker = get_worker_info()
        if worker is not None:
            _seed_batch(self.place, self.first + worker.id + worker.num_workers * self.done)
        return batch


def _seed_batch(place: tuple[int, int], position: int) -> None:
    seed_everything(mix(*place, position, 1))
