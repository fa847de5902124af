"""What looks like a pair of maps and is none: scores of another kind, classes in another order, other strides."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.distillers import CWD, FRS, PKD, CrossKD, HeadOutputKD
from mmdistill_dense.distillers.ground_truth import check_competing, check_independent
from mmdistill_dense.losses import channel_divergence
from mmdistill_dense.networks.class_pairs import ClassPairs
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.validate import text_of
from tests import toys
from tests.distillers.steps import set_up
from tests.foundation.files import option
from tests.query_nets import gfl, query_net

SCORES = 'decode_head.conv_seg'


# Maps of bare shapes

SHAPES: list[tuple[str, dict[str, Any], tuple[int, ...], tuple[int, ...], str]] = [
    ('AfDCD', {}, (6, 16, 16), (30, 16, 16), r'^distillers\.afdcd: tap .*: groups=16 does not divide the 30'),
    ('AfDCD', {}, (32,), (32,), r'gives \(32,\) .*no map \(C, H, W\)'),
    ('AfDCD', dict(resize=None), (6, 8, 8), (32, 16, 16),
     r"map of \(8, 8\) and a teacher map of \(16, 16\).*set resize='student' or resize='teacher'"),
    ('CanKD', {}, (4, 1, 1), (6, 1, 1), 'map of 1 x 1, and the method compares positions'),
    ('CanKD', {}, (4, 4, 4), (1, 4, 4), 'maps of one channel'),
    ('FGD', {}, (1, 8, 8), (1, 8, 8), 'must hold maps of at least 2 channels'),
    ('FitNet', {}, (2, 4, 4), (16,), r'different rank, \(2, 4, 4\) and \(16,\)'),
    ('FitNet', dict(align='none'), (2, 4, 4), (3, 4, 4), "2 student and 3 teacher channels.*align='auto'"),
    ('HeadOutputKD', dict(form='softmax', num_classes=4), (6, 3, 2), (6, 3, 2),
     r'tap -> tap \(level 0\) has 6 channels, no multiple of num_classes=4'),
    ('LogitKD', dict(standardise=True), (2, 4, 4), (2, 4, 4), 'with 2 classes, standardised scores are constants'),
    ('PCD', dict(head=None), (6, 3, 5), (9, 3, 5), '6 student and 9 teacher channels; head=None'),
    ('PCD', dict(head=None, attention={}), (6, 3, 5), (6, 3, 5),
     r'num_heads=8 does not divide the 6 channels .* one of \[1, 2, 3, 6\]'),
    ('QueueKL', {}, (3, 4, 6), (9, 4), r'gives \(9, 4\) .* neither a map'),
    ('QueueKL', dict(head=None), (3, 4, 6), (4, 4, 6), 'head=None needs equal numbers'),
    *(('RoIHeadKD', dict(output='cls_score', form=form), (1,), (1,), "form='sigmoid'") for form in ('softmax', 'dist')),
]  # fmt: skip


def test_shapes_that_do_not_fit_are_named() -> None:
    for method, options, student, teacher, words in SHAPES:
        with pytest.raises(ValueError, match=words):
            set_up(DISTILLERS.get(method), (student, teacher), **options)
            pytest.fail(f'{method} takes {student} and {teacher}: {words}')


# Networks

RTMDET = dict(cfg='mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py')
MAX_IOU = dict(assigner=dict(_delete_=True, type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4))
AGNOSTIC = toys.det_net('faster_rcnn', roi_head=dict(bbox_head=dict(reg_class_agnostic=True)))
MASKS = dict(student_tap='roi_head.mask_head.conv_logits', output='mask_preds', form='sigmoid', temperature=2.0)
ONE_CLASS = dict(bbox_head=dict(num_classes=1))
FOUNDATION = option()


def binary(**options: Any) -> dict[str, Any]:
    """A segmentor with one channel of scores for two classes."""
    loss = dict(type='CrossEntropyLoss', use_sigmoid=True)
    head = dict(num_classes=2, out_channels=1, threshold=0.5, loss_decode=loss)
    return toys.seg_net('fcn', decode_head=head, auxiliary_head=head, **options)


BINARY = binary(), binary(width=16, allow_random=True)
SMALL = toys.det_net('retinanet', bbox_head=dict(anchor_generator=dict(octave_base_scale=2)))
RETINA = dict(student_tap='bbox_head.retina_cls', activation='sigmoid')
EXPONENT, IN_STRIDES, FINER = dict(exp_on_reg=True), dict(norm_on_bbox=True), dict(strides=[4, 8, 16, 32, 64])
QUERIES = r'bbox_head\S+ of the student are answers to queries.*KDDETR'
OTHER_CODE = toys.det_net('retinanet', bbox_head=dict(bbox_coder=dict(target_stds=[0.1, 0.1, 0.2, 0.2])))
HALVED = toys.det_net('faster_rcnn', roi_head=dict(bbox_head=dict(bbox_coder=dict(target_stds=[0.05, 0.05, 0.1, 0.1]))))
ROI_SCORES = dict(student_tap='roi_head.bbox_head.fc_cls', output='cls_score', form='softmax')
HTC = dict(cfg='mmdet::htc/htc_r50_fpn_1x_coco.py', backbone=dict(init_cfg=None), allow_random=True)
SEESAW = dict(roi_head=dict(bbox_head=dict(loss_cls=dict(_delete_=True, type='SeesawLoss', num_classes=6))))
TWO = gfl()
TWO.pop('allow_random')
Network = str | dict[str, Any]  # the kind of a small detector, or an option
PAIRS: dict[str, list[tuple[dict[str, Any], Network, Network, str]]] = {
    'CIRKD': [
        (dict(student_tap='neck[0]'), 'retinanet', 'retinanet',
         r"distillers\.x: CIRKD needs the number of classes .*RetinaNet.*num_classes.*type='PKD'"),
    ],
    'CWD': [({}, *BINARY[:1], toys.seg_net('fcn', width=16, allow_random=True),
             r'conv_seg.* has 1 class scores of the student and 7 of the teacher.*=2')],
    'CrossKD': [
        *((dict(reuse_from=1), TWO, teacher, words) for teacher, words in [
            (dict(RTMDET, allow_random=True),
             r'bbox_head of the teacher \(RTMDet\) is RTMDetSepBNHead. Use RoIHeadKD'),
            (toys.det_net('atss', allow_random=True, bbox_head=dict(stacked_convs=2)), 'differ in bbox_head.type'),
            (gfl(stacked_convs=0), r'reuse_from=1, but the towers of the teacher have 0 convolutions'),
            (gfl(reg_max=8), 'differ in bbox_head.reg_max. CrossKD reads one set of anchors'),
            (toys.merged(gfl(), dict(train_cfg=dict(assigner=dict(topk=5)))), 'differ in train_cfg.assigner'),
            (gfl(feat_channels=32), r'cls_convs.0 has levels of \[\(16, .*\(32, .*feat_channels'),
        ]),
        ({}, 'faster_rcnn', gfl(), r'model\.distillers\.x: CrossKD runs the last layers .* of the student'),
    ],
    'DIST': [({}, *BINARY, "one class score.*distillers.x.activation='sigmoid' and distillers.x.beta=0")],
    'FRS': [({}, SMALL, 'retinanet', r'model\.distillers\.x: the student has bbox_head\.anchor_generator=.*same')],
    'HeadOutputKD': [
        (dict(student_tap='bbox_head.retina_reg', form='l1'), OTHER_CODE, 'retinanet', 'has bbox_head.bbox_coder='),
        (dict(student_tap='bbox_head.rtm_reg.0'), RTMDET, dict(RTMDET, allow_random=True, bbox_head=EXPONENT),
         'has bbox_head.exp_on_reg=False, the teacher True'),
        (dict(student_tap='bbox_head.reg_branches.0', form='l1'), query_net('dino'),
         query_net('dino', allow_random=True), QUERIES),
        (dict(student_tap='bbox_head[-2]'), 'fcos', toys.det_net('fcos', allow_random=True, bbox_head=IN_STRIDES),
         'has bbox_head.norm_on_bbox=False'),
        (dict(student_tap=SCORES, form='softmax'), *BINARY, "one class score.*distillers.x.form='sigmoid'"),
        (dict(student_tap='bbox_head.retina_cls', form='softmax'), toys.det_net(**ONE_CLASS),
         toys.det_net(width=16, allow_random=True, **ONE_CLASS),
         r"bbox_head\.retina_cls.* one class score, .*set distillers\.x\.form='sigmoid'"),
    ],
    'KDDETR': [
        ({}, 'retinanet', query_net('dab', allow_random=True), 'RetinaNet has no forward_decoder: .* DINO'),
        ({}, query_net('dab'), query_net('deformable', allow_random=True),
         'queries of the student have .* the same kind'),
        ({}, query_net('deformable'), query_net('deformable', allow_random=True, bbox_head=dict(num_classes=3)),
         'score 6 and 3 classes'),
        ({}, query_net('dab'), query_net('dab', allow_random=True, accelerate=dict(dtype='bfloat16')), 'accelerate'),
    ],
    'LD': [
        ({}, 'gfl', 'retinanet', r"distillers\.x: .* heads with reg_max .* teacher's bbox_head is a RetinaHead"),
        ({}, 'retinanet', 'gfl', r'student has levels of .*\(classes, H, W\)|edges x'),
        ({}, toys.det_net('gfl', bbox_head=dict(num_classes=3)), 'gfl',
         r'levels of \[\(3, 64, 64\), .*set model.student.bbox_head'),
        ({}, toys.det_net('gfl', bbox_head=dict(reg_max=8)), 'gfl',
         r'levels of \[\(36, 64, 64\), .*\(edges x \(reg_max \+ 1\), H, W\)'),
        ({}, 'gfl', toys.det_net('gfl', allow_random=True, train_cfg=MAX_IOU),
         r'needs the ATSSAssigner .* in model.teacher.train_cfg, got .*MaxIoUAssigner'),
    ],
    'LogitKD': [
        (RETINA, SMALL, 'retinanet', 'anchor_generator='),
        (RETINA, 'retinanet', toys.det_net(width=16, allow_random=True, scale=2.0),
         r'with model\.teacher\.scale, a level of bbox_head\.retina_cls finds objects of another size'),
        (dict(student_tap='bbox_head.conv_cls', activation='sigmoid'), toys.det_net('fcos', bbox_head=FINER), 'fcos',
         r'has bbox_head\.strides=\[4, 8, 16, 32, 64\]'),
        (dict(student_tap='bbox_head[0]', activation='sigmoid'), query_net('dab'),
         query_net('dab', allow_random=True), QUERIES),
        ({}, *BINARY, "one class score.*distillers.x.activation='sigmoid'"),
        ({}, toys.seg_net(), toys.seg_net(width=16, allow_random=True, decode_head=dict(num_classes=4)),
         rf'distillers\.x: {SCORES} -> {SCORES} \(level 0\) has 7 class scores of the student and 4'),
    ],
    'RoIHeadKD': [
        ({}, 'faster_rcnn', 'cascade_mask_rcnn',
         'gives 24 values .* bbox_pred 4.*model.student.*reg_class_agnostic=True'),
        ({}, AGNOSTIC, 'faster_rcnn', 'gives 4 values .* bbox_pred 24.*reg_class_agnostic=False'),
        ({}, 'faster_rcnn', 'retinanet',
         'model.teacher is a RetinaNet and has no roi_head; for dense heads use HeadOutputKD'),
        ({}, HALVED, 'faster_rcnn', 'the student has bbox_coder=.*0.05.* the teacher .*0.1.* one coder'),
        (ROI_SCORES, *(toys.det_net('faster_rcnn', **SEESAW, **option) for option in ({}, dict(allow_random=True))),
         "form='softmax', but the scores of model.teacher do not compete .*SeesawLoss"),
        ({}, AGNOSTIC, HTC, 'the RoI head of model.teacher has a semantic_head'),
        (dict(stage=3), AGNOSTIC, 'cascade_mask_rcnn', r'distillers.x.stage=3, but .* has 3 stage\(s\)'),
        (MASKS, 'mask_rcnn', 'faster_rcnn',
         r"output='mask_preds', but the RoI head of model\.teacher has no mask_head"),
        (MASKS, 'faster_rcnn', 'mask_rcnn', 'mask_head.conv_logits.*no such module in FasterRCNN'),
        (dict(MASKS, form='l1', temperature=None), 'mask_rcnn', 'mask_rcnn',
         "binary scores: set form='sigmoid', got form='l1'"),
    ],
}  # fmt: skip
NO_SCORES = '(needs|has no) class scores (or|and no) boxes'  # of a teacher that gives maps alone
for method in ('LogitKD', 'CIRKD', 'IFVD', 'SKD'):
    PAIRS.setdefault(method, []).append(({}, toys.seg_net('fcn'), FOUNDATION, NO_SCORES))
PAIRS['MasKD'] = [(dict(student_tap='backbone[3]', teacher_tap='map'), toys.seg_net('fcn'), FOUNDATION, NO_SCORES)]
PAIRS['LD'].append(({}, 'gfl', FOUNDATION, NO_SCORES))


def refusal(distiller: dict[str, Any], student: Network, teacher: Network) -> str:
    student = toys.det_net(student) if isinstance(student, str) else student
    teacher = toys.det_teacher(teacher) if isinstance(teacher, str) else teacher
    scope = 'mmseg' if 'decode_head' in student else 'mmdet'
    try:
        toys.build(toys.model_config(student, teacher, dict(x=distiller)), scope=scope)
    except (KeyError, ValueError) as error:
        return text_of(error)
    return ''


@pytest.mark.sample(7)
@pytest.mark.parametrize('method', PAIRS)
def test_networks_that_do_not_fit_are_refused(method: str) -> None:
    for options, student, teacher, words in PAIRS[method]:
        text = refusal(dict(options, type=method), student, teacher)
        assert re.search(words, text), (words, text)


def test_what_means_the_same_is_taken() -> None:
    """Anchors whose defaults are written out; and boxes of another code, where scores alone are compared."""
    written = toys.det_net('retinanet', bbox_head=dict(anchor_generator=dict(center_offset=0.0)))
    assert not refusal(dict(RETINA, type='LogitKD'), written, 'retinanet')
    assert not refusal(dict(type='FRS'), OTHER_CODE, 'retinanet')
    assert not refusal(dict(type='FRS', student_tap=['neck', 'rpn_head[0]']), 'faster_rcnn', 'faster_rcnn')
    for binary in (dict(type='LogitKD'), dict(type='DIST', beta=0)):
        assert not refusal(dict(binary, activation='sigmoid'), *BINARY)
    faster = toys.det_net('fcos', allow_random=True, bbox_head=IN_STRIDES)
    assert not refusal(dict(type='HeadOutputKD', student_tap='bbox_head.conv_centerness'), 'fcos', faster)


# Scores and classes


def test_scores_with_a_background_are_no_independent_logits() -> None:
    sure = dict(type='RetinaHead', loss_cls=dict(type='FocalLoss', use_sigmoid=True))
    check_independent('d', 'student', sure)
    check_independent('d', 'student', {})
    softmax = dict(type='RetinaHead', loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False))
    others = ('mmdet.TOODHead', 'SSDHead', 'YOLOV3Head', 'CenterNetHead')
    for head in (softmax, *(dict(type=kind) for kind in others)):
        with pytest.raises(ValueError, match=r'^d: scores of the teacher \(\w+\) are no logits of independent'):
            check_independent('d', 'teacher', head)
    check_independent('d', 'teacher', dict(type='mmdet.TOODHead'), output=False)
    alone = load_model(dict(type='RetinaNet', bbox_head=dict(type='mmdet.YOLOXHead', num_classes=3)), 'model')
    with pytest.raises(ValueError, match='learns class scores where objects are alone'):
        FRS().check_networks('d', alone, alone)


SIGMOIDS = [DISTILLERS.get(name)('bbox_head[0]', activation='sigmoid') for name in ('LogitKD', 'DIST')]
SIGMOIDS += [FRS(), CrossKD(reuse_from=1), HeadOutputKD('bbox_head.retina_cls', form='sigmoid')]


@pytest.mark.parametrize('made', SIGMOIDS, ids=lambda head: type(head).__name__)
def test_methods_on_independent_scores_ask_both_heads(made: Any) -> None:
    good = load_model(toys.det_net('retinanet'), 'model')
    other = load_model(toys.det_net('retinanet', bbox_head=dict(loss_cls=dict(use_sigmoid=False))), 'model')
    made.check_networks('d', good, good)
    for pair, side in (((good, other), 'teacher'), ((other, good), 'student')):
        with pytest.raises(ValueError, match=f'd: scores of the {side}'):
            made.check_networks('d', *pair)


def test_a_softmax_over_independent_scores_is_refused() -> None:
    for method, more in (('LogitKD', {}), ('DIST', dict(beta=0))):
        option = dict(type=method, student_tap='bbox_head.retina_cls', **more)
        text = refusal(option, 'retinanet', 'retinanet')
        assert re.search(r"retina_cls are independent yes/no scores .*: set .*activation='sigmoid'", text)
        assert not refusal(dict(option, activation='sigmoid'), 'retinanet', 'retinanet')
    check_competing('d', None, [Tap.parse(SCORES)])
    for head, tap, words in (
        (dict(type='CenterNetHead'), 'bbox_head[0]', r'd: bbox_head\[0\] gives probabilities \(CenterNetHead\)'),
        (dict(type='X', loss_cls=dict(type='GaussianFocalLoss')), 'bbox_head.cls', 'which do not compete: set'),
    ):
        model = dict(bbox_head=dict(head, num_classes=6))
        with pytest.raises(ValueError, match=words):
            check_competing('d', SimpleNamespace(config=SimpleNamespace(model=model)), [Tap.parse(tap)])


def test_class_scores_in_another_order_are_not_compared() -> None:
    swapped = ClassPairs.of('auto', 'abc', 'bac')
    for tap, channels in ((SCORES, 3), ('bbox_head.retina_cls', 6)):  # of 2 anchors
        made = set_up(PKD, [(channels, 8, 8)] * 2, tap=tap)
        made.check_classes(ClassPairs.of('auto', 'abc', 'abc'))
        with pytest.raises(ValueError, match='PKD compares channels one by one'):
            made.check_classes(swapped)
    for tap, channels, more in (
        ('bbox_head.cls_convs[0]', 6, {}),
        ('backbone[3]', 3, {}),
        (SCORES, 3, dict(align='conv')),
    ):
        set_up(PKD, [(channels, 8, 8)] * 2, tap=tap, **more).check_classes(swapped)


def test_merged_classes_of_equal_scores_are_equal_to_cwd(monkeypatch: pytest.MonkeyPatch) -> None:
    """CWD compares positions, so no value may be taken off single ones."""
    expected = {'person': ['person', 'rider'], 'road': ['road']}
    pairs = ClassPairs.of(expected, ('person', 'road'), ('person', 'rider', 'road'))
    teacher = 3 * torch.randn(2, 3, 5, 6, dtype=torch.float64)
    student = torch.stack([teacher[:, :2].logsumexp(1), teacher[:, 2]], 1)
    assert channel_divergence(*pairs.softmax(student, teacher), temperature=4.0) > 0.1
    monkeypatch.setattr(CWD, 'pairs', pairs)
    monkeypatch.setattr(CWD, 'by_class', lambda *_: True)
    made = set_up(CWD, [(2, 5, 6), (3, 5, 6)], tap=SCORES)
    assert made.loss(student, teacher, 0)['loss_cwd'] == pytest.approx(0, abs=1e-12)
