"""What ``student_tap='auto'`` stands for: the maps that a pass finds, and how those of two networks are paired."""

import pytest
import torch
from torch import nn

from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.networks.auto_taps import (
    Found,
    MapCandidate,
    discover,
    nothing_to_pair,
    pair_taps,
)
from mmdistill_dense.networks.building import build_network, copied
from mmdistill_dense.networks.recording import Recorder
from mmdistill_dense.networks.taps import Tap
from tests import toys

STAGES = ['backbone[1]', 'backbone[2]', 'backbone[3]']
LAST_MAP = dict(deeplabv3='bottleneck', pspnet='bottleneck', fcn='conv_cat')


def found(option, size=(64, 64)):
    config = load_model(option, 'model')
    return discover(lambda: build_network(config), size)


def discover_student(network, size):
    return discover(lambda: copied(network), size, trains=True)


def taps_of(chosen):
    assert all(pair.student.tap == pair.teacher.tap for pair in chosen.pairs)
    return [pair.student.tap for pair in chosen.pairs]


@pytest.mark.parametrize('kind', LAST_MAP)
def test_a_segmentor_has_three_stages_and_the_map_before_dropout_and_scores(kind):
    network = toys.build_plain(toys.seg_net(kind, dropout=0.5))
    places = discover_student(network, (64, 64))
    assert taps_of(pair_taps(places, places)) == [*STAGES, f'decode_head.{LAST_MAP[kind]}']
    taps = [Tap.parse(places.head.tap), Tap.parse('decode_head.conv_seg:input')]
    recorder = Recorder(network.eval() or network, taps, 'tap', copies=False)
    with torch.no_grad(), recorder.recording() as maps:
        network.decode_head(network.extract_feat(torch.rand(1, 3, 64, 64)))
    before, after = (found[0] for found in maps.values())
    assert before is after and tuple(before.shape[1:]) == places.head.shape, 'in eval mode dropout does nothing'


def test_a_detector_has_its_neck():
    """Without maps of one position; levels of two necks are paired by stride, P3 to P7 against P2 to P6."""
    places = found(toys.det_net(), (512, 512))
    assert taps_of(pair_taps(places, places)) == [f'neck[{level}]' for level in range(5)]
    assert [place.stride for place in places.neck] == [8, 16, 32, 64, 128]
    chosen = pair_taps(places, found(toys.det_net('faster_rcnn'), (512, 512)))
    pairs = [(pair.student.tap, pair.teacher.tap) for pair in chosen.pairs]
    assert pairs == [(f'neck[{level}]', f'neck[{level + 1}]') for level in range(4)]
    assert len(chosen.notes) == 2 and all('no level of this stride' in note for note in chosen.notes)
    small = found(toys.det_net(), (64, 64))  # P6 and P7 are 1 x 1
    chosen = pair_taps(small, small)
    assert taps_of(chosen) == ['neck[0]', 'neck[1]', 'neck[2]']
    assert [note for note in chosen.notes if 'neck[3]' in note and 'one position' in note]


def places(*strides, part='backbone'):
    return [MapCandidate(f'{part}[{i}]', (8, 256 // stride, 256 // stride), stride) for i, stride in enumerate(strides)]


@pytest.mark.parametrize(
    ('student', 'teacher', 'pairs'),
    [
        ((4, 8, 16, 32), (4, 8, 16, 32), [(1, 1), (2, 2), (3, 3)]),
        ((4, 8, 8, 8), (4, 8, 16, 32), [(1, 1), (2, 2)]),  # 8 and 32 differ by more than 2
        ((4, 8, 8, 8), (16, 16, 16, 16), [(1, 1), (2, 2), (3, 3)]),
        ((8, 32), (4, 8, 16, 32), [(0, 2), (1, 3)]),
        ((4, 4), (4, 4), [(0, 0), (1, 1)]),  # one stride: all levels count
        ((2, 4), (4, 8), []),
    ],
)
def test_backbones_are_paired_from_the_end(student, teacher, pairs):
    chosen = pair_taps(Found('S', backbone=places(*student)), Found('T', backbone=places(*teacher)))
    assert [(pair.student.tap, pair.teacher.tap) for pair in chosen.pairs] == [
        (f'backbone[{s}]', f'backbone[{t}]') for s, t in pairs
    ]


def test_heads_of_too_different_strides_are_left_out():
    one, two = (
        Found('S', True, places(8), head=MapCandidate('decode_head.convs', (8, 256 // stride, 256 // stride), stride))
        for stride in (2, 8)
    )
    chosen = pair_taps(one, two)
    assert [pair.student.tap for pair in chosen.pairs] == ['backbone[0]'] and 'factor of 2' in chosen.notes[0]


def test_without_a_pair_the_error_lists_both_sides():
    one, two = Found('Small', backbone=places(2, 4)), Found('Large', backbone=places(4, 32))
    message = str(nothing_to_pair('model.distillers.kd', one, two, pair_taps(one, two)))
    for part in ("model.distillers.kd.student_tap='auto'", 'Small', 'backbone[1] (8x64x64, stride 4)', 'stride 32'):
        assert part in message


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


def test_a_map_that_is_changed_later_is_replaced_or_left_out():
    places = discover_student(Overwriting(), (64, 64))
    assert [place.tap for place in places.backbone] == ['act'], 'the module that gives the final value'
    (note,) = places.notes
    assert 'backbone[1]' in note and 'in place' in note


class Twice(Overwriting):
    """Calls its backbone for each half of the picture."""

    def forward(self, x):
        return [self.backbone(half) for half in x.chunk(2, dim=3)]


def test_maps_of_a_part_that_is_called_twice_are_left_out():
    assert discover_student(Twice(), (64, 64)).backbone == []


class NeedsLabels(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Backbone()

    def forward(self, x):
        maps = self.backbone(x)
        if self.training:
            raise TypeError('labels')
        return maps


def test_a_pass_that_fails_in_training_mode_leaves_nothing_behind():
    places = discover_student(NeedsLabels(), (64, 64))
    assert [place.tap for place in places.backbone] == ['backbone[0]', 'backbone[1]'], 'each is called once'


def test_frozen_levels_of_the_student_are_left_out_but_not_of_the_teacher():
    network = toys.build_plain(toys.seg_net())
    network.backbone.requires_grad_(False)
    network.backbone.layer4.requires_grad_(True)
    student, teacher = discover_student(network, (64, 64)), discover(lambda: network, (64, 64))
    chosen = pair_taps(student, teacher)
    assert taps_of(chosen) == ['backbone[3]', 'decode_head.bottleneck']
    assert len(chosen.notes) == 2 and all('frozen' in note for note in chosen.notes)


def test_the_student_stays_as_it_is():
    network = toys.build_plain(toys.seg_net()).train()
    before = torch.get_rng_state()
    discover_student(network, (64, 64))
    assert network.training and not next(network.parameters()).is_meta and not toys.hooks_left(network)
    assert torch.equal(before, torch.get_rng_state())
