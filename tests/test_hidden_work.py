"""What does not run, or wait, in a distilled step: heads without a tap, what a schedule has ended, the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests import toys
from tests.distillers.device import no_waiting, on_device

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


@pytest.mark.parametrize(
    ('kind', 'distiller', 'parts'),
    [
        ('retinanet', dict(type='FitNet', student_tap='backbone[3]'), {'backbone'}),
        ('retinanet', dict(type='FitNet', student_tap='neck'), {'backbone', 'neck'}),
        ('faster_rcnn', dict(type='FitNet', student_tap='neck'), {'backbone', 'neck'}),
        ('faster_rcnn', dict(type='RoIHeadKD'), {'backbone', 'neck', 'roi_head'}),
        (
            'retinanet',
            dict(type='HeadOutputKD', student_tap='bbox_head.retina_cls'),
            {'backbone', 'neck', 'bbox_head'},
        ),
    ],
)
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
    from mmdistill_dense import forward

    model = toys.distilled(student=toys.seg_net('fcn'), teacher=toys.seg_teacher('fcn'))
    assert toys.teacher_of(model).heads == ['decode_head']
    monkeypatch.setattr(forward, '_features_and_heads', None)
    toys.losses_of(model)


def test_of_several_teachers_those_rest_whose_terms_have_ended():
    teachers = dict(a=toys.seg_teacher('fcn'), b=toys.seg_teacher('pspnet'))
    distillers = dict(
        kd=dict(type='LogitKD', teacher='a', **OFF),
        early=dict(type='MaskedMimic', teacher='b', **OFF),
        mimic=dict(type='MaskedMimic', teacher='b', student_tap='backbone[2]'),
    )
    model = toys.distilled(student=toys.seg_net('fcn'), teacher=teachers, distillers=distillers)
    a, b = (model.distillation.teachers[name].network for name in 'ab')
    model.distillation.progress.iteration = 5
    ran = []
    model.distillers['early'].register_forward_hook(lambda *_: ran.append('early'))
    assert _calls_in_a_step(model, a, toys.seg_batch()) == set()
    assert _calls_in_a_step(model, b, toys.seg_batch()) == {'backbone'}
    losses = toys.losses_of(model)
    assert not ran and losses['distill.early.loss_off'] == 0
    toys.total(losses).backward()
    assert all(p.grad is not None for p in model.distillers.parameters()), 'connected, for DDP'


def test_a_detectors_teacher_rests_when_its_terms_have_ended():
    distillers = dict(fit=dict(type='FitNet', student_tap='neck', align='conv', **OFF))
    options = dict(student=toys.det_net(), teacher=toys.det_teacher(), distillers=distillers)
    model = toys.distilled('mmdet', **options)
    model.distillation.progress.iteration = 5
    assert _calls_in_a_step(model, toys.teacher_of(model).network, toys.det_batch()) == set()
    losses = toys.losses_of(model, toys.det_batch())
    toys.total(losses).backward()
    assert all(p.grad is not None for p in model.distillers.parameters()), 'connected, for DDP'


# Waiting


@pytest.mark.parametrize('changes', [{}, dict(data_preprocessor=dict(mean=[100.0, 110, 120]))])
def test_a_step_does_not_wait_for_the_device(changes, monkeypatch):
    distillers = dict(
        kd=dict(type='LogitKD'),
        mimic=dict(type='MaskedMimic'),
        cwd=dict(type='CWD', student_tap='backbone[2]', schedule=dict(warmup=10)),
    )
    options = dict(student=toys.seg_net('fcn'), teacher=toys.seg_teacher('fcn', **changes), distillers=distillers)
    model = toys.distilled(**options)
    # mmseg's own loss selects pixels to log an accuracy, and waits there
    monkeypatch.setattr('mmseg.models.decode_heads.decode_head.accuracy', lambda logits, *_, **__: logits.sum())
    batch = model.data_preprocessor(toys.seg_batch(), True)
    model.loss(**batch)  # folds norms
    model.to('meta')
    inputs, samples = on_device(batch['inputs']), on_device(batch['data_samples'])
    with no_waiting():
        losses = model.loss(inputs, samples)
        toys.total(losses).backward()
    assert {'distill.kd.share', 'distill.cwd.loss_cwd', 'decode.loss_ce'} <= set(losses)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_a_step_does_not_wait_for_a_gpu(monkeypatch):
    distillers = dict(kd=dict(type='LogitKD'), mimic=dict(type='MaskedMimic'))
    options = dict(student=toys.seg_net('fcn'), teacher=toys.seg_teacher('fcn'), distillers=distillers)
    model = toys.distilled(**options).cuda()
    monkeypatch.setattr('mmseg.models.decode_heads.decode_head.accuracy', lambda logits, *_, **__: logits.sum())
    batch = model.data_preprocessor(toys.seg_batch(), True)
    toys.total(model.loss(**batch)).backward()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=list(torch.profiler.supported_activities())) as profile:
        torch.cuda.set_sync_debug_mode('error')
        try:
            toys.total(model.loss(**batch)).backward()
        finally:
            torch.cuda.set_sync_debug_mode('default')
    waits = [event.key for event in profile.key_averages() if 'Synchronize' in event.key]
    assert 'cudaStreamSynchronize' not in waits
