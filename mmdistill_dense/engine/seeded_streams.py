"""Restart the random streams at every iteration, so that an interrupted run resumes to the same bits."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dataset import worker_init_fn as mmengine_worker_init_fn
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader, IterableDataset

from mmdistill_dense.utils.random_streams import mix, seed_everything
from mmdistill_dense.utils.reproducible import ReplayedBatches, SeededBatches, WorkerSeed


class SeededStreams(Hook):
    """Seeds torch's stream at each iteration from (seed, rank, iteration) and the loader's workers at each epoch."""

    def before_train(self, runner: Runner) -> None:
        """Give the batches of an iteration-based run their own random streams.

        Raises:
            ValueError: For persistent workers in an epoch-based run, which cannot be seeded again.
        """
        loader, loop = runner.train_dataloader, runner.train_loop
        if _is_epoch_based(runner) and loader.num_workers > 0 and loader.persistent_workers:
            raise ValueError(
                'train_dataloader.persistent_workers=True gives other augmentations after a resume in epoch-based '
                'training: set it to False (iteration-based training may keep it).'
            )
        if isinstance(loop, IterBasedTrainLoop) and _has_default_workers(loader):
            place = (loader, runner.seed, get_rank())
            indexed = not isinstance(loader.dataset, IterableDataset)
            # In place of mmengine's iterator, which neither seeds each batch nor skips one without loading it.
            loop.dataloader_iterator = (
                SeededBatches(*place) if indexed else ReplayedBatches(loop.dataloader_iterator, *place)
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Restart the random streams of the data pipeline; an iteration-based run is one long epoch."""
        seed_everything(mix(runner.seed, get_rank(), runner.epoch))
        loader = runner.train_dataloader
        if _is_epoch_based(runner) and _has_default_workers(loader):
            loader.worker_init_fn = WorkerSeed(runner.seed, get_rank(), runner.epoch)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed torch's stream; seed all streams if the pipeline has its own for each batch."""
        batches = getattr(runner.train_loop, 'dataloader_iterator', None)
        reseed = seed_everything if isinstance(batches, SeededBatches) else torch.manual_seed
        reseed(mix(runner.seed, get_rank(), runner.iter))


def _is_epoch_based(runner: Runner) -> bool:
    return isinstance(runner.train_loop, EpochBasedTrainLoop)


def _has_default_workers(loader: DataLoader) -> bool:
    """Tell whether the loader has no ``worker_init_fn``, mmengine's or ours; a user's own one is not replaced."""
    configured = getattr(loader.worker_init_fn, 'func', loader.worker_init_fn)
    return configured in (None, mmengine_worker_init_fn) or isinstance(configured, WorkerSeed)
