"""Labels of a teacher as files: what is written, that a run trains on them, what is refused."""

import copy
import json
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS
from mmengine.structures import InstanceData

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.commands import pseudo_label_command
from mmdistill_dense.apps.commands.pseudo_label_command import write_labels
from mmdistill_dense.datasets.label_files import LabelImages
from mmdistill_dense.unlabelled.pseudo_labels import PseudoOption, sure_boxes
from tests import toys


def seg_config(**changes):
    model = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'))
    return toys.run_config(toys.fresh_dir(), toys.merged(model, changes))


def test_label_images_hold_what_the_teacher_is_sure_of(tmp_path):
    """Also from the command line; another run of the toy data set reads them."""
    folder, file = toys.picture_folder(), tmp_path / 'config.py'
    seg_config().dump(str(file))
    main(['pseudo-labels', str(file), '--pictures', folder, '--out', str(tmp_path / 'labels'), '--threshold', '0.3'])
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


def digests(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob('*.png'))}


def labels_of(folder, tmp_path, name, **unlabelled):
    out = tmp_path / name
    write_labels(seg_config(unlabelled=dict(data_root=str(folder), **unlabelled)), out, PseudoOption(0.3))
    return digests(out)


def test_no_picture_is_replaced(tmp_path):
    """Neither those of a folder that labels are written into, nor those of a folder beside ``data_root``."""
    source = toys.picture_folder(2)
    for name in ('more', 'data/beside'):
        shutil.copytree(source, tmp_path / name)
    (tmp_path / 'data/root').mkdir()
    before = digests(tmp_path / 'more')
    for out in ('more', '.'):
        with pytest.raises(ValueError, match='holds pictures, e.g. .*more/0.png'):
            write_labels(seg_config(), tmp_path / out, PseudoOption(0.3), str(tmp_path / 'more'))
    found = labels_of(tmp_path / 'data/root', tmp_path, 'data/labels', data_prefix='../beside')
    assert list(found) == ['0.png', '1.png']
    assert digests(tmp_path / 'more') == digests(tmp_path / 'data/beside') == before


def test_a_picture_that_is_listed_twice_moves_no_other_one(tmp_path):
    folder = toys.picture_folder(3)
    (tmp_path / 'list.txt').write_text('0.png\n0.png\n1.png\n2.png\n')
    once = labels_of(folder, tmp_path, 'once')
    assert labels_of(folder, tmp_path, 'twice', ann_file=str(tmp_path / 'list.txt')) == once
    assert len(set(once.values())) == 3


def test_a_damaged_first_picture_does_not_stop_it(tmp_path):
    shutil.copytree(toys.picture_folder(3), tmp_path / 'more')
    file = tmp_path / 'more/0.png'
    file.write_bytes(file.read_bytes()[:60])
    assert list(labels_of(tmp_path / 'more', tmp_path, 'labels')) == ['1.png', '2.png']


@pytest.mark.parametrize(('bias', 'label'), [(-6.0, 0), (6.0, 1)])
def test_one_channel_is_the_probability_of_the_second_class(tmp_path, monkeypatch, bias, label):
    """mmseg applies the sigmoid to it before the command sees it."""
    head = dict(num_classes=2, out_channels=1, loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True))
    network = toys.merged(toys.seg_net('fcn'), dict(decode_head=dict(head, threshold=0.5)))
    del network['auxiliary_head']
    teacher = toys.build_plain(network).eval()
    with torch.no_grad():
        teacher.decode_head.conv_seg.weight.zero_()
        teacher.decode_head.conv_seg.bias.fill_(bias)
        found = [('x.png', teacher.test_step(toys.seg_batch(1))[0])]
    files = LabelImages(np.arange(256, dtype=np.uint8), '.png', '.png', {})
    total, _, best = pseudo_label_command._write_maps(
        SimpleNamespace(network=teacher, class_pairs=lambda: None), found, tmp_path, files, 0.95
    )
    assert total == 1 and best == pytest.approx(torch.tensor(6.0).sigmoid().item())
    assert (cv2.imread(str(tmp_path / 'x.png'), cv2.IMREAD_UNCHANGED) == label).all()


@pytest.fixture
def detection(monkeypatch):
    """A config of a detector on pictures of files, and predictions of which one is sure on every other picture."""
    config = toys.det_run_config(toys.fresh_dir(), toys.model_config(toys.det_net('gfl'), toys.det_teacher('gfl')))
    steps = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(32, 32)), dict(type='PackDetInputs')]
    config.test_dataloader = copy.deepcopy(config.train_dataloader.to_dict())
    config.test_dataloader['dataset'] = dict(type='mmdistill_dense.ToyDetDataset', pipeline=steps)
    calls = []

    def predicted(boxes, threshold, pairs):
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


def test_a_detector_that_hides_its_unsure_boxes_is_refused(tmp_path, detection):
    detection.model.teacher.test_cfg = dict(score_thr=0.5)
    with pytest.raises(ValueError, match=r'model\.teacher\.test_cfg\.score_thr=0\.5 hides boxes below it'):
        write_labels(detection, tmp_path, PseudoOption(), toys.picture_folder())


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
