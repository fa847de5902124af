"""The teacher benchmark compares each acceleration with the plain forward of the same network."""

import json
from pathlib import Path

import pytest
import torch

from mmdistill_dense.networks.acceleration import Acceleration
from tests import toys
from tools.benchmark import teacher_pass

NAMES = [teacher_pass.FULL, teacher_pass.EARLY, *teacher_pass.OPTIONS]


def costs_of(model: dict) -> dict[str, teacher_pass.TeacherCost]:
    return teacher_pass.measure_teachers(model, 2, (64, 64), repeats=1)


def cost_of(option: dict, *taps: str) -> teacher_pass.TeacherCost:
    (cost,) = costs_of({**teacher_pass.tapped('', taps), 'student': option, 'teacher': option}).values()
    return cost


@pytest.mark.soak
@pytest.mark.parametrize(('option', 'tap'), [
    (toys.seg_net('fcn', width=16), 'backbone[3]'),
    *((toys.det_net(kind), 'neck') for kind in ('retinanet', 'faster_rcnn')),
])  # fmt: skip
def test_every_option_records_the_same_within_its_tolerance(option: dict, tap: str) -> None:
    cost = cost_of(option, tap)
    assert [row.name for row in cost.rows] == NAMES
    assert cost.rows[0].error is None and cost.rows[1].error == 0
    for row in cost.rows[1:]:
        assert row.error < (5e-2 if 'bfloat16' in row.name else 1e-4), row.name
        assert row.error > 0 or 'bfloat16' not in row.name, row.name  # it does something
    table = teacher_pass.as_markdown(cost)
    assert all(f'| {name} |' in table for name in NAMES) and f'taps {tap}' in table


@pytest.fixture
def few_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain and one more: each option builds the networks anew."""
    monkeypatch.setattr(teacher_pass, 'OPTIONS', {'bfloat16': {'dtype': 'bfloat16'}})


@pytest.mark.usefixtures('few_options')
def test_the_section_can_be_kept(tmp_path: Path) -> None:
    cost = cost_of(toys.seg_net(), 'backbone[3]', 'decode_head.conv_seg')
    section = teacher_pass.section(cost, 'toy', 'cpu', 'command')
    content = json.loads(section.save(tmp_path).read_text())
    assert content['figures']['taps'] == ['backbone[3]', 'decode_head.conv_seg']
    assert content['figures']['faster'][teacher_pass.FULL] == 1
    assert [row['name'] for row in content['figures']['rows']] == [*NAMES[:2], 'bfloat16']


def test_the_options_cover_each_switch_alone_and_together() -> None:
    options = [Acceleration.parse(option, 'model.teacher') for option in teacher_pass.OPTIONS.values()]
    for alone in (Acceleration(channels_last=True), Acceleration(dtype='bfloat16')):
        assert alone in options
    assert Acceleration(channels_last=True, dtype='bfloat16') in options


@pytest.mark.soak
@pytest.mark.usefixtures('few_options')
def test_teachers_of_a_config_have_the_taps_of_its_distillers() -> None:
    teachers = {'wide': toys.seg_teacher(), 'other': toys.seg_teacher('pspnet', 24)}
    distillers = {'afdcd': {'type': 'AfDCD', 'teacher': 'wide'}, 'kd': {'type': 'LogitKD', 'teacher': 'other'}}
    costs = costs_of(toys.model_config(teacher=teachers, distillers=distillers))
    assert [cost.taps for cost in costs.values()] == [['backbone[-1]'], ['decode_head.conv_seg']]


def test_the_error_is_of_the_largest_value() -> None:
    found, expected = {'a': [torch.tensor([1.0, 2.0])]}, {'a': [torch.tensor([1.0, 4.0])]}
    assert teacher_pass.relative_error(found, expected) == 0.5
