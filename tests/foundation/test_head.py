"""A frozen vision transformer with a head: what is trained, what the head computes, which files it takes and gives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmdistill_dense.apps.export.write_student import export_backbone
from mmdistill_dense.foundation.foundation_teacher import FoundationTeacher, LinearHead, VisionTransformer
from mmdistill_dense.foundation.vit import ViT, architecture
from mmdistill_dense.foundation.vit_file import named
from tests import toys
from tests.faults.tools import resumed_alike
from tests.foundation import files

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


def test_a_file_gives_the_maps_of_the_foundation_teacher_or_is_refused() -> None:
    path, picture = saved(files.state('dinov2', 'original')), files.picture(32, 48)
    teacher, backbone = (
        FoundationTeacher(files.tiny('dinov2')),
        VisionTransformer(files.tiny('dinov2'), checkpoint=path),
    )
    teacher.load_teacher(path)
    backbone.init_weights()
    assert torch.equal(backbone(picture)[0], teacher.eval()(picture))
    other = VisionTransformer(files.tiny('dinov2', dim=96), checkpoint=path, frozen=True)
    with pytest.raises(ValueError, match=r"(?s)backbone.checkpoint='.*' does not fit .*of another model than"):
        other.init_weights()
    with pytest.raises(ValueError, match='takes no init_cfg: name the file of its weights in checkpoint'):
        VisionTransformer(MODEL, init_cfg=dict(type='Pretrained', checkpoint='a.pth'))


def test_only_the_head_is_trained_and_a_run_resumes_exactly(tmp_path: Path) -> None:
    file = patch16()
    runner, saved = resumed_alike(tmp_path, lambda folder, **more: toys.train(folder, on_vit(file), **more))
    start = torch.load(file)
    for name, value in runner.model.backbone.state_dict().items():
        assert torch.equal(value, start[name]), name
    assert not runner.model.train().backbone.training and runner.model.decode_head.training
    assert len(saved['optimizer']['state']) == len(list(runner.model.decode_head.parameters())) == 4


def test_a_frozen_backbone_without_weights_stops_at_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='is frozen and has random weights.*set backbone.checkpoint'):
        toys.train(tmp_path / 'a', on_vit(None))
    trained = toys.train(tmp_path / 'b', on_vit(patch16()))
    whole = toys.run_config(tmp_path / 'c', on_vit(None), load_from=str(tmp_path / 'b/iter_4.pth'))
    found = toys.train(None, whole)  # the weights come from elsewhere
    assert torch.equal(found.model.backbone.cls_token, trained.model.backbone.cls_token)


@pytest.mark.parametrize('patch', [8, 14, 16])
def test_maps_of_a_pyramid_have_the_cells_of_the_student(patch: int) -> None:
    backbone = VisionTransformer(files.tiny('dinov3', patch=patch), stride=16)
    backbone.init_weights()
    assert backbone.eval()(files.picture(96, 160))[0].shape == (1, 48, 6, 10)


def test_keys_of_a_trained_student_have_no_bias_as_in_its_files() -> None:
    """What is trained is what an export gives."""
    network = VisionTransformer(files.tiny('dinov3'))
    network.init_weights()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        network(files.picture(32, 48))[0].square().sum().backward()
        optimizer.step()
    assert not any(block.attn.qkv.bias.grad.chunk(3)[1].any() for block in network.blocks)
    teacher = FoundationTeacher(files.tiny('dinov3'))
    teacher.load_teacher(saved(named(network, 'original')))
    with torch.no_grad():
        torch.testing.assert_close(teacher.eval()(files.picture(32, 48)), network.eval()(files.picture(32, 48))[0])


def test_the_head_is_its_formula() -> None:
    torch.manual_seed(0)
    head = LinearHead([4, 3], num_classes=5, align_corners=False).eval()
    nn.init.normal_(head.conv_seg.weight), nn.init.normal_(head.conv_seg.bias)
    norm = head.norm
    for one in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(one)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    maps = [torch.randn(2, 4, 3, 5), torch.randn(2, 3, 3, 5)]
    x = np.concatenate([one.numpy() for one in maps], 1).transpose(0, 2, 3, 1)
    x = (x - norm.running_mean.numpy()) / np.sqrt(norm.running_var.numpy() + norm.eps)
    x = x * norm.weight.detach().numpy() + norm.bias.detach().numpy()
    expected = x @ head.conv_seg.weight.detach().numpy()[:, :, 0, 0].T + head.conv_seg.bias.detach().numpy()
    np.testing.assert_allclose(head(maps).detach().numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)


def taught(path: Path, distillers: dict) -> nn.Module:
    teacher = dict(on_vit('/no/such/file.pth'), checkpoint=str(path))  # the whole network is in the checkpoint
    return toys.distilled(student=toys.seg_net('fcn'), teacher=teacher, distillers=distillers)


def test_scores_and_map_teach_in_one_pass(tmp_path: Path) -> None:
    toys.train(tmp_path, on_vit(patch16()))
    match = dict(type='FeatureMatch', student_tap='backbone[-1]', teacher_tap='backbone[-1]')
    model = taught(tmp_path / 'iter_4.pth', dict(kd=dict(type='LogitKD'), match=match))
    network, passes = model.distillation.teachers['teacher'].network, []
    network.backbone.register_forward_hook(lambda *_: passes.append(1))
    losses = toys.losses_of(model)
    assert sorted({name.split('.')[1] for name in losses if name.startswith('distill.')}) == ['kd', 'match']
    toys.total(losses).backward()
    assert passes == [1] and not any(one.requires_grad for one in network.parameters())


@pytest.mark.parametrize('names', ['original', 'timm'])
@pytest.mark.parametrize('case', ['dinov3', 'dinov2', 'dinov2_reg', 'mae'])
def test_a_student_is_exported_under_public_names(case: str, names: str) -> None:
    """Such a file is read as a teacher of the same shape, and gives the same map; its names are those of real files."""
    network = VisionTransformer(files.tiny(case))
    network.init_weights()
    teacher = FoundationTeacher(files.tiny(case))
    teacher.load_teacher(saved(named(network, names)))
    picture = files.picture(32, 48)
    with torch.no_grad():
        assert torch.equal(teacher.eval()(picture), network.eval()(picture)[0])
    if case != 'mae':  # whose files also hold a decoder, or have a prefix
        known = {name for name in files.shapes(case, names) if not name.endswith('mask_token')}
        assert {*named(network, names)} == known


def exported(option: dict, folder: Path, *names: str) -> Path:
    """The backbone out of a checkpoint of the whole network."""
    network = toys.build(option)
    network.init_weights()
    torch.save(dict(state_dict=network.state_dict(), meta={}), folder / 'whole.pth')
    config = Config(dict(default_scope='mmseg', model=option))
    return export_backbone(config, folder / 'whole.pth', folder / 'student.pth', *names)


def test_the_backbone_of_a_checkpoint_is_written_under_dinov3_s_names(tmp_path: Path) -> None:
    tiny = files.tiny('dinov3')
    backbone = dict(type='mmdistill_dense.VisionTransformer', model=tiny, out_blocks=(0, 1))
    out = exported(dict(on_vit(None), backbone=backbone), tmp_path)
    state = torch.load(out, weights_only=True)['state_dict']
    assert {'rope_embed.periods', 'blocks.1.attn.qkv.bias_mask', 'cls_token'} <= state.keys()
    FoundationTeacher(tiny).load_teacher(out)
    resnet = toys.run_config('x', toys.seg_net('fcn')).model
    with pytest.raises(ValueError, match="names='timm': ResNetV1c has one set of names"):
        exported(resnet, tmp_path, 'timm')
