"""What stands in published.yml hangs on the released settings: teachers, schedules, heads, weights and taps."""

import pytest
import torch
from mmengine.config import Config
from mmseg.models.decode_heads import SegformerHead

from mmdistill_dense.apps.recipes.compose import option_files
from tests.every_config import CONFIGS, leaf, read, student, teacher
from tests.zoo.networks import build

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
CLIPPED = ('fgd/reppoints_x101_to_r50_coco', 'fgd/gfl_r101_to_r50_coco', 'fgd/fcos_r101_to_r50_coco',
           'mgd/reppoints_x101_to_r50_coco')  # fmt: skip
SEGFORMER = {'at': 'at', 'cirkd': 'cirkd', 'cwd': 'cwd_feature', 'fitnet': 'fitnet', 'ifvd': 'ifvd', 'skd': 'skd'}


@pytest.mark.parametrize('name', RETINANET)
def test_retinanet_trains_as_its_authors(name: str) -> None:
    cfg, (taught, clip, inherit) = leaf(name), RETINANET[name]
    assert taught in cfg.model.teacher.cfg
    assert cfg.optim_wrapper.optimizer == dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4)
    assert (cfg.optim_wrapper.get('clip_grad') or {}).get('max_norm') == clip
    assert (cfg.param_scheduler[0].start_factor, cfg.param_scheduler[0].end) == (0.001, 500)
    assert (cfg.param_scheduler[1].milestones, cfg.train_cfg.max_epochs) == ([16, 22], 24)
    assert [tuple(entry) for entry in cfg.model.get('inherit', [])] == (inherit or [])


def test_inheriting_students_clip_at_35() -> None:
    assert all(leaf(f'{name}_inherit').optim_wrapper.clip_grad.max_norm == 35 for name in CLIPPED)


def test_dist_trains_as_its_authors() -> None:
    """Their ``train_kd.py`` (hunto/DIST_KD): weight decay 5e-4, rate down to 1e-4, a test every 400 steps."""
    for name in ('r18', 'pspnet_r18'):
        cfg = leaf(f'dist/deeplabv3_r101_to_{name}_cityscapes')
        assert cfg.optim_wrapper.optimizer == dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=5e-4)
        schedule = cfg.param_scheduler[0].eta_min, cfg.train_cfg.val_interval, cfg.train_cfg.max_iters
        assert schedule == (1e-4, 400, 40000)


def test_fcos_students_have_the_tricks_and_their_teacher_has_not() -> None:
    for method in ('fgd', 'maskd'):
        cfg = leaf(f'{method}/fcos_r101_to_r50_coco_inherit')
        head, theirs = student(cfg).bbox_head, teacher(cfg).bbox_head
        assert (head.norm_on_bbox, head.center_sampling, head.loss_bbox.type) == (True, True, 'GIoULoss')
        assert head.conv_bias is True and not head.get('centerness_on_reg')
        assert student(cfg).test_cfg.nms.iou_threshold == 0.6
        assert theirs.loss_bbox.type == 'IoULoss' and 'center_sampling' not in theirs


def test_single_numbers_of_the_released_code() -> None:
    """CIRKD pairs the pictures of each process; SKD weighs a mean as their sum over 8; LD two pictures as three."""
    options = [*option_files('cirkd'), *(CONFIGS / 'cirkd').glob('*.py')]
    assert options and all(Config.fromfile(path).distillers.cirkd.gather is False for path in options)
    released = leaf('_base_/distillers/skd_seg_released').distillers
    assert (released.kd.loss_weight, released.skd.loss_weight, released.skd.pool_scale) == (8 * 10, 0.5, 0.5)
    for data, batch in (('cityscapes', 8), ('ade20k', 16)):
        recipe = read(CONFIGS / f'_base_/recipes/segformer_b4_to_b0_{data}.py')
        assert recipe.auto_scale_lr.base_batch_size == batch
    for variant in ('', '_main'):
        for depth, share in (('r18', 1.5), ('r34', 1.5), ('r50', 1.0)):
            cfg = leaf(f'ld/gfl_r101_to_{depth}_coco{variant}')
            ld = cfg.model.distillers.ld
            assert cfg.train_dataloader.batch_size == 2
            assert (ld.main_weight, ld.valuable_weight) == (0.25 * share, 0.0 if variant else 0.25 * share)


def test_segformer_features_are_taken_before_the_dropout() -> None:
    for method, name in SEGFORMER.items():
        cfg = leaf(f'{method}/segformer_b4_to_b0_cityscapes')
        assert cfg.model.distillers[name].student_tap == 'decode_head.fusion_conv', method
        (level,) = build(cfg).distillers[name].levels  # the tap is there in both networks
        assert (len(level.student), level.student[0], level.teacher[0]) == (3, 256, 256), method


def test_a_segformer_head_drops_channels_behind_the_tap_alone() -> None:
    torch.manual_seed(0)
    head = SegformerHead(in_channels=[4, 4], in_index=[0, 1], channels=16, num_classes=3, dropout_ratio=0.5).train()
    seen: dict[str, list] = {'fused': [], 'scored': []}
    head.fusion_conv.register_forward_hook(lambda *args: seen['fused'].append(args[2]))
    head.conv_seg.register_forward_pre_hook(lambda _, args: seen['scored'].append(args[0]))
    maps = [torch.randn(2, 4, side, side) for side in (8, 4)]
    for _ in range(2):
        head(maps)
    assert torch.equal(*seen['fused']) and not torch.equal(*seen['scored'])
