"""Student and teacher record the same thing: networks beside their own copies, at every place that can be tapped."""

import copy
from contextlib import suppress

import pytest
import torch
from mmengine import MessageHub
from mmengine.registry import init_default_scope
from torch import nn

from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.networks.building import build_network
from mmdistill_dense.networks.modes import train_without_noise
from mmdistill_dense.networks.recording import Recorder, run_parts
from mmdistill_dense.networks.taps import Tap, check_student_input, resolve_tap
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.networks.trace import SINGLE, TeacherOption, trace_pair
from mmdistill_dense.utils.reproducible import fork_rng, stream_states
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
    words = dict(pretrained=None) if name.startswith('mmseg') else {}
    config = load_model(dict(cfg=name, **toys.merged(words, overrides)), 'model')
    with suppress(KeyError):
        return load_model(narrow(config), 'model')
    return config


@torch.no_grad()
def copy_gaps(config, state, tap_names, inputs, data_samples):
    """Compare a training pass of a network with a pass of its frozen copy; norms and dropout are as in evaluation."""
    option = TeacherOption('the copy', SINGLE, config)
    with fork_rng():
        network, copied = (option.build().requires_grad_(False) for _ in range(2))
        for built in (network, copied):
            built.load_state_dict(state)
        _, by_teacher = trace_pair(network, tap_names, {'copy': (option, tap_names)}, tuple(inputs.shape[2:]))
        frozen = FrozenTeacher(option, by_teacher['copy'])
        frozen.adopt(copied)
        train_without_noise(network)
        recorder = Recorder(network, tap_names, 'tap')
        torch.manual_seed(0)
        with recorder.recording() as outputs:
            network.loss(inputs, copy.deepcopy(data_samples))
        recorder.check_complete()
        torch.manual_seed(1)
        other = frozen(inputs)
    return {str(tap): gap(outputs[str(tap)], other[str(tap)]) for tap in tap_names}


def gap(outputs, other):
    """The largest difference of the maps of a tap, of the largest value."""
    if [x.shape for x in outputs] != [y.shape for y in other]:
        return float('inf')
    pairs = ((x.float(), y.float()) for x, y in zip(outputs, other, strict=True) if x.numel())
    return max((float((x - y).abs().max() / y.abs().max().clamp_min(1e-12)) for x, y in pairs), default=0.0)


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
    tap_names = list(taps(network, prepared['inputs']))
    before = stream_states()
    actual = copy_gaps(config, network.state_dict(), tap_names, prepared['inputs'], prepared['data_samples'])
    assert stream_states() == before, 'a check draws no number of the run'
    assert len(actual) > 100
    return {tap: distance for tap, distance in actual.items() if distance > 1e-6}


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
    actual = {}
    network.eval()
    hooks = [
        module.register_forward_hook(lambda _, args, out, path=path: actual.setdefault(path, []).append((args, out)))
        for path, module in network.named_modules()
        if path
    ]
    run_parts(network, [], inputs, heads=[])
    ran = {path.split('.')[0] for path in actual}
    for name, child in network.named_children():
        if name in ran or name in _OTHERS:
            continue
        for path in [f'{name}.{i}' for i in range(len(child))] if isinstance(child, nn.ModuleList) else [name]:
            with suppress(ValueError, AttributeError, AssertionError):
                run_parts(network, [], inputs, heads=[path])
    for hook in hooks:
        hook.remove()
    return actual


OVERRIDES = {'fcos': dict(bbox_head=dict(norm_on_bbox=True))}


QUICK = ['deeplabv3', 'retinanet', 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py']
LONG = [
    *('fcos', 'cascade_mask_rcnn', 'reppoints'),
    'mmseg::emanet/emanet_r50-d8_4xb2-80k_cityscapes-512x1024.py',
    'mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
    'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
    'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py',
    'mmdet::yolact/yolact_r50_1xb8-55e_coco.py',
]


@pytest.mark.sample(1)
@pytest.mark.parametrize('name', [*QUICK, *(pytest.param(name, marks=pytest.mark.soak) for name in LONG)])
def test_every_place_gives_the_same_in_training(name):
    assert gaps(name, **OVERRIDES.get(name, {})) == {}


def test_an_input_without_hooks_is_refused():
    distillers = dict(f=dict(type='FitNet', student_tap='decode_head:input'))
    with pytest.raises(ValueError, match="student_tap='decode_head:input': ASPPHead is called without module hooks in"):
        toys.build(toys.model_config(distillers=distillers))
