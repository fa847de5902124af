"""The names and values of label images that are written for a data set."""

import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS, DefaultScope

from mmdistill_dense.datasets.label_files import LabelImages, file_values


@pytest.fixture(autouse=True)
def _scope():
    """Another test may have left mmdet's, which has no PackSegInputs."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


def folder_dataset(root, classes=('back', 'leaf'), **options):
    """A data set of one picture, whose label image is written by ``labelled``."""
    for name in ('pictures', 'labels'):
        (root / name).mkdir(exist_ok=True)
    suffix = options.get('img_suffix', '.png')
    cv2.imwrite(str(root / f'pictures/x{suffix}'), np.zeros((8, 8, 3), np.uint8))
    labelled(root, 0, options.get('seg_map_suffix', '.png'))
    return dict(
        type='mmdistill_dense.SegFolderDataset',
        data_prefix=dict(img_path=str(root / 'pictures'), seg_map_path=str(root / 'labels')),
        metainfo=dict(classes=classes),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
        **{'img_suffix': '.png', **options},
    )


def labelled(root, value, suffix='.png'):
    cv2.imwrite(str(root / f'labels/x{suffix}'), np.full((8, 8), value, np.uint8))


def wrapped(option, how):
    if how == 'repeat':
        return dict(type='RepeatDataset', times=2, dataset=option)
    return dict(type='ConcatDataset', datasets=[option, option]) if how == 'concat' else option


@pytest.mark.parametrize('how', ['alone', 'repeat', 'concat'])
@pytest.mark.parametrize(
    'options', [{}, dict(label_values=(7, 26)), dict(label_values=(0, 255)), dict(reduce_zero_label=True)], ids=str
)
def test_the_data_set_reads_the_classes_and_nothing_that_were_written(tmp_path, options, how):
    """Also where 255 is the value of a class, as in masks of black and white."""
    option = wrapped(folder_dataset(tmp_path, **options), how)
    values = file_values(DATASETS.build(option).metainfo)
    for number in (0, 1, 255):
        labelled(tmp_path, values[number])
        found = DATASETS.build(option)[0]['data_samples'].gt_sem_seg.data
        assert found.unique().tolist() == [number]


def test_values_are_those_of_the_files():
    assert file_values(dict(classes=('b', 'a'))).tolist() == list(range(256))
    mapped = dict(classes=('b', 'a'), label_map={0: 1, 1: 0, 2: 255})
    assert file_values(mapped)[[0, 1, 255]].tolist() == [1, 0, 255]
    shifted = dict(classes=('b', 'a'), reduce_zero_label=True)
    assert file_values(shifted)[[0, 1, 255]].tolist() == [1, 2, 255]


def test_without_a_value_for_nothing_it_is_refused():
    full = dict(classes=[str(number) for number in range(256)], label_map={number: number for number in range(255)})
    with pytest.raises(ValueError, match="255 is the value of class '255'.*could not be written"):
        file_values(full)


def test_names_are_those_of_the_data_set(tmp_path):
    """Cityscapes for instance, also wrapped; other endings are named for the user to set."""
    option = folder_dataset(tmp_path, img_suffix='_left.png', seg_map_suffix='_train.png')
    for how in ('alone', 'repeat', 'concat'):
        files = LabelImages.of(DATASETS.build(wrapped(option, how)), ['b/x_left.png'])
        assert files.stem('b/x_left.png') == 'b/x' and files.seg_map_suffix == '_train.png' and not files.to_set
    other = LabelImages.of(DATASETS.build(option), ['x.tif', 'y.tif'])
    assert other.stem('x.tif') == 'x' and other.to_set == dict(img_suffix='.tif')
    with pytest.raises(ValueError, match=r'several endings, \.jpg, \.tif, e\.g\. x\.tif, y\.jpg'):
        LabelImages.of(DATASETS.build(option), ['x.tif', 'y.jpg'])


def test_labels_are_lossless(tmp_path):
    option = folder_dataset(tmp_path, seg_map_suffix='.tif')
    files = LabelImages.of(DATASETS.build(option), ['x.png'])
    assert files.seg_map_suffix == '.png' and files.to_set == dict(seg_map_suffix='.png')
