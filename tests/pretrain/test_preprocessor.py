"""MultiViewPreprocessor: mmengine's numbers for every view."""

import pytest
import torch
from mmengine.dataset import default_collate, pseudo_collate
from mmengine.model import ImgDataPreprocessor
from mmengine.structures import BaseDataElement

from mmdistill_dense.pretrain import MultiViewPreprocessor

NORM = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)


def picture(seed, height=8, width=6):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def by_hand(image):
    mean, std = (torch.tensor(NORM[name]).view(3, 1, 1) for name in ('mean', 'std'))
    return (image.flip(0).float() - mean) / std


@pytest.mark.parametrize('collate', [pseudo_collate, default_collate])
def test_views_become_batches(collate):
    items = [dict(inputs=[picture(2 * i), picture(2 * i + 1, 5, 7)]) for i in range(3)]
    data = MultiViewPreprocessor(**NORM, size=(8, 6))(collate(items), training=True)
    first, second = data['inputs']
    assert (first.shape, second.shape) == ((3, 3, 8, 6), (3, 3, 5, 7))
    for i in range(3):
        assert torch.equal(first[i], by_hand(picture(2 * i)))
        assert torch.equal(second[i], by_hand(picture(2 * i + 1, 5, 7)))


@pytest.mark.parametrize('collate', [pseudo_collate, default_collate])
def test_plain_batch_is_mmengines(collate):
    batch = collate([dict(inputs=picture(i)) for i in range(3)])
    classes = (MultiViewPreprocessor, ImgDataPreprocessor)
    ours, theirs = (cls(**NORM, pad_size_divisor=4)(batch)['inputs'] for cls in classes)
    assert isinstance(ours, torch.Tensor) and torch.equal(ours, theirs)


def test_one_view_stays_a_list():
    batch = pseudo_collate([dict(inputs=[picture(0)]), dict(inputs=[picture(1)])])
    (view,) = MultiViewPreprocessor(**NORM)(batch)['inputs']
    assert view.shape == (2, 3, 8, 6)


def test_data_samples_pass_and_the_batch_is_left_as_it_was():
    sample = BaseDataElement(metainfo=dict(img_path='a'))
    batch = pseudo_collate([dict(inputs=[picture(0), picture(1)], data_samples=sample)])
    data = MultiViewPreprocessor(**NORM)(batch)
    assert [s.img_path for s in data['data_samples']] == ['a']
    assert batch['inputs'][0][0].dtype == torch.uint8, 'bytes cross to the device'
    assert MultiViewPreprocessor(**NORM)(dict(inputs=batch['inputs']))['data_samples'] is None


def test_size_is_kept_for_the_dry_run():
    assert MultiViewPreprocessor(size=[224, 224]).size == (224, 224)


def test_mixup_mixes_the_views_of_a_step_alike_in_training_alone():
    batch = pseudo_collate([dict(inputs=[picture(2 * i), picture(2 * i + 1, 5, 7)]) for i in range(3)])
    plain, mixing = MultiViewPreprocessor(**NORM), MultiViewPreprocessor(**NORM, mixup=True)
    apart = plain(batch)['inputs']
    assert all(torch.equal(*pair) for pair in zip(apart, mixing(batch)['inputs'], strict=True))
    torch.manual_seed(4)
    found = mixing(batch, training=True)['inputs']
    torch.manual_seed(4)
    share, order = torch.rand(()), torch.randperm(3)
    for view, mixed in zip(apart, found, strict=True):
        torch.testing.assert_close(mixed, share * view + (1 - share) * view[order])
        assert not torch.equal(mixed, view)
    single = pseudo_collate([dict(inputs=picture(i)) for i in range(3)])
    torch.manual_seed(4)
    torch.testing.assert_close(
        mixing(single, training=True)['inputs'],
        share * plain(single)['inputs'] + (1 - share) * plain(single)['inputs'][order],
    )
