"""The student that is pre-trained and its preprocessor: one pass per view, mmengine's numbers for every view."""

import pytest
import torch
from mmengine.dataset import default_collate, pseudo_collate
from mmengine.model import ImgDataPreprocessor
from mmengine.structures import BaseDataElement
from torch import nn

from mmdistill_dense.distillers.pcd.parts import inside_images
from mmdistill_dense.pretrain import MultiViewPreprocessor
from mmdistill_dense.registry import MODELS
from tests import toys
from tests.pretrain.runs import NORM, R18


def student(**backbone):
    """A tiny student."""
    return MODELS.build(dict(type='mmdistill_dense.BackboneStudent', backbone=dict(R18, **backbone)))


@pytest.mark.parametrize('kind', ['mmdet.ResNet', 'mmseg.ResNet', 'mmseg.ResNetV1c'])
def test_it_starts_from_scratch_as_published(kind):
    toys.build_plain(toys.seg_net('fcn'))  # registers mmseg
    torch.manual_seed(0)
    model = student(type=kind)
    model.init_weights()
    assert model.backbone.norm_eval is False
    for name, module in model.backbone.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert (module.weight == 1).all() and (module.bias == 0).all(), f'{name}: no zero-initialised residual'
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 500:
            fan_out = module.weight.shape[0] * module.weight[0, 0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.15), name


def test_frozen_statistics_are_refused():
    with pytest.raises(ValueError, match=r'backbone.norm_eval=True keeps batch statistics .*: set False'):
        student(norm_eval=True)
    assert student(zero_init_residual=True).backbone.zero_init_residual is True, 'an own choice stays'


def test_each_view_is_one_pass_first_view_first():
    model = student().train()
    views = [torch.full((2, 3, 64, 64), 1.0), torch.full((2, 3, 32, 64), 2.0)]
    seen = []
    model.backbone.register_forward_hook(lambda _, args, output: seen.append((args[0], output[-1].shape)))
    assert model(views, mode='loss') == {}
    assert all(torch.equal(given, view) for (given, _), view in zip(seen, views, strict=True))
    assert [shape for _, shape in seen] == [(2, 32, 2, 2), (2, 32, 1, 2)]
    assert int(model.backbone.bn1.num_batches_tracked) == 2
    seen.clear()
    assert model(views[0], mode='loss') == {} and len(seen) == 1


def test_it_predicts_pooled_features():
    model = student().eval()
    views = [torch.randn(2, 3, 64, 64), torch.randn(2, 3, 64, 64)]
    first, second = model(views, mode='predict')
    assert torch.equal(first, model(views[0], mode='predict')) and second.shape == (2, 32)
    torch.testing.assert_close(first, model(views[0])[-1].flatten(2).mean(2))
    with pytest.raises(ValueError, match='mode must be'):
        model(views, mode='train')


def test_nothing_to_learn_from_is_said():
    with pytest.raises(ValueError, match='no loss of its own .* set model.teacher and, .*model.distillers'):
        student().parse_losses({})
    loss, log = student().parse_losses({'pcd.loss_pcd': torch.tensor(2.0), 'pcd.acc_top1': torch.ones(())})
    assert loss == 2 and log['pcd.acc_top1'] == 1


def picture(seed, height=8, width=6):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def by_hand(image):
    mean, std = (torch.tensor(NORM[name]).view(3, 1, 1) for name in ('mean', 'std'))
    return (image.flip(0).float() - mean) / std


@pytest.mark.parametrize('collate', [pseudo_collate, default_collate])
def test_views_become_batches(collate):
    items = [dict(inputs=[picture(2 * i), picture(2 * i + 1, 5, 7)]) for i in range(3)]
    preprocessor = MultiViewPreprocessor(**NORM, size=[8, 6])
    assert preprocessor.size == (8, 6), 'for the trace'
    data = preprocessor(collate(items), training=True)
    first, second = data['inputs']
    assert (first.shape, second.shape) == ((3, 3, 8, 6), (3, 3, 5, 7))
    for i in range(3):
        assert torch.equal(first[i], by_hand(picture(2 * i)))
        assert torch.equal(second[i], by_hand(picture(2 * i + 1, 5, 7)))
    batch = collate([dict(inputs=picture(i)) for i in range(3)])
    classes = (MultiViewPreprocessor, ImgDataPreprocessor)
    ours, theirs = (cls(**NORM, pad_size_divisor=4)(batch)['inputs'] for cls in classes)
    assert isinstance(ours, torch.Tensor) and torch.equal(ours, theirs), 'one view is as in mmengine'


def test_padding_is_told_and_views_of_several_sizes_are_refused():
    items = [dict(inputs=picture(i, 8, 6 + i), data_samples=BaseDataElement()) for i in range(2)]
    data = MultiViewPreprocessor(**NORM)(pseudo_collate(items))
    inside = inside_images(data['data_samples'], data['inputs'])
    assert inside.sum((1, 2)).tolist() == [48, 56] and inside.shape == (2, 8, 7)
    for collate in (pseudo_collate, default_collate):
        batch = collate([dict(inputs=picture(i), data_samples=i) for i in range(2)])
        assert list(MultiViewPreprocessor(**NORM)(batch)['data_samples']) == [0, 1], 'numbers stay as they are'
    views = [dict(inputs=[picture(i), picture(i, 8, 6 + i)]) for i in range(2)]
    with pytest.raises(ValueError, match=r'several sizes .*8, 6.*8, 7'):
        MultiViewPreprocessor(**NORM)(pseudo_collate(views))


def test_data_samples_pass_and_the_batch_is_left_as_it_was():
    sample = BaseDataElement(metainfo=dict(img_path='a'))
    batch = pseudo_collate([dict(inputs=[picture(0), picture(1)], data_samples=sample)])
    data = MultiViewPreprocessor(**NORM)(batch)
    assert [s.img_path for s in data['data_samples']] == ['a']
    assert batch['inputs'][0][0].dtype == torch.uint8, 'bytes cross to the device'
    assert MultiViewPreprocessor(**NORM)(dict(inputs=batch['inputs']))['data_samples'] is None


def test_mixup_mixes_the_views_of_a_step_alike_in_training_alone():
    batch = pseudo_collate([dict(inputs=[picture(2 * i), picture(2 * i + 1, 5, 7)]) for i in range(3)])
    plain, mixing = MultiViewPreprocessor(**NORM), MultiViewPreprocessor(**NORM, mixup=True)
    apart = plain(batch)['inputs']
    assert all(torch.equal(*pair) for pair in zip(apart, mixing(batch)['inputs'], strict=True))
    torch.manual_seed(4)
    found = mixing(batch, training=True)['inputs']
    torch.manual_seed(4)
    share, order = torch.rand(()), torch.randperm(3)
    single = pseudo_collate([dict(inputs=picture(i)) for i in range(3)])
    torch.manual_seed(4)
    apart, found = [*apart, plain(single)['inputs']], [*found, mixing(single, training=True)['inputs']]
    for view, mixed in zip(apart, found, strict=True):
        torch.testing.assert_close(mixed, share * view + (1 - share) * view[order])
        assert not torch.equal(mixed, view)
