"""``mmdistill config``: what it writes resolves, what is missing is told, nothing is overwritten."""

import shutil
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.recipes import compose
from mmdistill_dense.apps.recipes.named import combinations
from mmdistill_dense.apps.recipes.new_config import base_file, recipe_of
from mmdistill_dense.config import resolve

ROOT = Path(__file__).parents[2] / 'configs'
PAIR = 'deeplabv3_r101_to_r18_cityscapes'


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configs of a checkout, to be written into."""
    shutil.copytree(ROOT, tmp_path / 'tree/configs')
    monkeypatch.setattr(compose, 'package_root', lambda package: tmp_path / 'tree')
    return tmp_path / 'tree/configs'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a pair of one's own."""
    shutil.copy(ROOT / '_base_/pairs/toy_seg.py', tmp_path / 'my_pair.py')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*words: str) -> None:
    assert main(['config', *words]) == 0


def refused(capsys: pytest.CaptureFixture, *words: str) -> str:
    assert main(['config', *words]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize('variant', ['', 'enhanced'])
def test_a_config_is_written_where_it_belongs(copy: Path, variant: str, capsys: pytest.CaptureFixture) -> None:
    leaf = copy / f'afdcd/{PAIR}{variant and f"_{variant}"}.py'
    text = leaf.read_text()
    leaf.unlink()
    call('--method', 'afdcd', '--pair', PAIR, *(['--variant', variant] if variant else []))
    assert leaf.read_text() == text
    assert str(leaf) in capsys.readouterr().out


def test_a_pair_on_another_data_set_gets_its_control(copy: Path, capsys: pytest.CaptureFixture) -> None:
    data = 'cityscapes_512x1024_stock'
    call('--method', 'kd', '--pair', PAIR, '--dataset', data)
    name = f'{PAIR}_{data}'
    assert 'sgd_40k' in capsys.readouterr().out
    parts = compose.parts_of(name)
    assert parts == (PAIR, data, 'sgd_40k', 'runtime_seg', 'seg', False, False)
    leaf, control = Config.fromfile(copy / f'kd/{name}.py'), Config.fromfile(copy / f'_base_/recipes/{name}.py')
    assert leaf.train_cfg == control.train_cfg
    assert leaf.model.distillers.kd.type == 'LogitKD'
    call('--method', 'afdcd', '--pair', PAIR, '--dataset', data)
    assert resolve.bases_of(copy / f'afdcd/{name}.py')[0] == copy / f'_base_/recipes/{name}.py'


def test_classes_are_those_of_the_built_data_set(copy: Path) -> None:
    """CamVid's METAINFO names void, which is no class; its files need not be there."""
    from mmdistill_dense.apps.recipes.named import classes_of

    data = Config.fromfile(copy / '_base_/datasets/camvid_180x240.py').train_dataloader.dataset
    for dataset in (data, dict(type='RepeatDataset', times=2, dataset=data)):
        found = classes_of(dataset)
        assert found is not None and len(found) == 11 and 'void' not in found
    assert classes_of({**data, 'metainfo': dict(classes=['sky', 'car'])}) == ['sky', 'car']
    assert classes_of(dict(type='mmdet.CocoDataset', no_such_option=1))[0] == 'person'
    assert classes_of(dict(type='MyDataset')) is None


def test_a_detecting_pair_is_told_by_its_data(copy: Path) -> None:
    call('--method', 'pcd', '--pair', 'retinanet_r101_to_r50_coco', '--dataset', 'coco_detection_ms')
    assert compose.parts_of('retinanet_r101_to_r50_coco_coco_detection_ms')[2:] == (
        'sgd_1x',
        'runtime_det',
        'det',
        False,
        False,
    )


def test_a_pair_of_ones_own(folder: Path, capsys: pytest.CaptureFixture) -> None:
    call('--method', 'kd', '--pair', 'my_pair.py', '--dataset', 'shapes_seg', '--schedule', 'toy_450')
    leaf, control = Config.fromfile('my_pair_kd.py'), Config.fromfile('my_pair_control.py')
    same = Config.fromfile(ROOT / '_base_/recipes/toy_seg.py')
    assert {**control, 'work_dir': ''} == {**same, 'work_dir': ''}
    assert leaf.model.distillers.kd.type == 'LogitKD'
    assert 'mim train mmseg' in capsys.readouterr().out


def test_the_number_of_teachers_and_not_the_name_chooses_the_options(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    (folder / 'my_pair.py').rename('leaf_and_fruit.py')
    call('--method', 'kd', '--pair', 'leaf_and_fruit.py', '--dataset', 'shapes_seg')
    assert Config.fromfile('leaf_and_fruit_kd.py').model.distillers.kd.type == 'LogitKD'
    assert compose.options_for('kd', 'leaf_and_fruit_control.py').stem == 'kd_seg'
    (folder / 'two.py').write_text("_base_ = 'leaf_and_fruit.py'\n" + TWO)
    said = refused(capsys, '--method', 'cwd', '--pair', 'two.py', '--dataset', 'shapes_seg')
    assert 'no method options fit two' in said and 'Options for several teachers name them' in said


TWO = "model = dict(teacher=dict(_delete_=True, a=dict(cfg='a.py'), b=dict(cfg='b.py')))\n"


def test_the_wrong_kind_of_optimizer_is_said(folder: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copy(ROOT / '_base_/pairs/segformer_b4_to_b0_ade20k.py', 'my_former.py')
    words = ('--method', 'kd', '--pair', 'my_former.py', '--dataset', 'ade20k_512x512_stock', '--out')
    call(*words, 'sgd.py')
    said = capsys.readouterr().out
    assert 'trains it with AdamW at lr 6e-05, this config with SGD at lr 0.02' in said and 'segformer_160k' in said
    call(*words, 'adamw.py', '--schedule', 'segformer_160k')
    assert 'warning' not in capsys.readouterr().out


def test_settings_are_written_in_place_of_the_constants(folder: Path, capsys: pytest.CaptureFixture) -> None:
    call('--method', 'maskd', '--pair', 'my_pair.py', '--dataset', 'shapes_seg', '--settings', 'auto')
    text = Path('my_pair_maskd_auto.py').read_text()
    assert "type='MasKD'" in text and "settings='auto'" in text and 'loss_weight' not in text
    cfg = Config.fromfile('my_pair_maskd_auto.py')
    assert set(cfg.model.distillers.maskd) == {'type', 'learn', 'settings'}
    call('--method', 'cwd', '--pair', 'toy_seg', '--settings', 'auto', '--out', 'mine.py')
    assert Config.fromfile('mine.py').model.distillers == dict(cwd=dict(type='CWD', settings='auto'))
    said = refused(capsys, '--method', 'skd', '--pair', 'toy_seg', '--settings', 'canonical')
    assert "--settings canonical: skd_seg.skd.settings='canonical' is unknown; SKD has" in said


def test_a_name_that_would_end_the_text_of_a_config_is_refused_and_a_folder_of_any_name_is_not(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    assert "it's.py has ' in it" in refused(capsys, '--method', 'kd', '--pair', 'toy_seg', '--out', "it's.py")
    (folder / "Bob's").mkdir()
    call('--method', 'kd', '--pair', 'toy_seg', '--out', "Bob's/mine.py")
    assert Config.fromfile("Bob's/mine.py").work_dir == 'work_dirs/kd/mine'


def test_method_options_of_ones_own(folder: Path) -> None:
    (folder / 'kd_mine.py').write_text("distillers = dict(kd=dict(type='LogitKD', loss_weight=3.0))\n")
    call('--method', 'kd_mine.py', '--pair', 'toy_seg', '--out', 'deep/mine.py')
    cfg = Config.fromfile(folder / 'deep/mine.py')
    assert cfg.model.distillers == dict(kd=dict(type='LogitKD', loss_weight=3.0))
    assert cfg.train_cfg == Config.fromfile(ROOT / '_base_/recipes/toy_seg.py').train_cfg


@pytest.mark.parametrize(('pair', 'data', 'told'), [
    (PAIR, 'coco_detection', 'the student is for seg, the data set for det'),
    (PAIR, 'voc12aug_512x512', 'RandomCrop.crop_size'),
    (PAIR, 'ade20k_512x512', 'RandomCrop.crop_size'),
    ('deeplabv3_r101_to_r18_voc', 'ade20k_512x512', 'model.student predicts 21 classes, the training data set has 150'),
    ('retinanet_r101_to_r50_coco', 'bccd', 'model.student predicts 80 classes, the training data set has 3'),
    ('whole.py', 'shapes_seg', 'whole.py and shapes_seg.py both set train_dataloader, and a key may stand in one base'),
    ('broken.py', 'shapes_seg', '--pair broken.py --dataset shapes_seg: '),
    ('lost.py', 'shapes_seg', '--pair lost.py --dataset shapes_seg: '),
])  # fmt: skip
def test_parts_that_do_not_fit_together_leave_nothing_behind(
    pair: str, data: str, told: str, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    (folder / 'whole.py').write_text((folder / 'my_pair.py').read_text() + 'train_dataloader = dict(batch_size=2)\n')
    (folder / 'broken.py').write_text('model = dict(\n')
    (folder / 'lost.py').write_text("_base_ = ['./nowhere.py']\n")
    before = sorted(folder.rglob('*'))
    method = 'pkd' if data in ('coco_detection', 'bccd') else 'kd'
    said = refused(capsys, '--method', method, '--pair', pair, '--dataset', data, '--out', 'deep/er/x.py')
    assert told in said and f'--pair {pair} --dataset {data}' in said
    assert sorted(folder.rglob('*')) == before and 'train ' not in capsys.readouterr().out


@pytest.mark.parametrize('words', [
    ('--method', 'kd', '--pair', 'my_pair.py', '--dataset', 'mine.py'),
    ('--method', 'mine.py', '--pair', 'my_pair.py', '--dataset', 'shapes_seg'),
])  # fmt: skip
def test_modules_of_ones_own_are_named_in_the_written_config(
    words: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture
) -> None:
    """The runtime names modules too, and mmengine lets one base alone set a key."""
    data = (ROOT / '_base_/datasets/shapes_seg.py').read_text()
    rest = data if 'kd' in words else "distillers = dict(kd=dict(type='LogitKD'))\n"
    (folder / 'mine.py').write_text(f"custom_imports = dict(imports=['argparse'])\n{rest}")
    said = refused(capsys, *words, '--out', 'x.py')
    assert 'both set custom_imports' in said and 'Take it out of mine.py, call' in said
    place, line = said.partition('add to ')[2].split(': ', 1)
    (folder / 'mine.py').write_text(rest)
    call(*words, '--out', 'x.py')
    assert place == ('x_control.py' if 'kd' in words else 'x.py')
    with (folder / place).open('a') as file:
        file.write(line)
    assert {*Config.fromfile('x.py').custom_imports.imports} == {'argparse', 'mmdistill_dense.engine.launch'}


def test_files_that_were_there_stay_when_something_fails(folder: Path, capsys: pytest.CaptureFixture) -> None:
    words = ('--pair', 'my_pair.py', '--dataset', 'shapes_seg', '--schedule', 'toy_450', '--out', 'x.py')
    for _ in range(2):  # the same text
        call('--method', 'kd', *words)
    before = {path: path.read_text() for path in folder.glob('x*.py')}
    (folder / 'broken.py').write_text('distillers = undefined\n')
    refused(capsys, '--method', 'broken.py', *words[:-1], 'y.py')
    assert 'x.py exists with other contents' in refused(capsys, '--method', 'cwd', *words)
    assert before == {path: path.read_text() for path in folder.glob('[xy]*.py')} and len(before) == 2


def test_a_data_set_of_no_task_is_refused(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / 'bare.py').write_text('train_dataloader = dict(batch_size=2)\n')
    said = refused(capsys, '--method', 'kd', '--pair', 'my_pair.py', '--dataset', 'bare.py')
    assert 'bare.py: train_dataloader ends in neither PackSegInputs nor PackDetInputs' in said


def test_a_variant_of_a_file_of_options_is_refused(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / 'kd_mine.py').write_text("distillers = dict(kd=dict(type='LogitKD'))\n")
    said = refused(capsys, '--method', 'kd_mine.py', '--pair', 'toy_seg', '--variant', 'zzz')
    assert '--variant zzz: --method kd_mine.py is already a file of options' in said


@pytest.mark.parametrize(('words', 'told'), [
    (('--method', 'afdc', '--pair', 'toy_seg'), "method 'afdc': unknown. Close: afdcd"),
    (('--method', 'kd', '--pair', 'toy_sec'), "pair 'toy_sec': unknown. Close: toy_seg"),
    (('--method', 'kd', '--pair', 'my_pear.py'), '--pair my_pear.py: no such file (working folder '),
    (('--method', 'kd', '--pair', 'none/toy_seg.py'), '--pair none/toy_seg.py: no such file'),
    (('--method', 'kd', '--pair', PAIR, '--dataset', 'voc12'), "dataset 'voc12': unknown. Close: voc12"),
    (('--method', 'kd', '--pair', PAIR, '--schedule', 'sgd_4k'), "schedule 'sgd_4k': unknown. Close: sgd_40k"),
    (('--method', 'kd', '--pair', PAIR, '--schedule', 'camvid_800'), 'no such recipe for deeplabv3_r101_to_r18'),
    (('--method', 'afdcd', '--pair', 'toy_seg', '--variant', 'odd'), 'no method options fit toy_seg'),
    (('--method', 'pkd', '--pair', 'toy_det', '--dataset', 'voc12_512x512'), 'toy_det with a data set for seg (voc12'),
    (('--method', 'pkd', '--pair', 'toy_det', '--dataset', 'shapes_det', '--schedule', 'sgd_40k', '--out', 'no/x.py'),
     "the data set is for det, but the schedule keeps the best checkpoint by 'mIoU'"),
    (('--all', '--method', 'afdc'), "method 'afdc': unknown"),
])  # fmt: skip
def test_mistakes_are_answered(words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture) -> None:
    assert told in refused(capsys, *words)


@pytest.mark.soak
def test_the_list_tells_what_is_there_and_what_fits(capsys: pytest.CaptureFixture) -> None:
    call('--list')
    lines = capsys.readouterr().out.splitlines()
    names = lines[0].split()
    assert names == compose.methods()
    marks = {line.split()[0]: dict(zip(names, line.split()[1:], strict=True)) for line in lines[1:-2]}
    assert set(marks) == {path.stem for path in compose.recipes()}
    assert marks['toy_seg']['afdcd'] == marks[f'{PAIR}_maskd']['maskd'] == 'x'
    assert marks[f'{PAIR}_maskd']['afdcd'] == marks[PAIR]['maskd'] == 'o'


def test_all_writes_what_has_no_file_and_leaves_what_was_edited(copy: Path, capsys: pytest.CaptureFixture) -> None:
    edited = copy / f'afdcd/{PAIR}.py'
    edited.write_text(edited.read_text() + 'seed = 1\n')
    before = {path: path.read_text() for path in copy.glob('afdcd/*.py')}
    usual = [one for one in combinations('afdcd') if one.variant is None]
    missing = [one for one in usual if not one.file.is_file()]
    call('--all', '--method', 'afdcd')
    assert f'afdcd: {len(usual)} configs, {len(missing)} written' in capsys.readouterr().out
    assert len(missing) > 30 and all(one.file.read_text() == one.text() for one in missing)
    assert {path: path.read_text() for path in before} == before


def test_all_needs_a_checkout(copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    copy.parent.rename(copy.parents[1] / '.mim')
    monkeypatch.setattr(compose, 'package_root', lambda package: copy.parents[1] / '.mim')
    assert 'installed without one' in refused(capsys, '--all')


def test_a_folder_of_pictures_without_labels(folder: Path, capsys: pytest.CaptureFixture) -> None:
    Path('more').mkdir()
    main(['config', '--method', 'kd', '--pair', 'toy_seg', '--unlabelled', 'more', '--out', 'mine.py'])
    assert Config.fromfile('mine.py').model.unlabelled == dict(data_root='more', ratio=1)
    words = ['--method', 'kd', '--pair', 'toy_seg', '--unlabelled', 'none', '--out', 'other.py']
    assert '--unlabelled none: no such folder' in refused(capsys, *words)


@pytest.mark.parametrize(
    ('method', 'name'), [('maskd', 'deeplabv3_r101_to_r18_ade20k_maskd'), ('kd', 'deeplabv3_r101_to_r18_ade20k')]
)
def test_a_method_s_own_recipe_comes_before_that_of_all(method: str, name: str) -> None:
    found = recipe_of(base_file('pairs', 'deeplabv3_r101_to_r18_ade20k'), None, None, method)
    assert found is not None and found.stem == name
