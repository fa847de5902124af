"""Settings are those of the networks that they reach: weights by the map, keys by the data, the kind of optimizer."""

import inspect
import math
import re
from functools import cache
from pathlib import Path

import pytest
from mmengine.config import Config, ConfigDict
from mmseg.registry import METRICS as MMSEG_METRICS

from mmdistill_dense.apps.recipes.compose import best, option_files, recipes
from mmdistill_dense.apps.recipes.named import Named, combinations, optimizer_problem, read_config
from mmdistill_dense.config.resolve import is_single_teacher, load_model
from mmdistill_dense.distillers import AfDCD
from tests.configs.test_configs import PAPER
from tools.docs.targets import read_targets

ROOT = Path(__file__).parents[2] / 'configs'
COCOSTUFF = dict(cocostuff=(0.5, 5e-6, 0.005, 4, (512, 512), 171))


@cache
def resolved(path: Path) -> Config:
    """A config; not to be changed."""
    return Config.fromfile(path)


@cache
def distiller(options: Path, name: str) -> ConfigDict:
    return resolved(options).distillers[name]


def afdcd(options: Path) -> AfDCD:
    return AfDCD(**{key: value for key, value in distiller(options, 'afdcd').items() if key != 'type'})


def usual(method: str) -> list[Named]:
    """The configs of a method beside labels, without its variants."""
    return [one for one in combinations(method) if one.variant is None and one.base in recipes()]


@pytest.mark.soak
def test_weights_of_a_sum_reach_the_papers_teacher_at_its_crops_alone() -> None:
    summed = [one for one in combinations('afdcd') if afdcd(one.options).fd_reduction == 'sum']
    assert summed
    for one in summed:
        *_, crop, _ = (PAPER | COCOSTUFF)[one.base.stem.rsplit('_', 1)[1]]
        assert one.base.stem.startswith('deeplabv3_r101_to_'), one.name
        recipe = resolved(one.base)
        assert [step.crop_size for step in recipe.train_pipeline if step.type == 'RandomCrop'] == [crop], one.name


@pytest.mark.parametrize('data', [*PAPER, *COCOSTUFF])
def test_other_pairs_have_the_papers_weights_in_units_of_the_mean(data: str) -> None:
    kd, fd, contrast, pool, (height, width), _ = (PAPER | COCOSTUFF)[data]
    options = best(option_files('afdcd'), f'net_to_other_{data}', 'seg')
    assert options and Config.fromfile(options).distillers.kd.loss_weight == kd
    method = afdcd(options)
    elements = 2048 * math.ceil(height / 8) * math.ceil(width / 8)
    assert (method.fd_reduction, method.fd_weight) == ('mean', pytest.approx(fd * elements, rel=5e-3))
    assert (method.ctr_weight, method.contrast['pool_size']) == (contrast, pool)


@pytest.mark.soak
def test_every_recipe_has_the_kind_of_optimizer_that_its_student_is_published_with() -> None:
    assert not [problem for recipe in recipes() if (problem := optimizer_problem(resolved(recipe)))]


def test_pcd_beside_labels_has_pixels_as_keys_and_at_most_a_third_of_them() -> None:
    """Of one pooled key a picture docs/results.md shows that it gives nothing; what was published with it keeps it."""
    chosen = [
        one for one in usual('pcd') if distiller(one.options, 'pcd').get('queue_size') != 'auto'
    ]  # it sees to both
    pooled = {one.file.stem for one in chosen if distiller(one.options, 'pcd').get('enqueue') != 'pixels'}
    assert pooled == {'retinanet_mobilenetv2_to_r18w16_bccd', 'toy_seg', 'toy_det'}
    pictures = {'bccd': 205, 'camvid': 367, 'mini': 126, 'nuclei': 267}
    for one in (one for one in chosen if 'toy' not in one.pair):
        option = distiller(one.options, 'pcd')
        count = pictures.get(one.base.stem.rsplit('_', 1)[1], 1464)  # VOC without the augmented list
        assert option.queue_size <= count * option.get('keys_per_image', 1) / 3, one.name


def test_the_command_for_the_test_server_writes_pictures_and_measures_nothing() -> None:
    given = re.findall(r'(test_\w+\.\S+)=(\S+)', (ROOT.parent / 'docs/datasets.md').read_text(encoding='utf-8'))
    cfg = Config.fromfile(ROOT / '_base_/recipes/deeplabv3_r101_to_r18_cityscapes.py')
    cfg.merge_from_dict({key: value == 'True' or value for key, value in given})
    evaluator = cfg.test_evaluator.to_dict()
    metric = MMSEG_METRICS.get(evaluator.pop('type'))
    bound = inspect.signature(metric).bind(**evaluator)  # to build it needs cityscapesscripts
    assert (bound.arguments['format_only'], bound.arguments['keep_results']) == (True, True)
    assert cfg.test_dataloader.dataset.data_prefix == dict(img_path='leftImg8bit/test', seg_map_path='gtFine/test')


def test_rows_of_skds_discriminator_say_so() -> None:
    for method in ('skd', 'ifvd', 'cwd'):
        targets = read_targets(ROOT / method / 'published.yml')
        theirs = [target for target in targets if re.search('CIRKD|Af-DCD', target.source)]
        assert theirs and all('discriminator' in target.source for target in theirs), method


@pytest.mark.parametrize(('method', 'score'), [('afdcd', 34.02), ('kd', 32.88), ('cirkd', 33.11)])
def test_coco_stuff_is_published_with_its_182_outputs(method: str, score: float) -> None:
    targets = read_targets(ROOT / method / 'published.yml')
    (target,) = (target for target in targets if target.recipe == 'deeplabv3_r101_to_r18_cocostuff')
    assert (target.student, target.teacher, target.value) == (32.60, 38.71, score) and '182/171' in target.source


def test_tokens_of_the_published_pairs_are_learned_by_the_loss_over_labelled_pixels() -> None:
    """As the released code, whose cross-entropy is torch's mean: ignored pixels do not count."""
    pairs = [one for one in usual('maskd') if one.base.stem.startswith('deeplabv3_r101_to_')]
    assert len({one.base for one in pairs}) == len(pairs) > 6
    teachers = {str(option): option for option in (resolved(one.base).model.teacher for one in pairs)}
    for option in teachers.values():
        teacher = load_model({key: value for key, value in option.items() if key != 'checkpoint'}, 'teacher').model
        assert teacher.decode_head.loss_decode.avg_non_ignore, option


@pytest.mark.parametrize('student', ['r18', 'pspnet_r18'])
def test_a_student_from_random_weights_is_the_same_but_for_its_start(student: str) -> None:
    name = f'deeplabv3_r101_to_{student}_cityscapes'
    plain, random = (Config.fromfile(ROOT / f'maskd/{name}{end}.py').model.student for end in ('', '_random-init'))
    plain, random = (load_model(option, 'student').model for option in (plain, random))
    assert plain.pop('pretrained') and random.pop('pretrained') is None
    assert plain == random and not plain.backbone.get('init_cfg')


def test_deformable_detr_learns_as_its_author_says() -> None:
    cfg = read_config('maskd:deformable_detr_r50_to_r18_coco')
    method = cfg.model.distillers.maskd
    assert (method.loss_weight, method.student_mask_from, method.student_tap) == (140.0, 9000, 'backbone')
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=2e-4, weight_decay=1e-4)
    assert (cfg.train_cfg.max_epochs, cfg.param_scheduler[-1].milestones) == (50, [40])
    assert cfg.optim_wrapper.clip_grad.max_norm == 0.1


@pytest.mark.soak
def test_what_a_pair_takes_over_from_another_leaves_no_head_without_a_type() -> None:
    """An option for the one's auxiliary head, say, where the other's teacher has none."""
    for recipe in recipes():
        model = Config.fromfile(recipe).model
        teachers = [model.teacher] if is_single_teacher(model.teacher) else model.teacher.values()
        for option in (model.student, *teachers):
            whole = load_model({key: value for key, value in option.items() if key != 'checkpoint'}, 'network').model
            parts = {key: part for key, part in whole.items() if key.endswith(('backbone', 'neck', 'head'))}
            assert not [key for key, part in parts.items() if isinstance(part, dict) and 'type' not in part], recipe
