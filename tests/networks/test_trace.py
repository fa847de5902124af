"""The trace: shapes of taps before any weight is loaded, and nothing left behind."""

import copy

import pytest
import torch
from torch import nn

from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.networks.building import build_network, copied
from mmdistill_dense.networks.taps import Tap
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
        assert all(shape[0] == 1 for found in traced.values() for shape in found)


class Resized(nn.Module):
    def __init__(self, groups=2, **options):
        super().__init__()
        self.first, self.norm, self.options = nn.Conv2d(3, 6, 3), nn.GroupNorm(groups, 6), options

    def forward(self, x):
        return nn.functional.interpolate(self.norm(self.first(x)), **self.options)


@pytest.mark.parametrize('options', [
    dict(size=5),
    dict(size=(4, 9), mode='bilinear', align_corners=False),
    dict(size=[8, 1]),
    dict(scale_factor=1.5),
    dict(size=torch.Size([3, 7]), mode='bicubic'),
])  # fmt: skip
def test_what_is_not_computed_has_the_shape_of_a_real_pass(options):
    network = Resized(**options)
    expected = network(torch.zeros(1, 3, 12, 10)).shape
    shapes, _ = trace(['first', 'norm', ''], network, (12, 10))
    assert shapes == {'first': [torch.Size([1, 6, 10, 8])], 'norm': [torch.Size([1, 6, 10, 8])], '': [expected]}


def test_what_torch_refuses_is_refused():
    for options in (dict(size=0), dict(size=(2, 3, 4)), dict(), dict(size=3, scale_factor=2)):
        with pytest.raises((RuntimeError, ValueError), match='size'):
            trace(['norm'], Resized(**options))
    network = Resized(size=3)
    network.norm = nn.GroupNorm(4, 8)
    with pytest.raises(RuntimeError, match='failed on the CPU in norm of the student'):
        trace(['norm'], network)
    with pytest.raises(RuntimeError, match='running_mean should contain 4 elements not 5'):
        trace(['1'], nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(5)))


@pytest.mark.parametrize(('tap', 'parts'), [
    ((), set()), (('backbone[3]',), {'backbone'}), (('decode_head',), {'backbone', 'decode_head'}),
    (('backbone.layer1',), {'backbone'}),
])  # fmt: skip
def test_parts_are_what_works_before_the_last_tap(tap, parts):
    assert toys.frozen(toys.seg_teacher(), *tap).plan.parts == parts
    assert toys.frozen(toys.det_teacher(), 'backbone[3]').plan.parts == {'backbone'}, 'the neck runs too'


class CalledAgain(nn.Module):
    """Calls a part before the tapped one and once more behind it."""

    def __init__(self):
        super().__init__()
        self.part, self.tapped = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.part(self.tapped(self.part(x)))


def test_a_part_that_runs_again_behind_the_last_tap_is_one():
    traced, _ = trace_pair(CalledAgain(), taps('tapped'), {}, (8, 8))
    assert traced.parts == {'part', 'tapped'}


@pytest.mark.parametrize(('size', 'side'), [((64, 96), (8, 12)), (None, (64, 64))])
def test_size_of_the_traced_image(size, side):
    assert trace(['backbone[3]'], size=size)[0]['backbone[3]'][0][2:] == side


@pytest.mark.parametrize('mean', [None, [128.0]])
@pytest.mark.parametrize('bands', [1, 3, 6])
def test_pictures_have_as_many_channels_as_the_network_expects(bands, mean):
    """Nothing says that a picture is red, green and blue; one mean serves all channels."""
    one = dict(mean=mean, std=mean, bgr_to_rgb=False)
    network = toys.build_plain(toys.seg_net(data_preprocessor=one, backbone=dict(in_channels=bands)))
    assert trace(['backbone[3]'], network)[0]['backbone[3]'] == [torch.Size([1, 64, 8, 8])]


def test_detector_levels():
    network = toys.build_plain(toys.det_net())
    shapes, _ = trace(['neck', 'bbox_head.retina_cls', 'neck[:2]'], network, (128, 128))
    assert [tuple(s[1:]) for s in shapes['neck']] == [(16, 16, 16), (16, 8, 8), (16, 4, 4), (16, 2, 2), (16, 1, 1)]
    assert len(shapes['bbox_head.retina_cls']) == 5 and shapes['neck[:2]'] == shapes['neck'][:2]


def test_it_costs_no_arithmetic():
    """Everything runs on the meta device: no tensor of the pass holds a number."""
    network = toys.build_plain(toys.seg_net())
    devices = set()

    class Spy(nn.Identity):
        def forward(self, x):
            devices.add(x.device.type)
            return x

    network.backbone.maxpool = Spy()
    trace(['backbone[3]'], network)
    assert devices == {'meta'}


def test_a_transformer_is_built_without_arithmetic_too(monkeypatch):
    """Its drop path reads numbers of a tensor while it is built, which the meta device has none of."""
    heads = dict(embed_dims=8, num_heads=[1, 1, 1, 1], num_layers=[1, 1, 1, 1])
    teacher = TeacherOption.parse({**toys.seg_teacher(), 'backbone': dict(type='MixVisionTransformer', **heads)})
    build, devices = TeacherOption.build, []

    def spy(option):
        network = build(option)
        devices.append({parameter.device.type for parameter in network.parameters()})
        return network

    monkeypatch.setattr(TeacherOption, 'build', spy)
    _, shapes = trace(['backbone[3]'], teacher_names=['backbone[3]'], teacher=teacher)
    assert shapes['backbone[3]'] == [(1, 8, 2, 2)]
    assert devices == [{'meta'}]


def test_it_leaves_nothing_behind():
    network, teacher = toys.build_plain(toys.seg_net()).train(), TeacherOption.parse(toys.seg_teacher())
    state, rng = toys.student_state(network), torch.get_rng_state()
    trace(['backbone[3]'], network, teacher_names=['backbone[3]'], teacher=teacher)
    assert not toys.differing(network.state_dict(), state), 'batch statistics too'
    assert network.training and all(p.requires_grad for p in network.parameters())
    assert {p.device.type for p in network.parameters()} == {'cpu'}
    assert toys.hooks_left(network) == 0 and torch.equal(torch.get_rng_state(), rng)


def test_place_to_stop_counts_recorded_calls():
    for names, calls in ((['backbone[1]'], 1), (['backbone[1]', 'backbone.layer1', 'decode_head'], 3)):
        assert toys.frozen(toys.seg_teacher(), *names).plan.stop_after == calls


class NotOnMeta(nn.Module):
    """A network whose forward reads a value, which the meta device has none of."""

    def __init__(self):
        super().__init__()
        self.sides = []
        self.body = nn.Conv2d(3, 5, 3, stride=2, padding=1)

    def __deepcopy__(self, memo):
        other = type(self)()
        other.sides = self.sides
        return other

    def forward(self, x):
        self.sides.append((x.device.type, x.shape[-1]))
        x = x * (1.0 + x.mean().item() + torch.rand(()).item())
        return self.body(x)


@pytest.mark.parametrize(('size', 'side'), [((64, 64), 64), ((1024, 512), 256)])
def test_fallback_to_the_cpu_is_small(size, side):
    network, rng = NotOnMeta(), torch.get_rng_state()
    shapes, _ = trace(['body'], network, size)
    assert torch.equal(torch.get_rng_state(), rng)
    assert network.sides == [('meta', size[1])] * 2 + [('cpu', side)], 'in both modes'
    assert shapes['body'] == [torch.Size((1, 5, min(size[0], 256) // 2, side // 2))]


def test_a_network_of_one_size_is_traced_at_it_on_the_cpu():
    """Its position embedding is as large as a map of the training pictures."""

    class OneSize(NotOnMeta):
        def forward(self, x):
            return super().forward(x) + torch.zeros(1, 5, 160, 256)

    network = OneSize()
    shapes, _ = trace(['body'], network, (320, 512))
    assert shapes['body'] == [torch.Size((1, 5, 160, 256))]
    assert network.sides == [('meta', 512)] * 2 + [('cpu', 256)] * 2 + [('cpu', 512)]


@pytest.mark.parametrize(('names', 'kind', 'words'), [
    (['backbone.layer9'], KeyError, "student_tap='backbone.layer9': no such module"),
    (['backbone[4]'], ValueError, r"tap 'backbone\[4\]': the output has 4 entries"),
    (['decode_head.loss_decode'], ValueError, "'decode_head.loss_decode' never fired"),
    (['decode_head.conv_seg[0]'], ValueError, 'has an index, but the module gives a Tensor, not a tuple'),
])  # fmt: skip
def test_wrong_taps_are_found(names, kind, words):
    with pytest.raises(kind, match=words):
        trace(names)


@pytest.mark.parametrize(('student_tap', 'teacher_tap', 'words'), [
    ('backbone', 'backbone[:3]', ['gives 4 tensors', "'backbone[:3]' 3", 'backbone[:3]']),
    ('backbone[1]', 'backbone[0]', ['student map of (8, 8)', 'teacher map of (16, 16)', "resize='student'"]),
])  # fmt: skip
def test_misfits_are_reported_at_construction(student_tap, teacher_tap, words):
    """Before any weight is loaded: the teacher's file does not even exist."""
    mimic = dict(type='MaskedMimic', student_tap=student_tap, teacher_tap=teacher_tap)
    config = toys.model_config(teacher=toys.seg_net(width=16, checkpoint='nowhere.pth'), distillers=dict(mimic=mimic))
    with pytest.raises(ValueError) as error:
        toys.build(config)
    assert 'distillers.mimic' in str(error.value)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(('kind', 'path'), [('faster_rcnn', ''), ('cascade_mask_rcnn', '.0')])
def test_taps_inside_a_students_roi_head_are_traced(kind, path):
    names = [
        f'roi_head.bbox_roi_extractor{path}:input[1]',
        f'roi_head.bbox_head{path}.fc_reg',
        f'roi_head.bbox_head{path}.fc_cls',
    ]
    network = toys.build_plain(toys.det_net(kind))
    shapes, _ = trace(names, network)
    outputs = network.roi_head.bbox_head[0] if path else network.roi_head.bbox_head
    sizes = (5, outputs.fc_reg.out_features, outputs.fc_cls.out_features)
    assert [shapes[name] for name in names] == [[torch.Size((1, size))] for size in sizes]


def test_taps_inside_a_teachers_roi_head_are_refused():
    """No proposals are made for a teacher, so it has no RoIs of its own."""
    teacher = TeacherOption.parse(toys.det_teacher('faster_rcnn'))
    with pytest.raises(ValueError, match='StandardRoIHead does not run on features alone.*RoIHeadKD'):
        trace(['neck'], toys.build_plain(toys.det_net()), (64, 64), ['roi_head.bbox_head.fc_cls'], teacher)


def test_a_network_for_gpus_alone_is_refused_with_the_reason(monkeypatch):
    class OnGPUs(nn.Module):
        def forward(self, x):
            raise NotImplementedError('carafe_forward_impl: implementation for device cpu not found.')

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(
        RuntimeError,
        match=r'failed on the CPU in 0 of the student, and there is no GPU .* carafe_forward_impl.* a GPU\.',
    ):
        trace(['0'], nn.Sequential(OnGPUs()))


def test_channels_that_do_not_fit_name_the_module_and_the_side():
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
    network.places = network.weight + 1
    with pytest.raises(RuntimeError, match='graph leaves'):
        copy.deepcopy(network)
    again = copied(network)
    assert torch.equal(again.priors, network.priors) and again.places is not network.places
    assert again.weight is not network.weight and torch.equal(again.weight, network.weight)


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
