"""Settings are those of the networks that they reach: weights by the map, keys by the data, the kind of optimizer."""

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
from tests.every_config import leaf, student, teacher

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
