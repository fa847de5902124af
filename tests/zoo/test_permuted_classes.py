"""The teacher is a copy of the student with its classes in another order: ``classes='auto'`` leaves no loss."""

from pathlib import Path

import pytest
import torch
from mmdet.datasets import CocoDataset
from mmseg.datasets import ADE20KDataset, CityscapesDataset

from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.guards.config import check_teacher_classes
from mmdistill_dense.networks.modes import train_without_noise
from tests import toys
from tests.zoo.narrow import SIDE, narrow

SCORES = 'bbox_head.'
# config, the layers of class scores, anchors a place
DETECTORS = [
    ('retinanet/retinanet_r50_fpn_1x_coco', ['retina_cls'], 9),
    ('gfl/gfl_r50_fpn_1x_coco', ['gfl_cls'], 1),
    ('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco', ['conv_cls'], 1),
    ('reppoints/reppoints-moment_r50_fpn-gn_head-gn_1x_coco', ['reppoints_cls_out'], 1),
    ('rtmdet/rtmdet_tiny_8xb32-300e_coco', ['rtm_cls.0', 'rtm_cls.1', 'rtm_cls.2'], 1),
]
SEGMENTORS = [
    ('deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024', CityscapesDataset),
    ('segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512', ADE20KDataset),
    ('dnlnet/dnl_r50-d8_4xb2-80k_cityscapes-512x1024', CityscapesDataset),
]
QUICK = (DETECTORS[1][0], SEGMENTORS[1][0])


def cases(rows: list) -> list:
    """The rows, all but the quick ones in the soak group."""
    return [pytest.param(*row, marks=[] if row[0] in QUICK else pytest.mark.soak, id=row[0]) for row in rows]


def gap(config: str, scope: str, names: tuple, layers: dict[str, int], distiller: dict, folder: Path) -> float:
    """The largest term of a step whose teacher is the student with permuted rows in ``layers`` (anchors by path)."""
    option = narrow(load_model(dict(cfg=f'{scope}::{config}.py'), 'model'))
    plain = toys.build_plain(option, seed=1)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(2))
    torch.manual_seed(3)
    with torch.no_grad():
        for path in layers:
            for parameter in plain.get_submodule(path).parameters():
                parameter.normal_(std=0.3)
    state = {name: value.clone() for name, value in plain.state_dict().items()}
    for path, anchors in layers.items():
        for name in (f'{path}.weight', f'{path}.bias'):
            if name in state:
                state[name] = state[name].unflatten(0, (anchors, len(names)))[:, order].flatten(0, 1)
    file = folder / 'own.pth'
    meta = dict(dataset_meta=dict(classes=[names[index] for index in order.tolist()]))
    torch.save(dict(state_dict=state, meta=meta), file)
    teacher = dict(option, checkpoint=str(file), classes='auto')
    model = toys.ready(toys.build(toys.model_config(option, teacher, dict(one=distiller)), scope=scope))
    own = toys.teacher_of(model)
    own.load(next(model.parameters()))
    check_teacher_classes(names, own, model.distillers.values())
    model.load_state_dict(plain.state_dict())
    train_without_noise(model)
    toys.still_norms(model)
    batch = toys.seg_batch(side=SIDE) if scope == 'mmseg' else toys.det_batch(side=SIDE)
    terms = [value for name, value in toys.losses_of(model, batch).items() if name.startswith('distill.one.loss')]
    own.pairs = None  # as it is, the order is wrong, and something is taught
    own.option = type(own.option)(**{**vars(own.option), 'classes': None})
    wrong = [value for name, value in toys.losses_of(model, batch).items() if name.startswith('distill.one.loss')]
    actual, control = (max(abs(float(value)) for value in values) for values in (terms, wrong))
    assert control > max(1e-5, 1e3 * actual)
    return actual


@pytest.mark.parametrize(('config', 'layers', 'anchors'), cases(DETECTORS))
def test_detectors(config: str, layers: list, anchors: int, tmp_path: Path) -> None:
    taps = [f'{SCORES}{layer}' for layer in layers]
    distiller = dict(type='HeadOutputKD', student_tap=taps if len(taps) > 1 else taps[0], form='sigmoid')
    paths = dict.fromkeys(taps, anchors)
    assert gap(config, 'mmdet', CocoDataset.METAINFO['classes'], paths, distiller, tmp_path) < 2e-6


@pytest.mark.parametrize(('config', 'dataset'), cases(SEGMENTORS))
def test_segmentors(config: str, dataset: type, tmp_path: Path) -> None:
    names = dataset.METAINFO['classes']
    assert gap(config, 'mmseg', names, {'decode_head.conv_seg': 1}, dict(type='LogitKD'), tmp_path) < 2e-6
