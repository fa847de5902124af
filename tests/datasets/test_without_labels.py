"""The pipeline for pictures without labels, made from that for labelled ones."""

from pathlib import Path

import pytest
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope

from mmdistill_dense.unlabelled.pictures import training_steps, try_steps, without_labels
from tests import toys

SEG = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(80, 80), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(32, 32), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
DET = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='CachedMosaic', img_scale=(64, 64)),
    dict(type='MinIoURandomCrop'),
    dict(
        type='RandomChoice',
        transforms=[[dict(type='RandomCrop', crop_size=(32, 32))], [dict(type='RandomFlip', prob=0.5)]],
    ),
    dict(type='Resize', scale=(48, 48), keep_ratio=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1)),
    dict(type='PackDetInputs'),
]


def names(steps):
    return [step['type'] for step in steps]


def made(steps, scope):
    init_default_scope(scope)
    return without_labels(steps)


@pytest.mark.parametrize(('steps', 'scope'), [(SEG, 'mmseg'), (DET, 'mmdet')])
def test_what_reads_labels_is_left_out(steps, scope):
    kept, dropped = made(steps, scope)
    boxes = ['CachedMosaic', 'MinIoURandomCrop', 'FilterAnnotations'] if scope == 'mmdet' else []
    assert dropped == ['LoadAnnotations', *boxes] and len(kept) == len(steps) - len(dropped)
    packed = Compose(kept)(dict(img_path=str(Path(toys.picture_folder()) / '1.png')))
    sample = packed['data_samples']
    assert 'gt_sem_seg' not in sample and 'bboxes' not in sample.get('gt_instances', ())
    assert {'img_path', 'ori_shape', 'img_shape'} <= set(sample.metainfo_keys())


@pytest.mark.parametrize(
    'step',
    [
        dict(type='RandomApply', prob=0.01, transforms=[dict(type='MinIoURandomCrop')]),
        dict(
            type='RandomChoice',
            prob=[0.99, 0.01],
            transforms=[[dict(type='RandomFlip', prob=0.5)], [dict(type='MinIoURandomCrop')]],
        ),
    ],
    ids=['apply', 'choice'],
)
def test_what_is_rarely_drawn_is_looked_at_too(step):
    """It would fail in one of a hundred pictures."""
    _, dropped = made([DET[0], DET[1], step, DET[-1]], 'mmdet')
    assert dropped == ['LoadAnnotations', step['type']]


def test_a_crop_looks_for_no_other_classes():
    kept, _ = made(SEG, 'mmseg')
    assert kept[2] == dict(SEG[3], cat_max_ratio=1.0) and SEG[3]['cat_max_ratio'] == 0.75


def test_generated_pictures_are_read_as_files():
    kept, _ = made([dict(type='mmdistill_dense.LoadShapes'), dict(type='PackSegInputs')], 'mmseg')
    assert names(kept) == ['LoadImageFromFile', 'PackSegInputs']


@pytest.mark.parametrize('reader', ['LoadSingleRSImageFromFile', 'LoadTiff16'])
def test_a_reader_of_another_form_stays(reader):
    kept, dropped = made([dict(type=reader), *SEG[1:]], 'mmseg')
    assert names(kept)[0] == reader and dropped == made(SEG, 'mmseg')[1]
    kept, dropped = made([dict(type='ReadTiff'), dict(type='LoadMask'), SEG[-1]], 'mmseg')
    assert dropped == ['LoadMask'], 'it reads labels'
    kept, dropped = made([dict(type='Note'), dict(type='FastLoadTiff'), SEG[-1]], 'mmseg')
    assert names(kept) == ['FastLoadTiff', 'Note', SEG[-1]['type']] and not dropped


def test_a_pipeline_that_packs_nothing_is_refused_at_once():
    init_default_scope('mmseg')
    with pytest.raises(ValueError, match='model.unlabelled.pipeline gives no inputs .*img_path'):
        try_steps(SEG[:1] + SEG[4:5], [toys.picture_folder() + '/0.png'], 'model.unlabelled')


def test_wrappers_add_their_steps():
    inner = dict(type='ConcatDataset', datasets=[dict(pipeline=SEG[:2]), dict(pipeline=SEG)])
    assert training_steps(dict(type='X', dataset=inner, pipeline=SEG[-1:])) == [*SEG[:2], SEG[-1]]


def test_pictures_that_cannot_be_read_are_refused(tmp_path):
    init_default_scope('mmseg')
    (tmp_path / 'a.png').write_text('none')
    with pytest.raises(ValueError, match='none of the pictures can be read: .*a.png'):
        try_steps(SEG, [str(tmp_path / 'a.png')], 'model.unlabelled')
