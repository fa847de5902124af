"""``student_tap='auto'`` in a model: explicit taps from construction on, errors, and resuming."""

import pytest
from torch import Tensor

from mmdistill_dense import distillers
from mmdistill_dense.distillers.feature import FeatureDistiller
from mmdistill_dense.engine.resume import describe, differ, identity
from mmdistill_dense.registry import DISTILLERS
from tests import toys
from tests.foundation.files import tiny

AUTO = dict(type='FitNet', student_tap='auto')
CHOSEN = ['backbone[1]', 'backbone[2]', 'backbone[3]', 'decode_head.bottleneck']
COMPARE_MAPS = (
    *('AfDCD', 'AT', 'CanKD', 'CIRKD', 'CWD', 'DeFeat', 'FeatureMatch', 'FGD', 'FitNet', 'FreeKD', 'IFVD', 'MasKD'),
    *('MGD', 'PCD', 'PKD', 'QueryMatch', 'QueueKL', 'SimReg', 'SKD', 'TokenRelations'),
)
OTHERS = ('DIST', 'FRS', 'HeadOutputKD', 'LogitKD', 'RoIHeadKD')


def build(**options):
    return toys.build(toys.model_config(distillers=dict(one=options or AUTO)))


def names(taps):
    return [str(tap) for tap in taps]


def test_a_segmentor_gets_explicit_taps_and_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log names the pairs; written out, the taps give the same run."""
    lines = []
    monkeypatch.setattr('mmdistill_dense.model.build.print_log', lambda line, *_: lines.append(line))
    model, batch = toys.ready(build()), toys.seg_batch()
    one = model.distillers['one']
    assert names(one.student_taps) == names(one.teacher_taps) == CHOSEN and len(one.levels) == 4
    assert ', '.join(CHOSEN) in repr(one) and 'auto' not in one.extra_repr()
    (line,) = lines
    assert line.startswith("model.distillers.one.student_tap='auto'")
    assert 'backbone[3] (64x8x8, stride 8) -> backbone[3] (128x8x8, stride 8)' in line
    written = toys.ready(build(type='FitNet', student_tap=CHOSEN))
    assert not differ(identity(model), identity(written))
    losses, same = (toys.losses_of(one, batch) for one in (model, written))
    assert losses['distill.one.loss_fitnet'] == same['distill.one.loss_fitnet'] > 0
    toys.total(losses).backward()
    assert all(align.weight.grad.any() for align in one.aligns)
    assert toys.teacher_of(model).plan.parts == {'backbone', 'decode_head'}, 'the trace saw the chosen taps'


def test_a_detector_gets_the_levels_of_its_neck() -> None:
    model = toys.distilled(
        'mmdet', student=toys.det_net(), teacher=toys.det_net('fcos', 16, allow_random=True), distillers=dict(one=AUTO)
    )
    assert names(model.distillers['one'].student_taps) == [f'neck[{level}]' for level in range(5)]
    toys.total(toys.losses_of(model, toys.det_batch(side=256))).backward()
    assert model.neck.lateral_convs[0].conv.weight.grad.any()


@pytest.mark.parametrize('scope', ['mmseg', 'mmdet'])
def test_a_foundation_model_has_its_map(scope: str) -> None:
    teacher = dict(type='mmdistill_dense.FoundationTeacher', model=tiny('dinov2'), allow_random=True)
    student, batch = (toys.seg_net(), None) if scope == 'mmseg' else (toys.det_net(), toys.det_batch())
    methods = dict(one=AUTO, match=dict(type='FeatureMatch', settings='auto'))
    model = toys.distilled(scope, student=student, teacher=teacher, distillers=methods)
    for one in model.distillers.values():
        assert (names(one.student_taps), names(one.teacher_taps)) == (['backbone[3]'], ['map'])
    assert toys.losses_of(model, batch)['distill.one.loss_fitnet'].requires_grad


def test_each_teacher_is_looked_at() -> None:
    model = toys.build(
        toys.model_config(
            teacher=dict(
                a=toys.seg_net(width=16, allow_random=True), b=toys.seg_net('fcn', width=16, allow_random=True)
            ),
            distillers=dict(one=dict(AUTO, teacher='a'), two=dict(AUTO, teacher='b')),
        )
    )
    assert [names(one.teacher_taps)[-1] for one in model.distillers.values()] == [
        'decode_head.bottleneck',
        'decode_head.conv_cat',
    ]


def test_every_method_takes_it_or_says_why_not() -> None:
    known = {name for name in DISTILLERS.module_dict if name in vars(distillers)}
    assert known == {*COMPARE_MAPS, *OTHERS, 'CrossKD', 'KDDETR', 'LD'}, 'these have no student_tap'
    assert all(not DISTILLERS.get(name).no_auto for name in COMPARE_MAPS)
    for method in OTHERS:  # for outputs of heads
        with pytest.raises(
            ValueError, match=rf"model.distillers.one: {method} refuses student_tap='auto': it compares"
        ):
            build(type=method, student_tap='auto')


@pytest.mark.parametrize(('options', 'message'), [
    (dict(AUTO, teacher_tap='backbone[3]'), r'leave teacher_tap out, or name'),
    (dict(AUTO, student_tap=['auto', 'backbone[3]']), r'stands alone'),
    (dict(AUTO, student_tap=[('auto', 0.5)]), r'stands alone'),
    (dict(type='FitNet', teacher_tap='auto'), r"student_tap='auto' chooses the taps of the teacher"),
])  # fmt: skip
def test_mistakes_are_answered(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=rf'model.distillers.one: .*{message}'):
        build(**options)


def test_two_networks_without_a_pair_are_refused() -> None:
    tall = toys.seg_net(width=16, allow_random=True, backbone=dict(strides=(1, 1, 1, 1), dilations=(1, 1, 1, 1)))
    small = toys.seg_net(backbone=dict(strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1), out_indices=(2, 3)))
    small.update(decode_head=dict(small['decode_head'], in_index=1), auxiliary_head=None)
    with pytest.raises(ValueError) as error:
        toys.build(toys.model_config(small, tall, dict(one=AUTO)))
    message = str(error.value)
    assert message.startswith("model.distillers.one.student_tap='auto' finds no two maps")
    assert 'backbone[1] (64x2x2, stride 32)' in message and 'backbone[3] (128x16x16, stride 4)' in message


def test_taps_of_different_size_are_resized_where_the_method_leaves_it_open() -> None:
    class Difference(FeatureDistiller):
        def loss(self, student: Tensor, teacher: Tensor, level: int) -> Tensor:
            return (student - teacher).square().mean()

    coarse = toys.seg_net(backbone=dict(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)))
    config = toys.model_config(coarse, distillers=dict(one=dict(type=Difference, student_tap='auto')))
    model = toys.ready(toys.build(config))
    assert model.distillers['one'].resize == 'student'
    assert toys.losses_of(model)['distill.one.loss_difference'].isfinite()


def test_outside_of_a_model_there_are_no_taps() -> None:
    with pytest.raises(RuntimeError, match='only a DistillModel'):
        distillers.FitNet('auto').setup({}, {})


def test_a_resumed_run_must_choose_the_same() -> None:
    """Other taps of the same width have the same tensors."""
    other = [*CHOSEN[:3], 'decode_head.conv_seg:input']
    auto, changed = (identity(build(type='FitNet', student_tap=taps)) for taps in ('auto', other))
    assert [tap for tap, _ in auto['distillers']['one']['taps']] == CHOSEN
    assert auto['distillers']['one']['tensors'] == changed['distillers']['one']['tensors'] and differ(auto, changed)
    assert ', '.join(CHOSEN) in describe(auto) and ', '.join(other) in describe(changed)


def test_a_checkpoint_of_an_older_version_has_no_taps_to_compare() -> None:
    now = identity(build())
    then = {**now, 'distillers': {'one': {k: v for k, v in now['distillers']['one'].items() if k != 'taps'}}}
    assert not differ(then, now) and differ({}, now)
    assert differ({**then, 'distillers': {'one': {**then['distillers']['one'], 'type': 'CWD'}}}, now)
