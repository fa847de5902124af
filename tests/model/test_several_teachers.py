"""One student, two different teachers, several methods: what each gives is what it would give alone."""

import pytest
import torch

from mmdistill_dense.engine.resume import describe, differ, identity
from tests import toys

STUDENT = toys.seg_net('fcn')
# another head, another width, another normalisation
OTHER_PIXELS = dict(data_preprocessor=dict(mean=[100.0, 110.0, 120.0], std=[50.0, 55.0, 60.0], bgr_to_rgb=False))
TEACHERS = dict(wide=toys.seg_teacher('fcn'), deep=toys.seg_teacher('pspnet', 24, **OTHER_PIXELS))
KD = dict(type='LogitKD')
TERMS = dict(
    kd=dict(KD, teacher='wide', loss_weight=0.5),
    kd_deep=dict(KD, teacher='deep', loss_weight=0.5),
    mimic=dict(type='MaskedMimic', teacher='deep'),
)


def pair(distillers=None, **changes):
    return toys.model_config(STUDENT, dict(TEACHERS, **changes), TERMS if distillers is None else distillers)


def terms_of(model):
    return {
        name: value for name, value in toys.losses_of(model).items() if name.startswith('distill.') and '.loss_' in name
    }


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A run of four iterations, and what it logged."""
    folder = tmp_path_factory.mktemp('two_teachers')
    runner = toys.train(folder, pair())
    return folder, {name: value.current() for name, value in runner.message_hub.log_scalars.items()}


def test_each_term_is_what_its_teacher_alone_gives():
    together = toys.distilled(student=STUDENT, teacher=TEACHERS, distillers=TERMS)
    found = terms_of(together)
    assert len(found) == len(TERMS)
    for name, option in TERMS.items():
        teacher = TEACHERS[option['teacher']]
        distillers = {name: {key: value for key, value in option.items() if key != 'teacher'}}
        alone = toys.distilled(student=STUDENT, teacher=teacher, distillers=distillers)
        alone.load_state_dict(together.state_dict())
        alone.distillers[name].load_state_dict(together.distillers[name].state_dict())
        ((key, value),) = terms_of(alone).items()
        torch.testing.assert_close(found[key], value)
    assert not torch.isclose(found['distill.kd.loss_kd'], found['distill.kd_deep.loss_kd'])


def test_each_teacher_runs_once_in_a_step_and_one_that_rests_does_not():
    resting = {name: one if name == 'kd_deep' else dict(one, schedule=dict(stop_at=5)) for name, one in TERMS.items()}
    model = toys.distilled(student=STUDENT, teacher=TEACHERS, distillers=resting)
    calls = []
    for name, teacher in model.distillation.teachers.items():
        teacher.network.backbone.register_forward_hook(lambda *_, name=name: calls.append(name))
    for iteration in (5, 4):  # taps that rested are recorded again
        model.distillation.state.iteration = iteration
        toys.losses_of(model)
    assert calls == ['deep', 'wide', 'deep']


def test_a_run_logs_every_term_with_its_share(finished):
    _, scalars = finished
    for name in TERMS:
        (loss,) = (key for key in scalars if key.startswith(f'train/distill.{name}.loss_'))
        assert 0 < scalars[loss] < float('inf')
    total = sum(scalars[f'train/distill.{name}.share'] for name in TERMS)
    assert 0 < total < 1
    task = scalars['train/decode.loss_ce'] + scalars['train/aux.loss_ce']
    terms = sum(value for key, value in scalars.items() if '.loss_' in key and 'distill' in key)
    assert total == pytest.approx(terms / (terms + task), rel=1e-4)


def test_a_checkpoint_is_the_student_with_the_receipts_of_both(finished):
    content = torch.load(finished[0] / 'iter_4.pth', weights_only=False)
    told = content['meta']['distill']['teachers']
    assert [told[name]['file'] for name in TEACHERS] == ['fcn_16.pth', 'pspnet_24.pth']
    assert told['wide']['sha256'] != told['deep']['sha256']
    assert all(receipt['matched'] == receipt['total'] > 0 for receipt in told.values())
    toys.build_plain(STUDENT).load_state_dict(content['state_dict'], strict=True)


def test_exchanged_teachers_are_another_run(finished):
    then = torch.load(finished[0] / 'iter_4.pth', weights_only=False)['meta']['distill']
    same, other = (identity(toys.ready(toys.build(pair(**change)))) for change in
                   ({}, dict(wide=TEACHERS['deep'], deep=TEACHERS['wide'])))  # fmt: skip
    assert not differ(then, same) and differ(then, other) and 'pspnet' in describe(other)


def test_methods_with_their_own_teachers_compose(tmp_path):
    """Contrast, learned masks, correlation, two teachers: tokens are learned on the teacher they are used with."""
    distillers = dict(
        afdcd=dict(type='AfDCD', teacher='wide', student_tap='backbone[3]', pool_size=0),
        maskd=dict(type='MasKD', teacher='deep', student_tap='backbone[3]', num_tokens=2, learn=dict(max_iters=2)),
        dist=dict(type='DIST', teacher='wide'),
    )
    runner = toys.train(tmp_path, pair(distillers), iters=2)
    scalars = runner.message_hub.log_scalars
    assert all(0 < scalars[f'train/distill.{name}.share'].current() < 1 for name in distillers)
    (tokens,) = (tmp_path / 'maskd_tokens').iterdir()
    assert torch.load(tokens, weights_only=False)['meta']['receipt']['file'] == 'pspnet_24.pth'


def test_two_detectors_teach_one():
    teachers = dict(scores=toys.det_teacher('retinanet'), necks=toys.det_teacher('fcos'), idle=dict(cfg='nowhere.py'))
    distillers = dict(
        kd=dict(KD, teacher='scores', student_tap='bbox_head.retina_cls', activation='sigmoid'),
        mimic=dict(type='MaskedMimic', teacher='necks', student_tap='neck'),
    )
    model = toys.distilled('mmdet', student=toys.det_net('retinanet'), teacher=teachers, distillers=distillers)
    losses = toys.losses_of(model, toys.det_batch())
    assert all(0 < losses[f'distill.{name}.share'] < 1 for name in distillers)
    found = model.distillation.teachers
    assert {name: one.key for name, one in found.items()} == dict(
        scores='model.teacher.scores', necks='model.teacher.necks'
    ), 'one that nobody asks is not built'
