"""The MasKD configs hold what the authors' configs hold: weights, warm-up, head terms, token learning, schedules."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from mmengine.config import Config, ConfigDict

from mmdistill_dense.apps.recipes.compose import option_files
from mmdistill_dense.apps.recipes.named import read_config
from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.distillers import MasKD
from mmdistill_dense.networks.building import build_network
from mmdistill_dense.networks.inputs import make_renormaliser
from mmdistill_dense.networks.teacher import _below
from mmdistill_dense.weights.strict_load import published_weights
from tests.every_config import place, read

ROOT = Path(__file__).parents[2] / 'configs' / 'maskd'
NECK_HEAD = [('neck', 'neck'), ('bbox_head', 'bbox_head')]
ADAM = dict(type='Adam', lr=0.01, weight_decay=1e-3)
L1 = dict(type='HeadOutputKD', student_tap='bbox_head.retina_reg', form='l1')
SMOOTH_L1 = dict(type='HeadOutputKD', student_tap='bbox_head.retina_reg', form='smooth_l1')
ROI = dict(type='RoIHeadKD')
POINTS = dict(
    type='HeadOutputKD',
    student_tap=[('bbox_head.reppoints_pts_refine_out', 0.2), ('bbox_head.reppoints_pts_init_out', 0.1)],
    form='smooth_l1',
    beta=0.11,
)


class Row(NamedTuple):
    """One pair: loss weight, start of the student's mask, head terms, lr, lr warm-up, clipping, learning of tokens."""

    weight: float
    start: int
    terms: list[dict]
    lr: float
    warmup: tuple[float, int]
    clip: float | None
    learn: dict[str, Any]
    inherit: list[tuple[str, str]]
    later: dict[str, Any] = {}  # what the inheriting form of the authors changes besides


PAIRS = {
    'faster_rcnn_r101_to_r50': Row(
        1, 7330, [ROI], 0.02, (0.001, 500), None, dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4),
        [('neck', 'neck'), ('rpn_head', 'rpn_head'), ('roi_head.bbox_head', 'roi_head.bbox_head')],
        dict(weight=3),
    ),
    'faster_rcnn_cascade_mask_x101_to_r50': Row(
        1, 5000, [ROI], 0.02, (0.001, 500), None, dict(ADAM, weight_decay=0.1), [('neck', 'neck')],
        dict(start=8500, clip=35, terms=[ROI, dict(
            type='RoIHeadKD', student_tap='roi_head.bbox_head.fc_cls', output='cls_score', form='dist'
        )]),
    ),
    'retinanet_r101_to_r50': Row(7, 7000, [L1], 0.02, (0.001, 1000), 35, ADAM, NECK_HEAD),
    'retinanet_x101_to_r50': Row(7, 8500, [SMOOTH_L1], 0.02, (0.001, 1000), 35, ADAM, NECK_HEAD),
    'retinanet_r101_to_mobilenetv2': Row(
        10, 8500, [L1], 0.02, (0.001, 1000), 35, ADAM, [('bbox_head', 'bbox_head')]
    ),
    'fcos_r101_to_r50': Row(10, 5000, [], 0.01, (1 / 3, 500), 35, ADAM, NECK_HEAD),
    'reppoints_x101_to_r50': Row(
        10, 5000, [POINTS], 0.01, (0.001, 500), None, ADAM, NECK_HEAD, dict(weight=15, start=8500)
    ),
}  # fmt: skip

# config of the teacher, its published file
TEACHERS = {
    'faster_rcnn_r101_to_r50': 'faster_rcnn_r101_fpn_2x_coco_bbox_mAP-0.398_20200504_210455-1d2dac9c.pth',
    'faster_rcnn_cascade_mask_x101_to_r50': 'cascade_mask_rcnn_x101_64x4d_fpn_20e_coco_20200512_161033-bdb5126a.pth',
    'retinanet_r101_to_r50': 'retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth',
    'retinanet_x101_to_r50': 'retinanet_x101_64x4d_fpn_mstrain_3x_coco_20210719_051838-022c2187.pth',
    'retinanet_r101_to_mobilenetv2': 'retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth',
    'fcos_r101_to_r50': 'fcos_r101_caffe_fpn_gn-head_mstrain_640-800_2x_coco-511424d6.pth',
    'reppoints_x101_to_r50': (
        'reppoints_moment_x101_fpn_dconv_c3-c5_gn-neck%2Bhead_2x_coco_20200329-f87da1ea.pth'
    ),
    'deeplabv3_r101_to_r18_cityscapes': 'deeplabv3_r101-d8_512x1024_80k_cityscapes_20200606_113503-9e428899.pth',
    'deeplabv3_r101_to_r18_voc': 'deeplabv3_r101-d8_512x512_40k_voc12aug_20200613_161432-0017d784.pth',
    'deeplabv3_r101_to_r18_ade20k': 'deeplabv3_r101-d8_512x512_160k_ade20k_20200615_105816-b1f72b3b.pth',
}  # fmt: skip
SEGMENTATION = ['r18_cityscapes', 'mobilenetv2_cityscapes', 'pspnet_r18_cityscapes', 'r18_voc', 'pspnet_r18_voc',
                'r18_ade20k']  # fmt: skip


def leaf(name: str) -> Config:
    return read(place(f'maskd/{name}'))


def method(cfg: Config) -> MasKD:
    """The distiller as the config builds it, defaults and all."""
    return MasKD(**{key: value for key, value in cfg.model.distillers.maskd.to_dict().items() if key != 'type'})


def terms(cfg: Config) -> list[dict]:
    return [option.to_dict() for option in cfg.model.distillers.values() if option.type != 'MasKD']


def student(cfg: Config) -> ConfigDict:
    return load_model(cfg.model.student, 'student').model


def teacher(cfg: Config) -> ConfigDict:
    return load_model({k: v for k, v in cfg.model.teacher.items() if k != 'checkpoint'}, 'teacher').model


@pytest.mark.parametrize('pair', PAIRS)
def test_the_plain_form_is_the_first_release(pair: str) -> None:
    cfg, row = leaf(f'{pair}_coco'), PAIRS[pair]
    check_method(cfg, row)
    assert 'inherit' not in cfg.model
    assert cfg.train_dataloader.batch_size == 2


@pytest.mark.parametrize('pair', PAIRS)
def test_the_inheriting_form_is_the_second(pair: str) -> None:
    cfg, row = leaf(f'{pair}_coco_inherit'), PAIRS[pair]
    check_method(cfg, row._replace(**row.later))
    assert [tuple(entry) for entry in cfg.model.inherit] == row.inherit


def check_method(cfg: Config, row: Row) -> None:
    maskd = method(cfg)
    assert (maskd.loss_weight, maskd.student_mask_from) == (row.weight, row.start)
    assert (maskd.num_tokens, maskd.weight_mask, maskd.factor, maskd.eps, maskd.align) == (6, True, 1, 0, 'conv')
    assert ([str(tap) for tap in maskd.student_taps], maskd.tokens) == (['neck'], None)
    assert terms(cfg) == row.terms
    assert (maskd.learn.optimizer, maskd.learn.max_iters, maskd.learn.dice_weight) == (row.learn, 2000, 1)
    for k in (0, 1, 700, 1999):
        cosine = (1 + math.cos(math.pi * k / 2000)) / 2
        assert maskd.learn.rate(k) == pytest.approx(1e-6 + (row.learn['lr'] - 1e-6) * cosine, rel=1e-12), k
    clip = cfg.optim_wrapper.get('clip_grad')
    assert (clip and clip.max_norm) == row.clip
    assert cfg.optim_wrapper.optimizer == dict(type='SGD', lr=row.lr, momentum=0.9, weight_decay=1e-4)
    warmup, steps = cfg.param_scheduler
    assert (warmup.type, warmup.start_factor, warmup.end) == ('LinearLR', *row.warmup)
    assert (steps.milestones, steps.gamma, cfg.train_cfg.max_epochs) == ([16, 22], 0.1, 24)


# Tensors that the inheriting form takes over
INHERITED = {
    'faster_rcnn_r101_to_r50': 30,
    'faster_rcnn_cascade_mask_x101_to_r50': 16,
    'retinanet_r101_to_r50': 36,
    'retinanet_x101_to_r50': 36,
    'retinanet_r101_to_mobilenetv2': 20,
    'fcos_r101_to_r50': 51,
    'reppoints_x101_to_r50': 53,
    'deformable_detr_r50_to_r18': 293,
}


@pytest.mark.parametrize('pair', INHERITED)
def test_what_is_inherited_has_the_same_shapes(pair: str) -> None:
    cfg = leaf(f'{pair}_coco_inherit')
    own, theirs = shapes(cfg.model.student), shapes({**cfg.model.teacher, 'checkpoint': None})
    taken = 0
    for target, source in cfg.model.inherit:
        mine, given = _below(own, target), _below(theirs, source)
        biases = {name for name in mine.keys() - given.keys() if name.endswith('conv.bias')}
        assert {name: mine[name] for name in mine.keys() - biases} == given
        assert len(biases) == (8 if 'fcos' in pair and target == 'bbox_head' else 0)
        taken += len(given)
    assert taken == INHERITED[pair]


def test_deformable_detr_inherits_all_but_backbone_and_neck() -> None:
    """The author's start: 12.07 of 24.7 million parameters."""
    cfg = leaf('deformable_detr_r50_to_r18_coco_inherit')
    plain = read_config('maskd:deformable_detr_r50_to_r18_coco')
    assert cfg.model.pop('inherit') and dict(cfg.model) == dict(plain.model), 'and changes nothing else'
    own = shapes(cfg.model.student)
    parts = {name.split('.')[0] for name in own} - {'backbone', 'neck'}
    assert parts == {entry[0] for entry in leaf('deformable_detr_r50_to_r18_coco_inherit').model.inherit}
    assert sum(own[n].numel() for n in own if n.split('.')[0] in parts) == pytest.approx(12.07e6, abs=5e3)


def shapes(option: dict) -> dict[str, torch.Size]:
    network = {key: value for key, value in option.items() if key != 'checkpoint'}
    with torch.device('meta'):
        built = build_network(load_model(network, 'model'), pretrained=False)
    return {name: value.shape for name, value in built.state_dict().items()}


@pytest.mark.parametrize('pair', PAIRS)
def test_both_networks_see_the_same_pixels_padded_alike(pair: str) -> None:
    cfg = leaf(f'{pair}_coco')
    mine, theirs = student(cfg).data_preprocessor, teacher(cfg).data_preprocessor
    assert mine.pad_size_divisor == theirs.pad_size_divisor == 32
    assert make_renormaliser(mine, theirs) is None


def test_only_fcos_tokens_are_learned_with_clipping() -> None:
    clips = {pair: method(leaf(f'{pair}_coco')).learn.clip_grad for pair in PAIRS}
    assert {pair: clip for pair, clip in clips.items() if clip} == {'fcos_r101_to_r50': dict(max_norm=35, norm_type=2)}


@pytest.mark.parametrize('name', TEACHERS)
def test_teacher_is_the_published_file(name: str) -> None:
    cfg = leaf(name if 'deeplabv3' in name else f'{name}_coco')
    assert cfg.model.teacher.checkpoint == 'auto'
    assert published_weights(cfg.model.teacher.cfg).rsplit('/', 1)[-1] == TEACHERS[name]


def test_faster_rcnn_regresses_as_its_teacher() -> None:
    """A cascade stage regresses one box for all classes, so its student does; masks are padded for the teacher."""
    cfg = leaf('faster_rcnn_cascade_mask_x101_to_r50_coco')
    assert student(cfg).roi_head.bbox_head.reg_class_agnostic
    assert teacher(cfg).roi_head.bbox_head[0].reg_class_agnostic
    assert student(cfg).data_preprocessor.pad_mask
    assert cfg.train_pipeline[1].with_mask
    assert cfg.val_evaluator.metric == 'bbox'
    plain = leaf('faster_rcnn_r101_to_r50_coco')
    assert student(plain).roi_head.bbox_head.reg_class_agnostic is teacher(plain).roi_head.bbox_head.reg_class_agnostic
    assert not plain.train_pipeline[1].get('with_mask')


def test_fcos_learns_as_its_teacher_did() -> None:
    cfg = leaf('fcos_r101_to_r50_coco')
    assert cfg.optim_wrapper.paramwise_cfg == dict(bias_lr_mult=2.0, bias_decay_mult=0.0)
    assert cfg.train_pipeline[2].scales == [(1333, 640), (1333, 800)]
    assert student(cfg).data_preprocessor == teacher(cfg).data_preprocessor
    assert (student(cfg).data_preprocessor.bgr_to_rgb, student(cfg).data_preprocessor.std) == (False, [1.0, 1.0, 1.0])


def test_mobilenetv2_is_the_authors() -> None:
    net = student(leaf('retinanet_r101_to_mobilenetv2_coco'))
    assert net.backbone.type == 'MobileNetV2'
    assert 'depth' not in net.backbone  # nothing left of the ResNet that it replaces
    assert (net.backbone.out_indices, net.neck.in_channels) == ((1, 2, 4, 6), [24, 32, 96, 320])
    assert net.backbone.act_cfg == dict(type='LeakyReLU', negative_slope=0.1)


@pytest.mark.parametrize('row', SEGMENTATION)
def test_segmentation_compares_class_scores(row: str) -> None:
    cfg = leaf(f'deeplabv3_r101_to_{row}')
    maskd, net = method(cfg), student(cfg)
    taps = [('decode_head.conv_seg', 1.0), ('auxiliary_head.conv_seg', 0.4)][: 2 if net.get('auxiliary_head') else 1]
    assert list(zip(map(str, maskd.student_taps), maskd.tap_weights, strict=True)) == taps
    assert maskd.share_tokens is (len(taps) == 2)
    assert (maskd.num_tokens, maskd.weight_mask, maskd.align) == (8, False, 'none')
    assert (maskd.loss_weight, maskd.factor, maskd.eps, maskd.student_mask_from) == (1, 0.5, 1e-5, None)
    learn, length = maskd.learn, 10000 if 'cityscapes' in row else 2000
    assert (learn.max_iters, learn.clip_grad) == (length, None)
    assert learn.optimizer == dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-3)
    for k in (0, 1, 700, length - 1):
        assert learn.rate(k) == pytest.approx(0.1 * (1 - k / length) ** 0.9, rel=1e-12), k
    assert terms(cfg) == []


@pytest.mark.parametrize('row', SEGMENTATION)
def test_segmentation_schedule_is_the_formula(row: str) -> None:
    cfg = leaf(f'deeplabv3_r101_to_{row}')
    decay = 2e-4 if 'mobilenetv2' in row else 5e-4
    assert cfg.optim_wrapper.optimizer == dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=decay)
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (40000, 400)
    assert cfg.default_hooks.checkpoint.save_best == 'mIoU'
    poly = dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=40001, by_epoch=False)
    assert [one.to_dict() for one in cfg.param_scheduler] == [poly]


@pytest.mark.soak
def test_no_config_names_a_file_of_tokens() -> None:
    """Tokens are learned where there are none; a path in a config would be of one machine."""
    files = {path: Config.fromfile(path).model for path in ROOT.glob('*.py')}
    for path, cfg in {**files, **{path: Config.fromfile(path) for path in option_files('maskd')}}.items():
        assert cfg.distillers.maskd.get('tokens') is None, path
