"""Every detector family with the terms of its published pair: real mmdet models at tiny width."""

from typing import Any, NamedTuple

import pytest
import torch
from mmengine.runner import load_checkpoint

from tests import toys
from tests.distillers.maskd.tokens import tokens_of


class Pair(NamedTuple):
    """A student, the kind of its teacher, the terms on the heads, and how often a tapped head is called in a step."""

    student: dict[str, Any]
    teacher: str
    terms: dict[str, dict]
    calls: int


POINTS = [('bbox_head.reppoints_pts_refine_out', 0.2), ('bbox_head.reppoints_pts_init_out', 0.1)]
PAIRS = {
    'faster': Pair(toys.det_net('faster_rcnn'), 'faster_rcnn', dict(box=dict(type='RoIHeadKD')), 1),
    'cascade': Pair(
        toys.det_net('faster_rcnn', roi_head=dict(bbox_head=dict(reg_class_agnostic=True))),
        'cascade_mask_rcnn',
        dict(
            box=dict(type='RoIHeadKD'),
            score=dict(type='RoIHeadKD', student_tap='roi_head.bbox_head.fc_cls', output='cls_score', form='dist'),
        ),
        1,
    ),
    'retinanet': Pair(
        toys.det_net('retinanet'),
        'retinanet',
        dict(
            box=dict(type='HeadOutputKD', student_tap='bbox_head.retina_reg', form='l1'),
            score=dict(type='LogitKD', student_tap='bbox_head.retina_cls', activation='sigmoid'),
        ),
        5,
    ),
    'fcos': Pair(
        toys.det_net('fcos'),
        'fcos',
        dict(score=dict(type='HeadOutputKD', student_tap='bbox_head.conv_cls', form='sigmoid')),
        5,
    ),
    'reppoints': Pair(
        toys.det_net('reppoints'), 'reppoints', dict(points=dict(type='HeadOutputKD', student_tap=POINTS, beta=0.11)), 5
    ),
}
TWO = pytest.mark.parametrize(  # and the others with make soak
    'pair',
    [
        *(pytest.param(PAIRS[name], id=name) for name in ('faster', 'retinanet')),
        *(pytest.param(PAIRS[name], id=name, marks=pytest.mark.soak) for name in ('cascade', 'fcos', 'reppoints')),
    ],
)


MASKD = dict(type='MasKD', num_tokens=3, student_mask_from=1, learn=dict(max_iters=3, log_interval=3))


def _config(pair, terms=None):
    return toys.model_config(pair.student, toys.det_teacher(pair.teacher), pair.terms if terms is None else terms)


def _ready(pair, terms=None):
    return toys.ready(toys.build(_config(pair, terms), scope='mmdet'))


@TWO
def test_taps_fire_once_per_call_of_the_head_on_both_sides(pair):
    model = _ready(pair)
    teacher = toys.teacher_of(model).network
    tapped = {(model, tap) for d in model.distillers.values() for tap in [*d.student_taps, *d.extra_student_taps]}
    tapped |= {(teacher, tap) for d in model.distillers.values() for tap in d.teacher_taps}
    calls = dict.fromkeys(tapped, 0)
    for network, tap in tapped:

        def count(*_, key=(network, tap)):
            calls[key] += 1

        network.get_submodule(tap.path).register_forward_hook(count)
    toys.total(toys.losses_of(model, toys.det_batch())).backward()
    assert set(calls.values()) == {pair.calls}, calls
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@TWO
def test_maskd_learns_its_tokens_and_distils(pair, tmp_path):
    runner = toys.train(None, toys.det_run_config(tmp_path, _config(pair, dict(pair.terms, maskd=MASKD))))
    scalars = runner.message_hub.log_scalars
    for name in (*pair.terms, 'maskd'):
        (loss,) = (key for key in scalars if key.startswith(f'train/distill.{name}.loss_'))
        assert 0 < scalars[loss].current() < float('inf')
        assert 0 < scalars[f'train/distill.{name}.share'].current() < 1
    assert len([key for key in scalars if 'distill.maskd.level' in key]) == 5
    saved = torch.load(tmp_path / 'iter_2.pth', weights_only=False)['distillers']
    assert saved['maskd.tokens_ready'] > 1 and 'maskd.mask_modules.4.mask_token' in saved
    assert len(tokens_of(runner)) == 25 and all(value.any() for value in tokens_of(runner).values())
    vanilla = toys.build_plain(pair.student)  # the runner's checkpoint is the student alone
    load_checkpoint(vanilla, str(tmp_path / 'iter_2.pth'), map_location='cpu', strict=True)
    assert not toys.differing(vanilla.state_dict(), runner.model.state_dict())
