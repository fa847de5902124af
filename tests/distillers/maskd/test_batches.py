"""Batches to learn tokens on."""

import multiprocessing

import pytest
import torch
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmengine.dataset import DefaultSampler
from torch.utils.data import BatchSampler, DataLoader, Dataset

from mmdistill_dense.distillers.maskd.learning import learning_batches


class Numbered(Dataset):
    """Items that say which they are and carry a random number, every third one upright."""

    def __len__(self):
        return 10

    def get_data_info(self, index):
        return dict(width=2, height=1 + 2 * (index % 3 == 0))

    def __getitem__(self, index):
        return index, torch.rand(()).item()


def loader_of(workers=0, group=BatchSampler, **options):
    dataset = Numbered()
    sampler = DefaultSampler(dataset, shuffle=False)
    batches = group(sampler, batch_size=2, drop_last=False)
    return DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=list, **options)


def take(count, workers=0, seed=1, start=0, **options):
    with learning_batches(loader_of(workers, **options), seed, start) as batches:
        return [next(batches) for _ in range(count)]


@pytest.mark.parametrize('workers', [0, 1, 2])
def test_a_batch_depends_on_the_seed_and_its_number(workers):
    whole = take(12, workers)
    assert take(5, workers, start=7) == whole[7:]
    assert take(12, 2 - workers) == whole, 'and not on the workers'
    assert take(12, workers, seed=2) != whole
    assert {index for batch in whole[:5] for index, _ in batch} == set(range(10)), 'every picture once in a round'
    assert len({number for batch in whole for _, number in batch}) == 24


def test_pictures_are_grouped_as_the_loader_does():
    for batch in take(12, group=AspectRatioBatchSampler):
        assert len(batch) == 2 and len({index % 3 == 0 for index, _ in batch}) == 1
    whole = take(12, group=AspectRatioBatchSampler)
    assert take(5, group=AspectRatioBatchSampler, start=7) == whole[7:]


def test_workers_end_with_the_context():
    with learning_batches(loader_of(2), 1, 0) as batches:
        assert not multiprocessing.active_children(), 'and begin with the first batch'
        next(batches)
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()


def test_persistent_workers_of_the_loader_are_not_its_business():
    take(2, workers=1, persistent_workers=True)
    assert not multiprocessing.active_children()


class Paired(BatchSampler):
    """A grouping that needs more to be made."""

    def __init__(self, sampler, batch_size, drop_last, partners=None):
        if partners is None:
            raise TypeError('partners are missing')
        super().__init__(sampler, batch_size, drop_last)


def test_a_grouping_that_cannot_be_made_again_is_named():
    dataset = Numbered()
    paired = Paired(DefaultSampler(dataset), 2, False, partners=1)
    loader = DataLoader(dataset, batch_sampler=paired)
    words = r'train_dataloader\.batch_sampler.*Paired.*partners are missing.*tokens='
    with pytest.raises(ValueError, match=words), learning_batches(loader, 1, 0):
        pass
