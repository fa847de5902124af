"""The random views: their statistics, channels and seed, and how they arrive; Pillow's results are in tests/golden."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader

from mmdistill_dense.pretrain import (
    ColorJitter,
    GaussianBlur,
    MultiView,
    PackViews,
    RandomGrayscale,
    RandomResizedCrop,
    Solarize,
    views,
)
from mmdistill_dense.registry import DATASETS
from mmdistill_dense.utils.reproducible import WorkerSeed, seed_everything

DRAWS = 4000


@pytest.fixture(autouse=True)
def scope() -> None:
    init_default_scope('mmseg')


def view(size: int, blur: float, *last: dict) -> list[dict]:
    return [
        dict(type='mmdistill_dense.RandomResizedCrop', size=size),
        dict(type='RandomFlip', prob=0.5),
        dict(type='mmdistill_dense.ColorJitter'),
        dict(type='mmdistill_dense.RandomGrayscale'),
        dict(type='mmdistill_dense.GaussianBlur', prob=blur),
        *last,
    ]


PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdistill_dense.MultiView', views=[
        view(32, 1.0), view(24, 0.1, dict(type='mmdistill_dense.Solarize')),
    ]),
    dict(type='mmdistill_dense.PackViews'),
]  # fmt: skip


def picture(seed: int, size: tuple[int, int] = (60, 80)) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)


def crops(height: int, width: int, **options: object) -> np.ndarray:
    np.random.seed(7)
    transform = RandomResizedCrop(8, **options)
    return np.array([transform.box(height, width) for _ in range(DRAWS)], float)


def test_crops_lie_inside_and_keep_their_bounds() -> None:
    top, left, h, w = crops(50, 70, scale=(0.3, 0.6), ratio=(0.5, 2.0)).T
    assert min(top.min(), left.min()) == 0
    assert (top + h).max() == 50
    assert (left + w).max() == 70
    areas = h * w / (50 * 70)
    assert 0.28 < areas.min() < 0.32
    assert 0.58 < areas.max() < 0.62


@pytest.mark.parametrize(('size', 'box'), [((10, 400), (0, 194, 10, 13)), ((400, 10), (194, 0, 13, 10))])
def test_where_no_rectangle_fits_the_largest_centred_one_is_taken(
    size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    crop = RandomResizedCrop(8, scale=(1.0, 1.0))
    top, left, h, w = crop.box(*size)
    assert (h, w) == box[2:]
    assert abs(top - box[0]) <= 1
    assert abs(left - box[1]) <= 1


def test_a_picture_of_one_pixel_is_enlarged() -> None:
    results = RandomResizedCrop((4, 6))(dict(img=np.full((1, 1, 3), 9, np.uint8)))
    assert results['img'].shape == (4, 6, 3)
    assert (results['img'] == 9).all()
    assert results['img_shape'] == (4, 6)


@pytest.mark.parametrize('transform', [
    ColorJitter(prob=0.3), RandomGrayscale(0.3), GaussianBlur(prob=0.3, sigma=(1, 2)), Solarize(prob=0.3),
], ids=lambda transform: type(transform).__name__)  # fmt: skip
def test_probability(transform) -> None:
    np.random.seed(0)
    image = picture(0, (12, 16))
    changed = [not np.array_equal(transform(dict(img=image))['img'], image[..., ::-1]) for _ in range(1000)]
    assert abs(np.mean(changed) - 0.3) < 3 * np.sqrt(0.3 * 0.7 / 1000)


def test_blue_green_red_is_turned_before_colours_are_touched() -> None:
    image = picture(3)
    for transform in (RandomGrayscale(1.0), Solarize(prob=1.0)):
        from_bgr = transform(dict(img=image))
        from_rgb = transform(dict(img=image[..., ::-1], channel_order='rgb'))
        assert from_bgr['channel_order'] == from_rgb['channel_order'] == 'rgb'
        assert np.array_equal(from_bgr['img'], from_rgb['img'])
        assert np.array_equal(from_bgr['img'], transform.change(image[..., ::-1]))


def test_jitter_of_nothing_changes_nothing_and_order_is_random(monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(1)
    still = ColorJitter(0, 0, 0, 0, prob=1.0)(dict(img=image))['img']
    assert np.array_equal(still, image[..., ::-1])
    both = ColorJitter(brightness=0.4, contrast=0, saturation=0, hue=0, prob=1.0)
    factors = []
    for seed in range(200):
        np.random.seed(seed)
        factors.append(both(dict(img=np.full((4, 4, 3), 100, np.uint8)))['img'].mean() / 100)
    assert 0.6 <= min(factors) < 0.65
    assert 1.35 < max(factors) <= 1.4
    red = np.tile(np.array([10, 10, 250], np.uint8), (2, 2, 1))
    turned = [ColorJitter(0, 0, 0, hue=0.2, prob=1.0)(dict(img=red))['img'][0, 0].astype(int) for _ in range(50)]
    assert any(rgb[1] > 50 + rgb[2] for rgb in turned) and any(rgb[2] > 50 + rgb[1] for rgb in turned), 'either way'
    order: list[str] = []
    for name in views.JITTERS:
        monkeypatch.setitem(views.JITTERS, name, lambda image, _, name=name: order.append(name) or image)
    for _ in range(20):
        ColorJitter(prob=1.0)(dict(img=image))
    assert len({tuple(order[i : i + 4]) for i in range(0, 80, 4)}) > 10


def folder(path: Path, number: int = 12) -> Path:
    for index in range(number):
        cv2.imwrite(str(path / f'{index:02d}.png'), picture(index))
    return path


def batches(root: Path, seed: int, workers: int) -> list[torch.Tensor]:
    dataset = DATASETS.build(dict(type='mmdistill_dense.UnlabeledImages', data_root=str(root), pipeline=PIPELINE))
    seed_everything(seed)
    loader = DataLoader(
        dataset,
        4,
        sampler=DefaultSampler(dataset, shuffle=False),
        num_workers=workers,
        collate_fn=pseudo_collate,
        worker_init_fn=WorkerSeed(seed, 0, 0),
    )
    return [torch.stack(list(view)) for batch in loader for view in batch['inputs']]


@pytest.mark.parametrize('workers', [0, 2])
def test_a_seed_reproduces_the_batches(tmp_path: Path, workers: int) -> None:
    root = folder(tmp_path)
    first, again, other = (batches(root, seed, workers) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_batch_is_a_list_over_views_of_bytes(tmp_path: Path) -> None:
    first, second, *rest = batches(folder(tmp_path), 0, 0)
    assert (first.shape, second.shape) == ((4, 3, 32, 32), (4, 3, 24, 24))
    assert {tensor.dtype for tensor in (first, second, *rest)} == {torch.uint8}
    assert len(rest) == 4


def test_views_do_not_share_their_results() -> None:
    results = dict(img=picture(0), img_path='a.png', ori_shape=(60, 80))
    packed = PackViews()(MultiView([[Solarize(prob=1.0)], [Solarize(prob=0.0)]])(results))
    assert 'channel_order' not in results
    changed, plain = packed['inputs']
    assert torch.equal(plain, torch.from_numpy(picture(0).transpose(2, 0, 1)))
    assert not torch.equal(changed, plain)
    assert packed['data_samples'].metainfo == dict(img_path='a.png', ori_shape=(60, 80))


def test_one_view_is_one_tensor() -> None:
    packed = PackViews()(dict(img=picture(0), img_path='a.png'))
    assert torch.equal(packed['inputs'], torch.from_numpy(picture(0).transpose(2, 0, 1)))


def test_a_view_that_gives_up_gives_the_picture_up() -> None:
    assert MultiView([[lambda results: results], [lambda results: None]])(dict(img=picture(0))) is None


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
