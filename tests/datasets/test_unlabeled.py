"""Pictures without labels: which a folder gives, which are in other sets too, and a pipeline of one for labels."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.dataset import BaseDataset, Compose, ConcatDataset, DefaultSampler, RepeatDataset, pseudo_collate
from mmengine.registry import init_default_scope
from PIL import Image
from torch.utils.data import DataLoader, Subset

from mmdistill_dense.datasets.wrapped import count_pictures
from mmdistill_dense.registry import DATASETS
from mmdistill_dense.unlabelled import pictures
from mmdistill_dense.unlabelled.pictures import (
    UnlabeledImages,
    picture_paths,
    training_steps,
    try_steps,
    without_labels,
)
from tests import toys

# A folder


def write(path: Path, shape: tuple[int, ...] = (40, 50, 3)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full(shape, 7, np.uint8))


def build(root: Path, **options: object) -> UnlabeledImages:
    load = [dict(type='LoadImageFromFile')]
    return DATASETS.build(dict(type='mmdistill_dense.UnlabeledImages', data_root=str(root), pipeline=load) | options)


def names(root: Path, **options: object) -> list[str]:
    return [Path(path).relative_to(root).as_posix() for path in picture_paths(build(root, **options))]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ('b.png', 'n02/z.JPEG', 'n01/a.jpg', 'n01/deep/c.png', '.hidden.png', '.cache/d.png'):
        write(tmp_path / name)
    (tmp_path / 'notes.txt').write_text('no picture')
    return tmp_path


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    message: list[str] = []

    def print_log(text: str, _: str, level: int = logging.INFO) -> None:
        message.extend([text] * (level >= logging.WARNING))

    monkeypatch.setattr(pictures, 'print_log', print_log)
    return message


def test_a_tree_is_listed_in_the_order_of_its_names(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A search follows links but for circles, can be narrowed, and keeps the order of a list."""
    (root / 'list.txt').write_text('deep/c.png\n\na.jpg\n')
    for options, expected in (
        ({}, ['b.png', 'n01/a.jpg', 'n01/deep/c.png', 'n02/z.JPEG']),
        (dict(extensions=['.jpeg']), ['n02/z.JPEG']),
        (dict(data_prefix='n01'), ['n01/a.jpg', 'n01/deep/c.png']),
        (dict(data_prefix=['n02', 'n01']), ['n02/z.JPEG', 'n01/a.jpg', 'n01/deep/c.png']),
        (dict(indices=2), ['b.png', 'n01/a.jpg']),
        (dict(data_prefix='n01', ann_file='list.txt'), ['n01/deep/c.png', 'n01/a.jpg']),
    ):
        assert names(root, **options) == expected, options
    assert build(root)[0]['img'].shape == (40, 50, 3)
    (root / 'n02/above').symlink_to(root)
    other = tmp_path_factory.mktemp('other')
    write(other / 'y.png')
    (root / 'linked').symlink_to(other)
    assert names(root) == ['b.png', 'linked/y.png', 'n01/a.jpg', 'n01/deep/c.png', 'n02/z.JPEG']


def test_useless_files_are_left_out_with_one_line(
    root: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / 'broken.jpg').write_bytes(b'')
    (root / 'text.png').write_text('no picture either')
    write(root / 'dot.png', (8, 300, 3))
    assert len(build(root)) == 4
    (line,) = warnings
    for words in ('left out 3 of 7 files', '2 unreadable, e.g.', '1 smaller than 32 pixels, e.g.'):
        assert words in line
    assert len(build(root, min_size=8)) == 5
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10)
    assert len(build(root, min_size=8)) == 5, 'a size that Pillow refuses is none that OpenCV does'
    assert len(build(root, check=False)) == 7


@pytest.mark.parametrize('workers', [0, 2])
def test_a_damaged_file_is_replaced(root: Path, warnings: list[str], workers: int) -> None:
    (root / 'a_broken.jpg').write_bytes(b'\xff\xd8 and then nothing')
    dataset = build(root, check=False)
    loader = DataLoader(
        dataset, 1, sampler=DefaultSampler(dataset, shuffle=False), num_workers=workers, collate_fn=pseudo_collate
    )
    for _ in range(2):
        read = [batch['img_path'][0] for batch in loader]
        assert len(read) == 5
        assert all('a_broken' not in path for path in read)
    assert int(dataset.damaged) >= 2
    if workers == 0:
        assert next(line for line in warnings if 'a_broken' in line).startswith('UnlabeledImages: 1 damaged files')
        assert len(warnings) <= 2  # the 1st and, with bad luck in the draw, the 10th


def test_a_mistake_in_the_pipeline_is_no_damaged_file(root: Path) -> None:
    def wrong(results: dict) -> dict:
        raise KeyError('a mistake')

    with pytest.raises(KeyError, match='a mistake'):
        build(root, pipeline=[dict(type='LoadImageFromFile'), wrong])[0]
    write(root / 'n03/grey.png', (40, 40))
    write(root / 'n03/alpha.png', (40, 40, 4))
    assert [item['img'].shape for item in build(root, data_prefix='n03')] == [(40, 40, 3)] * 2


@pytest.mark.parametrize(('options', 'kind', 'message'), [
    ({}, FileNotFoundError, r'no picture to use in .* 0 files of extensions \.jpg, \.jpeg'),
    (dict(data_root='/gone'), FileNotFoundError, 'data_root = .*gone.* .*Correct data_root in the config'),
    (dict(ann_file='list.txt'), FileNotFoundError, 'ann_file = .*list.txt'),
    (dict(data_prefix=['a', 'b'], ann_file='list.txt'), ValueError, 'ann_file goes with one data_prefix'),
])  # fmt: skip
def test_an_empty_folder_is_named(options: dict, kind: type, message: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=message):
        build(tmp_path, **options)


# Beside other sets


class Listed(BaseDataset):
    """A data set that knows its paths and nothing else."""

    def __init__(self, *names: str) -> None:
        self.names, self.asked = names, 0
        super().__init__()

    def load_data_list(self) -> list[dict]:
        return [dict(img_path=name) for name in self.names]

    def get_data_info(self, idx: int) -> dict:
        self.asked += 1
        return super().get_data_info(idx)


class Mixed:
    """As mmdet's ``MultiImageMixDataset``, which does not pass ``get_data_info`` on."""

    def __init__(self, dataset: BaseDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)


def test_wrapped_data_sets_tell_each_picture_once() -> None:
    """mmseg repeats small sets 40000 times."""
    one, two = Listed('a', 'b'), Listed('b', 'c')
    assert picture_paths(ConcatDataset([one, two])) == ['a', 'b', 'c']
    assert picture_paths(RepeatDataset(one, 3)) == picture_paths(Mixed(one)) == picture_paths(one) == ['a', 'b']
    assert picture_paths(['a']) == []
    one, two = Listed('a', 'b'), Listed('c')
    often = ConcatDataset([dict(type='RepeatDataset', times=40_000, dataset=one), two])
    assert picture_paths(often) == ['a', 'b', 'c'] and one.asked == 2
    assert len(often) == 80_001 and count_pictures(often) == 3
    joined = dict(type='ConcatDataset', datasets=[one, two])
    assert count_pictures(Mixed(often)) == count_pictures(RepeatDataset(joined, 2)) == 3
    assert count_pictures(Subset(Listed('a', 'b', 'c'), [0, 2])) == 2


# Their pipeline

SEG = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(80, 80), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(32, 32), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
FLIP, OTHERS = [dict(type='RandomFlip', prob=0.5)], [dict(type='MinIoURandomCrop')]
DET = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='CachedMosaic', img_scale=(64, 64)),
    dict(type='MinIoURandomCrop'),
    dict(type='RandomChoice', transforms=[[dict(type='RandomCrop', crop_size=(32, 32))], FLIP]),
    dict(type='Resize', scale=(48, 48), keep_ratio=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1)),
    dict(type='PackDetInputs'),
]
PACK, PACKED = SEG[-1], 'PackSegInputs'


@pytest.mark.parametrize(('steps', 'scope', 'boxes'), [
    (SEG, 'mmseg', []), (DET, 'mmdet', ['CachedMosaic', 'MinIoURandomCrop', 'FilterAnnotations']),
])  # fmt: skip
def test_what_reads_labels_is_left_out(steps: list[dict], scope: str, boxes: list[str]) -> None:
    init_default_scope(scope)
    kept_steps, dropped = without_labels(steps)
    assert dropped == ['LoadAnnotations', *boxes] and len(kept_steps) == len(steps) - len(dropped)
    sample = Compose(kept_steps)(dict(img_path=str(Path(toys.picture_folder()) / '1.png')))['data_samples']
    assert 'gt_sem_seg' not in sample and 'bboxes' not in sample.get('gt_instances', ())
    assert {'img_path', 'ori_shape', 'img_shape'} <= set(sample.metainfo_keys())


READ, LABELS = 'LoadImageFromFile', 'LoadAnnotations'


@pytest.mark.parametrize(('steps', 'kept_steps', 'left_out'), [
    # what is drawn in one of a hundred pictures would fail there
    ([*DET[:2], dict(type='RandomApply', prob=0.01, transforms=OTHERS), PACK], [READ, PACKED], [LABELS, 'RandomApply']),
    ([*DET[:2], dict(type='RandomChoice', prob=[0.99, 0.01], transforms=[FLIP, OTHERS]), PACK],
     [READ, PACKED], [LABELS, 'RandomChoice']),
    # generated pictures are read as files, a reader of another form stays, what reads labels goes
    ([dict(type='mmdistill_dense.LoadShapes'), PACK], [READ, PACKED], ['LoadShapes']),
    ([dict(type='LoadSingleRSImageFromFile'), SEG[1], PACK], ['LoadSingleRSImageFromFile', PACKED], [LABELS]),
    ([dict(type='LoadTiff16'), SEG[1], PACK], ['LoadTiff16', PACKED], [LABELS]),
    ([dict(type='ReadTiff'), dict(type='LoadMask'), PACK], [READ, 'ReadTiff', PACKED], ['LoadMask']),
    ([dict(type='Note'), dict(type='FastLoadTiff'), PACK], ['FastLoadTiff', 'Note', PACKED], []),
])  # fmt: skip
def test_readers_of_pictures(steps: list[dict], kept_steps: list[str], left_out: list[str]) -> None:
    actual, dropped = without_labels(steps)
    assert ([step['type'] for step in actual], dropped) == (kept_steps, left_out)


def test_wrappers_add_their_steps() -> None:
    inner = dict(type='ConcatDataset', datasets=[dict(pipeline=SEG[:2]), dict(pipeline=SEG)])
    assert training_steps(dict(type='X', dataset=inner, pipeline=SEG[-1:])) == [*SEG[:2], SEG[-1]]


def test_a_pipeline_that_cannot_run_is_refused_at_once(tmp_path: Path) -> None:
    init_default_scope('mmseg')
    (tmp_path / 'a.png').write_text('none')
    picture_path = f'{toys.picture_folder()}/0.png'
    for steps, file, message in (
        (SEG[:1] + SEG[4:5], picture_path, 'model.unlabelled.pipeline gives no inputs .*img_path'),
        (SEG, str(tmp_path / 'a.png'), 'none of the pictures can be read: .*a.png'),
    ):
        with pytest.raises(ValueError, match=message):
            try_steps(steps, [file], 'model.unlabelled')
