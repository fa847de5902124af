"""Foundation models, networks of timm and transformers, and any module teach through the ordinary model and runner."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmdistill_dense.foundation.foundation_teacher import FoundationTeacher
from tests import toys
from tests.faults.tools import resumed_alike
from tests.foundation import files

KIND = 'mmdistill_dense.FoundationTeacher'


def option(case='dinov2', **changes):
    """A teacher with random weights."""
    return dict(dict(type=KIND, model=files.tiny(case), allow_random=True), **changes)


def from_file(case='dinov2', **changes):
    """A teacher with the weights of a file."""
    path = toys.fresh_dir() / f'{case}.pth'
    torch.save(files.state(case, 'original'), path)
    return dict(dict(type=KIND, model=files.tiny(case), checkpoint=str(path)), **changes)


def model_of(teacher, scope='mmseg', student=None, **distiller):
    """A model that one distiller trains from the map."""
    tap = dict(student_tap='backbone[3]', teacher_tap='map')
    student = student or (toys.seg_net('fcn') if scope == 'mmseg' else toys.det_net())
    return toys.distilled(scope, student=student, teacher=teacher, distillers=dict(d=dict(tap, **distiller)))


def test_default_taps_of_other_networks_are_refused_with_the_reason():
    with pytest.raises(KeyError, match=r'tapped at map, maps.0 … maps.1 and cls; it has no class scores'):
        toys.distilled(teacher=option(), distillers=dict(d=dict(type='LogitKD')))


def test_two_taps_class_token_and_description_of_the_pass():
    imagenet = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
    taps = dict(student_tap=[('backbone[3]', 0.5)] * 2, teacher_tap=['maps.0', 'maps.1'])
    model = model_of(option(), type='FitNet', **taps)
    assert toys.losses_of(model)['distill.d.loss_fitnet'].requires_grad
    assert toys.teacher_of(model).plan.stop_after == 2
    assert toys.teacher_of(model).network.preprocessor == imagenet


def test_a_run_with_a_file_resumes_bit_for_bit_and_keeps_the_receipt(tmp_path):
    match = dict(d=dict(type='FitNet', student_tap='backbone[3]', teacher_tap='map'))
    model = toys.model_config(toys.seg_net('fcn'), from_file(), match)
    ema = dict(custom_hooks=[dict(type='EMAHook', momentum=0.5)])
    _, first = resumed_alike(tmp_path, lambda folder, **more: toys.train(folder, model, iters=4, **ema, **more))
    assert not any('blocks' in name for name in first['state_dict'])
    assert 'original names' in str(first['meta']) and 'dinov2.pth' in str(first['meta'])


def test_a_file_of_another_model_is_refused_by_its_key():
    with pytest.raises(ValueError, match=r"model.teacher.checkpoint='.*dinov2.pth' does not fit model=dict\("):
        model_of(dict(from_file('dinov2'), model=files.tiny('dinov2_reg')), type='FitNet')


@pytest.mark.parametrize('accelerate', [dict(dtype='bfloat16'), dict(channels_last=True)], ids=str)
def test_accelerated_passes_are_close(accelerate):
    plain, fast = (toys.frozen(from_file('dinov3', accelerate=one), 'map', 'maps.0') for one in (None, accelerate))
    pictures = files.picture(80, 112)
    for teacher in (plain, fast):
        teacher.load(torch.zeros(1))
    for tap in ('map', 'maps.0'):
        one, other = (teacher(pictures)[tap][0] for teacher in (plain, fast))
        assert one.dtype == other.dtype == torch.float32
        assert nn.functional.cosine_similarity(one, other).min() > 0.995


@pytest.mark.parametrize('case', ['dinov2', 'dinov3'])
def test_a_step_in_mixed_precision(case):
    model = model_of(from_file(case), type='FitNet')
    with torch.autocast('cpu', torch.bfloat16):
        mixed = toys.losses_of(model)['distill.d.loss_fitnet']
    mixed.backward()
    assert model.backbone.stem[0].weight.grad.isfinite().all()
    assert mixed.item() == pytest.approx(toys.losses_of(model)['distill.d.loss_fitnet'].item(), rel=0.05)


@pytest.mark.parametrize('units', [True, False])
def test_bfloat16_is_advised_against_on_cpus_without_it(units, monkeypatch):
    for name in ('_is_avx512_bf16_supported', '_is_amx_tile_supported'):
        monkeypatch.setattr(torch.cpu, name, lambda: units, raising=False)
    told = []
    monkeypatch.setattr('mmdistill_dense.networks.acceleration.print_log', lambda text, *_: told.append(text))
    teacher = toys.frozen(option(accelerate=dict(dtype='bfloat16')), 'map')
    teacher.load(torch.zeros(1))
    teacher(files.picture(28, 28))
    assert len(told) == (not units) and all('runs the teacher several times slower' in text for text in told)


class Plain(nn.Module):
    """A user's own network, which is in no package."""

    def __init__(self, channels=8):
        super().__init__()
        self.layer = nn.Conv2d(3, channels, 4, 4)
        self.map = nn.Identity()

    def forward(self, pictures):
        return self.map(self.layer(pictures))


class Stated(Plain):
    preprocessor = dict(mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True)


class Bare(Plain):
    """Its constructor takes nothing, as the guide's."""

    def __init__(self):
        super().__init__()


def test_any_module_teaches_and_the_normalisation_of_the_config_wins():
    for kind in (Plain, Bare, Stated):
        MODELS.register_module(module=kind, force=True)
    with pytest.raises(ValueError, match=r'model.teacher: Plain does not say how its pictures are normalised'):
        model_of(dict(type='Plain', allow_random=True), type='FitNet')
    path = toys.fresh_dir() / 'plain.pth'
    torch.save(Plain().state_dict(), path)
    pictures = torch.rand(2, 3, 64, 64)
    for stated in (dict(mean=[10.0] * 3, std=[20.0] * 3, bgr_to_rgb=True), Stated.preprocessor):
        teachers, maps = [dict(type=kind, data_preprocessor=stated) for kind in ('Plain', 'Bare', 'Stated')], []
        for teacher in [*teachers, *[dict(type='Stated')] * (stated is Stated.preprocessor)]:
            model = model_of(dict(teacher, checkpoint=str(path)), type='FitNet')
            assert torch.isfinite(toys.losses_of(model)['distill.d.loss_fitnet'])
            maps.append(toys.teacher_of(model)(pictures)['map'][0])
        assert all(torch.equal(maps[0], other) for other in maps[1:])


# Of other libraries


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
    teacher = dict(type=KIND, model='timm::tiny', checkpoint=str(tmp_path / 'tiny.pth'))
    model = model_of(teacher, type='PKD')
    toys.losses_of(model)['distill.d.loss_pkd'].backward()
    frozen = toys.teacher_of(model)
    assert model.backbone.stem[0].weight.grad.abs().sum() > 0
    assert frozen.network.preprocessor == dict(mean=[127.5] * 3, std=[63.75] * 3, bgr_to_rgb=True)
    assert (frozen.receipt.matched, frozen.receipt.ignored, frozen.receipt.config) == (4, 1, 'timm::tiny')
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
