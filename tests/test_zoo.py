"""Names of configs and weights, and the rules by which overrides are merged."""

import hashlib
import itertools
import textwrap

import pytest
import torch
from mmengine.config import Config, ConfigDict

from mmdistill_dense import zoo
from tests import toys

_numbers = itertools.count()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A new installed-looking package with one config; returns its name and its ``.mim`` folder."""
    name = f'fakezoo{next(_numbers)}'
    mim = tmp_path / name / '.mim'
    (mim / 'configs' / 'net').mkdir(parents=True)
    (mim.parent / '__init__.py').touch()
    (mim / 'configs' / 'net' / 'net_small.py').write_text("model = dict(type='Net', width=1)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return name, mim


def publish(mim, models):
    (mim / 'model-index.yml').write_text('Import:\n  - configs/net/metafile.yaml\n  - configs/net/absent.yaml\n')
    (mim / 'configs' / 'net' / 'metafile.yaml').write_text(textwrap.dedent(models))


# Names


def test_names_of_the_real_packages():
    for name in (*toys.SEG.values(), *toys.DET.values()):
        assert zoo.find_config(name).is_file()
    assert zoo.find_config('mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024') == zoo.find_config(toys.SEG['fcn'])


def test_our_own_fragments_are_found():
    assert zoo.base('mmdistill_dense::_base_/schedules/_hooks.py').endswith('configs/_base_/schedules/_hooks.py')


def test_unknown_config_names_close_ones():
    with pytest.raises(FileNotFoundError) as error:
        zoo.find_config('mmseg::fcn/fcn_r18-d8_cityscapes.py', 'model.student.cfg')
    message = str(error.value)
    assert message.startswith("model.student.cfg='mmseg::fcn/fcn_r18-d8_cityscapes.py'")
    assert 'Close: mmseg::fcn/fcn_r' in message


def test_unknown_file_names_the_folder_and_the_zoo_form(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        zoo.find_config('mine.py', 'model.teacher.cfg')
    assert "model.teacher.cfg='mine.py'" in str(error.value) and str(tmp_path) in str(error.value)
    assert "'mmseg::…'" in str(error.value)
    (tmp_path / 'mine.py').touch()
    assert zoo.find_config('mine.py').name == 'mine.py'


def test_missing_package_and_package_without_configs(tmp_path, monkeypatch):
    with pytest.raises(ModuleNotFoundError, match="'nosuchzoo'.*not an installed package"):
        zoo.find_config('nosuchzoo::a/b.py')
    bare = tmp_path / 'barezoo'
    bare.mkdir()
    (bare / '__init__.py').touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r'barezoo carries no configs.*mim'):
        zoo.find_config('barezoo::a/b.py')


def test_checkout_is_found_where_there_is_no_mim_folder(tmp_path, monkeypatch):
    (tmp_path / 'co' / 'checkoutzoo').mkdir(parents=True)
    (tmp_path / 'co' / 'checkoutzoo' / '__init__.py').touch()
    (tmp_path / 'co' / 'configs').mkdir()
    (tmp_path / 'co' / 'configs' / 'x.py').touch()
    monkeypatch.syspath_prepend(str(tmp_path / 'co'))
    assert zoo.find_config('checkoutzoo::x') == tmp_path / 'co' / 'configs' / 'x.py'


def test_base_expression_works_from_another_folder(tmp_path):
    path = tmp_path / 'mine.py'
    name = 'mmdistill_dense::_base_/schedules/_hooks.py'
    path.write_text(f"_base_ = __import__('mmdistill_dense.zoo', fromlist=['x']).base('{name}')\nextra = 1\n")
    config = Config.fromfile(path)
    assert config.default_hooks.distill.type == 'mmdistill_dense.DistillHook' and config.extra == 1


# Models


def test_load_model_merges_the_keys_beside_cfg():
    option = dict(cfg=toys.SEG['fcn'], pretrained=None, decode_head=dict(num_classes=3))
    loaded = zoo.load_model(option, 'model.student')
    assert (loaded.scope, loaded.source) == ('mmseg', toys.SEG['fcn'])
    assert loaded.model.decode_head.num_classes == 3 and loaded.model.decode_head.type == 'FCNHead'
    assert loaded.model.pretrained is None and 'cfg' not in loaded.model
    assert option == dict(cfg=toys.SEG['fcn'], pretrained=None, decode_head=dict(num_classes=3))


def test_top_level_data_preprocessor_joins_the_model(tmp_path):
    path = tmp_path / 'a.py'
    path.write_text("default_scope = 'mmdet'\ndata_preprocessor = dict(type='P', mean=[1])\nmodel = dict(type='Net')\n")
    loaded = zoo.load_model(dict(cfg=str(path)), 'model.student')
    assert loaded.model.data_preprocessor == dict(type='P', mean=[1]) and loaded.scope == 'mmdet'


def test_whole_model_needs_a_type():
    assert zoo.load_model(dict(type='Net', _scope_='mmseg'), 'model.student').scope == 'mmseg'
    with pytest.raises(KeyError, match=r"model\.student: give cfg='mmseg::…'.*whole model dict.*got \['width'\]"):
        zoo.load_model(dict(width=3), 'model.student')


def test_config_without_model_is_refused(tmp_path):
    path = tmp_path / 'a.py'
    path.write_text('x = 1\n')
    with pytest.raises(KeyError, match=r'model\.teacher\.cfg=.*has no key model'):
        zoo.load_model(dict(cfg=str(path)), 'model.teacher')


def test_merge_rules():
    model = ConfigDict(a=dict(type='A', x=1, y=dict(z=1)), b=[dict(type='B', x=1), dict(type='B', x=2)], c=(1, 2))
    merged = zoo.merge(model, dict(a=dict(x=2)))
    assert merged.a == dict(type='A', x=2, y=dict(z=1)), 'same or no type: merged'
    assert zoo.merge(model, dict(a=dict(type='A', y=dict(w=3)))).a.y == dict(z=1, w=3)
    assert zoo.merge(model, dict(a=dict(type='C', w=1))).a == dict(type='C', w=1), 'another type replaces'
    assert zoo.merge(model, dict(a=dict(_delete_=True, x=5))).a == dict(x=5), '_delete_ replaces'
    assert zoo.merge(model, dict(b={'1': dict(x=9)})).b == [dict(type='B', x=1), dict(type='B', x=9)]
    assert zoo.merge(model, dict(b={'0': dict(type='D')})).b == [dict(type='D'), dict(type='B', x=2)]
    assert zoo.merge(model, dict(b=[1], c=7)).b == [1] and zoo.merge(model, dict(a=None)).a is None
    assert zoo.merge(model, dict(new=dict(type='N', _delete_=True))).new == dict(type='N')
    assert model.a == dict(type='A', x=1, y=dict(z=1)) and model.b[1].x == 2, 'the model is left as it was'
    with pytest.raises(KeyError, match='member 5 of a list of 2'):
        zoo.merge(model, dict(b={'5': dict(x=1)}))


# Weights


def test_auto_finds_what_the_packages_publish():
    url = zoo.published_weights('mmseg::deeplabv3/deeplabv3_r101-d8_4xb2-80k_cityscapes-512x1024.py')
    assert url.startswith('https://') and url.rsplit('/', 1)[-1].startswith('deeplabv3_r101-d8_512x1024_80k_cityscapes')
    url = zoo.published_weights('mmdet::retinanet/retinanet_r101_fpn_1x_coco.py')
    assert 'retinanet_r101_fpn_1x_coco' in url and url.endswith('.pth')


def test_auto_needs_one_published_file(package):
    name, mim = package
    (mim / 'configs' / 'net' / 'two.py').write_text('')
    publish(
        mim,
        """
        Models:
          - {Name: a, Config: configs/net/two.py, Weights: 'https://h/a.pth'}
          - {Name: b, Config: configs/net/two.py, Weights: ['https://h/a.pth', 'https://h/b.pth']}
          - {Name: c, Config: configs/net/one.py, Weights: 'https://h/c.pth'}
          - {Name: d, Config: configs/net/none.py}
        """,
    )
    assert (
        zoo.published_weights(f'{name}::net/one.py') == 'https://h/c.pth' == zoo.published_weights(f'{name}::net/one')
    )
    with pytest.raises(ValueError, match=r'publishes 2 files \(https://h/a.pth, https://h/b.pth\)'):
        zoo.published_weights(f'{name}::net/two.py')
    for rest in ('net/none.py', 'net/net_small.py'):
        with pytest.raises(ValueError, match="checkpoint='auto'.*publishes no weights for configs/net"):
            zoo.published_weights(f'{name}::{rest}')
    with pytest.raises(ValueError, match="checkpoint='auto' needs a zoo config.*got cfg='mine.py'"):
        zoo.published_weights('mine.py')


def test_auto_downloads_checks_and_keeps(package, server, tmp_path, monkeypatch):
    (name, mim), (web, address) = package, server
    monkeypatch.setenv('MMDISTILL_CACHE', str(tmp_path / 'cache'))
    content = b'weights'
    digest = hashlib.sha256(content).hexdigest()[:8]
    good, bad = f'good-{digest}.pth', 'bad-00000000.pth'
    for file in (good, bad):
        (web / file).write_bytes(content)
    publish(
        mim,
        f"""
        - {{Name: a, Config: configs/net/good.py, Weights: '{address}/{good}'}}
        - {{Name: b, Config: configs/net/bad.py, Weights: '{address}/{bad}'}}
        - {{Name: c, Config: configs/net/gone.py, Weights: '{address}/gone-00000000.pth'}}
        """,
    )
    path = zoo.local_file('auto', f'{name}::net/good.py', 'model.teacher.checkpoint')
    assert path.read_bytes() == content and path.is_relative_to(tmp_path / 'cache')
    (web / good).unlink()
    assert zoo.local_file('auto', f'{name}::net/good.py', 'k') == path, 'the second time it is there'
    for config in ('bad', 'gone'):
        with pytest.raises(OSError, match=r'model.teacher.checkpoint: could not fetch http.*give the file'):
            zoo.local_file('auto', f'{name}::net/{config}.py', 'model.teacher.checkpoint')


def test_damaged_file_is_refused_by_its_name(tmp_path):
    content = b'weights'
    path = tmp_path / f'net-{hashlib.sha256(content).hexdigest()[:8]}.pth'
    path.write_bytes(content)
    assert zoo.local_file(str(path), None, 'k') == path
    path.write_bytes(b'weightX and more')
    with pytest.raises(ValueError) as error:
        zoo.local_file(str(path), None, 'model.teacher.checkpoint')
    assert 'model.teacher.checkpoint' in str(error.value) and 'its name promises' in str(error.value)
    assert hashlib.sha256(b'weightX and more').hexdigest()[:8] in str(error.value)


def test_missing_file_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        zoo.local_file('t.pth', None, 'model.teacher.checkpoint')
    assert "model.teacher.checkpoint='t.pth'" in str(error.value) and str(tmp_path) in str(error.value)


def test_auto_reaches_the_teacher(package, tmp_path, monkeypatch):
    """``checkpoint='auto'`` through the teacher: a copy of a toy config that a faked package publishes weights for."""
    name, mim = package
    monkeypatch.setenv('MMDISTILL_CACHE', str(tmp_path / 'cache'))
    source = Config(dict(default_scope='mmseg', model=zoo.load_model(toys.seg_net('fcn'), 'm').model))
    source.dump(mim / 'configs' / 'net' / 'toy.py')
    weights = tmp_path / 'cache' / 'checkpoints' / 'x.pth'
    weights.parent.mkdir(parents=True)
    network = toys.build_plain(toys.seg_net('fcn'), seed=3)
    torch.save(network.state_dict(), weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:8]
    weights.rename(weights.with_name(f'toy-{digest}.pth'))
    publish(mim, f"- {{Name: a, Config: configs/net/toy.py, Weights: 'https://nowhere.invalid/toy-{digest}.pth'}}")
    model = toys.distilled(teacher=dict(cfg=f'{name}::net/toy.py', checkpoint='auto'))
    teacher = toys.teacher_of(model)
    assert teacher.receipt.sha256.startswith(digest) and teacher.receipt.config == f'{name}::net/toy.py'
    assert torch.equal(teacher.network.backbone.layer1[0].conv1.weight, network.backbone.layer1[0].conv1.weight)
