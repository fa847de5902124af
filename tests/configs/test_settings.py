"""Named configs take the settings of their networks; published.yml belongs to the released settings."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from mmdistill_dense.apps.recipes.compose import best, option_files, recipes
from mmdistill_dense.apps.recipes.named import Named, combinations
from mmdistill_dense.config.resolve import is_single_teacher, load_model
from mmdistill_dense.distillers import AfDCD
from mmdistill_dense.guards.config_rules import optimizer
from mmdistill_dense.guards.findings import RunFacts
from tests.configs.test_configs import PAPER
from tests.every_config import CONFIGS, leaf, student, teacher
from tests.zoo.networks import build

SETS = PAPER | dict(cocostuff=(0.5, 5e-6, 0.005, 4, (512, 512), 171))


@cache
def resolved(path: Path) -> Config:
    """A config; not to be changed."""
    return Config.fromfile(path)


def afdcd(options: Path) -> AfDCD:
    given = resolved(options).distillers.afdcd
    return AfDCD(**{key: value for key, value in given.items() if key != 'type'})


def usual(method: str) -> list[Named]:
    """The configs of a method beside labels, without its variants."""
    return [one for one in combinations(method) if one.variant is None and one.base in recipes()]


@pytest.mark.soak
def test_weights_of_a_sum_reach_the_papers_teacher_at_its_crops_alone() -> None:
    summed = [one for one in combinations('afdcd') if afdcd(one.options).fd_reduction == 'sum']
    assert summed
    for one in summed:
        *_, crop, _ = SETS[one.base.stem.rsplit('_', 1)[1]]
        assert one.base.stem.startswith('deeplabv3_r101_to_'), one.name
        pipeline = resolved(one.base).train_pipeline
        assert [step.crop_size for step in pipeline if step.type == 'RandomCrop'] == [crop], one.name


@pytest.mark.parametrize('data', SETS)
def test_other_pairs_have_the_papers_weights_in_units_of_the_mean(data: str) -> None:
    kd, fd, contrast, pool, (height, width), _ = SETS[data]
    options = best(option_files('afdcd'), f'net_to_other_{data}', 'seg')
    assert options and resolved(options).distillers.kd.loss_weight == kd
    method = afdcd(options)
    elements = 2048 * math.ceil(height / 8) * math.ceil(width / 8)
    assert (method.fd_reduction, method.fd_weight) == ('mean', pytest.approx(fd * elements, rel=5e-3))
    assert (method.ctr_weight, method.pool_size) == (contrast, pool)


@pytest.mark.soak
def test_recipes_have_the_optimizer_of_their_student_and_heads_of_a_type() -> None:
    """What a pair takes over from another may be an option for an auxiliary head that its own teacher has not."""
    for recipe in recipes():
        assert not list(optimizer(RunFacts(resolved(recipe)))), recipe
        model = resolved(recipe).model
        teachers = [model.teacher] if is_single_teacher(model.teacher) else model.teacher.values()
        for option in (model.student, *teachers):
            whole = load_model({key: value for key, value in option.items() if key != 'checkpoint'}, 'network').model
            parts = {key: part for key, part in whole.items() if key.endswith(('backbone', 'neck', 'head'))}
            assert not [key for key, part in parts.items() if isinstance(part, dict) and 'type' not in part], recipe


def test_pcd_beside_labels_has_pixels_as_keys_and_at_most_a_third_of_them() -> None:
    """Of one pooled key a picture docs/results.md shows that it gives nothing; what was published with it keeps it."""
    options = {one: resolved(one.options).distillers.pcd for one in usual('pcd')}
    chosen = {one: pcd for one, pcd in options.items() if pcd.get('queue_size') != 'auto'}  # it sees to both
    pooled = {one.file.stem for one, pcd in chosen.items() if pcd.get('enqueue') != 'pixels'}
    assert pooled == {'retinanet_mobilenetv2_to_r18w16_bccd', 'toy_seg', 'toy_det'}
    pictures = {'bccd': 205, 'camvid': 367, 'mini': 126, 'nuclei': 267}
    for one, pcd in chosen.items():
        count = pictures.get(one.base.stem.rsplit('_', 1)[1], 1464)  # VOC without the augmented list
        assert 'toy' in one.pair or pcd.queue_size <= count * pcd.get('keys_per_image', 1) / 3, one.name


def test_tokens_of_the_published_pairs_are_learned_by_the_loss_over_labelled_pixels() -> None:
    """As the released code, whose cross-entropy is torch's mean: ignored pixels do not count."""
    pairs = [one for one in usual('maskd') if one.base.stem.startswith('deeplabv3_r101_to_')]
    assert len({one.base for one in pairs}) == len(pairs) > 6
    for cfg in {str(resolved(one.base).model.teacher): resolved(one.base) for one in pairs}.values():
        assert teacher(cfg).decode_head.loss_decode.avg_non_ignore, cfg.filename


@pytest.mark.parametrize('name', ['r18', 'pspnet_r18'])
def test_a_student_from_random_weights_is_the_same_but_for_its_start(name: str) -> None:
    plain, random = (student(leaf(f'maskd/deeplabv3_r101_to_{name}_cityscapes{end}')) for end in ('', '_random-init'))
    assert plain.pop('pretrained') and random.pop('pretrained') is None
    assert plain == random and not plain.backbone.get('init_cfg')


# Released settings: teachers, schedules, heads, weights and taps

SGD = dict(type='SGD', momentum=0.9, weight_decay=1e-4)
INHERIT = [('neck', 'neck'), ('bbox_head', 'bbox_head')]
CLIP, LD = 'optim_wrapper.clip_grad.max_norm', 'model.distillers.ld'
RETINANET = {  # of the authors' configs
    'optim_wrapper.optimizer': dict(SGD, lr=0.01), 'train_cfg.max_epochs': 24, CLIP: None, 'model.inherit': None,
    'param_scheduler.0.start_factor': 0.001, 'param_scheduler.0.end': 500, 'param_scheduler.1.milestones': [16, 22],
    'model.teacher.cfg': 'mmdet::retinanet/retinanet_x101-64x4d_fpn_1x_coco.py',
}  # fmt: skip
THREE = 'mmdet::retinanet/retinanet_x101-64x4d_fpn_ms-640-800-3x_coco.py'
WEIGHTS = ('kd.loss_weight', 'afdcd.fd_weight', 'afdcd.ctr_weight')
AFDCD, CASCADE = 'afdcd/deeplabv3_r101_to_r18_cityscapes', 'faster_rcnn_cascade_mask_x101_to_r50_coco'
AGNOSTIC = 'roi_head.bbox_head.reg_class_agnostic'


def weights(*values: float, **others: Any) -> dict:
    """Of the terms of Af-DCD, and other options of it."""
    found = dict(zip(WEIGHTS, values, strict=True)) | {f'afdcd.{key}': value for key, value in others.items()}
    return {f'model.distillers.{key}': value for key, value in found.items()}


HOLD = [
    *((f'{method}/retinanet_x101_1x_to_r50_coco', RETINANET) for method in ('pkd', 'dist', 'cwd')),
    ('fgd/retinanet_x101_1x_to_r50_coco_inherit', {**RETINANET, CLIP: 35, 'model.inherit': INHERIT}),
    ('mgd/retinanet_x101_to_r50_coco_inherit',
     {**RETINANET, CLIP: 35, 'model.inherit': INHERIT, 'model.teacher.cfg': THREE}),
    ('fgd/reppoints_x101_to_r50_coco_inherit fgd/gfl_r101_to_r50_coco_inherit fgd/fcos_r101_to_r50_coco_inherit '
     'mgd/reppoints_x101_to_r50_coco_inherit', {CLIP: 35}),
    # DIST's train_kd.py (hunto/DIST_KD): weight decay 5e-4, rate down to 1e-4, a test every 400 steps
    ('dist/deeplabv3_r101_to_r18_cityscapes dist/deeplabv3_r101_to_pspnet_r18_cityscapes',
     {'optim_wrapper.optimizer': dict(SGD, lr=0.02, weight_decay=5e-4), 'param_scheduler.0.eta_min': 1e-4,
      'train_cfg.val_interval': 400, 'train_cfg.max_iters': 40000}),
    # FCOS: the student has the tricks, its teacher has not; it learns as its teacher did
    ('fgd/fcos_r101_to_r50_coco_inherit maskd/fcos_r101_to_r50_coco_inherit',
     {'student.bbox_head.norm_on_bbox': True, 'student.bbox_head.center_sampling': True,
      'student.bbox_head.loss_bbox.type': 'GIoULoss', 'student.bbox_head.conv_bias': True,
      'student.bbox_head.centerness_on_reg': None, 'student.test_cfg.nms.iou_threshold': 0.6,
      'teacher.bbox_head.loss_bbox.type': 'IoULoss', 'teacher.bbox_head.center_sampling': None}),
    ('maskd/fcos_r101_to_r50_coco',
     {'optim_wrapper.paramwise_cfg': dict(bias_lr_mult=2.0, bias_decay_mult=0.0),
      'train_pipeline.2.scales': [(1333, 640), (1333, 800)], 'student.data_preprocessor.bgr_to_rgb': False,
      'teacher.data_preprocessor.bgr_to_rgb': False, 'student.data_preprocessor.std': [1.0, 1.0, 1.0],
      'teacher.data_preprocessor.std': [1.0, 1.0, 1.0]}),
    # SKD weighs a mean as its authors their sum over 8; LD two pictures as three
    ('_base_/distillers/skd_seg_released',
     {'distillers.kd.loss_weight': 8 * 10, 'distillers.skd.loss_weight': 0.5, 'distillers.skd.pool_scale': 0.5}),
    ('control/segformer_b4_to_b0_cityscapes', {'auto_scale_lr.base_batch_size': 8}),
    ('control/segformer_b4_to_b0_ade20k', {'auto_scale_lr.base_batch_size': 16}),
    *((f'ld/gfl_r101_to_{depth}_coco{variant}',
       {'train_dataloader.batch_size': 2, f'{LD}.main_weight': 0.25 * share,
        f'{LD}.valuable_weight': 0.0 if variant else 0.25 * share})
      for variant in ('', '_main') for depth, share in (('r18', 1.5), ('r34', 1.5), ('r50', 1.0))),
    # A cascade stage regresses one box for all classes, so its student does, and masks are padded for it; DIST compares
    # scores alone, and its student has boxes for each class
    (f'maskd/{CASCADE}',
     {f'student.{AGNOSTIC}': True, 'teacher.roi_head.bbox_head.0.reg_class_agnostic': True,
      'student.data_preprocessor.pad_mask': True, 'train_pipeline.1.with_mask': True, 'val_evaluator.metric': 'bbox'}),
    ('maskd/faster_rcnn_r101_to_r50_coco',
     {f'student.{AGNOSTIC}': False, f'teacher.{AGNOSTIC}': False, 'train_pipeline.1.with_mask': None}),
    (f'dist/{CASCADE}',
     {f'student.{AGNOSTIC}': False, 'student.data_preprocessor.pad_mask': False, 'train_pipeline.1.with_mask': None}),
    # nothing of the ResNet is left
    ('maskd/retinanet_r101_to_mobilenetv2_coco',
     {'student.backbone.type': 'MobileNetV2', 'student.backbone.depth': None,
      'student.backbone.out_indices': (1, 2, 4, 6), 'student.neck.in_channels': [24, 32, 96, 320],
      'student.backbone.act_cfg': dict(type='LeakyReLU', negative_slope=0.1)}),
    ('maskd/deformable_detr_r50_to_r18_coco',
     {'model.distillers.maskd.loss_weight': 140.0, 'model.distillers.maskd.student_mask_from': 9000,
      'model.distillers.maskd.student_tap': 'backbone', CLIP: 0.1, 'train_cfg.max_epochs': 50,
      'param_scheduler.-1.milestones': [40],
      'optim_wrapper.optimizer': dict(type='AdamW', lr=2e-4, weight_decay=1e-4)}),
    # variants of Af-DCD
    (f'{AFDCD}_enhanced', weights(1.0, 2e-6, 0.005, projector='enhanced', mask=None)),
    (f'{AFDCD}_enhanced_centre', weights(1.0, 2e-6, 0.005, projector='enhanced', mask=dict(type='centre'))),
    (f'{AFDCD}_mimic', weights(0, 2e-6, 0)),
    (f'{AFDCD}_contrast', weights(0, 0, 0.005)),
]  # fmt: skip


def at(cfg: Config, key: str) -> Any:
    """What stands at a key; of ``student`` and ``teacher`` as they resolve."""
    side, _, rest = key.partition('.')
    networks = dict(student=student, teacher=teacher)
    value, rest = (networks[side](cfg), rest) if side in networks else (cfg, key)
    for part in rest.split('.'):
        value = value[int(part)] if isinstance(value, list) else (value or {}).get(part)
    return value


@pytest.mark.parametrize(('names', 'held'), HOLD, ids=[names for names, _ in HOLD])
def test_released_settings(names: str, held: dict) -> None:
    for name in names.split():
        cfg = leaf(name)
        assert {key: at(cfg, key) for key in held} == held, name


def test_cirkd_pairs_the_pictures_of_each_process() -> None:
    options = [*option_files('cirkd'), *(CONFIGS / 'cirkd').glob('*.py')]
    assert options and all(Config.fromfile(path).distillers.cirkd.gather is False for path in options)


SEGFORMER = {'at': 'at', 'cirkd': 'cirkd', 'cwd': 'cwd_feature', 'fitnet': 'fitnet', 'ifvd': 'ifvd', 'skd': 'skd'}


def test_segformer_features_are_taken_before_the_dropout() -> None:
    cfg, options = leaf('at/segformer_b4_to_b0_cityscapes'), {}
    for method, name in SEGFORMER.items():
        options[method] = leaf(f'{method}/segformer_b4_to_b0_cityscapes').model.distillers[name]
        assert options[method].student_tap == 'decode_head.fusion_conv', method
    cfg.model.distillers = options
    for method, one in build(cfg).distillers.items():
        (level,) = one.levels  # the tap is there in both networks
        assert (len(level.student), level.student[0], level.teacher[0]) == (3, 256, 256), method
