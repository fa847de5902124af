"""Settings are those of the networks that they reach, and what stands in published.yml hangs on the released ones."""

import math
from functools import cache
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdistill_dense.apps.recipes.compose import best, option_files, recipes
from mmdistill_dense.apps.recipes.named import Named, combinations, optimizer_problem
from mmdistill_dense.config.resolve import is_single_teacher, load_model
from mmdistill_dense.distillers import AfDCD
from tests.configs.test_configs import PAPER
from tests.every_config import CONFIGS, leaf, read, student, teacher
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
        assert not optimizer_problem(resolved(recipe)), recipe
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
    cfg, options = leaf('at/segformer_b4_to_b0_cityscapes'), {}
    for method, name in SEGFORMER.items():
        options[method] = leaf(f'{method}/segformer_b4_to_b0_cityscapes').model.distillers[name]
        assert options[method].student_tap == 'decode_head.fusion_conv', method
    cfg.model.distillers = options
    for method, one in build(cfg).distillers.items():
        (level,) = one.levels  # the tap is there in both networks
        assert (len(level.student), level.student[0], level.teacher[0]) == (3, 256, 256), method
