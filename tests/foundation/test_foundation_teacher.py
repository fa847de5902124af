"""Foundation models, networks of timm and transformers and any module teach; so does a frozen one with a head."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.export.write_student import export_backbone
from mmdistill_dense.apps.project import network_options
from mmdistill_dense.foundation.foundation_teacher import FoundationTeacher, LinearHead, VisionTransformer
from mmdistill_dense.foundation.vit import ViT, architecture
from mmdistill_dense.foundation.vit_file import public_weights
from tests import toys
from tests.docs_blocks import blocks
from tests.faults.tools import resumed_alike
from tests.foundation import files
from tests.foundation.files import KIND, option
from tests.project.folders_of_data import seg_folder


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


def test_default_taps_of_other_networks_are_refused():
    with pytest.raises(KeyError, match=r'tapped at map, maps.0 … maps.1 and cls; it has no class scores'):
        toys.distilled(teacher=option(), distillers=dict(d=dict(type='LogitKD')))


def test_a_file_of_another_model_is_refused_by_its_key():
    with pytest.raises(ValueError, match=r"model.teacher.checkpoint='.*dinov2.pth' does not fit model=dict\("):
        model_of(dict(from_file('dinov2'), model=files.tiny('dinov2_reg')), type='FitNet')


@pytest.mark.parametrize('options', [dict(dtype='bfloat16'), dict(dtype='float16'), dict(channels_last=True)], ids=str)
def test_accelerated_passes_are_close(options):
    plain, fast = (toys.frozen(from_file('dinov3', accelerate=option), 'map', 'maps.0') for option in (None, options))
    pictures = files.picture(80, 112)
    for teacher in (plain, fast):
        teacher.load(torch.zeros(1))
    dtypes = []
    fast.network.register_forward_pre_hook(
        lambda *_: dtypes.append(torch.is_autocast_enabled('cpu') and str(torch.get_autocast_dtype('cpu')))
    )
    for tap in ('map', 'maps.0'):
        plain_map, other = (teacher(pictures)[tap][0] for teacher in (plain, fast))
        assert plain_map.dtype == other.dtype == torch.float32
        assert nn.functional.cosine_similarity(plain_map, other).min() > 0.995
        assert 'dtype' not in options or not torch.equal(plain_map, other)
    assert 'dtype' not in options or dtypes == [f'torch.{options["dtype"]}'] * 2


@pytest.mark.parametrize('units', [True, False])
def test_bfloat16_is_advised_against_on_cpus_without_it(units, monkeypatch):
    for name in ('_is_avx512_bf16_supported', '_is_amx_tile_supported'):
        monkeypatch.setattr(torch.cpu, name, lambda: units, raising=False)
    texts = []
    monkeypatch.setattr('mmdistill_dense.networks.acceleration.print_log', lambda text, *_: texts.append(text))
    teacher = toys.frozen(option(accelerate=dict(dtype='bfloat16')), 'map')
    teacher.load(torch.zeros(1))
    teacher(files.picture(28, 28))
    assert len(texts) == (not units) and all('runs the teacher several times slower' in text for text in texts)


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


def test_any_module_teaches():
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
    message = rf"'{library}::x': {library} could not be imported \((operator torchvision::nms does not exist|no X)\)"
    with pytest.raises(ValueError, match=message + r': pip install .* need no library: name the model'):
        FoundationTeacher(f'{library}::x')


def test_a_folder_of_transformers_needs_its_config(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'transformers', ModuleType('transformers'))
    with pytest.raises(ValueError, match=r'is no folder with a config.json'):
        FoundationTeacher(f'transformers::{tmp_path}')


# A frozen vision transformer with a head: what is trained, what it computes, which files it takes and gives


MODEL = files.tiny('dinov2', patch=16)
SIZE = dict(type='SegDataPreProcessor', mean=[0.0] * 3, std=[255.0] * 3, size=(64, 64), pad_val=0, seg_pad_val=255)


def saved(state: dict) -> str:
    path = toys.fresh_dir() / 'vit.pth'
    torch.save(state, path)
    return str(path)


def patch16() -> str:
    """A file of the small model with patches of 16 pixels."""
    network = ViT(architecture(MODEL))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network.init_weights()
    return saved(network.state_dict())


def on_vit(file: str | None, **options) -> dict:
    """A segmentor: the frozen transformer with a linear head on its two blocks."""
    backbone = dict(type='mmdistill_dense.VisionTransformer', model=MODEL, out_blocks=(0, 1), frozen=True)
    head = dict(type='mmdistill_dense.LinearHead', in_channels=[48, 48], num_classes=toys.NUM_CLASSES,
                loss_decode=dict(type='CrossEntropyLoss'), align_corners=False)  # fmt: skip
    return dict(
        type='EncoderDecoder', data_preprocessor=SIZE, backbone=dict(backbone, checkpoint=file, **options),
        decode_head=head, train_cfg=dict(), test_cfg=dict(mode='whole'),
    )  # fmt: skip


def test_a_file_gives_the_maps_or_is_refused() -> None:
    path, picture = saved(files.state('dinov2', 'original') | {'own.w': torch.ones(1)}), files.picture(32, 48)
    teacher, backbone = (
        FoundationTeacher(files.tiny('dinov2'), ignore=['own.']),
        VisionTransformer(files.tiny('dinov2'), checkpoint=path, ignore=['own.']),
    )
    teacher.load_teacher(path)
    backbone.init_weights()
    assert torch.equal(backbone(picture)[0], teacher.eval()(picture))
    other = VisionTransformer(files.tiny('dinov2', dim=96), checkpoint=path, frozen=True)
    with pytest.raises(ValueError, match=r"(?s)backbone.checkpoint='.*' does not fit .*of another model than"):
        other.init_weights()
    with pytest.raises(ValueError, match='takes no init_cfg: name the file of its weights in checkpoint'):
        VisionTransformer(MODEL, init_cfg=dict(type='Pretrained', checkpoint='a.pth'))


def test_only_the_head_is_trained(tmp_path: Path) -> None:
    file = patch16()
    runner, saved = resumed_alike(tmp_path, lambda folder, **more: toys.train(folder, on_vit(file), **more))
    start = torch.load(file)
    for name, value in runner.model.backbone.state_dict().items():
        assert torch.equal(value, start[name]), name
    assert not runner.model.train().backbone.training and runner.model.decode_head.training
    assert len(saved['optimizer']['state']) == len(list(runner.model.decode_head.parameters())) == 4


def test_a_frozen_backbone_without_weights_stops(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='is frozen and has random weights.*set backbone.checkpoint'):
        toys.train(tmp_path / 'a', on_vit(None))
    trained = toys.train(tmp_path / 'b', on_vit(patch16()))
    whole = toys.run_config(tmp_path / 'c', on_vit(None), load_from=str(tmp_path / 'b/iter_4.pth'))
    actual = toys.train(None, whole)  # the weights come from elsewhere
    assert torch.equal(actual.model.backbone.cls_token, trained.model.backbone.cls_token)


@pytest.mark.parametrize('patch', [8, 14, 16])
def test_maps_of_a_pyramid_have_the_cells_of_the_student(patch: int) -> None:
    backbone = VisionTransformer(files.tiny('dinov3', patch=patch), stride=16)
    backbone.init_weights()
    assert backbone.eval()(files.picture(96, 160))[0].shape == (1, 48, 6, 10)


def test_keys_of_a_trained_student_have_no_bias_as_in_its_files() -> None:
    """What is trained is what an export gives."""
    network = VisionTransformer(files.tiny('dinov3'))
    network.init_weights()
    assert not any(block.attn.qkv.bias.chunk(3)[1].any() for block in network.blocks)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        network(files.picture(32, 48))[0].square().sum().backward()
        optimizer.step()
    assert not any(block.attn.qkv.bias.grad.chunk(3)[1].any() for block in network.blocks)
    teacher = FoundationTeacher(files.tiny('dinov3'))
    teacher.load_teacher(saved(public_weights(network, 'original')))
    with torch.no_grad():
        torch.testing.assert_close(teacher.eval()(files.picture(32, 48)), network.eval()(files.picture(32, 48))[0])


def test_the_head_is_its_formula() -> None:
    torch.manual_seed(0)
    head = LinearHead([4, 3], num_classes=5, align_corners=False).eval()
    nn.init.normal_(head.conv_seg.weight), nn.init.normal_(head.conv_seg.bias)
    norm = head.norm
    for parameter in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(parameter)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    maps = [torch.randn(2, 4, 3, 5), torch.randn(2, 3, 3, 5)]
    x = np.concatenate([level.numpy() for level in maps], 1).transpose(0, 2, 3, 1)
    x = (x - norm.running_mean.numpy()) / np.sqrt(norm.running_var.numpy() + norm.eps)
    x = x * norm.weight.detach().numpy() + norm.bias.detach().numpy()
    expected = x @ head.conv_seg.weight.detach().numpy()[:, :, 0, 0].T + head.conv_seg.bias.detach().numpy()
    np.testing.assert_allclose(head(maps).detach().numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)


@pytest.mark.parametrize('names', ['original', 'timm'])
@pytest.mark.parametrize('case', ['dinov3', 'dinov2', 'dinov2_reg', 'mae'])
def test_a_student_is_exported_under_public_names(case: str, names: str) -> None:
    """Such a file is read as a teacher of the same shape, and gives the same map; its names are those of real files."""
    network = VisionTransformer(files.tiny(case))
    network.init_weights()
    teacher = FoundationTeacher(files.tiny(case))
    teacher.load_teacher(saved(public_weights(network, names)))
    picture = files.picture(32, 48)
    with torch.no_grad():
        assert torch.equal(teacher.eval()(picture), network.eval()(picture)[0])
    if case != 'mae':  # whose files also hold a decoder, or have a prefix
        known_names = {name for name in files.shapes(case, names) if not name.endswith('mask_token')}
        assert {*public_weights(network, names)} == known_names


def test_a_backbone_is_exported_under_original_names(tmp_path: Path) -> None:
    def exported(model: dict, *names: str) -> Path:
        torch.save(dict(state_dict=toys.build(model).state_dict(), meta={}), tmp_path / 'whole.pth')
        config = Config(dict(default_scope='mmseg', model=model))
        return export_backbone(config, tmp_path / 'whole.pth', tmp_path / 'student.pth', *names)

    tiny = files.tiny('dinov3')
    backbone = dict(type='mmdistill_dense.VisionTransformer', model=tiny, out_blocks=(0, 1))
    FoundationTeacher(tiny).load_teacher(exported(dict(on_vit(None), backbone=backbone)))
    with pytest.raises(ValueError, match="names='timm': ResNetV1c has one set of names"):
        exported(toys.run_config('x', toys.seg_net('fcn')).model, 'timm')


@pytest.mark.soak
def test_the_head_of_the_guide_teaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its reader does: the file of the page beside the weights, then ``new`` and ``run``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(network_options, 'reachable', lambda host: False)
    (guide,) = (block for block in blocks('python') if block.file == 'head.py')
    Path('head.py').write_text(guide.text.replace('-08c60483', ''))  # the hash of the published file
    network = ViT(architecture('dinov3_vits16'))
    network.init_weights()
    torch.save(public_weights(network, 'original'), 'dinov3_vits16_pretrain_lvd1689m.pth')
    seg_folder(Path('leaves'))
    student = 'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'
    words = ['--data', 'leaves', '--student', student, '--teacher', 'head.py', '--method', 'kd']
    assert main(['new', *words, '--batch', '2', '--iters', '4']) == 0
    teacher = Config.fromfile('distil_leaves/kd.py').model.teacher
    assert teacher.cfg == str(Path('head.py').resolve()) and teacher.decode_head.num_classes == 3
    assert main(['run', 'distil_leaves']) == 0 and Path('distil_leaves/student.pth').is_file()
    state = torch.load('distil_leaves/work/teacher/iter_4.pth', weights_only=False)['state_dict']
    assert all(torch.equal(state[f'backbone.{name}'], weight) for name, weight in network.state_dict().items())
