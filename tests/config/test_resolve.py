"""Names of configs, files that cannot be read, rules of merging, and what a config holds: flat, plain, as text."""

import argparse
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config, ConfigDict

from mmdistill_dense.apps.inspect.generated_batch import pipeline_size
from mmdistill_dense.apps.options import OptionsAction
from mmdistill_dense.apps.recipes.named import read_config
from mmdistill_dense.config import resolve
from mmdistill_dense.config.resolve import written
from mmdistill_dense.config.values import layers, plain, type_name
from mmdistill_dense.datasets.wrapped import classes_of
from mmdistill_dense.guards.config import check_crop
from mmdistill_dense.unlabelled.pictures import training_steps
from tests import toys


def test_names_of_the_packages_and_of_our_own_fragments():
    assert all(resolve.find_config(name).is_file() for name in (*toys.SEG.values(), *toys.DET.values()))
    assert resolve.find_config(toys.SEG['fcn'].removesuffix('.py')) == resolve.find_config(toys.SEG['fcn'])
    assert resolve.base('mmdistill_dense::_base_/schedules/toy_450.py').endswith('configs/_base_/schedules/toy_450.py')
    old = resolve.find_config('mmdistill_dense::control/toy_seg')  # as configs of other folders name it since 0.1
    assert old == resolve.find_config('mmdistill_dense::_base_/recipes/toy_seg.py')


def test_unknown_config_names_close_ones():
    with pytest.raises(FileNotFoundError) as error:
        resolve.find_config('mmseg::fcn/fcn_r18-d8_cityscapes.py', 'model.student.cfg')
    message = str(error.value)
    assert message.startswith("model.student.cfg='mmseg::fcn/fcn_r18-d8_cityscapes.py'")
    assert 'Close: mmseg::fcn/fcn_r' in message
    with pytest.raises(FileNotFoundError, match=r'mmdet has no such config. mmseg has one: mmseg::fcn/fcn_r18-d8_4xb'):
        resolve.find_config('mmdet::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py')


@pytest.mark.parametrize('name', ['mmseg::bisenetv2/bisenetv2', 'mmdet::yolo'])
def test_no_part_of_a_config_is_proposed(name):
    """What `_base_` holds trains nothing; a word alone means the configs whose names begin with it."""
    with pytest.raises(FileNotFoundError) as error:
        resolve.find_config(name)
    message = str(error.value)
    assert name.split('/')[0] in message.split('such config.')[1] and '_base_' not in message


def test_unknown_file_names_the_folder_and_the_zoo_form(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        resolve.find_config('mine.py', 'model.teacher.cfg')
    assert "model.teacher.cfg='mine.py'" in str(error.value) and str(tmp_path) in str(error.value)
    assert "'mmseg::…'" in str(error.value)
    (tmp_path / 'mine.py').touch()
    assert resolve.find_config('mine.py').name == 'mine.py'


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    message = "cfg='nosuchzoo::.*'nosuchzoo'.*not an installed package.* begin with mmseg::, mmdet::"
    with pytest.raises(ModuleNotFoundError, match=message):
        resolve.find_config('nosuchzoo::a/b.py')
    bare = tmp_path / 'barezoo'
    bare.mkdir()
    (bare / '__init__.py').touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r'barezoo has no configs.*mim'):
        resolve.find_config('barezoo::a/b.py')


def test_checkout_is_found_where_there_is_no_mim_folder(tmp_path, monkeypatch):
    for file in ('checkoutzoo/__init__.py', 'configs/x.py'):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert resolve.find_config('checkoutzoo::x') == tmp_path / 'configs/x.py'


def test_base_expression_works_from_another_folder(tmp_path):
    path = tmp_path / 'mine.py'
    name = 'mmdistill_dense::_base_/schedules/_epochs.py'
    path.write_text(f"_base_ = __import__('mmdistill_dense').base('{name}')\nextra = 1\n")
    config = Config.fromfile(path)
    assert config.default_hooks.distill.type == 'mmdistill_dense.DistillHook' and config.extra == 1


BROKEN = 'x = 1\nmodel = dict(\n'
WRITTEN = {
    'the file itself': {'leaf.py': BROKEN},
    'a base': {'leaf.py': "_base_ = ['good.py', 'bad.py']\n", 'good.py': 'y = 1\n', 'bad.py': BROKEN},
    'a base of a base': {'leaf.py': "_base_ = 'middle.py'\n", 'middle.py': "_base_ = 'bad.py'\n", 'bad.py': BROKEN},
    'the leaf with a base': {'leaf.py': f"_base_ = 'good.py'\n{BROKEN}", 'good.py': 'y = 1\n'},
}


@pytest.mark.parametrize('case', WRITTEN)
def test_the_broken_file_is_named(tmp_path, case):
    for name, text in WRITTEN[case].items():
        (tmp_path / name).write_text(text)
    bad, line = tmp_path / ('bad.py' if 'bad.py' in WRITTEN[case] else 'leaf.py'), 3 if 'leaf' in case else 2
    with pytest.raises(ValueError, match=f"{bad}: line {line} is no Python: '\\(' was never closed"):
        read_config(tmp_path / 'leaf.py')
    with pytest.raises(ValueError, match=f'{bad}: line {line} is no Python'):
        resolve.load_model(dict(cfg=str(tmp_path / 'leaf.py')), 'model.student')


def test_a_broken_module_that_a_config_imports_is_named(tmp_path, monkeypatch):
    """The error has its name already."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'own_networks_with_a_fault.py').write_text(BROKEN)
    (tmp_path / 'leaf.py').write_text("custom_imports = dict(imports=['own_networks_with_a_fault'])\n")
    with pytest.raises(ValueError, match=f'{tmp_path}/own_networks_with_a_fault.py: line 2 is no Python'):
        resolve.read_file(tmp_path / 'leaf.py')


def test_load_model_merges_the_keys_beside_cfg():
    option = dict(cfg=toys.SEG['fcn'], pretrained=None, decode_head=dict(num_classes=3))
    loaded = resolve.load_model(option, 'model.student')
    assert (loaded.scope, loaded.source) == ('mmseg', toys.SEG['fcn'])
    assert loaded.model.decode_head.num_classes == 3 and loaded.model.decode_head.type == 'FCNHead'
    assert loaded.model.pretrained is None and 'cfg' not in loaded.model
    assert option == dict(cfg=toys.SEG['fcn'], pretrained=None, decode_head=dict(num_classes=3))


def test_top_level_data_preprocessor_joins_the_model(tmp_path):
    path = tmp_path / 'a.py'
    path.write_text("default_scope = 'mmdet'\ndata_preprocessor = dict(type='P', mean=[1])\nmodel = dict(type='Net')\n")
    loaded = resolve.load_model(dict(cfg=str(path)), 'model.student')
    assert loaded.model.data_preprocessor == dict(type='P', mean=[1]) and loaded.scope == 'mmdet'
    assert resolve.model_of(dict(data_preprocessor='P', model=dict(data_preprocessor='own'))).data_preprocessor == 'own'


def test_options_of_another_form_are_refused(tmp_path):
    assert resolve.load_model(dict(type='Net', _scope_='mmseg'), 'model.student').scope == 'mmseg'
    with pytest.raises(KeyError, match=r"model\.student: give cfg='mmseg::…'.*dict with its type.*got \['width'\]"):
        resolve.load_model(dict(width=3), 'model.student')
    with pytest.raises(TypeError, match=r'model.teacher.cfg must name .* got dict.*model.teacher=dict\(type=…'):
        resolve.load_model(dict(cfg=dict(type='Net')), 'model.teacher')
    (tmp_path / 'a.py').write_text('x = 1\n')
    with pytest.raises(KeyError, match=r'model\.teacher\.cfg=.*has no key model'):
        resolve.load_model(dict(cfg=str(tmp_path / 'a.py')), 'model.teacher')
    for option in ('mmseg::fcn', None, 3):
        with pytest.raises(KeyError, match=f'model.student of a DistillModel must be a dict .* got {option!r}'):
            resolve.student_option(dict(type='mmdistill_dense.DistillModel', student=option))


def test_without_pretrained_weights_of_any_kind():
    """SegFormer's are in backbone.init_cfg, those of a ResNet in pretrained."""
    segformer = dict(cfg='mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', pretrained=False)
    assert 'init_cfg' not in resolve.load_model(segformer, 'model.student').model.backbone
    model = resolve.load_model(dict(cfg=toys.SEG['fcn'], pretrained=False), 'model.student').model
    assert 'pretrained' not in model
    assert 'Pretrained' not in str(resolve.load_model(dict(cfg=toys.DET['retinanet'], pretrained=False), 'k').model)


@pytest.mark.parametrize(('kind', 'pretrained'), [('mmdet.ResNet', True), ('ResNet', True), ('mmseg.ResNet', False)])
def test_the_default_scope_before_a_type_changes_nothing(kind, pretrained):
    option = dict(cfg='mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', backbone=dict(type=kind, depth=101))
    assert ('norm_eval' in resolve.load_model(option, 'model.student').model.backbone) is pretrained
    option = dict(option, backbone=dict(type=kind, of_mine=(1, 2)))
    assert resolve.load_model(option, 'model.student').model.backbone.of_mine == (1, 2), 'a tuple stays one'


def test_merge_rules():
    model = ConfigDict(a=dict(type='A', x=1, y=dict(z=1)), b=[dict(type='B', x=1), dict(type='B', x=2)], c=(1, 2))
    merged = resolve.merge(model, dict(a=dict(x=2)))
    assert merged.a == dict(type='A', x=2, y=dict(z=1)), 'same or no type: merged'
    assert resolve.merge(model, dict(a=dict(type='A', y=dict(w=3)))).a.y == dict(z=1, w=3)
    assert resolve.merge(model, dict(a=dict(type='C', w=1))).a == dict(type='C', w=1), 'another type replaces'
    assert resolve.merge(model, dict(a=dict(_delete_=True, x=5))).a == dict(x=5), '_delete_ replaces'
    assert resolve.merge(model, dict(b={'1': dict(x=9)})).b == [dict(type='B', x=1), dict(type='B', x=9)]
    assert resolve.merge(model, dict(b={'0': dict(type='D')})).b == [dict(type='D'), dict(type='B', x=2)]
    assert resolve.merge(model, dict(b=[1], c=7)).b == [1] and resolve.merge(model, dict(a=None)).a is None
    assert resolve.merge(model, dict(new=dict(type='N', _delete_=True))).new == dict(type='N')
    assert model.a == dict(type='A', x=1, y=dict(z=1)) and model.b[1].x == 2, 'the model is left as it was'
    assert resolve.merge(model, dict(b=dict(x=7))).b == [dict(type='B', x=7)] * 2, 'every member'
    assert resolve.merge(model, dict(b=dict(type='D'))).b == dict(type='D')
    with pytest.raises(KeyError, match='model.student.b.5: b has the members 0 to 1'):
        resolve.merge(model, dict(b={'5': dict(x=1)}), 'model.student')


def test_c4_starts_its_last_stage_as_its_backbone() -> None:
    name = 'mmdistill_dense::_base_/models/mask_rcnn_r18_c4_pcd.py'
    option = Config.fromfile(resolve.find_config(name)).model.student
    option.backbone.init_cfg = None
    assert resolve.load_model(option, 'student').model.roi_head.shared_head.init_cfg is None
    option.roi_head.shared_head.init_cfg.checkpoint = 'mine.pth'
    assert resolve.load_model(option, 'student').model.roi_head.shared_head.init_cfg.checkpoint == 'mine.pth'


# What a config holds, and what ``--cfg-options`` gives


def test_plain_values_are_those_of_json():
    actual = plain({1: (np.zeros(2), None, True), 'kind': Config, 'one': np.float64(0.5)}, str.upper)
    assert actual == {'1': [[0.0, 0.0], None, True], 'kind': 'Config', 'one': 0.5}
    assert plain(dict(a=['b']), str.upper) == dict(a=['B'])


def test_a_type_is_a_text_or_a_class():
    assert [type_name(dict(type=kind)) for kind in ('Config', 'mmengine.Config', Config)] == ['Config'] * 3
    assert type_name({}) == ''


def test_the_text_of_a_config_is_read_without_running_it():
    values = dict(a=1, b=[dict(c='x', d=None), (1.5, -2)], e={'f.g': dict(h=True), 'i': 1e-05}, j='two\nlines', k={})
    assert written(Config(values).pretty_text) == plain(values)
    assert written("import os\nos.remove('x')\na = f(1)") == dict(a='f(1)')
    assert written("palette = {(0, 0, 0): 'x'}") == dict(palette={(0, 0, 0): 'x'})
    assert written(None) == written('a = (') == written('') == {}


def read(*words: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=OptionsAction)
    return parser.parse_args(['--cfg-options', *words]).cfg_options


@pytest.mark.parametrize(('text', 'value'), [
    ('extra pics (no labels)/a b', 'extra pics (no labels)/a b'),
    ('"my data"', 'my data'),
    ('3', 3),
    (' 1e-3', 1e-3),
    ('true', True),
    ('None', None),
    ('', ''),
    ('1,2', [1, 2]),
    ('[a, b]', ['a', 'b']),
    ('(1, 2)', (1, 2)),
    ('[(1,2),[x, y]]', [(1, 2), ['x', 'y']]),
    ('a=b', 'a=b'),
])  # fmt: skip
def test_values_are_as_written(text: str, value: Any) -> None:
    assert read(f'model.x={text}', 'y=1') == {'model.x': value, 'y': 1}


def test_a_word_without_a_value_is_named(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        read('data_root=my', 'data')
    assert '--cfg-options data: give KEY=VALUE; put quotes' in capsys.readouterr().err


# Wrapped data sets, through which all that read their configs look

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='RandomCrop', crop_size=(32, 48))]
PLAIN = dict(type='mmdet.CocoDataset', metainfo=dict(classes=('sky', 'car')), pipeline=PIPELINE)
OTHER = dict(type='mmdet.CocoDataset', metainfo=dict(classes=('sky', 'car')), pipeline=PIPELINE[:1])


def repeated(inside: dict) -> dict:
    return dict(type='RepeatDataset', times=2, dataset=inside)


def joined(*inside: dict) -> dict:
    return dict(type='ConcatDataset', datasets=list(inside))


WRAPPED = {
    'plain': PLAIN,
    'repeated': repeated(PLAIN),
    'joined': joined(PLAIN, OTHER),
    'repeated and joined': repeated(joined(PLAIN, OTHER)),
    'joined and repeated': joined(repeated(repeated(PLAIN)), OTHER),
    'mixed': dict(type='mmdet.MultiImageMixDataset', dataset=joined(PLAIN, OTHER), pipeline=[]),
    'read twice': joined(PLAIN),
}


@pytest.mark.parametrize('option', WRAPPED.values(), ids=WRAPPED)
def test_a_wrapper_hides_nothing(option: dict) -> None:
    dataset = ConfigDict(option)
    assert classes_of(dataset) == classes_of(PLAIN) == ('sky', 'car')
    assert pipeline_size(dataset) == (48, 32)  # width and height, as mmdet has them
    assert [step['type'] for step in training_steps(dataset)] == ['LoadImageFromFile', 'RandomCrop']
    with pytest.raises(ValueError, match='crop'):
        check_crop(dataset, ConfigDict(data_preprocessor=dict(size=(64, 64))))


def test_each_data_set_has_its_key() -> None:
    keys = [key for key, _ in layers(repeated(joined(PLAIN, repeated(OTHER))), 'd')]
    assert keys == ['d.dataset.datasets.0', 'd.dataset.datasets.1.dataset', 'd.dataset.datasets.1', 'd.dataset', 'd']
