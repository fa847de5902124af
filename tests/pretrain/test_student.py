"""The student that is pre-trained, its preprocessor and its random views; Pillow's results are in tests/golden."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate, pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement
from torch import nn

from mmdistill_dense.distillers.pcd.modules import inside_images
from mmdistill_dense.pretrain import (
    ColorJitter,
    GaussianBlur,
    MultiView,
    MultiViewPreprocessor,
    PackViews,
    RandomGrayscale,
    RandomResizedCrop,
    Solarize,
)
from mmdistill_dense.registry import MODELS
from tests import toys
from tests.pretrain.runs import NORM, R10


def student(**backbone):
    """A tiny student."""
    return MODELS.build(dict(type='mmdistill_dense.BackboneStudent', backbone=dict(R10, **backbone)))


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
    model, views, seen = student().train(), [torch.ones(2, 3, 64, 64), torch.zeros(2, 3, 32, 64)], []
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    assert model(views, mode='loss') == {} and all(map(torch.equal, seen, views))
    assert int(model.backbone.bn1.num_batches_tracked) == 2


def test_it_predicts_pooled_features():
    model, view = student().eval(), torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(view, mode='predict'), model(view)[-1].flatten(2).mean(2))


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


def test_padding_is_told():
    items = [dict(inputs=picture(i, 8, 6 + i), data_samples=BaseDataElement()) for i in range(2)]
    data = MultiViewPreprocessor(**NORM)(pseudo_collate(items))
    inside = inside_images(data['data_samples'], data['inputs'])
    assert inside.sum((1, 2)).tolist() == [48, 56] and inside.shape == (2, 8, 7)
    views = [dict(inputs=[picture(i), picture(i, 8, 6 + i)]) for i in range(2)]
    with pytest.raises(ValueError, match=r'several sizes .*8, 6.*8, 7'):
        MultiViewPreprocessor(**NORM)(pseudo_collate(views))


def test_mixup_mixes_the_views_of_a_step_alike_in_training_alone():
    batch = pseudo_collate([dict(inputs=[picture(2 * i), picture(2 * i + 1, 5, 7)]) for i in range(3)])
    plain, mixing = MultiViewPreprocessor(**NORM), MultiViewPreprocessor(**NORM, mixup=True)
    apart = plain(batch)['inputs']
    assert all(torch.equal(*pair) for pair in zip(apart, mixing(batch)['inputs'], strict=True))
    torch.manual_seed(4)
    actual = mixing(batch, training=True)['inputs']
    torch.manual_seed(4)
    share, order = torch.rand(()), torch.randperm(3)
    single = pseudo_collate([dict(inputs=picture(i)) for i in range(3)])
    torch.manual_seed(4)
    apart, actual = [*apart, plain(single)['inputs']], [*actual, mixing(single, training=True)['inputs']]
    for view, mixed in zip(apart, actual, strict=True):
        torch.testing.assert_close(mixed, share * view + (1 - share) * view[order])
        assert not torch.equal(mixed, view)


# The random views: their statistics, channels and seed, and how they arrive


@pytest.fixture(autouse=True)
def scope() -> None:
    init_default_scope('mmseg')


def smooth(seed: int, size: tuple[int, int] = (60, 80)) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize(('size', 'box'), [((10, 400), (0, 194, 10, 13)), ((400, 10), (194, 0, 13, 10))])
def test_without_a_rectangle_the_largest_one_is_taken(size: tuple, box: tuple) -> None:
    actual = RandomResizedCrop(8, scale=(1.0, 1.0)).box(*size)
    assert actual[2:] == box[2:]
    assert all(abs(side - other) <= 1 for side, other in zip(actual[:2], box[:2], strict=True))


def test_a_crop_is_as_wide_as_asked_and_one_pixel_is_enlarged() -> None:
    assert RandomResizedCrop(8, scale=(0.2, 0.2), ratio=(2.0, 2.0)).box(100, 100)[2:] == (32, 63), 'wide'
    results = RandomResizedCrop((4, 6))(dict(img=np.full((1, 1, 3), 9, np.uint8)))
    assert results['img'].shape == (4, 6, 3) and results['img_shape'] == (4, 6)
    assert (results['img'] == 9).all()


@pytest.mark.parametrize('transform', [
    ColorJitter(prob=0.3), RandomGrayscale(0.3), GaussianBlur(prob=0.3, sigma=(1, 2)), Solarize(prob=0.3),
], ids=lambda transform: type(transform).__name__)  # fmt: skip
def test_probability(transform) -> None:
    np.random.seed(0)
    image = smooth(0, (12, 16))
    changed = [not np.array_equal(transform(dict(img=image))['img'], image[..., ::-1]) for _ in range(1000)]
    assert abs(np.mean(changed) - 0.3) < 3 * np.sqrt(0.3 * 0.7 / 1000)


def test_blue_green_red_is_turned_before_colours_are_touched() -> None:
    image = smooth(3)
    for transform in (RandomGrayscale(1.0), Solarize(prob=1.0)):
        from_bgr = transform(dict(img=image))
        from_rgb = transform(dict(img=image[..., ::-1], channel_order='rgb'))
        assert from_bgr['channel_order'] == from_rgb['channel_order'] == 'rgb'
        assert np.array_equal(from_bgr['img'], from_rgb['img'])
        assert np.array_equal(from_bgr['img'], transform.change(image[..., ::-1]))


def test_the_factors_of_the_jitter_are_random() -> None:
    both = ColorJitter(brightness=0.4, contrast=0, saturation=0, hue=0, prob=1.0)
    factors = [both(dict(img=np.full((4, 4, 3), 100, np.uint8)))['img'].mean() / 100 for _ in range(200)]
    assert 0.6 <= min(factors) < 0.65 and 1.35 < max(factors) <= 1.4
    red = np.tile(np.array([10, 10, 250], np.uint8), (2, 2, 1))
    turned = [ColorJitter(0, 0, 0, hue=0.2, prob=1.0)(dict(img=red))['img'][0, 0].astype(int) for _ in range(50)]
    assert any(rgb[1] > 50 + rgb[2] for rgb in turned) and any(rgb[2] > 50 + rgb[1] for rgb in turned), 'either way'


def test_views_do_not_share_their_results() -> None:
    results = dict(img=smooth(0), img_path='a.png', ori_shape=(60, 80))
    packed = PackViews()(MultiView([[Solarize(prob=1.0)], [Solarize(prob=0.0)]])(results))
    assert 'channel_order' not in results
    changed, plain = packed['inputs']
    assert plain.dtype == torch.uint8 and torch.equal(plain, torch.from_numpy(smooth(0).transpose(2, 0, 1)))
    assert not torch.equal(changed, plain)
    assert packed['data_samples'].metainfo == dict(img_path='a.png', ori_shape=(60, 80))
    assert torch.equal(PackViews()(results)['inputs'], plain), 'one view is one tensor'


def test_a_view_that_gives_up_gives_the_picture_up() -> None:
    assert MultiView([[lambda results: results], [lambda results: None]])(dict(img=smooth(0))) is None


@pytest.mark.parametrize(('build', 'message'), [
    (lambda: RandomResizedCrop(8, scale=(0.5, 1.5)), 'scale must be two increasing bounds above 0, got 0.5, 1.5'),
    (lambda: RandomResizedCrop(8, ratio=(2, 1)), 'ratio must be two increasing bounds'),
    (lambda: ColorJitter(hue=0.6), 'hue at most 0.5, got hue=0.6'),
    (lambda: GaussianBlur(sigma=(2, 1)), 'sigma must be two increasing bounds'),
    (lambda: Solarize(prob=1.2), r'Solarize: prob must lie in 0 … 1, got 1.2'),
    (lambda: MultiView([]), 'views must hold one pipeline for each view'),
])  # fmt: skip
def test_wrong_options_are_named(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize('image', [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_only_bytes_of_three_channels_are_taken(image: np.ndarray) -> None:
    with pytest.raises(TypeError, match='three channels in bytes'):
        Solarize()(dict(img=image))
