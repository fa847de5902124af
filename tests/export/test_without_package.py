"""The config beside exported weights runs in plain mmseg and mmdet, or says what it left out."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

from mmdistill_dense.apps.export import export_student
from mmdistill_dense.apps.export.without_package import header_lines, without_package
from tests import toys
from tests.project.folders_of_data import box_folder, seg_folder

NAMES = tuple('abcdefg')[: toys.NUM_CLASSES]
BOXES, NET = ('red', 'white'), dict(depth=18)  # the ResNet-10 of toys is known to these tests only


def seg_config(folder, **options):
    """A distillation whose data lie in folders."""
    prefix = dict(img_path='images/val', seg_map_path='labels/val')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
    dataset = dict(
        type='mmdistill_dense.SegFolderDataset', data_root=str(folder), data_prefix=prefix, pipeline=pipeline,
        metainfo=dict(classes=NAMES), **options,
    )  # fmt: skip
    student = toys.seg_net('fcn', backbone=NET)
    config = toys.run_config('x', toys.model_config(student, toys.seg_net('fcn', allow_random=True)))
    for split in ('train', 'val'):
        config[f'{split}_dataloader'].dataset = dict(dataset)
    return with_test(config, pipeline)


def det_config(folder):
    """A detector with data in COCO's format."""
    file = str(folder / 'annotations/instances_val.json')
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(64, 64)),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
    ]
    dataset = dict(
        type='mmdistill_dense.CocoDataset', data_root=str(folder), ann_file=file, data_prefix=dict(img='val'),
        metainfo=dict(classes=BOXES), pipeline=pipeline, test_mode=True,
    )  # fmt: skip
    config = toys.det_run_config('x', toys.det_net(backbone=NET))
    config.train_dataloader.dataset = dict(dataset, test_mode=False)
    config.val_dataloader = dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler'), dataset=dataset)
    config.val_cfg = dict(type='ValLoop')
    config.val_evaluator = dict(type='CocoMetric', ann_file=file)
    return with_test(config, pipeline)


def with_test(config, pipeline):
    config.test_dataloader, config.test_evaluator = config.val_dataloader, config.val_evaluator
    config.test_cfg, config.test_pipeline = dict(type='TestLoop'), pipeline
    config.visualizer = dict(type=config.default_scope.replace('mm', '').capitalize() + 'LocalVisualizer', name='v')
    return config


def painted(config, dataset):
    """The same network with the pictures of `make demo`, which no other package paints."""
    config = config.copy()
    load = dataset.replace('ShapesSegDataset', 'LoadShapes').replace('ShapesDetDataset', 'LoadShapesDet')
    steps = [step for step in config.test_pipeline if not step.type.startswith('Load')]
    pipeline = [dict(type=f'mmdistill_dense.{load}'), *steps]
    pictures = dict(type=f'mmdistill_dense.{dataset}', num_images=2, pipeline=pipeline)
    for split in ('train', 'val', 'test'):
        config[f'{split}_dataloader'].dataset = pictures
    config.test_pipeline = config.train_pipeline = pipeline
    config.custom_hooks = [dict(type='mmdistill_dense.MonitorHook'), dict(type='EMAHook')]
    return config


def export(config, classes, out):
    network = config.model.get('student', config.model)
    state = toys.build_plain(network if 'cfg' in network else toys.det_net(backbone=NET)).state_dict()
    torch.save(dict(state_dict=state, meta=dict(dataset_meta=dict(classes=classes))), out.parent / 'trained.ckpt')
    export_student(config, out.parent / 'trained.ckpt', out)
    return out.with_suffix('.py').read_text()


@pytest.mark.soak
def test_exported_students_run_where_this_package_is_missing(tmp_path):
    """By the functions, the inferencers and, on data that the plain package can read, the runner's test."""
    seg, det = seg_folder(tmp_path / 'seg'), box_folder(tmp_path / 'det')
    out = tmp_path / 'out'
    out.mkdir()
    texts = {
        'seg': export(seg_config(seg), NAMES, out / 'seg.pth'),
        'seg_values': export(seg_config(seg, label_values=[0, 1, 2, 3, 4, 5, 9]), NAMES, out / 'seg_values.pth'),
        'seg_painted': export(painted(seg_config(seg), 'ShapesSegDataset'), NAMES, out / 'seg_painted.pth'),
        'det': export(det_config(det), BOXES, out / 'det.pth'),
        'det_painted': export(painted(det_config(det), 'ShapesDetDataset'), BOXES, out / 'det_painted.pth'),
    }
    assert '(SegFolderDataset with label_values)' in texts['seg_values']
    for name, text in texts.items():
        assert 'mmdistill_dense' not in re.sub(r'(?m)^#.*\n', '', text), name  # but at the head
        assert ('Left out' in text) == (name not in ('seg', 'det')) and '# It runs without mmdistill_dense.' in text
    script = Path(__file__).with_name('plain_use.py')
    done = subprocess.run([sys.executable, script, out], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    uses = json.loads((out / 'told.json').read_text())
    assert uses['seg'] == dict(found=True, classes=list(NAMES), tested=['aAcc', 'mAcc', 'mIoU'])
    assert uses['det']['found'] and uses['det']['tested'] is not None
    assert uses['seg_values'] == dict(found=True, classes=list(NAMES), tested={})
    for name, classes in (('seg_painted', NAMES), ('det_painted', BOXES)):
        assert uses[name] == dict(found=True, classes=list(classes), tested=None), name


def test_what_was_left_out_stands_at_the_head(tmp_path):
    config = painted(seg_config(tmp_path), 'ShapesSegDataset')
    text = export(config, NAMES, tmp_path / 's.pth')
    head = ''.join(line for line in text.splitlines(keepends=True) if line.startswith('#'))
    for word in (
        'train_dataloader, train_cfg, optim_wrapper, ', 'test_evaluator (ShapesSegDataset, LoadShapes)',
        'custom_hooks (MonitorHook)', 'Inference works', f'mim test mmseg CONFIG --checkpoint {tmp_path}/trained.ckpt',
    ):  # fmt: skip
        assert word in head, word
    plain = Config.fromfile(tmp_path / 's.py')
    assert plain.test_pipeline[0].type == 'LoadImageFromFile' and plain.custom_hooks == [dict(type='EMAHook')]
    assert not {'train_cfg', 'train_pipeline', 'val_dataloader', 'val_evaluator'} & set(plain)
    assert list(plain.test_dataloader.dataset.metainfo.classes) == list(NAMES)
    export(config, NAMES, tmp_path / 's.pth')  # what the head names is no config of the user


def test_the_command_of_the_head_runs(tmp_path):
    """The forks' mim finds mmdet ambiguous; a config given by name has no file."""
    file = tmp_path / 'a run.py'
    file.touch()
    for scope, name, words in (
        ('mmdet', file, f"mmdetection '{file}'"),
        ('mmseg', tmp_path / 'no.py', 'mmseg CONFIG'),
        ('mmseg', None, 'mmseg CONFIG'),
    ):
        config = Config(dict(default_scope=scope), cfg_text='#', filename=name and str(name))
        head = header_lines(tmp_path / 's.pth', {'test_evaluator': ['X']}, [], config, 'c.pth')
        assert head.endswith(f': mim test {words} --checkpoint c.pth\n')


@pytest.mark.parametrize('options', [dict(label_values=[0, 1, 2, 3, 4, 5, 9]), dict(img_suffix=['.jpg', '.png'])])
def test_a_student_of_special_labels_is_not_measured(tmp_path, monkeypatch, options):
    """The runner of `mim test` builds and runs; a score without the values of labels would be wrong."""
    monkeypatch.chdir(tmp_path)
    export(seg_config(seg_folder(tmp_path / 'mine'), **options), NAMES, tmp_path / 's.pth')
    plain = Config.fromfile('s.py')
    plain.work_dir, plain.load_from = 'work', 's.pth'
    assert Runner.from_cfg(plain).test() == {}
    written = Image.open('test_labels/1.png')
    assert len(list(Path('test_labels').iterdir())) == 2 and written.size == (64, 48)


@pytest.mark.parametrize('name', ['CityscapesDataset', 'ADE20KDataset', 'PascalVOCDataset', 'COCOStuffDataset'])
def test_checked_data_sets_become_those_of_mmseg(name):
    inside = dict(type=f'mmdistill_dense.{name}', data_root='d', img_suffix=['.png'])
    dataset = dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[inside]))
    config = Config(dict(default_scope='mmseg', model={}, train_dataloader=dict(dataset=dataset)))
    plain, dropped, needed = without_package(config, {})
    (made,) = plain.train_dataloader.dataset.dataset.datasets
    assert made == dict(type=f'mmseg.{name}', data_root='d', img_suffix='.png')
    assert (dropped, needed) == ({}, []) and inside['type'].startswith('mmdistill_dense.')


def test_a_network_of_this_package_is_named():
    """It cannot be left out."""
    config = Config(dict(default_scope='mmseg', model=dict(backbone=dict(type='mmdistill_dense.VisionTransformer'))))
    _, dropped, needed = without_package(config, {})
    assert (dropped, needed) == ({}, ['model.backbone (VisionTransformer)'])
