"""Every detector family with the terms of its published pair: real mmdet models at tiny width."""

from typing import Any, NamedTuple

import pytest
import torch
from mmengine.runner import load_checkpoint

from mmdistill_dense.distillers.maskd.learning import initial_tokens
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


def _check_terms(runner, names):
    scalars = runner.message_hub.log_scalars
    for name in names:
        (loss,) = (key for key in scalars if key.startswith(f'train/distill.{name}.loss_'))
        assert 0 < scalars[loss].current() < float('inf')
        assert 0 < scalars[f'train/distill.{name}.share'].current() < 1


def _check_checkpoint(runner, pair, path):
    """The runner's checkpoint is the student alone, and loads strictly in the vanilla network."""
    vanilla = toys.build_plain(pair.student)
    load_checkpoint(vanilla, str(path), map_location='cpu', strict=True)
    assert not toys.differing(vanilla.state_dict(), runner.model.state_dict())


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


@pytest.mark.parametrize('name', ['retinanet', 'fcos'])  # mmcv's CPU operations of the others know no bfloat16
def test_autocast_gives_float32_terms_close_to_exact(name):
    model = _ready(PAIRS[name], dict(PAIRS[name].terms, maskd=MASKD))
    model.distillers['maskd'].load_tokens(initial_tokens(model.distillers['maskd'].token_shapes(), 0))
    losses = []
    for enabled in (False, True):
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            all_losses = toys.losses_of(model, toys.det_batch())
        losses.append({key: value for key, value in all_losses.items() if 'distill' in key and 'loss' in key})
    exact, lowered = losses
    assert len(exact) == len(PAIRS[name].terms) + 1
    torch.testing.assert_close(lowered, exact, rtol=0.05, atol=0)  # which compares the types too


@TWO
def test_maskd_learns_its_tokens_and_distils(pair, tmp_path):
    """And a run that is given them trains the same student."""
    states = []
    for name, tokens in (('learned', {}), ('given', None)):
        if tokens is None:
            (file,) = (tmp_path / 'learned' / 'maskd_tokens').iterdir()
            tokens = dict(tokens=str(file))
        work_dir = tmp_path / name
        config = _config(pair, dict(pair.terms, maskd=dict(MASKD, **tokens)))
        runner = toys.train(None, toys.det_run_config(work_dir, config))
        assert (work_dir / 'maskd_tokens').exists() == (name == 'learned')
        _check_terms(runner, [*pair.terms, 'maskd'])
        levels = [key for key in runner.message_hub.log_scalars if 'distill.maskd.level' in key]
        assert len(levels) == 5
        _check_checkpoint(runner, pair, work_dir / 'iter_2.pth')
        saved = torch.load(work_dir / 'iter_2.pth', weights_only=False)['distillers']
        states.append({**toys.student_state(runner.model), **saved})
        assert saved['maskd.tokens_ready'] > 1 and 'maskd.mask_modules.4.mask_token' in saved
        assert len(tokens_of(runner)) == 25 and all(value.any() for value in tokens_of(runner).values())
    assert not toys.differing(*states)


@pytest.mark.soak
@pytest.mark.parametrize('masks', [True, False])
def test_a_mask_teacher_learns_with_and_without_masks_in_the_data(masks, tmp_path):
    pair = PAIRS['cascade']
    config = toys.det_run_config(tmp_path, _config(pair, dict(maskd=MASKD)), masks=masks, log_level='INFO')
    toys.train(None, config)
    (log,) = tmp_path.rglob('*.log')
    assert ('hold no instance masks' in log.read_text()) == (not masks)
