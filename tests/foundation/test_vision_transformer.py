"""MoCo v3's vision transformer with its projection head as a self-supervised teacher, and as a backbone alone."""

import pytest
import torch

from mmdistill_dense.foundation.foundation_teacher import VisionTransformer
from mmdistill_dense.pretrain import SSLTeacher
from mmdistill_dense.pretrain.spatial_adaptor import blank_entries
from tests import toys
from tests.foundation import files

MODEL = files.tiny('dino', family='mocov3')
BACKBONE = dict(type='mmdistill_dense.VisionTransformer', model=MODEL)
WIDTHS = [48, 20, 20, 12]


def checkpoint():
    """A file of MoCo v3's ViT: both branches with heads, and a predictor."""
    content = {}
    for branch, shift in (('momentum_encoder', 0.0), ('base_encoder', 0.1)):
        for name, value in files.state('dino', 'original').items():
            content[f'module.{branch}.{name}'] = value + shift
        entries = blank_entries('linear bn act linear bn act linear bn0', WIDTHS)
        for name, value in entries.items():
            drawn = value if 'running' in name or value.ndim == 1 else files.fill(f'head.{name}.qkv', value.shape)
            content[f'module.{branch}.head.{name}'] = drawn
    content['module.predictor.0.weight'] = torch.zeros(3, 3)
    path = toys.fresh_dir() / 'vit.pth'
    torch.save(dict(state_dict=content, epoch=300), path)
    return str(path)


def teacher_of(path, **options):
    """A loaded teacher."""
    teacher = SSLTeacher(BACKBONE, 'mocov3_vit', dict(widths=WIDTHS), **options)
    assert teacher.load_teacher(path)[0] == len(teacher.state_dict())
    return teacher.eval()


def test_the_heads_map_has_the_mean_of_the_vector_head():
    teacher, pictures = teacher_of(checkpoint()), files.picture(80, 112)
    with torch.no_grad():
        found, (tokens,) = teacher(pictures), teacher.backbone(pictures)
        expected = teacher.head.vector(tokens.mean((2, 3)))
    assert found.shape == (1, 12, 5, 7) and tokens.shape == (1, 48, 5, 7)
    torch.testing.assert_close(found.mean((2, 3)), expected, atol=1e-5, rtol=1e-5)


def test_the_branch_is_chosen():
    path = checkpoint()
    momentum, online = (teacher_of(path, branch=branch).backbone.cls_token for branch in ('momentum', 'online'))
    torch.testing.assert_close(online, momentum + 0.1)


def test_it_teaches_by_pcd():
    teacher = dict(type='mmdistill_dense.SSLTeacher', backbone=BACKBONE, layout='mocov3_vit', checkpoint=checkpoint())
    pcd = dict(type='PCD', student_tap='backbone[3]', teacher_tap='head', queue_size=8, queue_init='random')
    teacher.update(head=dict(widths=WIDTHS))
    model = toys.distilled(student=toys.seg_net('fcn'), teacher=teacher, distillers=dict(d=pcd))
    losses = toys.losses_of(model)
    losses['distill.d.loss_pcd'].backward()
    assert model.backbone.stem[0].weight.grad.abs().sum() > 0


def test_it_returns_the_maps_that_were_asked_for():
    backbone = VisionTransformer(MODEL, out_blocks=(0, -1))
    backbone.init_weights()
    first, last = backbone.eval()(files.picture(32, 48))
    assert first.shape == last.shape == (1, 48, 2, 3) and not torch.equal(first, last)
    for blocks in ((2,), (), (-3, 0)):
        with pytest.raises(ValueError, match=r'out_blocks must hold blocks of 0 to 1, or -1 for the last'):
            VisionTransformer(MODEL, out_blocks=blocks)
