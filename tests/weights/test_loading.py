"""No way into the package runs what a user's file holds; mmengine's own ways, once the package is loaded, neither.

Each test gives a file with a payload and looks for the mark that it would leave.
"""

import hashlib
import re
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
import yaml
from mmengine.model import Sequential
from mmengine.runner.checkpoint import CheckpointLoader, _load_checkpoint_with_prefix, load_checkpoint
from mmseg.apis import init_model
from torch import nn

from mmdistill_dense.apps.export import export_student
from mmdistill_dense.apps.export.write_student import export_backbone
from mmdistill_dense.apps.suite import definition
from mmdistill_dense.distillers.maskd.token_files import read_tokens
from mmdistill_dense.guards.config import check_pretrained
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.pretrain.ssl_teacher import read_teacher
from mmdistill_dense.weights import mmengine_loader
from mmdistill_dense.weights import strict_load as locate
from tests import payload, toys

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _trusting():
    """What leaves the choice to torch runs the payload in these tests."""
    with payload.trusting_torch():
        yield


@pytest.fixture
def mark(tmp_path):
    """The file that no test may find."""
    path = tmp_path / 'mark'
    yield path
    assert not path.exists(), 'the file ran code'


@pytest.fixture
def evil(tmp_path, mark):
    return str(payload.write(tmp_path / 'evil.pth', mark))


def refuses():
    return pytest.raises(ValueError, match=r'evil\.pth.*holds more than tensors.*exec.*If you trust the file')


@pytest.fixture(autouse=True, scope='module')
def reader():
    mmengine_loader.install_reader()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """torch's folder of downloads, at another place."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    return tmp_path / 'torch' / 'hub' / 'checkpoints'


# mmengine's loader


def test_every_scheme_of_mmengine_is_ours(monkeypatch):
    assert {''} | {'http://', 'https://', 'torchvision://', 'open-mmlab://'} <= set(CheckpointLoader._schemes)
    for prefix, loader in CheckpointLoader._schemes.items():
        assert loader.__module__ == mmengine_loader.__name__, prefix
    assert list(CheckpointLoader._schemes)[-1] == '', 'it matches everything and is asked last'
    for scheme in ('mine://', 'mmcls://'):
        monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
        CheckpointLoader.register_scheme(scheme, lambda filename, map_location: dict(a=filename), force=True)
        mmengine_loader.install_reader()
        assert CheckpointLoader.load_checkpoint(f'{scheme}x') == dict(a=f'{scheme}x')


def test_what_is_no_dictionary_is_loaded_all_the_same(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'none\.pth can not be found \(working folder'):
        CheckpointLoader.load_checkpoint('none.pth')
    torch.save(torch.ones(2), tmp_path / 'embedding.pth')
    assert CheckpointLoader.load_checkpoint(str(tmp_path / 'embedding.pth')).tolist() == [1, 1]
    torch.save(dict(a=torch.ones(2)), tmp_path / 'a.pth')
    assert CheckpointLoader.load_checkpoint(str(tmp_path / 'a.pth'), map_location='meta')['a'].device.type == 'meta'


def test_downloads_are_read_safely(server, cache, mark):
    folder, address = server
    torch.save(dict(w=torch.ones(1)), folder / 'a.pth')
    digest = hashlib.sha256((folder / 'a.pth').read_bytes()).hexdigest()
    assert CheckpointLoader.load_checkpoint(f'{address}/a.pth#sha256={digest}')['w'].item() == 1
    good, bad, dated = f'a-{digest[:8]}.pth', 'a-00000000.pth', 'a-20240115.pth'
    for name in (good, bad, dated):
        (folder / name).write_bytes((folder / 'a.pth').read_bytes())
    assert CheckpointLoader.load_checkpoint(f'{address}/{good}?x=1')['w'].item() == 1
    assert (cache / good).is_file(), 'where mmengine keeps it'
    assert CheckpointLoader.load_checkpoint(f'{address}/{dated}')['w'].item() == 1
    with pytest.raises(OSError, match='could not download'):
        CheckpointLoader.load_checkpoint(f'{address}/{bad}')
    assert not (cache / bad).exists()
    (cache / good).write_bytes(b'changed')
    assert CheckpointLoader.load_checkpoint(f'{address}/{good}')['w'].item() == 1
    assert (cache / good).read_bytes() == b'changed', 'it may be that of another address'
    with pytest.raises(OSError, match='could not download'):
        CheckpointLoader.load_checkpoint(f'{address}/a.pth#sha256=00000000')
    payload.write(folder / 'evil.pth', mark)
    with refuses():
        CheckpointLoader.load_checkpoint(f'{address}/evil.pth')


@pytest.mark.parametrize(('scheme', 'table'), [
    ('torchvision', 'torchvision'), ('modelzoo', 'torchvision'), ('open-mmlab', 'external'), ('openmmlab', 'external'),
    ('mmcls', 'mmcls'),
])  # fmt: skip
def test_published_names_are_read_safely(scheme, table, cache, mark, monkeypatch):
    urls = dict(net='https://nowhere.invalid/evil.pth')
    monkeypatch.setattr(f'mmengine.runner.checkpoint.get_{table}_models', lambda: urls)
    monkeypatch.setattr('mmengine.runner.checkpoint.get_deprecated_model_names', lambda: dict(old='net'))
    path = payload.write(cache / 'evil.pth', mark)
    names = [f'{scheme}://{name}' for name in ('net', 'old')[: 1 + (scheme == 'openmmlab')]]
    for name in names:
        with refuses():
            CheckpointLoader.load_checkpoint(name)
    torch.save(dict(state_dict={'backbone.w': torch.ones(1)}), path)
    for name in names:
        actual = CheckpointLoader.load_checkpoint(name)['state_dict']
        assert list(actual) == ['w' if scheme == 'mmcls' else 'backbone.w']
    with pytest.raises(KeyError, match="publishes no weights under the name 'other'"):
        CheckpointLoader.load_checkpoint(f'{scheme}://other')


def test_names_of_torchvision_need_no_torchvision(monkeypatch):
    """The mm* packages do not install it, and most detectors of mmdet start from such a name."""
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    asked = []
    monkeypatch.setattr(mmengine_loader, 'load_from_http', lambda address, _: asked.append(Path(address).name))
    for name in ('resnet18', 'resnet50', 'resnet101'):
        CheckpointLoader.load_checkpoint(f'torchvision://{name}')
    assert asked == ['resnet18-f37072fd.pth', 'resnet50-0676ba61.pth', 'resnet101-63fe2227.pth']
    with pytest.raises(KeyError, match=r'resnet50\.imagenet1k_v2.*pip install torchvision'):
        CheckpointLoader.load_checkpoint('torchvision://resnet50.imagenet1k_v2')


def test_object_stores_are_read_safely(evil, monkeypatch):
    store = mock.Mock(get=lambda name: Path(name.removeprefix('s3:/')).read_bytes())
    monkeypatch.setattr(mmengine_loader, 'get_file_backend', lambda *_, **__: store)
    with refuses():
        CheckpointLoader.load_checkpoint(f's3:/{evil}'.replace('s3:/', 's3://', 1))
    with pytest.raises(ValueError, match='does not read pavi://'):
        CheckpointLoader.load_checkpoint('pavi://a.pth')


# Runs


@pytest.mark.parametrize('option', ['load_from', 'resume', 'last_checkpoint', 'test', 'init_cfg'])
def test_runs(option, tmp_path, evil):
    student, options = toys.seg_net('fcn'), {}
    if option == 'init_cfg':
        student['backbone'] |= dict(init_cfg=dict(type='Pretrained', checkpoint=evil, prefix='backbone.'))
    if option in ('load_from', 'resume', 'test'):
        options['load_from'] = evil
    if option in ('resume', 'last_checkpoint'):
        options['resume'] = True
        (tmp_path / 'last_checkpoint').write_text(evil)
    runner = toys.make_runner(tmp_path, student, **options)
    with refuses():
        runner.val() if option == 'test' else runner.train()


MASKD = dict(type='MasKD', student_tap='backbone[3]', num_tokens=2)


def run():
    """A config of a run that distils tokens."""
    return toys.run_config('x', toys.model_config(toys.seg_net('fcn'), distillers=dict(maskd=MASKD)))


READERS = {
    'mmengine': lambda file: load_checkpoint(nn.Linear(1, 1), file),
    'part of a file': lambda file: _load_checkpoint_with_prefix('backbone', file),
    'teacher': lambda file: FrozenTeacher(toys.seg_net('fcn', checkpoint=file)).load(torch.zeros(1)),
    'pretrained file': lambda file: check_pretrained(Sequential(init_cfg=dict(type='Pretrained', checkpoint=file))),
    'export of a student': lambda file: export_student(run(), file, Path('out.pth')),
    'export of a backbone': lambda file: export_backbone(run(), file, Path('out.pth')),
    'inferencer of mmseg': lambda file: init_model(run(), file, device='cpu'),
    'tokens': lambda file: read_tokens(file, 'maskd'),
    'self-supervised teacher': read_teacher,
}


@pytest.mark.parametrize('read', READERS.values(), ids=READERS)
def test_readers(read, evil):
    with refuses():
        read(evil)


# Other files


def test_yaml_runs_nothing(tmp_path, mark):
    text = f'!!python/object/apply:builtins.open [{str(mark)!r}, w]'
    (tmp_path / 'suite.yaml').write_text(f'out: {text}\n')
    with pytest.raises(ValueError, match=r'suite\.yaml.*could not determine a constructor'):
        definition.load_suite(tmp_path / 'suite.yaml')
    (tmp_path / 'model-index.yml').write_text(f'Import: {text}\n')
    zoo = mock.patch.object(locate, 'package_root', lambda _: tmp_path)
    with zoo, pytest.raises(yaml.YAMLError, match='could not determine a constructor'):
        locate.published_weights('zoo::net.py')


RISKY = re.compile(
    r'pickle\.(load|Unpickler)|joblib\.|mmengine\.load|hub\.load\(|\bload_url|(torch|np)\.load\(|yaml\.(unsafe_|full_)?load\('
)
# The last form is the text of a message.
SAFE = re.compile(r'torch\.load\(.*weights_only=True|yaml\.load\(.*(Loader=_?[Ll]oader|yaml\.BaseLoader)\)|^ *"file: ')


def test_package_has_no_other_readers_of_pickles():
    paths = [*ROOT.glob('mmdistill_dense/**/*.py'), *ROOT.glob('tools/**/*.py')]
    lines = [line for path in paths for line in path.read_text(encoding='utf-8').splitlines() if RISKY.search(line)]
    assert len(lines) > 3 and not [line for line in lines if not SAFE.search(line)]
