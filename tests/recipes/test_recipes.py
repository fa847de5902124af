"""Which method options fit which recipe, what a config put together from them is, and the names of such configs."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdistill_dense.apps.recipes import compose
from mmdistill_dense.apps.recipes import named as named_configs
from mmdistill_dense.apps.recipes.compose import config_text, methods, options_for, parts_of, recipes
from mmdistill_dense.apps.recipes.named import Named, check_data, combinations, find_named, make_named, read_config
from mmdistill_dense.config.resolve import read_file
from mmdistill_dense.datasets.wrapped import classes_of
from mmdistill_dense.registry import MODELS
from mmdistill_dense.utils.literals import literal
from tests.every_config import CONFIGS, named, place

TEXTS = {
    'runtime': "default_scope = 'mmseg'\n",
    'pair': 'model = dict()\n',
    'datasets': 'train_dataloader = dict()\n',
    'schedules': 'optim_wrapper = dict()\n',
}


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / f'{name}.py'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(next((text for word, text in TEXTS.items() if word in name), ''))


def write_options(folder: Path, options: dict[str, str]) -> None:
    folder.mkdir(exist_ok=True)
    for name, line in options.items():
        (folder / f'{name}.py').write_text(f'# fits: {line}\n')


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of configs with one pair, one recipe and no options."""
    monkeypatch.setattr(compose, 'configs', lambda: tmp_path)
    parts = ['pairs/net_r101_to_r18_city', 'datasets/city', 'schedules/short', 'runtime_seg']
    write(tmp_path, *(f'_base_/{part}' for part in parts))
    folder = tmp_path / '_base_/recipes'
    folder.mkdir()
    files = [tmp_path / f'_base_/{part}.py' for part in parts]
    (folder / 'net_r101_to_r18_city.py').write_text(f'_base_ = {[str(file) for file in files]}\n')
    return tmp_path


NET = 'net_r101_to_r18_city'
VARIANTS = ('data city, variant mimic', 'data city, variant mimic_twice')
OTHERS = (
    *('det', 'teacher r50', 'pair r18 r101', 'teacher r18', 'student r101', 'teacher city', 'pair net and city'),
    'data r101',
)
SIDES = {
    ('a_and_b_to_c', 'seg'): ('teacher a and b', 'pair and'),
    ('c_from_a-b', 'pretrain'): ('student c', 'teacher a-b', 'pretrain'),
    ('toy_seg', 'seg'): ('pair toy', 'teacher toy', 'student toy', 'seg'),
}
KINDS = ('seg', 'maps', 'maps, seg')  # the last two for teachers that predict nothing


def test_parts_of_options_or_other_methods_fit_nothing(tree: Path) -> None:
    write_options(tree / '_base_/distillers', dict(_m='seg', n_city='seg', m_det='det'))
    assert options_for('m', NET) is None


def test_options_that_fit_alike_are_refused(tree: Path) -> None:
    write_options(tree / '_base_/distillers', dict(m_one='data city', m_two='student r18'))
    with pytest.raises(ValueError, match=r'm_one\.py and m_two\.py fit net_r101_to_r18_city equally well'):
        options_for('m', NET)


@pytest.mark.parametrize(('pair', 'asked', 'lines', 'chosen'), [
    # most words win, and the task counts least
    (NET, {}, ('seg',), 0),
    (NET, {}, ('data city', 'seg'), 0),
    (NET, {}, ('seg, data city', 'data city'), 0),
    (NET, {}, ('student r18, data city', 'seg, data city'), 0),
    (NET, {}, ('teacher net r101, student r18 city', 'seg, teacher r101, student r18, data city'), 0),
    (NET, {}, ('pair net r101 to r18 city', 'seg, teacher net r101, student r18 city'), 0),
    *((NET, {}, (line,), None) for line in OTHERS),
    # a variant is taken only when it is asked for
    (NET, {}, VARIANTS, None),
    (NET, dict(variant='mimic'), VARIANTS, 0),
    (NET, dict(variant='mimic_twice'), VARIANTS, 1),
    (NET, dict(variant='twice'), (*VARIANTS, 'seg'), None),
    *((pair, dict(task=task), (line,), 0 if line in fits else None) for (pair, task), fits in SIDES.items()
      for line in (*fits, 'teacher c', 'student a-b', 'teacher a', 'det')),
    *(('a_to_b', dict(task=task, maps=maps), KINDS, chosen)
      for task, maps, chosen in (('seg', False, 0), ('seg', True, 2), ('det', True, 1), ('det', False, None))),
])  # fmt: skip
def test_options_are_chosen_by_their_words(tmp_path: Path, pair: str, asked: dict, lines: tuple, chosen: Any) -> None:
    write_options(tmp_path, {f'm_{index}': line for index, line in enumerate(lines)})
    actual = compose.best(sorted(tmp_path.glob('*.py')), pair, **{'task': 'seg', **asked})
    assert (actual and actual.stem) == (None if chosen is None else f'm_{chosen}')


@pytest.mark.parametrize(('text', 'message'), [
    ('', r'm_x\.py: no line says what these options fit'),
    ('# fits: seg, student', "unknown item 'student' in '# fits: seg, student'; known: seg, det, pretrain, 'pair …'"),
    ('# fits: sec', "unknown item 'sec' in '# fits: sec'; known: "),
])  # fmt: skip
def test_a_line_that_cannot_be_read_is_refused(tree: Path, text: str, message: str) -> None:
    write(tree / '_base_/distillers', 'm_x')
    (tree / '_base_/distillers/m_x.py').write_text(text)
    with pytest.raises(ValueError, match=message):
        options_for('m', NET)


def test_a_teacher_of_maps_alone_fits_no_method_of_scores() -> None:
    assert options_for('kd', 'dinov2-vits14_to_deeplabv3_r18_voc') is None


def test_unknown_names_are_answered_with_close_ones() -> None:
    with pytest.raises(KeyError, match="method 'afdc': unknown. Close: afdcd"):
        options_for('afdc', 'toy_seg')
    with pytest.raises(KeyError, match=r"recipe 'toy_sag': unknown. Close: .*toy_seg"):
        parts_of('toy_sag')


def test_a_file_without_a_schedule_is_no_recipe(tree: Path) -> None:
    file = tree / '_base_/recipes/mine.py'
    file.write_text("_base_ = ['../pairs/net_r101_to_r18_city.py', '../datasets/city.py']\n")
    with pytest.raises(ValueError, match=r'it has no schedule, runtime\. A recipe needs'):
        parts_of(file)


def test_parts_of_ones_own_are_known_by_what_their_files_set(tmp_path: Path) -> None:
    """Not by where they lie, or in which order; a config names them relative to itself."""
    write(tmp_path, 'any/where/my_pair')
    data, recipe = tmp_path / 'my_data.py', tmp_path / 'my_recipe.py'
    data.write_text(TEXTS['datasets'])
    shipped = [CONFIGS / f'_base_/{name}.py' for name in ('runtime_seg', 'schedules/toy_450')]
    files = [shipped[0], data, shipped[1], tmp_path / 'any/where/my_pair.py']
    recipe.write_text(f'_base_ = {[str(file) for file in files]}\n')
    assert parts_of(recipe) == ('my_pair', 'my_data', 'toy_450', 'runtime_seg', 'seg', False, False)
    fragment = options_for('kd', recipe)
    assert fragment
    text = config_text('kd', recipe, fragment, tmp_path)
    assert "'./my_recipe.py'" in text
    (tmp_path / 'leaf.py').write_text(text)
    assert Config.fromfile(tmp_path / 'leaf.py').model.distillers == Config.fromfile(fragment).distillers


def test_a_whole_config_is_a_recipe(tmp_path: Path) -> None:
    """As the README's own config: of another package's files, with a teacher."""
    student = tmp_path / 'my_student.py'
    student.write_text("_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'\n")
    file = tmp_path / 'mine.py'
    file.write_text("_base_ = ['./my_student.py']\nmodel = dict(type='mmdistill_dense.DistillModel')\n")
    for recipe in (student, file):
        assert parts_of(recipe).task == 'det'
        assert options_for('pkd', recipe) == CONFIGS / '_base_/distillers/pkd_det.py'


# Names

PAIR = 'deeplabv3_r101_to_r18_cityscapes'


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr('mmdistill_dense.apps.recipes.named.find_spec', lambda name: None)
    with pytest.raises(ModuleNotFoundError, match='kd:toy_seg is for mmseg, .*pip install mmsegmentation, or onedl-'):
        read_config('kd:toy_seg')


@pytest.mark.sample(8)
@pytest.mark.parametrize('method', methods())
def test_a_method_changes_a_recipe_in_its_distillers_alone(method: str) -> None:
    made = {entry.base: entry for entry in reversed(list(combinations(method)))}
    entry = next(made[base] for base in [*recipes(), *recipes(pretraining=True)] if base in made)
    distilled, alone = entry.config().to_dict(), Config.fromfile(entry.base).to_dict()
    assert distilled['model'].pop('distillers') == distilled.pop('distillers')
    assert distilled.pop('work_dir') == f'work_dirs/{method}/{entry.file.stem}'
    assert 'distillers' not in alone['model']
    control = None if entry.base in recipes(pretraining=True) else f'work_dirs/control/{entry.base.stem}'
    assert alone.pop('work_dir', None) == control
    assert distilled == alone


def test_a_name_with_a_file_is_that_file() -> None:
    for name, file in (
        ('afdcd:toy_seg', 'afdcd/toy_seg'),
        ('control:toy_seg', 'control/toy_seg'),
        ('teachers:toy_seg', 'teachers/toy_seg'),
        (f'afdcd:{PAIR}:mimic', f'afdcd/{PAIR}_mimic'),
        ('fgd:fcos_r101_to_r50_coco:inherit', 'fgd/fcos_r101_to_r50_coco_inherit'),
    ):
        assert find_named(name) == place(file)
    (recipe,) = [path for path in recipes() if path.stem == 'deeplabv3_r101_to_r18_ade20k_maskd']
    for method, pair in (('maskd', 'deeplabv3_r101_to_r18_ade20k'), ('kd', recipe.stem)):
        actual = make_named(method, recipe)
        assert actual is not None and actual.pair == pair


def test_a_name_without_a_file_is_made_of_two() -> None:
    named_config = find_named('cwd:deeplabv3_r101_to_r18_voc:feature')
    assert isinstance(named_config, Named) and not named_config.file.is_file()
    assert (named_config.base.stem, named_config.options.stem) == ('deeplabv3_r101_to_r18_voc', 'cwd_seg_feature')
    cfg = read_config(named_config.name, {'model.distillers.cwd.loss_weight': 2.0, 'seed': 3})
    assert cfg.work_dir == 'work_dirs/cwd/deeplabv3_r101_to_r18_voc_feature'
    assert (cfg.model.distillers.cwd.loss_weight, cfg.distillers.cwd.loss_weight, cfg.seed) == (2.0, 50.0, 3)
    changed = find_named('pcd:mask-rcnn_r34_fpn_2x_coco:supervised-init')
    assert isinstance(changed, Named) and changed.base.stem == 'mask-rcnn_r34_fpn_2x_coco_pcd-init'
    assert changed.config().model.student.backbone.init_cfg.checkpoint == 'torchvision://resnet34'


@pytest.mark.parametrize(('name', 'settings', 'constants'), [
    ('afdcd:toy_seg', 'auto', 'afdcd.ctr_weight, model.distillers.afdcd.fd_reduction, '),
    ('kd:toy_seg', 'auto', None), ('kd:toy_det', 'canonical', None),
])  # fmt: skip
def test_settings_mean_the_same_in_both_programs(name: str, settings: str, constants: str | None) -> None:
    """mim merges an option into the file's config; the file's own constants win in both."""
    key = name.partition(':')[0]
    options = {f'model.distillers.{key}.settings': settings}
    named_config = find_named(name)
    by_mim = named_config.config() if isinstance(named_config, Named) else Config.fromfile(named_config)
    by_mim.merge_from_dict(options)
    with mock.patch.object(named_configs, 'print_log') as log:
        assert read_config(name, options).model == by_mim.model
    messages = [call.args[0] for call in log.call_args_list]
    assert bool(messages) == bool(constants) and (not constants or constants in messages[0])
    with pytest.raises(ValueError, match=rf"model\.distillers\.{key}\.settings='best' is unknown"):
        read_config(name, {f'model.distillers.{key}.settings': 'best'})


@pytest.mark.soak
def test_every_config_has_a_name_that_finds_it() -> None:
    assert not [entry.name for entry in named().values() if find_named(entry.name) not in (entry, entry.file)]


@pytest.mark.parametrize(('name', 'message'), [
    ('cdw:toy_seg', "method 'cdw': unknown. Close: pcd, cwd"),
    ('cwd:toy_sec', "pair 'toy_sec': unknown. Close: toy_se"),
    ('control:toy_sec', "recipe 'toy_sec': unknown. Close: toy_se"),
    ('teachers:toy_sec', "teacher 'toy_sec': unknown. Close: toy_se"),
    ('cwd:toy_seg:fature', "variant 'fature' of cwd does not fit toy_seg. variants of cwd that fit it: none, both"),
    ('pkd:toy_seg', 'pkd does not fit toy_seg. methods: afdcd, at, cankd'),
    ('ld:r18_from_byol-r50_imagenet', 'ld does not fit r18_from_byol-r50_imagenet. methods: featurematch, pcd'),
])  # fmt: skip
def test_mistakes_in_a_name_are_answered(name: str, message: str) -> None:
    with pytest.raises(KeyError) as error:
        find_named(name)
    assert message in error.value.args[0] and name in error.value.args[0]


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r'no such config .* It has a name: cwd:deeplabv3_r101_to_r18_voc:feat'):
        find_named('configs/cwd/deeplabv3_r101_to_r18_voc_feature.py')
    with pytest.raises(FileNotFoundError, match=r'no such config .* is named METHOD:PAIR'):
        find_named('mine.py')


def test_changes_that_a_config_does_not_take_are_named() -> None:
    with pytest.raises(ValueError, match=r'top-level distillers was changed, but model\.distillers was not'):
        read_config('cwd:deeplabv3_r101_to_r18_voc', {'distillers.cwd.loss_weight': 1})
    with pytest.raises(ValueError, match=r'model\.distillers\.cwd\.type'):
        read_config('cwd:deeplabv3_r101_to_r18_voc', {'model.distillers.cwd.type': 'DIST'})


def test_classes_are_those_of_the_built_data_set() -> None:
    """CamVid's METAINFO names void, which is no class; its files need not be there."""
    data = Config.fromfile(CONFIGS / '_base_/datasets/camvid_180x240.py').train_dataloader.dataset
    for dataset in (data, dict(type='RepeatDataset', times=2, dataset=data)):
        actual = classes_of(dataset)
        assert actual is not None and len(actual) == 11 and 'void' not in actual
    assert classes_of({**data, 'metainfo': dict(classes=['sky', 'car'])}) == ['sky', 'car']
    assert classes_of(dict(type='mmdet.CocoDataset', no_such_option=1))[0] == 'person'
    assert classes_of(dict(type='MyDataset')) is None


@pytest.mark.parametrize(('pair', 'data', 'task', 'message'), [
    (PAIR, 'coco_detection', 'det', 'the student is for seg, the data set for det'),
    (PAIR, 'voc12aug_512x512', 'seg', 'RandomCrop.crop_size'),
    ('deeplabv3_r101_to_r18_voc', 'ade20k_512x512', 'seg', 'model.student predicts 21 classes, .* data set has 150'),
    ('retinanet_r101_to_r50_coco', 'bccd', 'det', 'model.student predicts 80 classes, the training data set has 3'),
])  # fmt: skip
def test_a_data_set_that_does_not_fit_the_student_is_refused(pair: str, data: str, task: str, message: str) -> None:
    config = read_file(CONFIGS / f'_base_/recipes/{pair}.py')
    config.train_dataloader = Config.fromfile(CONFIGS / f'_base_/datasets/{data}.py').train_dataloader
    with pytest.raises(ValueError, match=message):
        check_data(config, task)


# One line swaps the method of a ready config: README's `_delete_`


@pytest.mark.parametrize(('name', 'base'), [('cwd:toy_seg', 'afdcd/toy_seg'), ('kd:toy_det', 'maskd/toy_det')])
def test_the_base_trains_the_other_method_alone(name: str, base: str, tmp_path: Path) -> None:
    options = read_config(name).model.distillers.to_dict()
    line = ', '.join(f'{name}={literal(option)}' for name, option in options.items())
    path = tmp_path / 'mine.py'
    path.write_text(
        f"_base_ = __import__('mmdistill_dense').base('mmdistill_dense::{base}.py')\n"
        f'model = dict(distillers=dict(_delete_=True, {line}))\n'
    )
    config = Config.fromfile(path)
    assert config.model.distillers.to_dict() == options
    init_default_scope(config.default_scope)
    config.model.teacher.pop('checkpoint', None)
    model = MODELS.build({**config.model, 'teacher': dict(config.model.teacher, allow_random=True)})
    assert [*model.distillers] == [*options]
