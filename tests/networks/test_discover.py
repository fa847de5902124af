"""What ``student_tap='auto'`` stands for: the maps that a pass finds, the pairs of two networks, and models."""

import pytest
import torch
from torch import nn

from mmdistill_dense import distillers
from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.engine.resume import describe_identity, differ, identity
from mmdistill_dense.networks.auto_taps import DiscoveredTaps, MapCandidate, discover, pair_taps
from mmdistill_dense.networks.building import build_network, copy_network
from mmdistill_dense.networks.recording import Recorder
from mmdistill_dense.networks.taps import Tap
from tests import toys
from tests.foundation.files import tiny

STAGES = ['backbone[1]', 'backbone[2]', 'backbone[3]']
LAST_MAP = dict(deeplabv3='bottleneck', pspnet='bottleneck', fcn='conv_cat')


def found(option, size=(64, 64)):
    config = load_model(option, 'model')
    return discover(lambda: build_network(config), size)


def discover_student(network, size):
    return discover(lambda: copy_network(network), size, trains=True)


def taps_of(chosen):
    assert all(pair.student.tap == pair.teacher.tap for pair in chosen.pairs)
    return [pair.student.tap for pair in chosen.pairs]


@pytest.mark.parametrize('kind', LAST_MAP)
def test_a_segmentor_has_three_stages(kind):
    network = toys.build_plain(toys.seg_net(kind, dropout=0.5))
    places = discover_student(network, (64, 64))
    assert taps_of(pair_taps(places, places)) == [*STAGES, f'decode_head.{LAST_MAP[kind]}']
    taps = [Tap.parse(places.head.tap), Tap.parse('decode_head.conv_seg:input')]
    recorder = Recorder(network.eval() or network, taps, 'tap', copies=False)
    with torch.no_grad(), recorder.recording() as maps:
        network.decode_head(network.extract_feat(torch.rand(1, 3, 64, 64)))
    before, after = (actual[0] for actual in maps.values())
    assert before is after and tuple(before.shape[1:]) == places.head.shape, 'in eval mode dropout does nothing'


def test_a_detector_has_its_neck():
    """Without maps of one position; levels of two necks are paired by stride, P3 to P7 against P2 to P6."""
    taps = found(toys.det_net(), (512, 512))
    assert taps_of(pair_taps(taps, taps)) == [f'neck[{level}]' for level in range(5)]
    assert [tap.stride for tap in taps.neck] == [8, 16, 32, 64, 128]
    chosen = pair_taps(taps, found(toys.det_net('faster_rcnn'), (512, 512)))
    pairs = [(pair.student.tap, pair.teacher.tap) for pair in chosen.pairs]
    assert pairs == [(f'neck[{level}]', f'neck[{level + 1}]') for level in range(4)]
    assert len(chosen.notes) == 2 and all('no level of this stride' in note for note in chosen.notes)
    small = found(toys.det_net(), (64, 64))  # P6 and P7 are 1 x 1
    chosen = pair_taps(small, small)
    assert taps_of(chosen) == ['neck[0]', 'neck[1]', 'neck[2]']
    assert [note for note in chosen.notes if 'neck[3]' in note and 'one position' in note]


def places(*strides, part='backbone'):
    return [MapCandidate(f'{part}[{i}]', (8, 256 // stride, 256 // stride), stride) for i, stride in enumerate(strides)]


@pytest.mark.parametrize(('student', 'teacher', 'pairs'), [
    ((4, 8, 16, 32), (4, 8, 16, 32), [(1, 1), (2, 2), (3, 3)]),
    ((4, 8, 8, 8), (4, 8, 16, 32), [(1, 1), (2, 2)]),  # 8 and 32 differ by more than 2
    ((4, 8, 8, 8), (16, 16, 16, 16), [(1, 1), (2, 2), (3, 3)]),
    ((8, 32), (4, 8, 16, 32), [(0, 2), (1, 3)]),
    ((4, 4), (4, 4), [(0, 0), (1, 1)]),  # one stride: all levels count
    ((2, 4), (4, 8), []),
])  # fmt: skip
def test_backbones_are_paired_from_the_end(student, teacher, pairs):
    """And a head with a head whose stride differs by a factor of 2 at most."""
    chosen = pair_taps(DiscoveredTaps('S', backbone=places(*student)), DiscoveredTaps('T', backbone=places(*teacher)))
    assert [(pair.student.tap, pair.teacher.tap) for pair in chosen.pairs] == [
        (f'backbone[{s}]', f'backbone[{t}]') for s, t in pairs
    ]
    one, two = (DiscoveredTaps('S', True, places(8), head=places(stride, part='decode_head')[0]) for stride in (2, 8))
    chosen = pair_taps(one, two)
    assert [pair.student.tap for pair in chosen.pairs] == ['backbone[0]'] and 'factor of 2' in chosen.notes[0]


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 8, 8), nn.Conv2d(4, 4, 2, 2)

    def forward(self, x):
        x = self.first(x)
        return x, self.second(x)


class Overwriting(nn.Module):
    """Changes both maps of its backbone in place: one by a module, the other by an operation."""

    def __init__(self):
        super().__init__()
        self.backbone, self.act = Backbone(), nn.ReLU(inplace=True)

    def forward(self, x):
        first, second = self.backbone(x)
        second += 1
        return self.act(first), second


def test_a_map_that_is_changed_later_is_replaced():
    taps = discover_student(Overwriting(), (64, 64))
    assert [tap.tap for tap in taps.backbone] == ['act'], 'the module that gives the final value'
    (note,) = taps.notes
    assert 'backbone[1]' in note and 'in place' in note
    twice = dict(forward=lambda self, x: [self.backbone(half) for half in x.chunk(2, 3)])
    halves = type('Twice', (Overwriting,), twice)
    assert discover_student(halves(), (64, 64)).backbone == []


def test_frozen_levels_of_the_student_are_left_out():
    network = toys.build_plain(toys.seg_net()).train()
    network.backbone.requires_grad_(False)
    network.backbone.layer4.requires_grad_(True)
    before = torch.get_rng_state()
    student, teacher = discover_student(network, (64, 64)), discover(lambda: copy_network(network), (64, 64))
    assert network.training and not next(network.parameters()).is_meta and not toys.hooks_left(network)
    assert torch.equal(before, torch.get_rng_state()), 'the network stays as it is'
    chosen = pair_taps(student, teacher)
    assert taps_of(chosen) == ['backbone[3]', 'decode_head.bottleneck']
    assert len(chosen.notes) == 2 and all('frozen' in note for note in chosen.notes)


# In a model


AUTO = dict(type='FitNet', student_tap='auto')
CHOSEN = ['backbone[1]', 'backbone[2]', 'backbone[3]', 'decode_head.bottleneck']


def build(**options):
    return toys.build(toys.model_config(distillers=dict(one=options or AUTO)))


def names(taps):
    return [str(tap) for tap in taps]


def test_a_segmentor_gets_explicit_taps(monkeypatch):
    """The log names the pairs; written out, the taps give the same run."""
    lines = []
    monkeypatch.setattr('mmdistill_dense.model.build.print_log', lambda line, *_: lines.append(line))
    model, batch = toys.ready(build()), toys.seg_batch()
    distiller = model.distillers['one']
    assert names(distiller.student_taps) == names(distiller.teacher_taps) == CHOSEN and len(distiller.levels) == 4
    assert ', '.join(CHOSEN) in repr(distiller) and 'auto' not in distiller.extra_repr()
    (line,) = lines
    assert line.startswith("model.distillers.one.student_tap='auto'")
    assert 'backbone[3] (64x8x8, stride 8) -> backbone[3] (128x8x8, stride 8)' in line
    written = toys.ready(build(type='FitNet', student_tap=CHOSEN))
    assert not differ(identity(model), identity(written))
    losses, same = (toys.losses_of(model, batch) for model in (model, written))
    assert losses['distill.one.loss_fitnet'] == same['distill.one.loss_fitnet'] > 0
    toys.total(losses).backward()
    assert all(align.weight.grad.any() for align in distiller.aligns)
    assert toys.teacher_of(model).plan.parts == {'backbone', 'decode_head'}, 'the trace saw the chosen taps'


@pytest.mark.parametrize('scope', ['mmseg', 'mmdet'])
def test_a_foundation_model_has_its_map(scope):
    teacher = dict(type='mmdistill_dense.FoundationTeacher', model=tiny('dinov2'), allow_random=True)
    student, batch = (toys.seg_net(), None) if scope == 'mmseg' else (toys.det_net(), toys.det_batch())
    methods = dict(one=AUTO, match=dict(type='FeatureMatch', settings='auto'))
    model = toys.distilled(scope, student=student, teacher=teacher, distillers=methods)
    for distiller in model.distillers.values():
        assert (names(distiller.student_taps), names(distiller.teacher_taps)) == (['backbone[3]'], ['map'])
    assert toys.losses_of(model, batch)['distill.one.loss_fitnet'].requires_grad


def test_methods_for_outputs_of_heads_say_why_not():
    for method in ('DIST', 'FRS', 'HeadOutputKD', 'LogitKD', 'RoIHeadKD'):
        with pytest.raises(ValueError, match=rf"distillers.one: {method} refuses student_tap='auto': it compares"):
            build(type=method, student_tap='auto')


@pytest.mark.parametrize(('options', 'message'), [
    (dict(AUTO, teacher_tap='backbone[3]'), r'leave teacher_tap out, or name'),
    (dict(AUTO, student_tap=['auto', 'backbone[3]']), r'stands alone'),
    (dict(AUTO, student_tap=[('auto', 0.5)]), r'stands alone'),
    (dict(type='FitNet', teacher_tap='auto'), r"student_tap='auto' chooses the taps of the teacher"),
])  # fmt: skip
def test_mistakes_are_answered(options, message):
    with pytest.raises(ValueError, match=rf'model.distillers.one: .*{message}'):
        build(**options)


def test_two_networks_without_a_pair_are_refused():
    tall = toys.seg_net(width=16, allow_random=True, backbone=dict(strides=(1, 1, 1, 1), dilations=(1, 1, 1, 1)))
    small = toys.seg_net(backbone=dict(strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1), out_indices=(2, 3)))
    small.update(decode_head=dict(small['decode_head'], in_index=1), auxiliary_head=None)
    with pytest.raises(ValueError, match="^model.distillers.one.student_tap='auto' finds no two maps") as error:
        toys.build(toys.model_config(small, tall, dict(one=AUTO)))
    for word in ('backbone[1] (64x2x2, stride 32)', 'backbone[3] (128x16x16, stride 4)'):
        assert word in str(error.value)
    with pytest.raises(RuntimeError, match='only a DistillModel'):  # outside of a model there are no taps
        distillers.FitNet('auto').setup({}, {})


def test_a_resumed_run_must_choose_the_same():
    """Other taps of the same width have the same tensors. A file of an older version has no taps to compare."""
    other = [*CHOSEN[:3], 'decode_head.conv_seg:input']
    auto, changed = (identity(build(type='FitNet', student_tap=taps)) for taps in ('auto', other))
    option = auto['distillers']['one']
    assert [tap for tap, _ in option['taps']] == CHOSEN
    assert option['tensors'] == changed['distillers']['one']['tensors'] and differ(auto, changed)
    assert ', '.join(CHOSEN) in describe_identity(auto) and ', '.join(other) in describe_identity(changed)
    saved = {**auto, 'distillers': {'one': {k: v for k, v in option.items() if k != 'taps'}}}
    assert not differ(saved, auto) and differ({}, auto)
    assert differ({**saved, 'distillers': {'one': {**saved['distillers']['one'], 'type': 'CWD'}}}, auto)
