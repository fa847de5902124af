"""Pre-training from end to end on a CPU: it learns, it resumes, and ordinary configs start from what it writes."""

import functools

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.export import export_student
from mmdistill_dense.apps.export.write_student import export_backbone
from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.networks.building import build_network
from tests import toys
from tests.pretrain import files, runs

MASK_RCNN = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
R18B = 'mmseg::deeplabv3/deeplabv3_r18b-d8_4xb2-80k_cityscapes-512x1024.py'


@functools.cache
def trained(workers=0):
    """The folder of a run that was not interrupted, and its config."""
    folder = toys.fresh_dir()
    config = runs.config(folder, workers=workers)
    toys.train(None, config)
    return folder, config


@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.soak)])
def test_killed_run_resumes_to_the_same_bits(tmp_path, workers):
    folder, _ = trained(workers) if workers else trained()  # workers draw other views
    toys.train(None, runs.config(tmp_path, workers=workers, resume=True, load_from=str(folder / 'epoch_1.pth')))
    expected = runs.content(folder / 'epoch_2.pth')
    assert not toys.differing(runs.content(tmp_path / 'epoch_2.pth'), expected)
    changed = toys.differing(runs.content(folder / 'epoch_1.pth'), expected)
    assert {'distillers.pcd.queue.rows', 'distillers.pcd.queue.ptr', 'state_dict.backbone.conv1.weight'} <= {*changed}


def test_a_schedule_that_ends_before_the_run_is_refused_at_start(tmp_path):
    changes = dict(model=dict(distillers=dict(pcd=dict(schedule=dict(stop_at=0.5)))))
    with pytest.raises(ValueError, match='nothing teaches this student behind iteration 4 of 8'):
        toys.train(None, runs.config(tmp_path, **changes))


def test_checkpoint_holds_the_student_at_the_root_and_a_receipt():
    folder, _ = trained()
    checkpoint = torch.load(folder / 'epoch_2.pth', weights_only=False)
    assert len(checkpoint['state_dict']) == 120
    assert all(name.startswith('backbone.') for name in checkpoint['state_dict'])
    assert all(name.startswith('pcd.') for name in checkpoint['distillers'])
    (receipt,) = checkpoint['meta']['distill']['teachers'].values()
    assert receipt['matched'] == 325 and receipt['sha256']


def test_parts_of_the_student_that_nothing_trains_are_named(tmp_path):
    assert 'get no gradient' not in next(trained()[0].rglob('*.log')).read_text()
    config = runs.config(tmp_path, epochs=1, log_level='INFO')
    config.model.student.backbone.frozen_stages = 1
    config.model.distillers.pcd.update(student_tap='backbone[2]', attention=None)
    config.model.distillers.pcd.head = dict(type='linear')
    toys.train(None, config)
    log = next(tmp_path.rglob('*.log')).read_text()
    assert log.count('WARNING - model.student: 30 parameters get no gradient') == 1
    assert 'backbone.conv1.weight' in log and 'tap backbone[-1] too' in log


def test_teacher_sees_its_layouts_normalisation():
    swav, row = files.synthetic('swav_r50')
    config = runs.model()
    config['teacher'] |= dict(
        layout='swav', head=dict(widths=files.widths_of(swav, row)), checkpoint=files.saved(swav)
    )  # fmt: skip
    model = toys.ready(toys.build(config, scope='mmdet'))
    teacher = toys.teacher_of(model)
    raw = [torch.randint(0, 256, (2, 3, runs.SIDE, runs.SIDE), dtype=torch.uint8) for _ in range(2)]
    found = teacher(model.data_preprocessor(dict(inputs=raw), True)['inputs'])['head']
    mean, std = (torch.tensor(v).view(3, 1, 1) * 255 for v in ((0.485, 0.456, 0.406), (0.228, 0.224, 0.225)))
    for view, one in zip(raw, found, strict=True):
        torch.testing.assert_close(one, teacher.network((view.flip(1).float() - mean) / std), rtol=1e-4, atol=1e-4)


def same(state, folder):
    """The tensors of this backbone are the trained ones."""
    trained_state = torch.load(folder / 'epoch_2.pth', weights_only=False)['state_dict']
    expected = {name.removeprefix('backbone.'): value for name, value in trained_state.items()}
    return not toys.differing(state, expected)


@pytest.mark.parametrize('kind', ['mmdet.ResNet', 'mmseg.ResNet'])
def test_bare_backbone_loads_strictly_into_both_packages(tmp_path, kind):
    toys.build_plain(toys.seg_net('fcn'))  # registers mmseg
    folder, config = trained()
    out = export_backbone(config, folder / 'epoch_2.pth', tmp_path / 'new' / 'b.pth')
    file = torch.load(out, weights_only=True)
    assert set(file) == {'meta', 'state_dict'} and file['meta']['epoch'] == 2
    student = MODELS.build(dict(type='mmdistill_dense.BackboneStudent', backbone=runs.R18))
    load_checkpoint(student, str(folder / 'epoch_2.pth'), strict=True)
    vanilla = MODELS.build(dict(runs.R18, type=kind))
    vanilla.load_state_dict(file['state_dict'], strict=True)
    vanilla.eval()
    images = torch.randn(1, 3, 64, 96)
    for ours, theirs in zip(student.eval().extract_feat(images), vanilla(images), strict=True):
        assert torch.equal(ours, theirs)


def option_of(kind, init_cfg=None):
    """A plain detector or segmentor of the zoo with a tiny ResNet-18."""
    width = runs.R18['base_channels']
    backbone = dict(base_channels=width, stem_channels=width, init_cfg=init_cfg, norm_eval=False)
    if kind == 'mask_rcnn':
        neck = dict(in_channels=[width * 2**stage for stage in range(4)], out_channels=16)
        option = dict(cfg=MASK_RCNN, backbone=dict(backbone, depth=18, frozen_stages=-1), neck=neck)
        option |= dict(rpn_head=dict(in_channels=16, feat_channels=16))
        extractor, heads = dict(out_channels=16), dict(in_channels=16)
        option['roi_head'] = dict(
            bbox_roi_extractor=extractor, mask_roi_extractor=extractor,
            bbox_head=dict(heads, fc_out_channels=16), mask_head=dict(heads, conv_out_channels=16),
        )  # fmt: skip
    else:
        bn = dict(type='BN', requires_grad=True)
        heads = [dict(in_channels=width * 2**stage, channels=8, norm_cfg=bn) for stage in (3, 2)]
        option = dict(cfg=R18B, pretrained=None, backbone=dict(backbone, norm_cfg=bn))
        option |= dict(decode_head=heads[0], auxiliary_head=heads[1])
    return option


def vanilla(kind, init_cfg=None):
    """The network of it, built and not initialised."""
    config = load_model(option_of(kind, init_cfg), 'model')
    init_default_scope(config.scope)
    return build_network(config)


@pytest.mark.parametrize('kind', ['mask_rcnn', 'deeplabv3_r18b'])
def test_ordinary_configs_start_from_it(tmp_path, kind):
    folder, config = trained()
    whole, plain = export_student(config, folder / 'epoch_2.pth', tmp_path / 'student.pth')
    bare = export_backbone(config, folder / 'epoch_2.pth', tmp_path / 'backbone.pth')
    for options in (
        dict(checkpoint=str(bare)),
        dict(checkpoint=str(folder / 'epoch_2.pth'), prefix='backbone.'),
        dict(checkpoint=str(whole), prefix='backbone.'),
    ):
        network = vanilla(kind, dict(type='Pretrained', **options))
        assert not same(network.backbone.state_dict(), folder)
        network.init_weights()
        assert same(network.backbone.state_dict(), folder)
    network = vanilla(kind)
    load_checkpoint(network, str(whole))  # what load_from does
    assert same(network.backbone.state_dict(), folder)
    assert Config.fromfile(plain).model.type == 'mmdistill_dense.BackboneStudent'


def test_export_refuses_what_does_not_fit(tmp_path):
    folder, config = trained()
    with pytest.raises(ValueError, match=r'must end in \.pth'):
        export_backbone(config, folder / 'epoch_2.pth', tmp_path / 'b.py')
    with pytest.raises(ValueError, match=r'does not fit BackboneStudent'):
        torch.save(dict(state_dict=dict(a=torch.zeros(1))), tmp_path / 'a.pth')
        export_backbone(config, tmp_path / 'a.pth', tmp_path / 'b.pth')
    with pytest.raises(ValueError, match='does not fit BackboneStudent'):
        export_backbone(config, toys.teacher_file('fcn'), tmp_path / 'b.pth')
    assert not (tmp_path / 'b.pth').exists()


def test_command_line(tmp_path, capsys):
    folder, config = trained()
    config.dump(tmp_path / 'leaf.py')
    out = tmp_path / 'b.pth'
    arguments = [str(tmp_path / 'leaf.py'), str(folder / 'epoch_2.pth'), str(out), '--backbone-only']
    assert main(['export', *arguments]) == 0
    assert str(out) in capsys.readouterr().out
    assert 'conv1.weight' in torch.load(out, weights_only=True)['state_dict']
