"""What does not run in a distilled step: heads without a tap, what a schedule has ended."""

from typing import Any

import pytest
from torch import nn

from tests import toys

OFF = dict(schedule=dict(stop_at=5))


def _called(network: nn.Module) -> tuple[set[str], list[Any]]:
    """The names of all modules that run from now on."""
    called: set[str] = set()
    handles = [
        module.register_forward_hook(lambda *_, name=name: called.add(name)) for name, module in network.named_modules()
    ]
    return called, handles


def _calls_in_a_step(model: Any, network: nn.Module, batch: dict) -> set[str]:
    called, handles = _called(network)
    toys.losses_of(model, batch)
    for handle in handles:
        handle.remove()
    return {name.split('.')[0] for name in called if name}


@pytest.mark.parametrize(('kind', 'distiller', 'parts'), [
    ('retinanet', dict(type='FitNet', student_tap='backbone[3]'), {'backbone'}),
    ('retinanet', dict(type='FitNet', student_tap='neck'), {'backbone', 'neck'}),
    ('faster_rcnn', dict(type='FitNet', student_tap='neck'), {'backbone', 'neck'}),
    ('faster_rcnn', dict(type='RoIHeadKD'), {'backbone', 'neck', 'roi_head'}),
    ('retinanet', dict(type='HeadOutputKD', student_tap='bbox_head.retina_cls'), {'backbone', 'neck', 'bbox_head'}),
])  # fmt: skip
def test_a_detector_runs_only_what_its_taps_need(kind, distiller, parts):
    options = dict(student=toys.det_net(kind), teacher=toys.det_teacher(kind), distillers=dict(x=distiller))
    model = toys.distilled('mmdet', **options)
    network = toys.teacher_of(model).network
    toys.losses_of(model, toys.det_batch())  # norms are folded in the first step
    assert _calls_in_a_step(model, network, toys.det_batch()) == parts


def test_the_regression_branch_behind_the_last_tap_does_not_run():
    distiller = dict(type='FitNet', student_tap='bbox_head.cls_convs.0.conv')
    options = dict(student=toys.det_net(), teacher=toys.det_teacher(), distillers=dict(x=distiller))
    model = toys.distilled('mmdet', **options)
    network = toys.teacher_of(model).network
    called, _ = _called(network)
    toys.losses_of(model, toys.det_batch())
    assert network.bbox_head is not None and 'bbox_head.retina_cls' in called, 'four levels before the last'
    per_level = []
    network.bbox_head.retina_reg.register_forward_hook(lambda *_: per_level.append(1))
    toys.losses_of(model, toys.det_batch())
    assert len(per_level) == 4, 'the fifth level ends at the tap'


def test_the_step_finds_out_nothing_by_hooks_that_the_dry_run_knew(monkeypatch):
    from mmdistill_dense.networks import recording as partial_forward

    model = toys.distilled(student=toys.seg_net('fcn'), teacher=toys.seg_teacher('fcn'))
    assert toys.teacher_of(model).plan.heads == ['decode_head']
    modules = []
    noting = partial_forward.noting
    monkeypatch.setattr(partial_forward, 'noting', lambda named, note: noting(modules.extend(named) or [], note))
    toys.losses_of(model)
    assert not modules


def test_of_several_teachers_those_rest_whose_terms_have_ended():
    teachers = dict(a=toys.seg_teacher('fcn'), b=toys.seg_teacher('pspnet'))
    distillers = dict(
        kd=dict(type='LogitKD', teacher='a', **OFF),
        early=dict(type='MaskedMimic', teacher='b', **OFF),
        mimic=dict(type='MaskedMimic', teacher='b', student_tap='backbone[2]'),
    )
    model = toys.distilled(student=toys.seg_net('fcn'), teacher=teachers, distillers=distillers)
    a, b = (model.distillation.teachers[name].network for name in 'ab')
    model.distillation.state.iteration = 5
    ran = []
    model.distillers['early'].register_forward_hook(lambda *_: ran.append('early'))
    assert _calls_in_a_step(model, a, toys.seg_batch()) == set()
    assert _calls_in_a_step(model, b, toys.seg_batch()) == {'backbone'}
    losses = toys.losses_of(model)
    assert not ran and losses['distill.early.loss_off'] == 0
    toys.total(losses).backward()
    assert all(p.grad is not None for p in model.distillers.parameters()), 'connected, for DDP'
