"""What stands in published.yml hangs on the released settings: teachers, schedules, heads, weights and taps."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmseg.models.decode_heads import SegformerHead

from mmdistill_dense.apps.recipes.compose import methods, option_files
from mmdistill_dense.config.resolve import load_model
from tests.every_config import place, read
from tests.zoo.networks import build
from tools.docs.targets import read_targets

ROOT = Path(__file__).parents[2] / 'configs'
ONE, THREE = 'x101-64x4d_fpn_1x', 'x101-64x4d_fpn_ms-640-800-3x'
INHERIT = [('neck', 'neck'), ('bbox_head', 'bbox_head')]
# RetinaNet of the authors' configs: teacher, clipping, what is inherited; all at lr 0.01 with 500 steps of warm-up
RETINANET = {
    'pkd/retinanet_x101_1x_to_r50_coco': (ONE, None, None),
    'dist/retinanet_x101_1x_to_r50_coco': (ONE, None, None),
    'cwd/retinanet_x101_1x_to_r50_coco': (ONE, None, None),
    'fgd/retinanet_x101_1x_to_r50_coco_inherit': (ONE, 35, INHERIT),
    'mgd/retinanet_x101_to_r50_coco_inherit': (THREE, 35, INHERIT),
}
CLIPPED = ['fgd/reppoints_x101_to_r50_coco', 'fgd/gfl_r101_to_r50_coco', 'fgd/fcos_r101_to_r50_coco',
           'mgd/reppoints_x101_to_r50_coco']  # fmt: skip
SEGFORMER = {'at': 'at', 'cirkd': 'cirkd', 'cwd': 'cwd_feature', 'fitnet': 'fitnet', 'ifvd': 'ifvd', 'skd': 'skd'}


def leaf(name: str) -> Config:
    return read(place(name))


@pytest.mark.parametrize('name', RETINANET)
def test_retinanet_trains_as_its_authors(name: str) -> None:
    cfg, (teacher, clip, inherit) = leaf(name), RETINANET[name]
    assert teacher in cfg.model.teacher.cfg
    assert cfg.optim_wrapper.optimizer == dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4)
    assert (cfg.optim_wrapper.get('clip_grad') or {}).get('max_norm') == clip
    assert (cfg.param_scheduler[0].start_factor, cfg.param_scheduler[0].end) == (0.001, 500)
    assert (cfg.param_scheduler[1].milestones, cfg.train_cfg.max_epochs) == ([16, 22], 24)
    assert [tuple(entry) for entry in cfg.model.get('inherit', [])] == (inherit or [])


@pytest.mark.parametrize('student', ['r18', 'pspnet_r18'])
def test_dist_trains_segmentors_as_its_authors(student: str) -> None:
    """Their ``train_kd.py`` (hunto/DIST_KD): weight decay 5e-4, rate down to 1e-4, a test every 400 steps."""
    cfg = leaf(f'dist/deeplabv3_r101_to_{student}_cityscapes')
    assert cfg.optim_wrapper.optimizer == dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=5e-4)
    assert (cfg.param_scheduler[0].eta_min, cfg.train_cfg.val_interval, cfg.train_cfg.max_iters) == (1e-4, 400, 40000)


def test_dist_trains_the_student_of_the_cascade_with_boxes_for_each_class() -> None:
    student, base = (leaf(f'{one}/faster_rcnn_cascade_mask_x101_to_r50_coco') for one in ('dist', 'maskd'))
    for cfg, agnostic in ((student, False), (base, True)):
        model = load_model(cfg.model.student, 'model.student').model
        assert model.roi_head.bbox_head.reg_class_agnostic is agnostic
        assert model.data_preprocessor.get('pad_mask', False) is agnostic


def test_segformer_recipes_name_the_batch_of_their_learning_rate() -> None:
    for data, batch in (('cityscapes', 8), ('ade20k', 16)):
        recipe = read(ROOT / f'_base_/recipes/segformer_b4_to_b0_{data}.py')
        assert recipe.auto_scale_lr.base_batch_size == batch


def test_no_retinanet_number_stands_on_maskds_recipe_but_its_own() -> None:
    files = [ROOT / method / 'published.yml' for method in methods()]
    on = {file.parent.name for file in files if file.is_file() for target in read_targets(file)
          if target.recipe == 'retinanet_x101_to_r50_coco'}  # fmt: skip
    assert on == {'maskd'}


@pytest.mark.parametrize('name', CLIPPED)
def test_inheriting_students_of_fgd_and_mgd_clip_at_35(name: str) -> None:
    assert leaf(f'{name}_inherit').optim_wrapper.clip_grad.max_norm == 35


def test_fcos_students_have_the_tricks_and_their_teacher_has_not() -> None:
    for method in ('fgd', 'maskd'):
        model = leaf(f'{method}/fcos_r101_to_r50_coco_inherit').model
        student = load_model(model.student, 'student').model
        head = student.bbox_head
        assert (head.norm_on_bbox, head.center_sampling, head.loss_bbox.type) == (True, True, 'GIoULoss')
        assert head.conv_bias is True
        assert not head.get('centerness_on_reg') and student.test_cfg.nms.iou_threshold == 0.6
        theirs = load_model({k: v for k, v in model.teacher.items() if k != 'checkpoint'}, 'teacher').model.bbox_head
        assert theirs.loss_bbox.type == 'IoULoss' and 'center_sampling' not in theirs


def test_cirkd_pairs_the_pictures_of_each_process() -> None:
    options = [*option_files('cirkd'), *(ROOT / 'cirkd').glob('*.py')]
    assert options and all(Config.fromfile(path).distillers.cirkd.gather is False for path in options)


@pytest.mark.parametrize('variant', ['', '_main'])
def test_ld_weighs_two_pictures_as_the_authors_three(variant: str) -> None:
    weights: dict[str, Any] = {}
    for depth in ('r18', 'r34', 'r50'):
        cfg = leaf(f'ld/gfl_r101_to_{depth}_coco{variant}')
        assert cfg.train_dataloader.batch_size == 2
        weights[depth] = (cfg.model.distillers.ld.main_weight, cfg.model.distillers.ld.valuable_weight)
    assert weights['r50'] == (0.25, 0.0 if variant else 0.25)
    assert weights['r18'] == weights['r34'] == tuple(1.5 * weight for weight in weights['r50'])


def test_the_released_skd_weighs_a_mean_as_their_sum_over_8() -> None:
    released = leaf('_base_/distillers/skd_seg_released').distillers
    assert (released.kd.loss_weight, released.skd.loss_weight, released.skd.pool_scale) == (8 * 10, 0.5, 0.5)


@pytest.mark.parametrize('method', SEGFORMER)
def test_segformer_features_are_taken_before_the_dropout(method: str) -> None:
    cfg = leaf(f'{method}/segformer_b4_to_b0_cityscapes')
    assert cfg.model.distillers[SEGFORMER[method]].student_tap == 'decode_head.fusion_conv'
    distiller = build(cfg).distillers[SEGFORMER[method]]  # the tap is there in both networks
    (level,) = distiller.levels
    assert (len(level.student), level.student[0], level.teacher[0]) == (3, 256, 256)


def test_a_segformer_head_drops_channels_behind_the_tap_alone() -> None:
    torch.manual_seed(0)
    head = SegformerHead(in_channels=[4, 4], in_index=[0, 1], channels=16, num_classes=3, dropout_ratio=0.5).train()
    seen: dict[str, list] = {'fused': [], 'scored': []}
    head.fusion_conv.register_forward_hook(lambda *args: seen['fused'].append(args[2]))
    head.conv_seg.register_forward_pre_hook(lambda _, args: seen['scored'].append(args[0]))
    maps = [torch.randn(2, 4, side, side) for side in (8, 4)]
    for _ in range(2):
        head(maps)
    assert torch.equal(*seen['fused'])
    assert not torch.equal(*seen['scored'])
