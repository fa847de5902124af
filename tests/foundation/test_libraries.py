"""Teachers of timm and transformers: with a library that is missing, broken, or there."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from mmdistill_dense.foundation.foundation_teacher import FoundationTeacher
from tests import toys

NAME = 'timm::tiny'


class Tiny(nn.Module):
    """A network with the interface that timm's have."""

    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 6, 14, 14)
        self.norm = nn.Conv2d(6, 6, 1)
        self.feature_info = [dict(reduction=14)] * 2

    def forward_intermediates(self, pictures, indices, norm, stop_early, output_fmt, intermediates_only):
        assert norm and stop_early and intermediates_only and output_fmt == 'NCHW'
        assert not any(side % 14 for side in pictures.shape[2:]), 'as timm asserts'
        first = self.patch_embed(pictures)
        return [first, self.norm(first)] if 1 in indices else [first]


@pytest.fixture
def timm(monkeypatch):
    """A library of one network."""

    def create_model(name, pretrained, num_classes, dynamic_img_size=False):
        assert not pretrained and num_classes == 0
        if name != 'tiny':
            raise RuntimeError(f'Unknown model ({name})\nand more')
        return Tiny()

    library = ModuleType('timm')
    library.create_model = create_model
    config = dict(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    library.data = SimpleNamespace(resolve_model_data_config=lambda network: config)
    monkeypatch.setitem(sys.modules, 'timm', library)


def test_a_network_of_timm_teaches(timm, tmp_path):
    network = Tiny()
    file = {**network.state_dict(), 'head.weight': torch.zeros(2)}
    torch.save(file, tmp_path / 'tiny.pth')
    teacher = dict(type='mmdistill_dense.FoundationTeacher', model=NAME, checkpoint=str(tmp_path / 'tiny.pth'))
    match = dict(type='PKD', student_tap='backbone[3]', teacher_tap='map')
    model = toys.distilled(student=toys.seg_net('fcn'), teacher=teacher, distillers=dict(d=match))
    toys.losses_of(model)['distill.d.loss_pkd'].backward()
    frozen = toys.teacher_of(model)
    assert model.backbone.stem[0].weight.grad.abs().sum() > 0
    assert frozen.network.preprocessor == dict(mean=[127.5] * 3, std=[63.75] * 3, bgr_to_rgb=True)
    assert (frozen.receipt.matched, frozen.receipt.ignored, frozen.receipt.config) == (4, 1, NAME)
    pictures = torch.rand(1, 3, 42, 70)
    with torch.no_grad():
        assert torch.equal(frozen.network(pictures), network.norm(network.patch_embed(pictures)))
        assert frozen.network(torch.rand(1, 3, 50, 60)).shape == (1, 6, 4, 4)
    early, calls = toys.frozen(dict(teacher, allow_random=True, checkpoint=None), 'maps.0'), []
    early.load(torch.zeros(1))
    early.network.network.norm.register_forward_hook(lambda *_: calls.append(1))
    assert early(pictures)['maps.0'][0].shape == (1, 6, 3, 5) and not calls, 'the pass ended before it'
    normed = network.head = nn.Module()
    normed.norm = nn.LayerNorm(3)
    classifier = {'head.fc.weight': torch.zeros(2), 'classifier.weight': torch.zeros(2)}
    torch.save({**network.state_dict(), **classifier}, tmp_path / 'head.pth')
    frozen.network.network.head = nn.Module()
    frozen.network.network.head.norm = nn.LayerNorm(3)
    assert frozen.network.load_teacher(tmp_path / 'head.pth')[1] == 2, 'a norm in the head belongs to the network'
    del frozen.network.network.head
    del file['norm.bias']
    torch.save(file, tmp_path / 'less.pth')
    with pytest.raises(ValueError, match='missing: norm.bias'):
        frozen.network.load_teacher(tmp_path / 'less.pth')


def test_a_network_that_is_not_there(timm):
    with pytest.raises(ValueError, match=r"model='timm::huge' could not be made: Unknown model \(huge\). It must be"):
        FoundationTeacher('timm::huge')
    with pytest.raises(ValueError, match=r"'big::x': before \"::\" stands one of timm, transformers"):
        FoundationTeacher('big::x')


@pytest.mark.parametrize('library', ['timm', 'transformers'])
@pytest.mark.parametrize('error', ["RuntimeError('operator torchvision::nms does not exist')", "ImportError('no X')"])
def test_a_library_that_cannot_be_imported(library, error, tmp_path, monkeypatch):
    (tmp_path / f'{library}.py').write_text(f'raise {error}')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, library, raising=False)
    told = rf"'{library}::x': {library} could not be imported \((operator torchvision::nms does not exist|no X)\)"
    with pytest.raises(ValueError, match=told + r': pip install .* need no library: name the model'):
        FoundationTeacher(f'{library}::x')


def test_a_folder_of_transformers_needs_its_config(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'transformers', ModuleType('transformers'))
    with pytest.raises(ValueError, match=r'is no folder with a config.json'):
        FoundationTeacher(f'transformers::{tmp_path}')


def test_transformers_where_it_is_installed(tmp_path):
    transformers = pytest.importorskip('transformers')
    config = transformers.Dinov2Config(hidden_size=48, num_hidden_layers=2, num_attention_heads=3)
    transformers.Dinov2Model(config).save_pretrained(tmp_path)
    teacher = FoundationTeacher(f'transformers::{tmp_path}').eval()
    teacher.load_teacher(tmp_path / 'model.safetensors')
    assert teacher(torch.rand(1, 3, 64, 80)).shape == (1, 48, 5, 6)
    assert len(teacher.maps) == 2
    (tmp_path / 'hub').mkdir()
    for name in ('config.json', 'model.safetensors'):  # as the hub's own cache
        (tmp_path / 'hub' / name).symlink_to(tmp_path / name)
    FoundationTeacher(f'transformers::{tmp_path}/hub').load_teacher(tmp_path / 'hub/model.safetensors')
    with pytest.raises(ValueError, match=r'give the model.safetensors beside the config.json'):
        teacher.load_teacher(tmp_path / 'other.bin')
