"""Random streams."""

import pickle
import random

import numpy as np
import pytest
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch.utils.data import DataLoader, Dataset

from mmdistill_dense.engine.seeding import SeededBatches, WorkerSeed, fork_rng, mix, seed_everything


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_mix_tells_places_apart():
    seeds = {mix(seed, rank, place) for seed in range(8) for rank in range(8) for place in range(64)}
    assert len(seeds) == 8 * 8 * 64 and all(0 <= seed < 2**32 for seed in seeds)
    assert mix(1, 2) == mix(1, 2) and mix(1, 23) != mix(12, 3)


def test_seed_everything():
    seed_everything(3)
    first = draw()
    seed_everything(3)
    assert draw() == first != draw()


def test_fork_leaves_the_streams_as_they_were():
    seed_everything(1)
    expected = draw()
    seed_everything(1)
    with fork_rng():
        draw()
        seed_everything(99)
    assert draw() == expected
    seed_everything(1)
    with pytest.raises(RuntimeError), fork_rng():
        seed_everything(99)
        raise RuntimeError
    assert draw() == expected


def test_worker_seed_depends_on_everything_and_travels():
    def stream(worker, *place):
        pickle.loads(pickle.dumps(WorkerSeed(*place)))(worker)
        return draw()

    with fork_rng():
        base = stream(0, 1, 2, 3)
        assert stream(0, 1, 2, 3) == base
        assert len({base, stream(1, 1, 2, 3), stream(0, 0, 2, 3), stream(0, 1, 0, 3), stream(0, 1, 2, 0)}) == 5


class Draws(Dataset):
    """What a pipeline would draw from each stream, and the item's number."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.tensor([*draw(), index], dtype=torch.float64)


def batches(workers, seed=1, rank=0):
    data = Draws()
    loader = DataLoader(data, 2, sampler=InfiniteSampler(data, seed=3), num_workers=workers)
    return SeededBatches(_InfiniteDataloaderIterator(loader), loader, seed, rank)


def rows(iterator, count):
    """Draws of ``count`` batches; between them the training draws too."""
    found = []
    for _ in range(count):
        found.append(next(iterator))
        seed_everything(0)
    return torch.stack(found)


@pytest.mark.parametrize('workers', [0, 2])
def test_batches_draw_the_same_after_a_skip(workers):
    with fork_rng():
        whole = rows(batches(workers), 7)
        assert len(whole[..., :3].unique()) == 7 * 2 * 3, 'no draw comes twice'
        later = batches(workers)
        later.skip_iter(3)
        assert torch.equal(rows(later, 4), whole[3:])
        assert not torch.equal(rows(batches(workers, seed=2), 1)[..., :3], whole[:1, ..., :3])
        assert not torch.equal(rows(batches(workers, rank=1), 1)[..., :3], whole[:1, ..., :3])


def test_batches_draw_the_same_where_a_loop_replays():
    """Older loops have no ``skip_iter`` and take the skipped batches one by one."""
    with fork_rng():
        whole, later = rows(batches(0), 5), batches(0)
        for _ in range(3):
            next(later)
        assert torch.equal(rows(later, 2), whole[3:])
