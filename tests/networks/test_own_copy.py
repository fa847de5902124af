"""Student and teacher record the same thing: networks beside their own copies, at every place that can be tapped."""

import pytest
import torch

from mmdistill_dense.apps.check import Options, check_config
from mmdistill_dense.networks import trace as dryrun
from tests import toys
from tests.networks import own_copy

BRANCHES = dict(backbone=dict(channels=8, ppm_channels=16), decode_head=dict(in_channels=32, channels=16))
QUICK = {
    'deeplabv3': {},
    'retinanet': {},
    'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py': {},
}
LONG = {
    'mmdet::vfnet/vfnet_r50_fpn_1x_coco.py': {},
    'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py': {},
    'mmseg::emanet/emanet_r50-d8_4xb2-80k_cityscapes-512x1024.py': {},
    'mmseg::ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py': BRANCHES,
    'fcn': {},
    'fcos': dict(bbox_head=dict(norm_on_bbox=True)),
    'cascade_mask_rcnn': {},
    'reppoints': {},
    'gfl': {},
    'pspnet': {},
    'faster_rcnn': {},
    'mmseg::deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py': {},
    'mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py': {},
    'mmseg::mobilenet_v2/mobilenet-v2-d8_deeplabv3_4xb2-80k_cityscapes-512x1024.py': {},
    'mmdet::atss/atss_r50_fpn_1x_coco.py': {},
    'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py': {},
    'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py': {},
    'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py': {},
    'mmdet::solo/decoupled-solo-light_r50_fpn_3x_coco.py': {},
    'mmdet::tood/tood_r50_fpn_1x_coco.py': {},
    'mmdet::foveabox/fovea_r50_fpn_4xb4-1x_coco.py': {},
    'mmdet::yolact/yolact_r50_1xb8-55e_coco.py': {},
    'mmdet::guided_anchoring/ga-retinanet_r50_fpn_1x_coco.py': {},
}
HAM = 'mmseg::segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py'


def assert_equal(gaps):
    assert len(gaps) > 100
    assert {tap: gap for tap, gap in gaps.items() if gap > 1e-6} == {}


@pytest.mark.parametrize('name', QUICK)
def test_every_place_gives_the_same_in_training(name):
    assert_equal(own_copy.gaps(name, **QUICK[name]))


@pytest.mark.soak
@pytest.mark.parametrize('name', LONG)
def test_every_place_of_further_networks_gives_the_same_in_training(name):
    assert_equal(own_copy.gaps(name, **LONG[name]))


def test_a_pass_without_the_students_modes_is_noticed(monkeypatch):
    monkeypatch.setattr(dryrun, 'run_as_trained', lambda network, run: (network.eval() and run(), False))
    gaps = own_copy.gaps('fcos', bbox_head=dict(norm_on_bbox=True))
    assert {tap for tap, gap in gaps.items() if gap > 1e-6} >= {'bbox_head'}


@pytest.mark.parametrize('tap', [
    'backbone.layer4.1.bn2',
    'backbone.layer4.0.bn1',
    'backbone.layer4.1.relu:input',
    'decode_head.bottleneck.bn',
    'auxiliary_head.convs.0.bn',
    ['backbone.layer4.1.bn2', 'decode_head.bottleneck.bn'],
])  # fmt: skip
def test_a_student_that_equals_its_teacher_has_no_loss(tap):
    """The last tap ends the teacher's pass, and one before it does not."""
    distillers = dict(f=dict(type='FitNet', student_tap=tap, align='none'))
    teacher = dict(toys.seg_net(), allow_random=True, accelerate=False)
    model = toys.distilled(student=toys.seg_net(), teacher=teacher, distillers=distillers)
    with torch.no_grad():  # the last norm of a block begins at 0
        for parameter in model.backbone.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))
    toys.teacher_of(model).network.load_state_dict(model.state_dict())
    toys.still_norms(model)
    loss = toys.losses_of(model)['distill.f.loss_fitnet']
    assert loss == 0
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.mul_(1.1)
    loss = toys.losses_of(model)['distill.f.loss_fitnet']
    (gradient,) = torch.autograd.grad(loss, [model.backbone.stem[0].weight])
    assert loss > 0 and gradient.abs().max() > 0, 'a copy that is recorded still teaches'


def test_the_input_of_a_head_that_is_called_without_hooks_is_refused_at_construction():
    distillers = dict(f=dict(type='FitNet', student_tap='decode_head:input'))
    with pytest.raises(ValueError, match="student_tap='decode_head:input': ASPPHead is called without module hooks in"):
        toys.build(toys.model_config(distillers=distillers))


@pytest.mark.soak
def test_check_tells_of_a_head_that_draws_random_numbers(tmp_path):
    config = own_copy.network_config(HAM, backbone=dict(embed_dims=[8, 8, 8, 8], depths=[1, 1, 1, 1]))
    net = dict(config.model, _scope_='mmseg')
    thin = dict(in_channels=[8, 8, 8], channels=16, ham_channels=16, num_classes=toys.NUM_CLASSES)
    head = dict(net['decode_head'], **thin, norm_cfg=dict(type='GN', num_groups=4))
    net['decode_head'] = head
    model = toys.model_config(net, dict(net, allow_random=True), dict(kd=dict(type='LogitKD')))
    report = check_config(toys.run_config(tmp_path, model), Options(weights=False, cost=False, val=0))
    found = [finding for finding in report.findings if finding.check == 'own_copy']
    places = [finding.message.split(':')[0] for finding in found]
    assert places == ['student_tap decode_head.conv_seg', 'model.teacher tap decode_head.conv_seg']
    assert all(finding.level == 'warning' for finding in found)
