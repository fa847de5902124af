"""Files of weights: published ones, addresses and what they promise."""

import hashlib
import itertools
import textwrap

import pytest
import torch
from mmengine.config import Config

from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.weights import strict_load as locate
from mmdistill_dense.weights.mmengine_loader import load_from_http
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


def test_auto_finds_what_the_packages_publish():
    url = locate.published_weights('mmseg::deeplabv3/deeplabv3_r101-d8_4xb2-80k_cityscapes-512x1024.py')
    assert url.startswith('https://') and url.rsplit('/', 1)[-1].startswith('deeplabv3_r101-d8_512x1024_80k_cityscapes')
    url = locate.published_weights('mmdet::retinanet/retinanet_r101_fpn_1x_coco.py')
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
        locate.published_weights(f'{name}::net/one.py')
        == 'https://h/c.pth'
        == locate.published_weights(f'{name}::net/one')
    )
    with pytest.raises(ValueError, match=r'publishes 2 files \(https://h/a.pth, https://h/b.pth\)'):
        locate.published_weights(f'{name}::net/two.py')
    for rest in ('net/none.py', 'net/net_small.py'):
        with pytest.raises(ValueError, match="checkpoint='auto'.*publishes no weights for configs/net"):
            locate.published_weights(f'{name}::{rest}')
    with pytest.raises(ValueError, match="checkpoint='auto' needs a zoo config.*got cfg='mine.py'"):
        locate.published_weights('mine.py')


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
    path = locate.local_file('auto', f'{name}::net/good.py', 'model.teacher.checkpoint')
    assert path.read_bytes() == content and path.is_relative_to(tmp_path / 'cache')
    (web / good).unlink()
    assert locate.local_file('auto', f'{name}::net/good.py', 'k') == path, 'the second time it is there'
    for config in ('bad', 'gone'):
        with pytest.raises(
            OSError,
            match=r'model.teacher.checkpoint: could not download http.* to .*pth .*: download it elsewhere, and give',
        ):
            locate.local_file('auto', f'{name}::net/{config}.py', 'model.teacher.checkpoint')


def test_addresses_with_one_file_name_are_two_files(tmp_path, server, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    web, address = server
    for value in (1, 2):
        (web / str(value)).mkdir()
        torch.save({'state_dict': {'w': torch.full((9,), float(value))}}, web / str(value) / 'model.pth')
    found = [load_from_http(f'{address}/{value}/model.pth')['state_dict']['w'][0].item() for value in (1, 2, 1)]
    assert found == [1, 2, 1]
    told = [hashlib.sha256((web / f'{value}/model.pth').read_bytes()).hexdigest() for value in (1, 2)]
    found = [locate.local_file(f'{address}/{n}/model.pth#sha256={one}', None, 'k') for n, one in enumerate(told, 1)]
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in found] == told


def test_half_a_download_is_fetched_again(tmp_path, server, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    web, address = server
    torch.save({'w': torch.ones(9999)}, web / 'cut.pth')
    whole = (web / 'cut.pth').read_bytes()
    (web / 'cut.pth').write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match='is no readable checkpoint'):
        load_from_http(f'{address}/cut.pth')
    (web / 'cut.pth').write_bytes(whole)
    assert load_from_http(f'{address}/cut.pth')['w'].shape == (9999,)
    mine = tmp_path / 'cache/hub/checkpoints/mine.pth'
    mine.write_bytes(b'put there by hand')
    with pytest.raises(ValueError, match='is no readable checkpoint'):
        load_from_http(f'{address}/mine.pth')
    assert mine.is_file()


def test_damaged_file_is_refused_by_its_name(tmp_path):
    content = b'weights'
    path = tmp_path / f'net-{hashlib.sha256(content).hexdigest()[:8]}.pth'
    path.write_bytes(content)
    assert locate.local_file(str(path), None, 'k') == path
    path.write_bytes(b'weightX and more')
    with pytest.raises(ValueError) as error:
        locate.local_file(str(path), None, 'model.teacher.checkpoint')
    assert 'model.teacher.checkpoint' in str(error.value) and 'its name promises' in str(error.value)
    assert hashlib.sha256(b'weightX and more').hexdigest()[:8] in str(error.value)


def test_missing_file_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        locate.local_file('t.pth', None, 'model.teacher.checkpoint')
    assert "model.teacher.checkpoint='t.pth'" in str(error.value) and str(tmp_path) in str(error.value)
    assert str(error.value).endswith('The folder holds no checkpoint.')
    (tmp_path / 'iter_100.pth').touch()
    with pytest.raises(FileNotFoundError, match=r'The folder holds iter_100\.pth\.$'):
        locate.local_file('t.pth', None, 'model.teacher.checkpoint')
    with pytest.raises(FileNotFoundError, match=r"There is no folder 'runs' either\.$"):
        locate.local_file('runs/t.pth', None, 'model.teacher.checkpoint')


def test_auto_reaches_the_teacher(package, tmp_path, monkeypatch):
    """``checkpoint='auto'`` through the teacher: a copy of a toy config that a faked package publishes weights for."""
    name, mim = package
    monkeypatch.setenv('MMDISTILL_CACHE', str(tmp_path / 'cache'))
    source = Config(dict(default_scope='mmseg', model=load_model(toys.seg_net('fcn'), 'm').model))
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
