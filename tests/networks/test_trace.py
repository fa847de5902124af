"""Networks before they teach: traced for shapes before any weight is loaded, in their modes, with whole heads."""

from types import SimpleNamespace

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmdistill_dense.apps.check.stages import build_student
from mmdistill_dense.apps.export.write_student import load_student
from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.engine.distill_hook import DistillerState
from mmdistill_dense.networks.acceleration import Acceleration
from mmdistill_dense.networks.building import build_network, building_once, copy_network
from mmdistill_dense.networks.modes import run_as_trained, train_without_noise
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.networks.trace import TeacherOption, trace_pair
from tests import toys


def taps(*names):
    return [Tap.parse(name) for name in names]


def trace(names, student=None, size=(64, 64), teacher_names=(), teacher=None):
    """Shapes of the student's taps and of the teacher's."""
    teachers = {}
    if teacher_names:
        teachers['t'] = teacher or TeacherOption.parse(toys.seg_teacher()), taps(*teacher_names)
    network = toys.build_plain(toys.seg_net()) if student is None else student
    traced, by_teacher = trace_pair(network, taps(*names), teachers, size)
    return traced.shapes, by_teacher['t'].shapes if by_teacher else None


def test_shapes_are_those_of_a_real_pass():
    model = toys.distilled(student=toys.seg_net(), teacher=toys.seg_teacher())
    names = ('backbone', 'decode_head', 'auxiliary_head', 'decode_head.conv_seg:input', 'backbone[1:3]')
    shapes, teacher_shapes = trace(names, teacher_names=names)
    assert [len(shapes[name]) for name in names] == [4, 1, 1, 1, 2]
    for traced, network in ((shapes, model), (teacher_shapes, toys.teacher_of(model).network)):
        features = network.extract_feat(torch.randn(2, 3, 64, 64))
        assert [shape[1:] for shape in traced['backbone']] == [f.shape[1:] for f in features]
        assert traced['decode_head'] == [network.decode_head(features)[:1].shape]
        assert all(shape[0] == 1 for actual in traced.values() for shape in actual)
    for size, side in (((64, 96), (8, 12)), (None, (64, 64))):
        assert trace(['backbone[3]'], size=size)[0]['backbone[3]'][0][2:] == side
    shapes, _ = trace(['neck', 'bbox_head.retina_cls', 'neck[:2]'], toys.build_plain(toys.det_net()), (128, 128))
    assert [tuple(s[1:]) for s in shapes['neck']] == [(16, side, side) for side in (16, 8, 4, 2, 1)]
    assert len(shapes['bbox_head.retina_cls']) == 5 and shapes['neck[:2]'] == shapes['neck'][:2]


class Resized(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.first, self.norm, self.options = nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6), options

    def forward(self, x):
        return nn.functional.interpolate(self.norm(self.first(x)), **self.options)


def test_skipped_parts_have_the_shape_of_a_real_pass():
    for options in (
        dict(size=5), dict(size=(4, 9), mode='bilinear', align_corners=False), dict(size=[8, 1]),
        dict(scale_factor=1.5), dict(size=torch.Size([3, 7]), mode='bicubic'),
    ):  # fmt: skip
        network, own = Resized(**options), torch.Size([1, 6, 10, 8])
        expected = network(torch.zeros(1, 3, 12, 10)).shape
        shapes, _ = trace(['first', 'norm', ''], network, (12, 10))
        assert shapes == {'first': [own], 'norm': [own], '': [expected]}, options


@pytest.mark.parametrize(('names', 'parts', 'calls'), [
    ((), set(), 0), (('backbone[3]',), {'backbone'}, 1), (('decode_head',), {'backbone', 'decode_head'}, 1),
    (('backbone.layer1',), {'backbone'}, 1), (('backbone[1]', 'backbone.layer1'), {'backbone'}, 2),
])  # fmt: skip
def test_parts_are_what_works_before_the_last_tap(names, parts, calls):
    plan = toys.frozen(toys.seg_teacher(), *names).plan
    assert plan.parts == parts and (plan.stop_after == calls or not names)


@pytest.mark.parametrize('mean', [None, [128.0]])
@pytest.mark.parametrize('bands', [1, 3, 6])
def test_pictures_have_as_many_channels_as_the_network_expects(bands, mean):
    """Nothing says that a picture is red, green and blue; one mean serves all channels."""
    preprocessor = dict(mean=mean, std=mean, bgr_to_rgb=False)
    network = toys.build_plain(toys.seg_net(data_preprocessor=preprocessor, backbone=dict(in_channels=bands)))
    assert trace(['backbone[3]'], network)[0]['backbone[3]'] == [torch.Size([1, 64, 8, 8])]


def test_a_trace_leaves_the_student_as_it_is(monkeypatch):
    """And builds a teacher on the meta device: a transformer too, whose drop path reads numbers of a tensor."""
    devices, build, heads = set(), TeacherOption.build, dict(embed_dims=8, num_heads=[1] * 4, num_layers=[1] * 4)

    def noted(option):
        network = build(option)
        devices.update(parameter.device.type for parameter in network.parameters())
        return network

    monkeypatch.setattr(TeacherOption, 'build', noted)
    network = toys.build_plain(toys.seg_net()).train()
    teacher = TeacherOption.parse({**toys.seg_teacher(), 'backbone': dict(type='MixVisionTransformer', **heads)})
    state, rng = toys.student_state(network), torch.get_rng_state()
    _, shapes = trace(['backbone[3]'], network, teacher_names=['backbone[3]'], teacher=teacher)
    assert shapes['backbone[3]'] == [(1, 8, 2, 2)] and devices == {'meta'}
    assert not toys.differing(network.state_dict(), state), 'batch statistics too'
    assert network.training and all(p.requires_grad and p.device.type == 'cpu' for p in network.parameters())
    assert toys.hooks_left(network) == 0 and torch.equal(torch.get_rng_state(), rng)


class NotOnMeta(nn.Module):
    """A network whose forward reads a value, which the meta device has none of; it may take one size alone."""

    def __init__(self, only=None):
        super().__init__()
        self.only, self.body = only, nn.Conv2d(3, 5, 3, stride=2, padding=1)

    def forward(self, x):
        assert self.only in (None, tuple(x.shape[2:]))
        return self.body(x * (1.0 + x.mean().item() + torch.rand(()).item()))


@pytest.mark.parametrize(('only', 'size', 'expected'), [
    (None, (64, 64), (32, 32)), (None, (1024, 512), (128, 128)), ((320, 512), (320, 512), (160, 256)),
])  # fmt: skip
def test_a_network_that_reads_numbers_is_traced_on_the_cpu(only, size, expected):
    """At 256 pixels a side at most, where it can."""
    network, rng = NotOnMeta(only), torch.get_rng_state()
    shapes, _ = trace(['body'], network, size)
    assert shapes['body'] == [torch.Size((1, 5, *expected))] and torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize(('kind', 'path'), [('faster_rcnn', ''), ('cascade_mask_rcnn', '.0')])
def test_taps_inside_a_students_roi_head_are_traced(kind, path):
    """No proposals are made for a teacher, so it has no RoIs of its own."""
    parts = (f'bbox_roi_extractor{path}:input[1]', f'bbox_head{path}.fc_reg', f'bbox_head{path}.fc_cls')
    names = [f'roi_head.{part}' for part in parts]
    network = toys.build_plain(toys.det_net(kind))
    shapes, _ = trace(names, network)
    outputs = network.roi_head.bbox_head[0] if path else network.roi_head.bbox_head
    sizes = (5, outputs.fc_reg.out_features, outputs.fc_cls.out_features)
    assert [shapes[name] for name in names] == [[torch.Size((1, size))] for size in sizes]
    with pytest.raises(ValueError, match='RoIHead does not run on features alone.*RoIHeadKD'):
        trace(['neck'], network, (64, 64), names[-1:], TeacherOption.parse(toys.det_teacher(kind)))


def test_a_network_for_gpus_alone_is_refused_with_the_reason(monkeypatch):
    class OnGPUs(nn.Module):
        def forward(self, x):
            raise NotImplementedError('carafe_forward_impl: implementation for device cpu not found.')

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    words = r'failed on the CPU in 0 of the student, and there is no GPU .* carafe_forward_impl.* a GPU\.'
    with pytest.raises(RuntimeError, match=words):
        trace(['0'], nn.Sequential(OnGPUs()))


def test_channels_that_do_not_fit_name_the_module():
    wrong = toys.seg_net(decode_head=dict(in_channels=7))
    with pytest.raises(RuntimeError, match=r'failed on the CPU in decode_head\.\S+ of the student, .* set in_channels'):
        trace(['decode_head.conv_seg'], student=toys.build_plain(wrong))
    teacher = TeacherOption.parse(dict(wrong, allow_random=True))
    with pytest.raises(RuntimeError, match=r'failed on the CPU in decode_head\.\S+ of the teacher, '):
        trace(['backbone[3]'], teacher_names=['decode_head.conv_seg'], teacher=teacher)


def test_networks_for_videos_are_refused_with_the_way_out():
    option = dict(cfg='mmdet::qdtrack/qdtrack_faster-rcnn_r50_fpn_4e_base.py', pretrained=False)
    with pytest.raises(ValueError, match=r'teacher: QDTrack sees videos.* set model\.teacher to the model\.detector'):
        build_network(load_model(option, 'model.teacher'))


def test_a_network_with_computed_tensors_is_copied():
    """CLRNet keeps its priors, computed from a weight; torch's own copy refuses such tensors."""
    network = nn.Linear(2, 2)
    network.register_buffer('priors', network.weight * 2)
    again = copy_network(network)
    assert torch.equal(again.priors, network.priors) and again.weight is not network.weight


@pytest.mark.parametrize('option', [toys.seg_net(), toys.det_net('mask_rcnn'), toys.det_net('fcos')])
def test_networks_that_are_built_once_share_nothing(option):
    """The next is as the first was before it changed; those of another config, and later ones, are new."""
    config, other = (load_model({**option, 'init_cfg': init}, 'model') for init in (None, dict(type='Constant', val=1)))

    def parts(network):
        values = [value for module in network.modules() for value in (module, *vars(module).values())]
        return {id(value) for value in values if isinstance(value, (nn.Module, dict, list))}

    with building_once():
        first, second = build_network(config), build_network(config)
        state = toys.student_state(second)
        assert parts(first).isdisjoint(parts(second)) and not toys.differing(first.state_dict(), state)
        for value in (*first.state_dict().values(), *second.state_dict().values()):
            value.zero_()
        assert not toys.differing(build_network(config).state_dict(), state)
        others = build_network(other), TeacherOption('model', '', other).build()
    assert all(toys.differing(network.state_dict(), state) for network in (*others, build_network(config)))


@pytest.mark.soak
def test_a_network_that_needs_larger_pictures_says_which(monkeypatch):
    """An operation that only GPUs have was given as the reason."""
    option = dict(
        cfg='mmseg::mobilenet_v3/mobilenet-v3-d8-s_lraspp_4xb4-320k_cityscapes-512x1024.py',
        pretrained=None,
        data_preprocessor=dict(size=(96, 128)),
    )
    words = r'cannot run pictures of 96x128, but those of 576x768: .*--size'
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(RuntimeError, match=words) as error:
        toys.build(toys.model_config(option, toys.seg_net(allow_random=True)))
    assert 'GPUs' not in str(error.value)


# Modes of a frozen network


class Scales(nn.Module):
    """Like FCOS' head: scaled in evaluation alone."""

    def forward(self, x):
        return x if self.training else 8 * x


class EMAModule(nn.Module):
    """Moves a buffer of its own in training, as EMANet's of this name."""

    def forward(self, x):
        return x


class DropPath(nn.Module):
    """Noise by name, though nothing is random here."""

    def forward(self, x):
        return x if self.training else 0 * x


def followed(*modules):
    network = nn.Sequential(*modules)
    run_as_trained(network, lambda: network(torch.zeros(1, 2, 4, 4)))
    return run_as_trained(network, lambda: [module.training for module in network])[0]


def test_what_trains_in_another_way_is_followed():
    actual = followed(nn.Conv2d(2, 2, 1), Scales(), nn.Dropout(), nn.BatchNorm2d(2), nn.ReLU())
    assert actual == [False, True, False, False, False]
    of_its_kind = type('OfItsKind', (EMAModule,), {})
    for module in (EMAModule(), of_its_kind(), DropPath()):
        assert followed(Scales(), module) == [True, False]
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(), DropPath(), Scales()).eval()
    train_without_noise(network)
    assert [module.training for module in network] == [False, False, False, True] and network.training
    actual = run_as_trained(network, lambda: 1 / (not network.training))
    assert actual == (1, False) and not network.training, 'what fails in training runs in evaluation'


# What makes a teacher cheaper


@pytest.mark.parametrize(('option', 'message'), [
    (dict(fold=True), "model.teacher.accelerate has no option 'fold'; known: channels_last, dtype"),
    (dict(fold_bn=True), 'accelerate.fold_bn has left: leave it out'),
    ('all', 'model.teacher.accelerate must be a dict of channels_last, dtype'),
    (dict(dtype='float8'), "accelerate.dtype must be one of 'bfloat16', 'float16' or None, got 'float8'"),
    (dict(channels_last='yes'), "accelerate.channels_last must be True or False, got 'yes'"),
])  # fmt: skip
def test_wrong_options(option, message):
    with pytest.raises((TypeError, ValueError), match=message):
        FrozenTeacher(dict(toys.seg_teacher(), accelerate=option))
    assert Acceleration.parse(None, '') == Acceleration() == Acceleration.parse(False, '')


# mmdet's heads predict although they lack what they are asked for


SSD = 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py'


def trained(option, folder):
    network = MODELS.build(option)
    return DistillerState().before_run(SimpleNamespace(model=network)) or network


def exported(option, folder):
    torch.save(dict(state_dict=MODELS.build(option).state_dict()), folder / 'c.pth')
    return load_student(Config(dict(default_scope='mmdet', model=option)), folder / 'c.pth')[1]


WAYS = dict(
    student=lambda option, folder: toys.build(dict(type='mmdistill_dense.DistillModel', student=option), scope='mmdet'),
    check=lambda option, folder: build_student(option),
    trained=trained,
    exported=exported,
)


@pytest.mark.parametrize('options', WAYS)
def test_ssd(options, tmp_path):
    init_default_scope('mmdet')
    option = load_model(dict(cfg=SSD, pretrained=False), 'model').model
    network, size = WAYS[options](option, tmp_path).eval(), (320, 320)
    sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1, 1), batch_input_shape=size))
    with torch.no_grad():
        assert 'pred_instances' in network.predict(torch.zeros(1, 3, *size), [sample])[0]
