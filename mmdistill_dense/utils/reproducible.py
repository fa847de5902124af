"""Random streams that follow from numbers, so that a resumed run draws what an unbroken one does."""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, get_worker_info

from mmdistill_dense.utils.generators import Generators


def mix(*numbers: int) -> int:
    """Return a 32-bit seed that differs for different tuples of integers."""
    return zlib.crc32('/'.join(map(str, map(int, numbers))).encode())


@contextmanager
def fork_rng() -> Iterator[None]:
    """Restore the global torch, numpy and python random streams at the end of the context."""
    python, array = random.getstate(), np.random.get_state()
    # Networks are built on the CPU or the meta device, so only the current device is restored.
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)


def stream_states() -> Any:
    """Return the states of the global torch, numpy and python random streams, for comparison."""
    array: Any = np.random.get_state()
    streams = [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [])]
    return random.getstate(), array[1].tobytes(), array[2:], [stream.numpy().tobytes() for stream in streams]


def seed_everything(*numbers: int) -> int:
    """Seed python's, numpy's and torch's global streams, and return the seed: the number, or several as :func:`mix`."""
    seed = seed_torch(*numbers)
    random.seed(seed)
    np.random.seed(seed)
    return seed


def seed_torch(*numbers: int) -> int:
    """Seed torch's streams on the devices in use; ``torch.manual_seed`` formats the call stack for each other kind."""
    seed = mix(*numbers) if len(numbers) > 1 else numbers[0]
    torch.default_generator.manual_seed(seed)
    for kind in ('cuda', 'xpu', 'npu', 'mlu', 'musa'):
        device = getattr(torch, kind, None)
        if device is not None and device.is_initialized():
            device.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
    return seed


def init_worker(seed: int, rank: int, epoch: int, worker_id: int) -> None:
    """Seed a worker from (seed, rank, worker, epoch); with the first three set, it is a ``worker_init_fn``."""
    _seed_worker(mix(seed, rank, worker_id, epoch))


def _seed_worker(seed: int) -> None:
    seed_everything(seed)
    if worker := get_worker_info():
        _generators_of_worker(worker.id).seed(seed)


@cache
def _generators_of_worker(_: int) -> Generators:
    worker = get_worker_info()
    return Generators(worker.dataset if worker else None)


class SeededBatches(Iterator[Any]):
    """Endless batches, whose random numbers depend on (seed, rank, number of the batch) alone, whoever loads them.

    So a resumed loop skips batches without loading them. A sampler that ends starts again, with the next epoch for its
    own seed, as in mmengine's loop; the workers go on. The batches come from a copy of the loader. ``start`` is the
    number of the first batch, where the sampler itself begins at that batch. A loop without ``skip_iter``
    (mmengine 0.10.7) asks for ``dropped`` batches that it does not use: they are skipped too.
    """

    def __init__(self, loader: DataLoader, seed: int, rank: int, start: int = 0, dropped: int = 0) -> None:
        self.seeds = (seed, rank)
        self.position, self.dropped = start, dropped
        self._indices = _Indices(loader, self.seeds, start)
        self._loader = copy(loader)
        name = 'sampler' if loader.batch_sampler is None else 'batch_sampler'
        vars(self._loader).update({name: self._indices, '_iterator': None})  # DataLoader refuses setattr
        # The iterator draws a number when it starts, which must not come from the stream of the first batch.
        self._loader.generator = loader.generator or torch.Generator().manual_seed(mix(seed, rank))
        self._iterator: Any = None
        self._generators = Generators(None if loader.num_workers else [loader.dataset, loader.collate_fn])

    def __next__(self) -> Any:
        if self.dropped:
            self.dropped -= 1
            return self.skip_iter(1)
        if self._iterator is None:
            self._iterator = iter(self._loader)  # late, because this starts the workers
        if not self._loader.num_workers:
            seed = seed_everything(*self.seeds, self.position, 1)
            self._generators.seed(seed)
        self.position += 1
        return next(self._iterator)

    def skip_iter(self, count: int) -> None:
        """Skip ``count`` batches before the first one; mmengine's loop calls this on resume."""
        self._indices.skip(count)
        self.position += count

    def close(self) -> None:
        """End the workers."""
        self._iterator = self._loader._iterator = None


class ReplayedBatches(Iterator[Any]):
    """Batches of a data set without indices: a resumed loop loads the skipped ones again, from the same streams.

    Workers start these only once. ``endless`` makes the loop's iterator; ``worker_init_fn`` of its loader is set.
    """

    def __init__(
        self, endless: Callable[[DataLoader], Iterator[Any]], loader: DataLoader, seed: int, rank: int
    ) -> None:
        self.seeds = (seed, rank)
        self.position = 0
        loader.worker_init_fn = partial(init_worker, seed, rank, 0)
        self._batches, self._workers = endless(loader), loader.num_workers
        self._generators = Generators(None if loader.num_workers else [loader.dataset, loader.collate_fn])

    def __next__(self) -> Any:
        if not self._workers:
            seed = seed_everything(*self.seeds, self.position, 1)
            self._generators.seed(seed)
        self.position += 1
        return next(self._batches)

    def skip_iter(self, count: int) -> None:
        """Load ``count`` batches and drop them; mmengine's loop calls this on resume."""
        for _ in range(count):
            next(self)


class _Indices(Iterator[Any]):
    """Endless batches of a sampler's indices, each drawn from its own random streams."""

    def __init__(self, loader: DataLoader, seeds: tuple[int, int], start: int) -> None:
        self.loader = loader
        self.seeds = seeds
        self.number = start
        self._drawn = self._draw_all()

    def __next__(self) -> Any:
        seeds = (*self.seeds, self.number)
        with fork_rng():
            indices = self._draw()
        return _WorkerIndices(indices, seeds) if self.loader.num_workers else indices

    def skip(self, count: int) -> None:
        with fork_rng():
            for _ in range(count):
                self._draw()

    def _draw(self) -> Any:
        seed = mix(*self.seeds, self.number, 3)
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)  # samplers draw on the CPU: no need to seed all devices
        indices = next(self._drawn)
        self.number += 1
        return indices

    def _draw_all(self) -> Iterator[Any]:
        batches: Any = self.loader.sampler if self.loader.batch_sampler is None else self.loader.batch_sampler
        for epoch in itertools.count():
            if epoch:
                sampler: Any = sampler_of(self.loader)
                if hasattr(sampler, 'set_epoch'):
                    sampler.set_epoch(epoch)
            start = self.number
            yield from batches
            if self.number == start:
                text = 'its sampler ends before one is full'
                raise ValueError(f'train_dataloader gives no batch: {text}. Lower batch_size, or set drop_last=False.')


class _WorkerIndices:
    """A batch of indices for a worker; unpickling it there restarts the random streams and gives the indices."""

    def __init__(self, indices: Any, seeds: tuple[int, ...]) -> None:
        self.content = indices, seeds

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _unpack_indices, self.content


def _unpack_indices(indices: Any, seeds: tuple[int, ...]) -> Any:
    _seed_worker(mix(*seeds, 1))
    return indices


def sampler_of(loader: DataLoader) -> Any:
    """Return the sampler that orders the pictures, also from inside a batch sampler."""
    inner = getattr(loader.batch_sampler, 'sampler', None)
    return loader.sampler if inner is None else inner


def without_workers(loader: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a data loader that reads in this process, without those that only workers take."""
    of_workers = ('num_workers', 'persistent_workers', 'prefetch_factor', 'multiprocessing_context', 'timeout')
    options = {name: value for name, value in loader.items() if name not in of_workers}
    return {**options, 'num_workers': 0, 'persistent_workers': False}
