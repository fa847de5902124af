"""Files of weights: published ones, addresses and what they promise."""

import hashlib
import itertools
import json
import sys
import textwrap
from pathlib import Path

import huggingface_hub
import pytest
import torch
from mmengine.config import Config
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import save_file

from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.guards.config import check_pretrained
from mmdistill_dense.weights import strict_load as locate
from mmdistill_dense.weights.mmengine_loader import install_reader, load_from_http
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
    for config in ('net/one.py', 'net/one'):
        assert locate.published_weights(f'{name}::{config}') == 'https://h/c.pth'
    for config, message in (
        (f'{name}::net/two.py', r'publishes 2 files \(https://h/a.pth, https://h/b.pth\)'),
        (f'{name}::net/none.py', "checkpoint='auto'.*publishes no weights for configs/net"),
        (f'{name}::net/net_small.py', "checkpoint='auto'.*publishes no weights for configs/net"),
        ('mine.py', "checkpoint='auto' needs a zoo config.*got cfg='mine.py'"),
    ):
        with pytest.raises(ValueError, match=message):
            locate.published_weights(config)


@pytest.fixture
def web(server, tmp_path, monkeypatch):
    """(folder, address) of a web server; what is fetched from it goes below ``cache`` in the test's folder."""
    monkeypatch.setenv('MMDISTILL_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    return server


def test_auto_checks_its_downloads(package, web, tmp_path):
    (name, mim), (folder, address) = package, web
    digest = hashlib.sha256(b'weights').hexdigest()[:8]
    good, bad = f'good-{digest}.pth', 'bad-00000000.pth'
    for file in (good, bad):
        (folder / file).write_bytes(b'weights')
    publish(
        mim,
        f"""
        - {{Name: a, Config: configs/net/good.py, Weights: '{address}/{good}'}}
        - {{Name: b, Config: configs/net/bad.py, Weights: '{address}/{bad}'}}
        - {{Name: c, Config: configs/net/gone.py, Weights: '{address}/gone-00000000.pth'}}
        """,
    )
    path = locate.local_file('auto', f'{name}::net/good.py', 'model.teacher.checkpoint')
    assert path.read_bytes() == b'weights' and path.is_relative_to(tmp_path / 'cache')
    (folder / good).unlink()
    assert locate.local_file('auto', f'{name}::net/good.py', 'k') == path, 'the second time it is there'
    for config in ('bad', 'gone'):
        with pytest.raises(
            OSError, match=r'key: could not download http.* to .*pth .*: download it elsewhere, and give'
        ):
            locate.local_file('auto', f'{name}::net/{config}.py', 'key')


def test_address_of_a_teacher_says_what_it_must_hold(web, tmp_path):
    folder, address = web
    (folder / 'a.pth').write_bytes(b'weights')
    digest = hashlib.sha256(b'weights').hexdigest()
    for promise, error, message in (
        ('', ValueError, r"^k='http.*/a\.pth': this address has no hash.*#sha256="),
        ('#sha256=me', ValueError, "must be followed by 8 to 64 hexadecimal digits, got 'me'"),
        (f'#sha256={"0" * 64}', OSError, 'k: could not download .*invalid hash'),
    ):
        with pytest.raises(error, match=message):
            locate.local_file(f'{address}/a.pth{promise}', None, 'k')
        assert promise or not (tmp_path / 'cache').exists(), 'it is not fetched'
    assert locate.local_file(f'{address}/a.pth#sha256={digest.upper()}', None, 'k').read_bytes() == b'weights'


def test_addresses_with_one_file_name_are_two_files(web):
    folder, address = web
    for value in (1, 2):
        (folder / str(value)).mkdir()
        torch.save({'state_dict': {'w': torch.full((9,), float(value))}}, folder / str(value) / 'model.pth')
    actual = [load_from_http(f'{address}/{value}/model.pth')['state_dict']['w'][0].item() for value in (1, 2, 1)]
    assert actual == [1, 2, 1]
    for value in (1, 2):
        message = locate.sha256(folder / f'{value}/model.pth')
        assert locate.sha256(locate.local_file(f'{address}/{value}/model.pth#sha256={message}', None, 'k')) == message


def test_half_a_download_is_fetched_again(web, tmp_path):
    folder, address = web
    torch.save({'w': torch.ones(9999)}, folder / 'cut.pth')
    whole = (folder / 'cut.pth').read_bytes()
    (folder / 'cut.pth').write_bytes(whole[: len(whole) // 2])
    cached = tmp_path / 'cache/hub/checkpoints/mine.pth'
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b'put there by hand')
    for name in ('cut', 'mine'):
        with pytest.raises(ValueError, match='is no readable checkpoint'):
            load_from_http(f'{address}/{name}.pth')
    (folder / 'cut.pth').write_bytes(whole)
    assert load_from_http(f'{address}/cut.pth')['w'].shape == (9999,) and cached.is_file()


def test_missing_or_damaged_file_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def refused(file, error, words):
        with pytest.raises(error, match=words):
            locate.local_file(file, None, 'key')

    refused('t.pth', FileNotFoundError, rf"^key='t\.pth'.*{tmp_path}.*The folder holds no checkpoint\.$")
    Path('iter_100.pth').touch()
    refused('t.pth', FileNotFoundError, r'The folder holds iter_100\.pth\.$')
    refused('runs/t.pth', FileNotFoundError, r"There is no folder 'runs' either\.$")
    message, actual = (hashlib.sha256(content).hexdigest()[:8] for content in (b'weights', b'weightX and more'))
    path = Path(f'net-{message}.pth')
    path.write_bytes(b'weights')
    assert locate.local_file(str(path), None, 'k') == path
    path.write_bytes(b'weightX and more')
    refused(str(path), ValueError, rf'^key=.*{actual}.*its name promises')


def test_auto_is_that_of_the_teachers_config(package):
    name, mim = package
    option = dict(default_scope='mmseg', model=load_model(toys.seg_net('fcn'), 'm').model)
    Config(option).dump(mim / 'configs/net/toy.py')
    publish(mim, 'Models: []')
    with pytest.raises(ValueError, match=r'publishes no weights for configs/net/toy\.py'):
        toys.distilled(teacher=dict(cfg=f'{name}::net/toy.py', checkpoint='auto'))


# The Hugging Face hub, which cannot be reached here: its functions are replaced, or it is offline


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The folder of a repository whose files are handed out, and what was asked for."""
    asked = []

    def download(repository, name, revision=None):
        asked.append((repository, name, revision))
        if not (tmp_path / name).is_file():
            raise RuntimeError(f'404: no {name} in {repository}.\nRequest ID: 1')
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, 'hf_hub_download', download)
    return tmp_path, asked


def test_a_teacher_comes_from_the_hub(hub):
    folder, asked = hub
    option = toys.seg_net('fcn')
    torch.save(toys.build_plain(option).state_dict(), folder / 't.pth')
    teacher = toys.teacher_of(
        toys.build(toys.model_config(option, {**option, 'checkpoint': 'hf://user/repo@v1/t.pth'}))
    )
    teacher.load(torch.zeros(1))
    digest = locate.sha256(folder / 't.pth')
    assert (teacher.receipt.file, teacher.receipt.sha256) == ('t.pth', digest)
    assert locate.local_file(f'hf://user/repo/t.pth#sha256={digest[:9]}', None, 'k') == folder / 't.pth'
    assert asked == [('user/repo', 't.pth', 'v1'), ('user/repo', 't.pth', None)]
    with pytest.raises(ValueError, match='its name promises 00000000'):
        locate.local_file('hf://user/repo/t.pth#sha256=00000000', None, 'k')


def test_an_index_comes_with_the_files_that_it_lists(hub):
    folder, asked = hub
    (folder / 'x').mkdir()
    index = dict(weight_map=dict(a='one.safetensors', b='two.safetensors'))
    (folder / 'x/model.safetensors.index.json').write_text(json.dumps(index))
    for entry, name in index['weight_map'].items():
        save_file({entry: torch.ones(1)}, folder / 'x' / name)
    locate.local_file('hf://user/repo/x/model.safetensors.index.json', None, 'k')
    assert [name for _, name, _ in asked[1:]] == ['x/one.safetensors', 'x/two.safetensors']


def test_mmengine_reads_such_addresses_too(hub):
    torch.save(dict(state_dict=dict(other=torch.ones(2))), hub[0] / 't.pth')
    install_reader()
    assert CheckpointLoader.load_checkpoint('hf://user/repo/t.pth')['state_dict']['other'].sum() == 2
    network = toys.build_plain(toys.seg_net('fcn')).backbone
    network.init_cfg = dict(type='Pretrained', checkpoint='hf://user/repo/t.pth')
    with pytest.raises(ValueError, match=r"model\.init_cfg\.checkpoint='hf://user/repo/t\.pth' fits 0 of the"):
        check_pretrained(network)


def test_what_cannot_be_fetched_is_told(hub, monkeypatch):
    """Another form of an address, what the hub says, and what to install without its library."""
    for address in ('hf://user/t.pth', 'hf://user/repo', 'hf://user/repo@/t.pth', 'hf://t.pth'):
        with pytest.raises(ValueError, match='k=.*: write hf://user/repo/file, or hf://user/repo@revision/file'):
            locate.local_file(address, None, 'k')
    with pytest.raises(OSError, match=r"k='hf://user/repo/no.pth': the hub says: 404: no no.pth in user/repo. Check"):
        locate.local_file('hf://user/repo/no.pth', None, 'k')
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'mmdistill_dense\[hub\]'"):
        locate.local_file('hf://user/repo/t.pth', None, 'k')


def test_offline_the_hub_does_not_answer(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(OSError, match=r'the hub does not answer \(or HF_HUB_OFFLINE is set\)'):
        locate.local_file('hf://user/repo/other.pth', None, 'k')
