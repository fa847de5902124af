"""Terms on head outputs: formulas by hand, the teacher's RoI head on the student's RoIs, published pairs, errors."""

import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmdistill_dense.distillers import CIRKD, IFVD, HeadOutputKD, RoIHeadKD
from mmdistill_dense.distillers.ground_truth import scores_of_head
from mmdistill_dense.networks.class_pairs import ClassPairs
from tests import toys
from tests.distillers.steps import draw

CONV_SEG = 'decode_head.conv_seg'


# Dense heads


def test_mmdets_check_of_class_counts_leaves_distillers_alone():
    """Its hook compares each ``num_classes`` of a module with the data set; a softmax may count the background too."""
    hooks = pytest.importorskip('mmdet.engine.hooks')
    distillers = nn.ModuleList(
        [HeadOutputKD('head', form='softmax', num_classes=3), HeadOutputKD('head'), IFVD(), CIRKD()]
    )
    data = types.SimpleNamespace(dataset=types.SimpleNamespace(metainfo=dict(classes=('a', 'b'))))
    hooks.NumClassCheckHook()._check_head(types.SimpleNamespace(model=distillers, train_dataloader=data), 'train')


@pytest.mark.parametrize('options', [
    dict(form='l1'), {}, dict(beta=0.11), dict(form='sigmoid'), dict(form='softmax', num_classes=3),
    dict(form='softmax', num_classes=3, temperature=3.0),
], ids=str)  # fmt: skip
def test_forms_are_means_over_elements_or_anchors(options):
    student, teacher = 2 * draw(2, 2, 6, 3, 2)
    t = options.get('temperature', 1.0)
    # mmdet's own unfolding of (N, A * K, H, W)
    s, p = ((m.permute(0, 2, 3, 1).reshape(-1, 3) / t).softmax(1) for m in (student, teacher))
    student_scores, two = student.sigmoid(), teacher.sigmoid()
    expected = {
        'l1': (student - teacher).abs().mean(),
        'smooth_l1': F.smooth_l1_loss(student, teacher, beta=options.get('beta', 1.0)),
        'sigmoid': (two * (two / student_scores).log() + (1 - two) * ((1 - two) / (1 - student_scores)).log()).mean(),
        'softmax': t * t * (p * (p / s).log()).sum(1).mean(),
    }[options.get('form', 'smooth_l1')]
    torch.testing.assert_close(HeadOutputKD('head', **options).loss(student, teacher, 0)['loss_head'], expected)


def test_classes_come_from_the_head():
    distillers = dict(kd=dict(type='HeadOutputKD', student_tap='bbox_head.retina_cls', form='softmax'))
    for loss in (dict(type='CrossEntropyLoss', use_sigmoid=True), dict(type='CrossEntropyLoss')):
        option = dict(bbox_head=dict(loss_cls=dict(loss, _delete_=True)))
        nets = toys.det_net(**option), toys.det_net(width=16, allow_random=True, **option)
        model = toys.build(toys.model_config(*nets, distillers), scope='mmdet')
        assert model.distillers['kd'].class_count == model.bbox_head.cls_out_channels, loss


# R-CNN heads

MASKS = dict(
    kind='mask_rcnn', student_tap='roi_head.mask_head.conv_logits', output='mask_preds', form='sigmoid', temperature=2.0
)
AGNOSTIC = dict(roi_head=dict(bbox_head=dict(reg_class_agnostic=True)))


def _pair(student=None, teacher='faster_rcnn', option=None, kind='faster_rcnn', **distiller):
    """A student of a kind with one RoIHeadKD; the teacher by its own."""
    nets = toys.det_net(kind, **(student or {})), toys.det_teacher(teacher, **(option or {}))
    return toys.model_config(*nets, dict(roi=dict(type='RoIHeadKD', **distiller)))


def _ready(*args, **kwargs):
    return toys.ready(toys.build(_pair(*args, **kwargs), scope='mmdet'))


def _recorded(network, *paths):
    """What each call of modules by path is given and gives, from now on: path, arguments, output."""
    calls = []
    for path in paths:
        network.get_submodule(path).register_forward_hook(lambda _, *call, path=path: calls.append((path, *call)))
    return calls


def _step(model):
    """The loss of one step, the RoIs that the student's head saw, and its boxes."""
    calls = _recorded(model.roi_head, 'bbox_roi_extractor', 'bbox_head.fc_reg')
    losses = toys.losses_of(model, toys.det_batch())
    *_, (_, (_, rois), _), (_, _, output) = calls
    return losses['distill.roi.loss_roi'], rois, output


def _answer(model, rois, stage=None):
    """The teacher's boxes by its own modules, one after the other."""
    network = toys.teacher_of(model).network
    batch = model.data_preprocessor(toys.det_batch(), True)
    extractor, head = network.roi_head.bbox_roi_extractor, network.roi_head.bbox_head
    if stage is not None:
        extractor, head = extractor[stage], head[stage]
    hidden = extractor(network.extract_feat(batch['inputs'])[:4], rois).flatten(1)
    for linear in head.shared_fcs:
        hidden = linear(hidden).relu()
    return head.fc_reg(hidden)


def test_the_teachers_head_sees_the_students_rois():
    model = _ready()
    loss, rois, output = _step(model)
    assert output.shape == (len(rois), 4 * (toys.NUM_CLASSES - 1)) and len(rois) > 100
    assert set(rois[:, 0].tolist()) == {0, 1}, 'of both images'
    torch.testing.assert_close(loss, F.smooth_l1_loss(output, _answer(model, rois)))
    assert loss > 0.01


def test_a_cascade_answers_with_one_stage():
    names = 'rpn_head', 'roi_head.mask_head.0', *(f'roi_head.bbox_head.{stage}' for stage in range(3))
    for stage, deviations in ((0, [0.1, 0.1, 0.2, 0.2]), (2, [0.033, 0.033, 0.067, 0.067])):
        coded = dict(roi_head=dict(bbox_head=dict(bbox_coder=dict(target_stds=deviations))))
        model = _ready(toys.merged(AGNOSTIC, coded), 'cascade_mask_rcnn', stage=stage, form='l1')
        calls = _recorded(toys.teacher_of(model).network, *names)
        loss, rois, output = _step(model)
        ((path, _, (_, boxes)),) = calls
        assert path == f'roi_head.bbox_head.{stage}' and not boxes.requires_grad, 'once, without a graph'
        expected = [(output - _answer(model, rois, number)).abs().mean() for number in range(3)]
        torch.testing.assert_close(loss, expected[stage])
        assert output.shape == (len(rois), 4) and len({round(value.item(), 6) for value in expected}) == 3
    pair = _pair(None, 'cascade_mask_rcnn', student_tap='roi_head.bbox_head.fc_cls', output='cls_score', form='softmax')
    pair['distillers']['last'] = dict(pair['distillers']['roi'], stage=2)
    losses = toys.losses_of(toys.ready(toys.build(pair, scope='mmdet')), toys.det_batch())
    assert losses['distill.roi.loss_roi'] != losses['distill.last.loss_roi'], 'two stages in one step'


def test_calls_of_a_sampler_without_gradients_are_not_compared():
    """OHEM asks the head for the loss of all negatives before it chooses."""
    actual = []
    for kind in ('RandomSampler', 'OHEMSampler'):
        sampler = dict(type=kind, num=16, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True)
        student = toys.det_net('faster_rcnn', train_cfg=dict(rcnn=dict(sampler=sampler)))
        loss, rois, output = _step(_ready(student))
        actual.append((len(rois), len(output)))
        assert loss.requires_grad and loss > 0
    assert actual[0] == actual[1]


def test_the_roi_head_is_loaded_strictly(tmp_path):
    state = torch.load(toys.teacher_file('faster_rcnn'), weights_only=True)['state_dict']
    del state['roi_head.bbox_head.fc_reg.bias'], state['rpn_head.rpn_reg.bias']
    torch.save(dict(state_dict=state), tmp_path / 'without.pth')
    model = toys.build(_pair(option=dict(checkpoint=str(tmp_path / 'without.pth'))), scope='mmdet')
    with pytest.raises(ValueError, match=r'roi_head\.bbox_head\.fc_reg\.bias') as error:
        model.init_weights()
    assert 'rpn_reg' not in str(error.value), 'which nobody runs'


def test_merged_classes_need_one_box_for_all_classes():
    pairs = ClassPairs.of({'dog': ['poodle', 'collie']}, ['dog', 'cat'], ['poodle', 'collie', 'cat'])
    distiller, head = RoIHeadKD(), {'reg_class_agnostic': True}
    config = types.SimpleNamespace(model={'roi_head': {'bbox_head': head}})
    distiller.teacher = types.SimpleNamespace(config=config)
    distiller.check_classes(pairs)
    head['reg_class_agnostic'] = False
    with pytest.raises(ValueError, match='merged classes'):
        distiller.check_classes(pairs)


def test_rois_are_those_of_the_first_call():
    """It is called again for masks."""
    output, answer = draw(2, 6, 4)
    distiller, head = RoIHeadKD(), nn.Module()
    head.bbox_head = nn.Identity()
    head._bbox_forward = lambda features, rois: dict(bbox_pred=answer, cls_score=None)
    same = dict(option=types.SimpleNamespace(classes=None), class_pairs=lambda: None)
    distiller.teacher = types.SimpleNamespace(module=lambda _: head, cached=lambda _, compute: compute(), **same)
    student, neck = {'roi_head.bbox_head.fc_reg': [output]}, {'neck': [torch.zeros(1, 2, 4, 4)]}
    rois = 'roi_head.bbox_roi_extractor:input[1]'
    loss = distiller({**student, rois: [torch.zeros(6, 5), torch.zeros(2, 5)]}, neck, None)['loss_roi']
    torch.testing.assert_close(loss, F.smooth_l1_loss(output, answer))
    with pytest.raises(ValueError, match=r'has 6 rows, but rois=.* 5; tap the RoIs of the same head'):
        distiller({**student, rois: [torch.zeros(5, 5)]}, neck, None)


@pytest.mark.parametrize(('head', 'option', 'words'), [
    ('bbox_head', {}, r'gives 24 values per RoI and the teacher.s bbox_pred 12\. Tap the same kind'),
    ('mask_head', MASKS, r'distillers\.roi: the masks are \(6, 28, 28\) and \(3, 28, 28\)'),
])  # fmt: skip
def test_other_classes_are_refused_at_the_first_step(head, option, words):
    other = dict(roi_head={head: dict(num_classes=3)}, checkpoint=None, allow_random=True)
    model = _ready(None, option.get('kind', 'faster_rcnn'), other, **option)
    with pytest.raises(ValueError, match=words):
        toys.losses_of(model, toys.det_batch(masks=bool(option)))


def test_widths_of_features_are_no_number_of_scores():
    """YOLOv3's head has ``out_channels`` too, of its convolutions; mmseg's has those of its scores."""
    yolo = dict(type='YOLOV3Head', num_classes=80, out_channels=[1024, 512, 256], loss_cls=dict(use_sigmoid=True))
    binary = dict(num_classes=2, out_channels=1)
    frozen = types.SimpleNamespace(config=types.SimpleNamespace(model=dict(bbox_head=yolo, decode_head=binary)))
    assert scores_of_head(frozen, 'bbox_head.convs_pred.0') == 80
    assert scores_of_head(frozen, CONV_SEG) == 1


# Masks


@pytest.mark.parametrize(('teacher', 'stage'), [('mask_rcnn', 0), ('cascade_mask_rcnn', 2)])
def test_masks_by_the_naive_formula_on_the_positive_rois(teacher, stage):
    model = _ready(None, teacher, **MASKS, stage=stage)
    calls = _recorded(model.roi_head, 'mask_roi_extractor', 'mask_head')
    losses = toys.losses_of(model, toys.det_batch(masks=True))
    (_, (_, rois), _), (_, _, student) = calls
    assert 0 < len(rois) == len(student) < 200, 'the positive ones'
    network = toys.teacher_of(model).network
    inputs = model.data_preprocessor(toys.det_batch(masks=True), True)['inputs']
    head, extractor = network.roi_head.mask_head, network.roi_head.mask_roi_extractor
    if teacher == 'cascade_mask_rcnn':
        head, extractor = head[stage], extractor[stage]
    with torch.no_grad():
        expected_scores = head(extractor(network.extract_feat(inputs)[:4], rois))
    p, q = ((x.detach().double() / 2).sigmoid() for x in (expected_scores, student))
    total = 4 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum()
    expected = float(total) / (len(rois) * student.shape[2] * student.shape[3])
    loss = losses['distill.roi.loss_roi']
    assert float(loss) == pytest.approx(expected, rel=1e-4) and loss > 0
    loss.backward()
    for part in ('backbone', 'neck', 'roi_head.mask_head'):
        assert any(one.grad is not None and one.grad.any() for one in model.get_submodule(part).parameters()), part


def test_a_batch_without_objects_has_a_gradient_of_zero():
    model = _ready(None, 'mask_rcnn', **MASKS)
    batch = toys.det_batch(masks=True)
    for sample in batch['data_samples']:
        sample.gt_instances = sample.gt_instances[:0]
    losses = toys.losses_of(model, batch)
    assert losses['distill.roi.loss_roi'] == 0 and losses['distill.roi.loss_roi'].requires_grad
