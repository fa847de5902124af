"""Labels of a teacher as files: what is written, that a run trains on them, what is refused."""

import copy
import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS
from mmengine.structures import InstanceData

from mmdistill_dense.engine import pseudo_label_command
from mmdistill_dense.engine.pseudo_label_command import _file_values, main_pseudo_labels, write_labels
from mmdistill_dense.model.pseudo_labels import PseudoOption, sure_boxes
from tests import toys


def seg_config(**changes):
    model = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'))
    return toys.run_config(toys.fresh_dir(), toys.merged(model, changes))


def test_label_images_hold_what_the_teacher_is_sure_of(tmp_path):
    """Also from the command line; another run of the toy data set reads them."""
    folder, file = toys.picture_folder(), tmp_path / 'config.py'
    seg_config().dump(str(file))
    main_pseudo_labels([str(file), '--pictures', folder, '--out', str(tmp_path / 'labels'), '--threshold', '0.3'])
    names = (tmp_path / 'labels/pictures.txt').read_text().split()
    assert names == [str(number) for number in range(6)]
    found = cv2.imread(str(tmp_path / 'labels/0.png'), cv2.IMREAD_UNCHANGED)
    assert found.shape == (64, 64) and 0 < (found == 255).mean() < 1
    assert set(np.unique(found)) <= {*range(toys.NUM_CLASSES), 255}
    dataset = dict(
        type='mmdistill_dense.SegFolderDataset',
        data_prefix=dict(img_path=folder, seg_map_path=str(tmp_path / 'labels')),
        ann_file=str(tmp_path / 'labels/pictures.txt'),
        img_suffix='.png',
        metainfo=dict(classes=[str(number) for number in range(toys.NUM_CLASSES)]),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
    )
    item = DATASETS.build(dataset)[0]
    assert torch.equal(item['data_samples'].gt_sem_seg.data[0], torch.from_numpy(found).long())


class Labelled:
    metainfo = dict(classes=('b', 'a'))
    reduce_zero_label = False
    label_map: dict = {}


def test_values_are_those_of_the_data_sets_own_files():
    one = Labelled()
    assert _file_values(one).tolist() == list(range(256))
    one.label_map = {0: 1, 1: 0, 2: 255}
    assert _file_values(one)[[0, 1, 255]].tolist() == [1, 0, 255]
    one.reduce_zero_label, one.label_map = True, {}
    assert _file_values(one)[[0, 1, 255]].tolist() == [1, 2, 255]


@pytest.fixture
def detection(monkeypatch):
    """A config of a detector on pictures of files, and predictions of which one is sure on every other picture."""
    config = toys.det_run_config(toys.fresh_dir(), toys.model_config(toys.det_net('gfl'), toys.det_teacher('gfl')))
    steps = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(32, 32)), dict(type='PackDetInputs')]
    config.test_dataloader = copy.deepcopy(config.train_dataloader.to_dict())
    config.test_dataloader['dataset'] = dict(type='mmdistill_dense.ToyDetDataset', pipeline=steps)
    calls = []

    def predicted(boxes, threshold):
        calls.append(threshold)
        one, two = (InstanceData(bboxes=torch.tensor([[1.0, 2, 5, 9]]), labels=torch.tensor([n])) for n in (0, 1))
        return (one, two) if len(calls) % 2 else (two[:0], two)

    monkeypatch.setattr(pseudo_label_command, 'sure_boxes', predicted)
    return config


def test_boxes_are_written_as_coco_does(tmp_path, detection):
    """Unsure ones as crowds; a picture without a sure one is left out, as it would be background."""
    lines = write_labels(detection, tmp_path, PseudoOption(), toys.picture_folder())
    found = json.loads((tmp_path / 'instances.json').read_text())
    assert [one['file_name'] for one in found['images']] == ['0.png', '2.png', '4.png']
    assert [(one['category_id'], one['iscrowd'], one['bbox']) for one in found['annotations'][:2]] == [
        (1, 0, [1.0, 2.0, 4.0, 7.0]),
        (2, 1, [1.0, 2.0, 4.0, 7.0]),
    ]
    assert lines[0].startswith('3 of 6 pictures') and 'unsure: 6' in lines[1]
    dataset = DATASETS.build(
        dict(
            type='mmdistill_dense.CocoDataset',
            ann_file=str(tmp_path / 'instances.json'),
            data_prefix=dict(img=toys.picture_folder()),
            metainfo=dict(classes=toys.ToyDetDataset.METAINFO['classes']),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations', with_bbox=True),
                dict(type='PackDetInputs'),
            ],
        )
    )
    sample = dataset[0]['data_samples']
    assert len(dataset) == 3 and len(sample.gt_instances) == len(sample.ignored_instances) == 1


def test_boxes_are_those_of_the_whole_picture(tmp_path, detection, monkeypatch):
    """In the pixels of the file, though the teacher saw it smaller."""
    monkeypatch.setattr(pseudo_label_command, 'sure_boxes', sure_boxes)
    write_labels(detection, tmp_path, PseudoOption(0.06), toys.picture_folder())
    found = json.loads((tmp_path / 'instances.json').read_text())
    boxes = np.array([one['bbox'] for one in found['annotations']])
    assert len(found['images']) == 6 and (boxes[:, :2] + boxes[:, 2:]).max() > 40
    assert {one['category_id'] for one in found['annotations']} <= {one['id'] for one in found['categories']}


@pytest.mark.parametrize(
    ('changes', 'option', 'folder', 'words'),
    [
        ({}, {}, None, 'no pictures are named: give --pictures DIR'),
        ({}, dict(teacher='two'), 'yes', "teacher='two': the distillers learn from teacher"),
        (dict(teacher=dict(scale=2.0)), {}, 'yes', 'remove model.teacher.scale and fit'),
        (dict(teacher=dict(allow_other_classes=True)), {}, 'yes', 'remove model.teacher.allow_other_classes'),
        ({}, dict(threshold=0.9999999), 'yes', 'sure of nothing on 6 pictures .at most 0'),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, changes, option, folder, words):
    with pytest.raises(ValueError, match=words):
        write_labels(seg_config(**changes), tmp_path, PseudoOption(**option), folder and toys.picture_folder())
    assert not list(tmp_path.iterdir())
