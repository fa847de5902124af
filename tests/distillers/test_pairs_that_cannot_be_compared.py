"""What looks like a pair of maps and is none: scores of another kind, classes in another order, other strides."""

from typing import Any

import pytest
import torch

from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.distillers import CWD, FRS, PCD, PKD, AfDCD, CrossKD
from mmdistill_dense.distillers.ground_truth import check_competing, check_independent
from mmdistill_dense.distillers.pcd.parts import ChannelCenter
from mmdistill_dense.losses import channel_divergence
from mmdistill_dense.networks.class_pairs import ClassPairs
from mmdistill_dense.networks.taps import Tap
from tests import toys
from tests.distillers import test_two_processes as two
from tests.distillers.steps import padded, set_up

SCORES = 'decode_head.conv_seg'


def test_scores_with_a_background_or_probabilities_are_no_independent_logits() -> None:
    sure = dict(type='RetinaHead', loss_cls=dict(type='FocalLoss', use_sigmoid=True))
    check_independent('d', 'student', sure)
    check_independent('d', 'student', {})
    softmax = dict(type='RetinaHead', loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False))
    for head in (softmax, dict(type='mmdet.TOODHead'), dict(type='SSDHead'), dict(type='YOLOV3Head')):
        with pytest.raises(ValueError, match=r'^d: scores of the teacher \(\w+\) are no logits of independent'):
            check_independent('d', 'teacher', head)


@pytest.mark.parametrize('made', [FRS(), CrossKD(reuse_from=1)], ids=['FRS', 'CrossKD'])
def test_methods_on_independent_scores_ask_both_heads(made: Any) -> None:
    good = load_model(toys.det_net('retinanet'), 'model')
    other = load_model(toys.det_net('retinanet', bbox_head=dict(loss_cls=dict(use_sigmoid=False))), 'model')
    made.check_networks('d', good, good)
    for pair, side in (((good, other), 'teacher'), ((other, good), 'student')):
        with pytest.raises(ValueError, match=f'd: scores of the {side}'):
            made.check_networks('d', *pair)


@pytest.mark.parametrize('method', ['LogitKD', 'DIST'])
def test_a_softmax_over_independent_scores_is_refused(method: str) -> None:
    def build(**options: Any) -> None:
        distiller = dict(type=method, student_tap='bbox_head.retina_cls', **options)
        net = toys.det_net('retinanet')
        toys.build(toys.model_config(net, {**net, 'allow_random': True}, dict(kd=distiller)), scope='mmdet')

    with pytest.raises(ValueError, match=r"retina_cls are independent yes/no scores .*: set .*activation='sigmoid'"):
        build()
    build(activation='sigmoid', **(dict(beta=0) if method == 'DIST' else {}))
    check_competing('d', None, [Tap.parse(SCORES)])


def swapped() -> ClassPairs:
    return ClassPairs.of('auto', 'abc', 'bac')


def test_class_scores_in_another_order_are_not_compared_channel_by_channel() -> None:
    made = set_up(PKD, [(3, 8, 8), (3, 8, 8)], tap=SCORES)
    with pytest.raises(ValueError, match='PKD compares channels one by one'):
        made.check_classes(swapped())
    made.check_classes(ClassPairs.of('auto', 'abc', 'abc'))
    set_up(PKD, [(3, 8, 8), (3, 8, 8)], tap='backbone[3]').check_classes(swapped())
    set_up(PKD, [(3, 8, 8), (3, 8, 8)], tap=SCORES, align='conv').check_classes(swapped())


def test_merged_classes_of_equal_scores_are_equal_to_cwd(monkeypatch: pytest.MonkeyPatch) -> None:
    """CWD compares positions, so no value may be taken off single ones."""
    pairs = ClassPairs.of(
        {'person': ['person', 'rider'], 'road': ['road']}, ('person', 'road'), ('person', 'rider', 'road')
    )
    teacher = 3 * torch.randn(2, 3, 5, 6, dtype=torch.float64)
    student = torch.stack([teacher[:, :2].logsumexp(1), teacher[:, 2]], 1)
    ours, theirs = pairs.softmax(student, teacher, shift=False)
    assert channel_divergence(ours, theirs, temperature=4.0) == pytest.approx(0, abs=1e-12)
    assert channel_divergence(*pairs.softmax(student, teacher), temperature=4.0) > 0.1
    monkeypatch.setattr(CWD, 'pairs', pairs)
    monkeypatch.setattr(CWD, 'by_class', lambda *_: True)
    made = set_up(CWD, [(2, 5, 6), (3, 5, 6)], tap=SCORES)
    assert made.loss(student, teacher, 0)['loss_cwd'] == pytest.approx(0, abs=1e-12)


def test_the_pool_of_the_contrast_is_that_of_the_maps_of_the_step() -> None:
    made = set_up(AfDCD, [(16, 64, 64), (32, 64, 64)], pool_size='auto')
    level = made.levels[0]
    assert [made._options_of(level, size)['pool_size'] for size in ((), (64, 64), (16, 20), (8, 8))] == [4, 4, 4, 0]
    small = [torch.randn(2, channels, 8, 8, dtype=torch.float64) for channels in (16, 32)]
    whole = set_up(AfDCD, [(16, 64, 64), (32, 64, 64)], pool_size=0)
    whole.load_state_dict(made.state_dict())
    for name, value in made.loss(*small, 0).items():
        assert value == whole.loss(*small, 0)[name]


@pytest.mark.parametrize(('method', 'options', 'told'), [
    (AfDCD, dict(fd_reduction='sum'), "fd_reduction='sum' needs fd_weight"),
    (PCD, dict(queue_size='auto', enqueue='pooled'), "queue_size='auto' keeps pixels"),
])  # fmt: skip
def test_options_that_would_be_changed_without_a_word_are_refused(method: Any, options: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        method(**options)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_broken_map_of_a_skipped_step_stays_in_no_memory(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    center = ChannelCenter(3)
    for bad in (True, False):
        maps = torch.ones(2, 3, 4, 4)
        maps[0, 1, 0, 0] = value if bad else 1.0
        center.update(maps, None)
    assert center.mean.isfinite().all() and (center.mean > 0).all()

    def broken(number: int, mine: slice) -> tuple[Any, ...]:
        student, teacher, samples = padded(number, mine)
        teacher[0, :, 1, 2] = value
        return student, teacher, samples

    monkeypatch.setattr(two, 'padded', broken)
    for name in ('pcd', 'cirkd'):
        made = two.distiller(name)
        two.step(made, 0, slice(None))
        assert all(buffer.isfinite().all() for buffer in made.buffers() if buffer.is_floating_point())


def test_levels_of_other_strides_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr('mmdistill_dense.distillers.feature.print_log', lambda text, *_: told.append(text))
    net = toys.det_net('retinanet')
    for scale in (1.0, 0.5):
        teacher = {**net, 'allow_random': True, 'scale': scale}
        toys.build(toys.model_config(net, teacher, dict(d=dict(type='PKD', student_tap='neck'))), scope='mmdet')
        assert len(told) == (0 if scale == 1 else 5)
