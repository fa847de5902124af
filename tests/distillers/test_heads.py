"""Terms on head outputs: formulas by hand, the teacher's RoI head on the student's RoIs, and the errors."""

import types
from contextlib import nullcontext
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmdistill_dense.distillers import CIRKD, IFVD, HeadOutputKD, RoIHeadKD
from mmdistill_dense.distillers.ground_truth import scores_of_head
from mmdistill_dense.networks.class_pairs import ClassPairs
from mmdistill_dense.networks.recording import run_roi_head
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
def test_forms_are_means_over_elements_or_over_the_softmaxes_of_folded_anchors(options):
    student, teacher = 2 * draw(2, 2, 6, 3, 2)
    t = options.get('temperature', 1.0)
    # mmdet's own unfolding of (N, A * K, H, W)
    s, p = ((m.permute(0, 2, 3, 1).reshape(-1, 3) / t).softmax(1) for m in (student, teacher))
    one, two = student.sigmoid(), teacher.sigmoid()
    expected = {
        'l1': (student - teacher).abs().mean(),
        'smooth_l1': F.smooth_l1_loss(student, teacher, beta=options.get('beta', 1.0)),
        'sigmoid': (two * (two / one).log() + (1 - two) * ((1 - two) / (1 - one)).log()).mean(),
        'softmax': t * t * (p * (p / s).log()).sum(1).mean(),
    }[options.get('form', 'smooth_l1')]
    torch.testing.assert_close(HeadOutputKD('head', **options).loss(student, teacher, 0)['loss_head'], expected)


@pytest.mark.parametrize(
    'loss', [dict(type='CrossEntropyLoss', use_sigmoid=True), dict(type='CrossEntropyLoss'), dict(type='FocalLoss')]
)
def test_classes_come_from_the_head(loss):
    loss_cls = dict(loss, _delete_=True)
    distillers = dict(kd=dict(type='HeadOutputKD', student_tap='bbox_head.retina_cls', form='softmax'))
    option = dict(bbox_head=dict(loss_cls=loss_cls))
    config = toys.model_config(toys.det_net(**option), toys.det_net(width=16, allow_random=True, **option), distillers)
    model = toys.build(config, scope='mmdet')
    assert model.distillers['kd'].class_count == model.bbox_head.cls_out_channels


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


def _step(model, output):
    """The losses of one step, and what the student's head saw and gave in it."""
    seen = {}
    roi_head = model.roi_head
    handles = [
        roi_head.bbox_roi_extractor.register_forward_hook(lambda _, args, __: seen.update(rois=args[1])),
        getattr(roi_head.bbox_head, output).register_forward_hook(lambda _, __, out: seen.update(output=out)),
    ]
    losses = toys.losses_of(model, toys.det_batch())
    for handle in handles:
        handle.remove()
    return losses['distill.roi.loss_roi'], seen['rois'], seen['output']


def _answer(model, rois, stage, layer):
    """The teacher's output by its own modules, one after the other."""
    network = toys.teacher_of(model).network
    batch = model.data_preprocessor(toys.det_batch(), True)
    extractor, head = network.roi_head.bbox_roi_extractor, network.roi_head.bbox_head
    if stage is not None:
        extractor, head = extractor[stage], head[stage]
    hidden = extractor(network.extract_feat(batch['inputs'])[:4], rois).flatten(1)
    for linear in head.shared_fcs:
        hidden = linear(hidden).relu()
    return getattr(head, layer)(hidden)


def test_the_teachers_head_sees_the_students_rois():
    model = _ready()
    loss, rois, output = _step(model, 'fc_reg')
    assert output.shape == (len(rois), 4 * (toys.NUM_CLASSES - 1)) and len(rois) > 100
    assert set(rois[:, 0].tolist()) == {0, 1}, 'of both images'
    expected = F.smooth_l1_loss(output, _answer(model, rois, None, 'fc_reg'))
    torch.testing.assert_close(loss, expected)
    assert loss > 0.01


def test_a_cascade_answers_with_one_stage():
    for stage, deviations in ((0, [0.1, 0.1, 0.2, 0.2]), (2, [0.033, 0.033, 0.067, 0.067])):
        coded = dict(roi_head=dict(bbox_head=dict(bbox_coder=dict(target_stds=deviations))))
        model = _ready(toys.merged(AGNOSTIC, coded), 'cascade_mask_rcnn', stage=stage, form='l1')
        loss, rois, output = _step(model, 'fc_reg')
        expected = [(output - _answer(model, rois, number, 'fc_reg')).abs().mean() for number in range(3)]
        torch.testing.assert_close(loss, expected[stage])
        assert output.shape == (len(rois), 4) and len({round(value.item(), 6) for value in expected}) == 3


def test_calls_of_a_sampler_without_gradients_are_not_compared():
    """OHEM asks the head for the loss of all negatives before it chooses."""
    found = []
    for kind in ('RandomSampler', 'OHEMSampler'):
        sampler = dict(type=kind, num=16, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True)
        student = toys.det_net('faster_rcnn', train_cfg=dict(rcnn=dict(sampler=sampler)))
        loss, rois, output = _step(_ready(student), 'fc_reg')
        found.append((len(rois), len(output)))
        assert loss.requires_grad and loss > 0
    assert found[0] == found[1]


def test_the_teachers_rpn_and_mask_head_do_not_run():
    model = _ready(AGNOSTIC, 'cascade_mask_rcnn')
    network = toys.teacher_of(model).network
    calls = []
    for name in ('rpn_head', 'roi_head.mask_head.0', 'roi_head.bbox_head.1', 'roi_head.bbox_head.0'):

        def note(*_, name=name):
            calls.append((name, torch.is_grad_enabled()))

        network.get_submodule(name).register_forward_hook(note)
    _step(model, 'fc_reg')
    assert calls == [('roi_head.bbox_head.0', False)], 'once, without a graph'


def test_the_roi_head_is_loaded_strictly(tmp_path):
    state = torch.load(toys.teacher_file('faster_rcnn'), weights_only=True)['state_dict']
    del state['roi_head.bbox_head.fc_reg.bias'], state['rpn_head.rpn_reg.bias']
    torch.save(dict(state_dict=state), tmp_path / 'without.pth')
    model = toys.build(_pair(option=dict(checkpoint=str(tmp_path / 'without.pth'))), scope='mmdet')
    with pytest.raises(ValueError, match=r'roi_head\.bbox_head\.fc_reg\.bias') as error:
        model.init_weights()
    assert 'rpn_reg' not in str(error.value), 'which nobody runs'


def _bare(output):
    """A distiller beside a teacher whose head answers ``output``."""
    distiller = RoIHeadKD()
    head = nn.Module()
    head.bbox_head = nn.Identity()
    head._bbox_forward = lambda features, rois: dict(bbox_pred=output, cls_score=None)
    same = dict(option=types.SimpleNamespace(classes=None), class_pairs=lambda: None)
    distiller.teacher = types.SimpleNamespace(module=lambda _: head, cached=lambda _, compute: compute(), **same)
    return distiller


@pytest.mark.parametrize('form', ['softmax', 'dist', 'sigmoid'])
def test_scores_that_compete_need_two_classes(form):
    distiller = RoIHeadKD('roi_head.bbox_head.fc_cls', output='cls_score', form=form)
    shapes = {'roi_head.bbox_head.fc_cls': [torch.Size((5, 1))]}
    with nullcontext() if form == 'sigmoid' else pytest.raises(ValueError, match="form='sigmoid'"):
        distiller.setup(shapes, {})


def test_merged_classes_need_one_box_for_all_classes():
    pairs = ClassPairs.of({'dog': ['poodle', 'collie']}, ['dog', 'cat'], ['poodle', 'collie', 'cat'])
    distiller = RoIHeadKD()
    head = {'reg_class_agnostic': True}
    model = {'roi_head': {'bbox_head': head}}
    distiller.teacher = types.SimpleNamespace(config=types.SimpleNamespace(model=model))
    distiller.check_classes(pairs)
    head['reg_class_agnostic'] = False
    with pytest.raises(ValueError, match='merged classes'):
        distiller.check_classes(pairs)


FORMS = {'bbox_pred': ('smooth_l1', (8,)), 'cls_score': ('softmax', (3,)), 'mask_preds': ('sigmoid', (2, 4, 4))}


def roi_step(output, counts, mine):
    """The loss of some of four pictures with ``counts`` of RoIs, and the gradient of the student's outputs for them."""
    form, shape = FORMS[output]
    generator = torch.Generator().manual_seed(5)
    picture = torch.arange(4.0).repeat_interleave(torch.tensor(counts))
    chosen = sum(picture == number for number in range(4)[mine]).bool()
    student, teacher = (torch.randn(len(picture), *shape, generator=generator)[chosen] for _ in range(2))
    distiller = RoIHeadKD(output=output, form=form)
    distiller.answer = lambda *_: teacher
    loss = distiller._term(student.requires_grad_(), picture[chosen, None].expand(-1, 5), [])
    return loss.detach(), *torch.autograd.grad(loss, student)


def _forward(distiller, output, rois):
    student = {'roi_head.bbox_head.fc_reg': [output], 'roi_head.bbox_roi_extractor:input[1]': [rois]}
    return distiller(student, {'neck': [torch.zeros(1, 2, 4, 4)]}, None)['loss_roi']


def test_an_extractor_that_is_called_again_for_masks():
    output, answer = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    student = {
        'roi_head.bbox_head.fc_reg': [output],
        'roi_head.bbox_roi_extractor:input[1]': [torch.zeros(6, 5), torch.zeros(2, 5)],
    }
    loss = _bare(answer)(student, {'neck': [torch.zeros(1, 2, 4, 4)]}, None)['loss_roi']
    torch.testing.assert_close(loss, F.smooth_l1_loss(output, answer))


def test_other_classes_are_refused_at_the_first_step():
    option = dict(roi_head=dict(bbox_head=dict(num_classes=3)), checkpoint=None, allow_random=True)
    model = _ready(option=option)
    with pytest.raises(ValueError, match=r'gives 24 values per RoI and the teacher.s bbox_pred 12\. Tap the same kind'):
        _step(model, 'fc_reg')


def test_rois_of_another_head_are_refused():
    with pytest.raises(ValueError, match=r'has 6 rows, but rois=.* 5; tap the RoIs of the same head'):
        _forward(_bare(None), torch.zeros(6, 4), torch.zeros(5, 5))


def test_terms_of_a_step_share_one_pass_of_the_teachers_head():
    terms = dict(
        boxes=dict(type='RoIHeadKD'),
        scores=dict(type='RoIHeadKD', student_tap='roi_head.bbox_head.fc_cls', output='cls_score', form='softmax'),
    )
    student, teacher = toys.det_net('faster_rcnn'), toys.det_teacher('faster_rcnn')
    weights = toys.build_plain(student, seed=2).state_dict()
    found, passes = [], []
    for names in (('boxes',), ('scores',), ('boxes', 'scores')):
        chosen = {name: terms[name] for name in names}
        model = toys.distilled('mmdet', student=student, teacher=teacher, distillers=chosen)
        model.load_state_dict(weights)
        with mock.patch('mmdistill_dense.distillers.roi_head_kd.run_roi_head', side_effect=run_roi_head) as run:
            torch.manual_seed(3)  # the student samples its RoIs
            found.append(toys.losses_of(model, toys.det_batch()))
        passes.append(run.call_count)
    assert passes == [1, 1, 1]
    for alone, name in zip(found, terms, strict=False):
        assert torch.equal(alone[f'distill.{name}.loss_roi'], found[2][f'distill.{name}.loss_roi'])


def test_widths_of_features_are_no_number_of_scores():
    """YOLOv3's head has ``out_channels`` too, of its convolutions; mmseg's has those of its scores."""
    yolo = dict(type='YOLOV3Head', num_classes=80, out_channels=[1024, 512, 256], loss_cls=dict(use_sigmoid=True))
    binary = dict(num_classes=2, out_channels=1)
    frozen = types.SimpleNamespace(config=types.SimpleNamespace(model=dict(bbox_head=yolo, decode_head=binary)))
    assert scores_of_head(frozen, 'bbox_head.convs_pred.0') == 80
    assert scores_of_head(frozen, CONV_SEG) == 1


# Masks


def _recorded(model, path):
    seen = []
    module = model.roi_head.get_submodule(path)
    return seen, module.register_forward_hook(lambda _, args, output: seen.append((args, output)))


@pytest.mark.parametrize(('teacher', 'stage'), [('mask_rcnn', 0), ('cascade_mask_rcnn', 2)])
def test_masks_by_the_naive_formula_on_the_positive_rois(teacher, stage):
    model = _ready(None, teacher, **MASKS, stage=stage)
    (extracted, first), (made, second) = (_recorded(model, path) for path in ('mask_roi_extractor', 'mask_head'))
    batch = toys.det_batch(masks=True)
    losses = toys.losses_of(model, batch)
    first.remove(), second.remove()
    ((_, rois), _), (_, student) = extracted[0], made[0]
    assert 0 < len(rois) == len(student) < 200, 'the positive ones'
    network = toys.teacher_of(model).network
    inputs = model.data_preprocessor(toys.det_batch(masks=True), True)['inputs']
    head, extractor = network.roi_head.mask_head, network.roi_head.mask_roi_extractor
    if teacher == 'cascade_mask_rcnn':
        head, extractor = head[stage], extractor[stage]
    with torch.no_grad():
        theirs = head(extractor(network.extract_feat(inputs)[:4], rois))
    p, q = ((x.detach().double() / 2).sigmoid() for x in (theirs, student))
    total = 4 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum()
    expected = float(total) / (len(rois) * student.shape[2] * student.shape[3])
    loss = losses['distill.roi.loss_roi']
    assert float(loss) == pytest.approx(expected, rel=1e-4) and loss > 0
    loss.backward()
    for part in ('backbone', 'neck', 'roi_head.mask_head'):
        assert any(one.grad is not None and one.grad.any() for one in model.get_submodule(part).parameters()), part


def test_masks_of_other_sizes_are_refused_in_the_first_step():
    option = dict(roi_head=dict(mask_head=dict(num_classes=3)), checkpoint=None, allow_random=True)
    model = _ready(None, 'mask_rcnn', option, **MASKS)
    with pytest.raises(ValueError, match=r'distillers\.roi: the masks are \(6, 28, 28\) and \(3, 28, 28\)'):
        toys.losses_of(model, toys.det_batch(masks=True))


def test_a_batch_without_objects_gives_no_loss_but_a_gradient_of_zero():
    model = _ready(None, 'mask_rcnn', **MASKS)
    batch = toys.det_batch(masks=True)
    for sample in batch['data_samples']:
        sample.gt_instances = sample.gt_instances[:0]
    losses = toys.losses_of(model, batch)
    assert losses['distill.roi.loss_roi'] == 0 and losses['distill.roi.loss_roi'].requires_grad
