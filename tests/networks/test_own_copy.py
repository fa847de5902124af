"""Student and teacher record the same thing: networks beside their own copies, at every place that can be tapped."""

from contextlib import suppress

import pytest
import torch
from mmengine import MessageHub
from mmengine.registry import init_default_scope
from torch import nn

from mmdistill_dense.apps.check import Options, check_config
from mmdistill_dense.apps.check.tap_list import copy_gaps
from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.networks import trace as dryrun
from mmdistill_dense.networks.building import build_network
from mmdistill_dense.networks.recording import run_parts
from mmdistill_dense.networks.taps import Tap, check_student_input, resolve_tap
from mmdistill_dense.utils.reproducible import stream_states
from tests import toys
from tests.zoo.narrow import narrow

SIDE = 128
_MASKS = ('mask', 'solo', 'yolact')
# What a network in eval mode with features alone does not reach: RoI heads, query decoders.
_OTHERS = ('roi_head', 'data_preprocessor')


def network_config(name, **overrides):
    """A toy of :mod:`tests.toys`, or a zoo config at reduced width where there is a rule for its backbone."""
    if name in toys.SEG:
        return load_model(toys.seg_net(name, **overrides), 'model')
    if name in toys.DET:
        return load_model(toys.det_net(name, **overrides), 'model')
    given = dict(pretrained=None) if name.startswith('mmseg') else {}
    config = load_model(dict(cfg=name, **toys.merged(given, overrides)), 'model')
    with suppress(KeyError):
        return load_model(narrow(config), 'model')
    return config


def gaps(name, **overrides):
    """By tap, for all of a network at once, how far a training pass is from that of its frozen copy, where it is."""
    config = network_config(name, **overrides)
    init_default_scope(config.scope)
    torch.manual_seed(0)
    network = build_network(config, pretrained=False)
    network.init_weights()
    for buffer_name, buffer in network.named_buffers():
        if buffer_name.endswith('running_mean'):
            buffer.normal_(std=0.1)
    hub = MessageHub.get_current_instance()
    for key in ('iter', 'epoch'):  # which preprocessors read
        hub.update_info(key, 0)
    segmentation, masks = config.scope == 'mmseg', any(word in name for word in _MASKS)
    batch = toys.seg_batch(side=SIDE) if segmentation else toys.det_batch(side=SIDE, masks=masks)
    prepared = network.data_preprocessor(batch, segmentation)
    places = list(taps(network, prepared['inputs']))
    before = stream_states()
    found = copy_gaps(config, network.state_dict(), places, prepared['inputs'], prepared['data_samples'])
    assert stream_states() == before, 'a check draws no number of the run'
    assert len(found) > 100
    return {tap: gap for tap, gap in found.items() if gap > 1e-6}


def taps(network, inputs):
    """Each module's output and first input that can be tapped."""
    for path, calls in _calls(network, inputs).items():
        for text in (path, f'{path}:input'):
            tap = Tap.parse(text)
            with suppress(ValueError):
                resolve_tap(network, tap, 'tap')
                check_student_input(network, tap, 'tap')
                for args, output in calls:
                    tap.pick(args, output)
                yield tap


@torch.no_grad()
def _calls(network, inputs):
    found = {}
    network.eval()
    hooks = [
        module.register_forward_hook(lambda _, args, out, path=path: found.setdefault(path, []).append((args, out)))
        for path, module in network.named_modules()
        if path
    ]
    run_parts(network, [], inputs, heads=[])
    ran = {path.split('.')[0] for path in found}
    for name, child in network.named_children():
        if name in ran or name in _OTHERS:
            continue
        for path in [f'{name}.{i}' for i in range(len(child))] if isinstance(child, nn.ModuleList) else [name]:
            with suppress(ValueError, AttributeError, AssertionError):
                run_parts(network, [], inputs, heads=[path])
    for hook in hooks:
        hook.remove()
    return found


DDRNET = 'mmseg::ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py'
OVERRIDES = {
    'fcos': dict(bbox_head=dict(norm_on_bbox=True)),
    DDRNET: dict(backbone=dict(channels=8, ppm_channels=16), decode_head=dict(in_channels=32, channels=16)),
}
HAM = 'mmseg::segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py'


QUICK = ['deeplabv3', 'retinanet', 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py']
LONG = [
    *('fcn', 'pspnet', 'fcos', 'cascade_mask_rcnn', 'reppoints', 'gfl', 'faster_rcnn', DDRNET),
    'mmseg::emanet/emanet_r50-d8_4xb2-80k_cityscapes-512x1024.py',
    'mmseg::deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py',
    'mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
    'mmseg::mobilenet_v2/mobilenet-v2-d8_deeplabv3_4xb2-80k_cityscapes-512x1024.py',
    'mmdet::vfnet/vfnet_r50_fpn_1x_coco.py',
    'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
    'mmdet::atss/atss_r50_fpn_1x_coco.py',
    'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py',
    'mmdet::solo/decoupled-solo-light_r50_fpn_3x_coco.py',
    'mmdet::tood/tood_r50_fpn_1x_coco.py',
    'mmdet::foveabox/fovea_r50_fpn_4xb4-1x_coco.py',
    'mmdet::yolact/yolact_r50_1xb8-55e_coco.py',
    'mmdet::guided_anchoring/ga-retinanet_r50_fpn_1x_coco.py',
]


@pytest.mark.parametrize('name', [*QUICK, *(pytest.param(one, marks=pytest.mark.soak) for one in LONG)])
def test_every_place_gives_the_same_in_training(name):
    assert gaps(name, **OVERRIDES.get(name, {})) == {}


def test_a_pass_without_the_students_modes_is_noticed(monkeypatch):
    monkeypatch.setattr(dryrun, 'run_as_trained', lambda network, run: (network.eval() and run(), False))
    assert {*gaps('fcos', **OVERRIDES['fcos'])} >= {'bbox_head'}


def test_the_input_of_a_head_that_is_called_without_hooks_is_refused_at_construction():
    distillers = dict(f=dict(type='FitNet', student_tap='decode_head:input'))
    with pytest.raises(ValueError, match="student_tap='decode_head:input': ASPPHead is called without module hooks in"):
        toys.build(toys.model_config(distillers=distillers))


@pytest.mark.soak
def test_check_tells_of_a_head_that_draws_random_numbers(tmp_path):
    config = network_config(HAM, backbone=dict(embed_dims=[8, 8, 8, 8], depths=[1, 1, 1, 1]))
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
