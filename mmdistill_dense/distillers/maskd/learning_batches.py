"""Batches to learn tokens on: the run's own training data, in an order and with random streams of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_rank
from torch.utils.data import DataLoader

from mmdistill_dense.utils.random_streams import mix
from mmdistill_dense.utils.reproducible import SeededBatches


@contextmanager
def learning_batches(loader: DataLoader, seed: int, start: int) -> Iterator[Iterator[Any]]:
    """Yield endless batches of a loader's data set, with its batch size, collation, workers and way of grouping.

    The loader itself is left alone. Each process gets its own part. What a batch holds depends on (seed, rank, its
    number) alone; the workers end with the context.

    Args:
        loader: The run's training loader.
        seed: Seed of the order and the augmentation.
        start: Number of the first batch; those before it are not loaded.
    """
    workers = loader.num_workers
    own: DataLoader = DataLoader(
        loader.dataset,
        batch_sampler=_group(loader, seed),
        collate_fn=loader.collate_fn,
        num_workers=workers,
        pin_memory=loader.pin_memory,
        prefetch_factor=loader.prefetch_factor if workers else None,
        multiprocessing_context=loader.multiprocessing_context if workers else None,
    )
    batches = SeededBatches(own, seed, get_rank())
    batches.skip_iter(start)
    try:
        yield batches
    finally:
        batches.close()


def _group(loader: DataLoader, seed: int) -> Any:
    """Group an endless order of the data into batches as the loader does (by aspect ratio, for instance)."""
    configured: Any = loader.batch_sampler
    dataset: Any = loader.dataset
    sampler = InfiniteSampler(dataset, shuffle=True, seed=mix(seed, 0))
    try:
        return type(configured)(sampler, configured.batch_size, True)
    except TypeError as error:
        raise ValueError(
            f'train_dataloader.batch_sampler: learning tokens needs one like it over another order, and '
            f'{type(configured).__name__}(sampler, batch_size, drop_last) fails ({error}). Learn them in a run with an '
            'ordinary loader (tools/learn_tokens.py) and give the file as tokens=.'
        ) from error
