"""Files of the Hugging Face hub, which cannot be reached here: its functions are replaced, or it is offline."""

import json
import sys

import huggingface_hub
import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import save_file

from mmdistill_dense.guards.config import check_pretrained
from mmdistill_dense.weights.mmengine_loader import install_reader
from mmdistill_dense.weights.strict_load import local_file, sha256
from tests import toys


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


def test_a_teacher_comes_from_the_hub_with_its_hash_in_the_receipt(hub):
    folder, asked = hub
    option = toys.seg_net('fcn')
    torch.save(toys.build_plain(option).state_dict(), folder / 't.pth')
    model = toys.build(toys.model_config(option, {**option, 'checkpoint': 'hf://user/repo@v1/t.pth'}))
    (teacher,) = model.distillation.teachers.values()
    teacher.load(torch.zeros(1))
    assert teacher.receipt.file == 't.pth' and teacher.receipt.sha256 == sha256(folder / 't.pth')
    assert asked == [('user/repo', 't.pth', 'v1')]


def test_a_hash_in_the_address_is_checked(hub):
    folder, asked = hub
    (folder / 'a').mkdir()
    (folder / 'a/t.pth').write_bytes(b'x')
    digest = sha256(folder / 'a/t.pth')
    assert local_file(f'hf://user/repo/a/t.pth#sha256={digest[:9]}', None, 'k') == folder / 'a/t.pth'
    assert asked == [('user/repo', 'a/t.pth', None)]
    with pytest.raises(ValueError, match='its name promises 00000000'):
        local_file('hf://user/repo/a/t.pth#sha256=00000000', None, 'k')


def test_an_index_comes_with_the_files_that_it_lists(hub):
    folder, asked = hub
    (folder / 'x').mkdir()
    index = dict(weight_map=dict(a='one.safetensors', b='two.safetensors'))
    (folder / 'x/model.safetensors.index.json').write_text(json.dumps(index))
    for name, entry in (('one', 'a'), ('two', 'b')):
        save_file({entry: torch.ones(1)}, folder / f'x/{name}.safetensors')
    local_file('hf://user/repo/x/model.safetensors.index.json', None, 'k')
    assert [name for _, name, _ in asked[1:]] == ['x/one.safetensors', 'x/two.safetensors']


def test_mmengine_reads_such_addresses_too_and_a_file_of_another_network_is_refused(hub):
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
            local_file(address, None, 'k')
    with pytest.raises(OSError, match=r"k='hf://user/repo/no.pth': the hub says: 404: no no.pth in user/repo. Check"):
        local_file('hf://user/repo/no.pth', None, 'k')
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'mmdistill_dense\[hub\]'"):
        local_file('hf://user/repo/t.pth', None, 'k')


def test_offline_the_cache_serves_and_the_rest_is_refused(tmp_path, monkeypatch):
    """The library itself, with the layout of its cache."""
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path))
    commit = 40 * 'a'
    kept = tmp_path / 'models--user--repo' / 'snapshots' / commit / 't.pth'
    for file, text in ((kept, 'x'), (tmp_path / 'models--user--repo/refs/main', commit)):
        file.parent.mkdir(parents=True)
        file.write_text(text)
    assert local_file('hf://user/repo/t.pth', None, 'k') == local_file(f'hf://user/repo@{commit}/t.pth', None, 'k')
    with pytest.raises(OSError, match=r'the hub does not answer \(or HF_HUB_OFFLINE is set\)'):
        local_file('hf://user/repo/other.pth', None, 'k')
