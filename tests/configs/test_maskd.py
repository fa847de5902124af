"""The MasKD configs hold what the authors' configs hold: weights, warm-up, head terms, token learning, schedules."""

import math
from typing import Any, NamedTuple

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmdistill_dense.apps.recipes.named import read_config
from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.distillers import MasKD
from mmdistill_dense.networks.building import build_network
from mmdistill_dense.networks.inputs import make_renormaliser
from mmdistill_dense.networks.teacher import _below
from tests.every_config import leaf, student, teacher

NECK_HEAD = [('neck', 'neck'), ('bbox_head', 'bbox_head')]
ADAM = dict(type='Adam', lr=0.01, weight_decay=1e-3)
L1 = dict(type='HeadOutputKD', student_tap='bbox_head.retina_reg', form='l1')
ROI = dict(type='RoIHeadKD')
SCORES = dict(type='RoIHeadKD', student_tap='roi_head.bbox_head.fc_cls', output='cls_score', form='dist')
POINTS = dict(
    type='HeadOutputKD',
    student_tap=[('bbox_head.reppoints_pts_refine_out', 0.2), ('bbox_head.reppoints_pts_init_out', 0.1)],
    form='smooth_l1',
    beta=0.11,
)


class Row(NamedTuple):
    """One pair: teacher, loss weight, start of the student's mask, head terms, lr, lr warm-up, clipping, learning."""

    teacher: str
    weight: float
    start: int
    terms: list[dict]
    lr: float
    warmup: tuple[float, int]
    clip: float | None
    learn: dict[str, Any]
    inherit: list[tuple[str, str]]
    taken: int  # tensors that the inheriting form takes over
    later: dict[str, Any] = {}  # what the inheriting form of the authors changes besides


PAIRS = {
    'faster_rcnn_r101_to_r50': Row(
        'faster-rcnn_r101_fpn_2x', 1, 7330, [ROI], 0.02, (0.001, 500), None,
        dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4),
        [('neck', 'neck'), ('rpn_head', 'rpn_head'), ('roi_head.bbox_head', 'roi_head.bbox_head')], 30, dict(weight=3),
    ),
    'faster_rcnn_cascade_mask_x101_to_r50': Row(
        'cascade-mask-rcnn_x101-64x4d_fpn_20e', 1, 5000, [ROI], 0.02, (0.001, 500), None, dict(ADAM, weight_decay=0.1),
        [('neck', 'neck')], 16, dict(start=8500, clip=35, terms=[ROI, SCORES]),
    ),
    'retinanet_r101_to_r50': Row(
        'retinanet_r101_fpn_2x', 7, 7000, [L1], 0.02, (0.001, 1000), 35, ADAM, NECK_HEAD, 36
    ),
    'retinanet_x101_to_r50': Row(
        'x101-64x4d_fpn_ms-640-800-3x', 7, 8500, [dict(L1, form='smooth_l1')], 0.02, (0.001, 1000), 35, ADAM,
        NECK_HEAD, 36,
    ),
    'retinanet_r101_to_mobilenetv2': Row(
        'retinanet_r101_fpn_2x', 10, 8500, [L1], 0.02, (0.001, 1000), 35, ADAM, [('bbox_head', 'bbox_head')], 20
    ),
    'fcos_r101_to_r50': Row(
        'r101-caffe_fpn_gn-head_ms-640-800-2x', 10, 5000, [], 0.01, (1 / 3, 500), 35, ADAM, NECK_HEAD, 51
    ),
    'reppoints_x101_to_r50': Row(
        'x101-dconv-c3-c5_fpn-gn_head-gn_2x', 10, 5000, [POINTS], 0.01, (0.001, 500), None, ADAM, NECK_HEAD, 53,
        dict(weight=15, start=8500),
    ),
}  # fmt: skip
SEGMENTATION = [
    'r18_cityscapes', 'mobilenetv2_cityscapes', 'pspnet_r18_cityscapes', 'r18_voc', 'pspnet_r18_voc', 'r18_ade20k',
]  # fmt: skip


def method(cfg: Config) -> MasKD:
    """The distiller as the config builds it, defaults and all."""
    return MasKD(**{key: value for key, value in cfg.model.distillers.maskd.to_dict().items() if key != 'type'})


def terms(cfg: Config) -> list[dict]:
    return [option.to_dict() for option in cfg.model.distillers.values() if option.type != 'MasKD']


@pytest.mark.parametrize('inherits', [False, True], ids=['first release', 'second release'])
@pytest.mark.parametrize('pair', PAIRS)
def test_detection_is_the_authors(pair: str, inherits: bool) -> None:
    cfg, row = leaf(f'maskd/{pair}_coco{"_inherit" * inherits}'), PAIRS[pair]
    assert [tuple(entry) for entry in cfg.model.get('inherit', [])] == (row.inherit if inherits else [])
    row = row._replace(**row.later) if inherits else row
    maskd = method(cfg)
    assert (cfg.model.teacher.checkpoint, row.teacher in cfg.model.teacher.cfg) == ('auto', True)
    assert (maskd.loss_weight, maskd.student_mask_from) == (row.weight, row.start)
    assert (maskd.num_tokens, maskd.weight_mask, maskd.factor, maskd.eps, maskd.align) == (6, True, 1, 0, 'conv')
    assert ([str(tap) for tap in maskd.student_taps], maskd.tokens) == (['neck'], None)
    assert terms(cfg) == row.terms
    assert (maskd.learn.optimizer, maskd.learn.max_iters, maskd.learn.dice_weight) == (row.learn, 2000, 1)
    assert maskd.learn.clip_grad == (dict(max_norm=35, norm_type=2) if 'fcos' in pair else None)
    for k in (0, 1, 700, 1999):
        cosine = (1 + math.cos(math.pi * k / 2000)) / 2
        assert maskd.learn.rate(k) == pytest.approx(1e-6 + (row.learn['lr'] - 1e-6) * cosine, rel=1e-12), k
    assert (cfg.optim_wrapper.get('clip_grad') or {}).get('max_norm') == row.clip
    assert cfg.optim_wrapper.optimizer == dict(type='SGD', lr=row.lr, momentum=0.9, weight_decay=1e-4)
    warmup, steps = cfg.param_scheduler
    assert (warmup.type, warmup.start_factor, warmup.end) == ('LinearLR', *row.warmup)
    assert (steps.milestones, steps.gamma, cfg.train_cfg.max_epochs) == ([16, 22], 0.1, 24)
    assert cfg.train_dataloader.batch_size == 2
    mine, theirs = student(cfg).data_preprocessor, teacher(cfg).data_preprocessor
    assert mine.pad_size_divisor == theirs.pad_size_divisor == 32
    assert make_renormaliser(mine, theirs) is None, 'both networks see the same pixels'


QUERIES = {  # with parameters, in millions, that the student takes over
    'maskd:deformable_detr_r50_to_r18_coco': (293, 12.07),
    'pkd:dino_r50_to_r18_coco': (297, 18.687),
}
INHERITED = {**{f'maskd:{pair}_coco': row.taken for pair, row in PAIRS.items()},
             **{pair: taken for pair, (taken, _) in QUERIES.items()}}  # fmt: skip


@pytest.mark.parametrize(('pair', 'count'), INHERITED.items())
def test_what_is_inherited_has_the_same_shapes(pair: str, count: int) -> None:
    cfg = leaf(f'{pair.replace(":", "/")}_inherit')
    own, theirs = shapes(cfg.model.student), shapes(cfg.model.teacher)
    taken = 0
    for target, source in cfg.model.inherit:
        mine, given = _below(own, target), _below(theirs, source)
        biases = {name for name in mine.keys() - given.keys() if name.endswith('conv.bias')}
        assert {name: mine[name] for name in mine.keys() - biases} == given
        assert len(biases) == (8 if 'fcos' in pair and target == 'bbox_head' else 0)
        taken += len(given)
    assert taken == count


def shapes(option: dict) -> dict[str, torch.Size]:
    network = {key: value for key, value in option.items() if key != 'checkpoint'}
    with torch.device('meta'), DefaultScope.overwrite_default_scope('mmdet'):
        built = build_network(load_model(network, 'model'), pretrained=False)
    return {name: value.shape for name, value in built.state_dict().items()}


@pytest.mark.parametrize('pair', QUERIES)
def test_a_detector_with_queries_starts_from_all_of_its_teacher_but_backbone_and_neck(pair: str) -> None:
    """And changes nothing else; what DINO takes over learns at a tenth of the rate."""
    cfg, plain = leaf(f'{pair.replace(":", "/")}_inherit'), read_config(pair)
    own, inherited = shapes(cfg.model.student), {target for target, _ in cfg.model.pop('inherit')}
    assert inherited == {name.split('.')[0] for name in own} - {'backbone', 'neck'}
    count = sum(shape.numel() for name, shape in own.items() if name.split('.')[0] in inherited)
    assert count == pytest.approx(QUERIES[pair][1] * 1e6, abs=5e3)
    if 'dino' in pair:
        assert cfg.optim_wrapper.pop('constructor') and cfg.optim_wrapper.paramwise_cfg.pop('inherited_lr_mult') == 0.1
    assert (cfg.model, cfg.optim_wrapper) == (plain.model, plain.optim_wrapper)


@pytest.mark.parametrize('row', SEGMENTATION)
def test_segmentation_is_the_authors(row: str) -> None:
    """Class scores are compared, and the schedule is the formula."""
    cfg = leaf(f'maskd/deeplabv3_r101_to_{row}')
    maskd, net, teaches = method(cfg), student(cfg), cfg.model.teacher
    assert teaches.checkpoint == 'auto' and 'deeplabv3_r101-d8' in teaches.cfg and row.split('_')[-1][:3] in teaches.cfg
    taps = [('decode_head.conv_seg', 1.0), ('auxiliary_head.conv_seg', 0.4)][: 2 if net.get('auxiliary_head') else 1]
    assert list(zip(map(str, maskd.student_taps), maskd.tap_weights, strict=True)) == taps
    assert maskd.share_tokens is (len(taps) == 2)
    assert (maskd.num_tokens, maskd.weight_mask, maskd.align, terms(cfg)) == (8, False, 'none', [])
    assert (maskd.loss_weight, maskd.factor, maskd.eps, maskd.student_mask_from) == (1, 0.5, 1e-5, None)
    learn, length = maskd.learn, 10000 if 'cityscapes' in row else 2000
    assert (learn.max_iters, learn.clip_grad) == (length, None)
    assert learn.optimizer == dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-3)
    for k in (0, 1, 700, length - 1):
        assert learn.rate(k) == pytest.approx(0.1 * (1 - k / length) ** 0.9, rel=1e-12), k
    decay = 2e-4 if 'mobilenetv2' in row else 5e-4
    assert cfg.optim_wrapper.optimizer == dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=decay)
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (40000, 400)
    assert cfg.default_hooks.checkpoint.save_best == 'mIoU'
    poly = dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=40001, by_epoch=False)
    assert [one.to_dict() for one in cfg.param_scheduler] == [poly]
