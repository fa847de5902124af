"""Inheritance: what is copied from the teacher, when, and what is refused."""

import copy

import pytest
import torch

from mmdistill_dense.engine import DistillHook  # noqa: F401  (registers the hook)
from mmdistill_dense.guards.config import check_teacher_classes
from mmdistill_dense.networks import teacher as teachers
from mmdistill_dense.networks.teacher import Inherit, parse_inherit
from tests import toys

BOTH = [('neck', 'neck'), ('bbox_head', 'bbox_head')]
WIDTH = 16  # channels of neck and head in both networks


def option(inherit=BOTH, distillers=None, **teacher):
    distillers = dict(kd=dict(type='MaskedMimic', student_tap='neck')) if distillers is None else distillers
    pair = toys.det_net('retinanet', 8, WIDTH), toys.det_teacher('retinanet', 8, WIDTH, **teacher)
    return dict(toys.model_config(*pair, distillers), inherit=inherit)


def built(inherit=BOTH, **options):
    return toys.ready(toys.build(option(inherit, **options), scope='mmdet'))


def equal_parts(model):
    """The children of the student whose tensors are the teacher's."""
    state = model.state_dict()
    content = torch.load(toys.teacher_of(model).option.checkpoint, weights_only=True)['state_dict']
    names = {name for name in state if name in content and torch.equal(state[name], content[name])}
    return {part for part in ('backbone', 'neck', 'bbox_head') if {n for n in state if n.startswith(part)} <= names}


def test_a_single_tensor_is_copied_by_its_name():
    """As DETR's level_embed, which is a parameter of the network itself."""
    model = built([('bbox_head.cls_convs.0.', 'bbox_head.reg_convs.0')])
    student_weight, head = model.bbox_head.cls_convs[0].conv.weight, toys.teacher_of(model).network.bbox_head
    assert torch.equal(student_weight, head.reg_convs[0].conv.weight)
    assert parse_inherit([['a', 'b.', 'large']]) == [Inherit('a', 'b', 'large')]
    name = 'bbox_head.retina_cls.weight'
    model, control = built([(name, name)]), built(None)
    head = toys.teacher_of(model).network.state_dict()[name]
    assert toys.differing(model.state_dict(), control.state_dict()) == [name] and head.any()
    assert torch.equal(model.state_dict()[name], head)
    with pytest.raises(ValueError, match=r'with another shape \(student, teacher\): the tensor itself \(.*\) and \('):
        built([('bbox_head.retina_cls.bias', 'bbox_head.retina_reg.weight')])
    with pytest.raises(ValueError, match="no tensor of model.student has the prefix 'bbox_head.retina'"):
        built([('bbox_head.retina', 'bbox_head.retina')])


def test_a_bias_that_the_student_alone_has_becomes_0():
    """As FCOS students of the papers have before their norms, and their teachers not."""
    student = toys.det_net('fcos', 8, WIDTH)
    student['bbox_head'] |= dict(conv_bias=True, init_cfg=dict(type='Normal', layer='Conv2d', std=0.01, bias=1.0))
    options = toys.model_config(student, toys.det_teacher('fcos', 8, WIDTH), dict(kd=dict(type='MaskedMimic')))
    options['distillers']['kd']['student_tap'] = 'neck'
    assert toys.ready(toys.build(options, scope='mmdet')).bbox_head.cls_convs[0].conv.bias.all(), 'without inherit'
    model = toys.ready(toys.build(dict(options, inherit=BOTH), scope='mmdet'))
    convs, teacher_convs = (network.bbox_head.cls_convs for network in (model, toys.teacher_of(model).network))
    assert all(not conv.conv.bias.any() for conv in convs)
    assert all(torch.equal(a.conv.weight, b.conv.weight) for a, b in zip(convs, teacher_convs, strict=True))


def test_the_named_parts_alone_are_copied():
    for inherit, parts in ((BOTH[:1], {'neck'}), (BOTH, {'neck', 'bbox_head'}), (None, set())):
        assert equal_parts(built(inherit)) == parts
    model = built(distillers={})
    assert equal_parts(model) == {'neck', 'bbox_head'}
    assert toys.teacher_of(model).network is None, 'nothing else needs it'
    losses = model(**model.data_preprocessor(toys.det_batch(), True), mode='loss')
    assert set(losses) == {'loss_cls', 'loss_bbox'}


def test_copies_belong_to_the_student():
    """A second ``train()`` of a runner calls ``init_weights`` again, which leaves a trained student as it is. A copy of
    the model inherits although the teacher has run in the original."""
    model = toys.build(option(), scope='mmdet')
    copied = copy.deepcopy(model)
    toys.losses_of(toys.ready(model), toys.det_batch())
    teacher = toys.teacher_of(model).network.neck.fpn_convs[0].conv.weight
    before = teacher.clone()
    with torch.no_grad():
        model.neck.fpn_convs[0].conv.weight.add_(1)
    assert torch.equal(teacher, before) and model.neck.fpn_convs[0].conv.weight.requires_grad
    trained = toys.student_state(model)
    model.init_weights()
    assert not toys.differing(model.state_dict(), trained)
    assert equal_parts(toys.ready(copied)) == {'neck', 'bbox_head'}


def test_load_from_does_not_inherit(tmp_path):
    plain = tmp_path / 'plain.pth'
    network = toys.build_plain(toys.det_net('retinanet', 8, WIDTH), seed=3)
    torch.save(dict(state_dict={k: v for k, v in network.state_dict().items() if k.startswith('backbone')}), plain)
    still = dict(optim_wrapper=dict(optimizer=dict(lr=0.0, momentum=0.0)))
    for name, start, parts in (('a', None, {'neck', 'bbox_head'}), ('b', str(plain), set())):
        config = toys.det_run_config(tmp_path / name, option(), iters=1, load_from=start, **still)
        backbone = (model := toys.train(None, config).model).backbone
        assert equal_parts(model) == parts
    assert all(map(torch.equal, backbone.parameters(), network.backbone.parameters())), 'and the file is read'


SLOW = dict(constructor='mmdistill_dense.InheritedRate', paramwise_cfg=dict(inherited_lr_mult=0.1))


def test_inherited_weights_may_learn_more_slowly(tmp_path):
    """The factor of inherited parameters multiplies the factors of other keys."""
    keys = dict(custom_keys={'bbox_head.retina_reg': dict(lr_mult=0.5)})
    slow = dict(SLOW, optimizer=dict(lr=0.02), paramwise_cfg=dict(SLOW['paramwise_cfg'], **keys))
    runner = toys.train(None, toys.det_run_config(tmp_path, option(), iters=1, optim_wrapper=slow))
    rates = {id(group['params'][0]): group['lr'] for group in runner.optim_wrapper.param_groups}
    for name, parameter in runner.model.named_parameters():
        whole = 0.02 * (0.5 if name.startswith('bbox_head.retina_reg') else 1)
        part = 0.1 if name.startswith(('neck.', 'bbox_head.')) else 1
        assert rates[id(parameter)] == pytest.approx(whole * part), name


def test_a_rate_for_nothing_is_refused(tmp_path):
    number = 'inherited_lr_mult must be a number above 0'
    for inherit, factor, words in (
        (None, 0.1, 'this student inherits nothing. Set model.inherit'), (BOTH, 0, number), (BOTH, None, number),
    ):  # fmt: skip
        slow = dict(SLOW, paramwise_cfg=dict(inherited_lr_mult=factor))
        with pytest.raises(ValueError, match=words):
            toys.train(None, toys.det_run_config(tmp_path, option(inherit), iters=1, optim_wrapper=slow))


def test_several_teachers_are_told_apart():
    options = option()
    one = options['teacher']
    options['teacher'] = dict(a=one, b=toys.det_teacher('fcos', 8, WIDTH))
    options['distillers']['kd']['teacher'] = 'b'
    with pytest.raises(ValueError, match=r"'neck'.*name one of the teachers a, b"):
        toys.build(options, scope='mmdet')
    options['inherit'] = [('neck', 'neck', 'a')]
    model = toys.ready(toys.build(options, scope='mmdet'))
    assert set(model.distillation.teachers) == {'a', 'b'}
    argv = torch.load(one['checkpoint'], weights_only=True)['state_dict']
    assert model.distillation.teachers['a'].network is None is not model.distillation.teachers['b'].network
    assert all(torch.equal(value, argv[f'neck.{name}']) for name, value in model.neck.state_dict().items())


@pytest.mark.parametrize(('inherit', 'words'), [
    ([('nekc', 'neck')], "no tensor of model.student has the prefix 'nekc'"),
    ([('neck', 'roi_head')], "no tensor of model.teacher has the prefix 'roi_head'"),
    (
        [('neck.lateral_convs.1', 'neck.lateral_convs.2')],
        r'with another shape \(student, teacher\): conv.weight \(16, 32, 1, 1\) and \(16, 64, 1, 1\)',
    ),
    ([('neck', 'bbox_head')], r'only in the student: fpn_convs.*only in the teacher: cls_convs'),
])  # fmt: skip
def test_what_does_not_fit_is_refused_before_training(inherit, words):
    with pytest.raises(ValueError, match=words):
        built(inherit)


def test_malformed_options_are_refused():
    with pytest.raises(ValueError, match='model.teacher has no weights from a file'):
        built(checkpoint=None, allow_random=True)
    with pytest.raises(ValueError, match='model.teacher is not set, but model.inherit copies from it'):
        toys.build(dict(option(distillers={}), teacher=None), scope='mmdet')
    for inherit in ('neck', [('neck',)], [('', 'neck')], [('neck', 1)], dict(neck='neck')):
        with pytest.raises(TypeError, match='model.inherit must be a list of'):
            toys.build(option(inherit), scope='mmdet')


def test_the_inherited_part_must_be_in_the_teachers_file(tmp_path):
    path = toys.det_teacher('retinanet', 8, WIDTH)['checkpoint']
    content = torch.load(path, weights_only=True)
    state = {name: value for name, value in content['state_dict'].items() if not name.startswith('bbox_head')}
    torch.save(dict(state_dict=state), tmp_path / 'headless.pth')
    headless = str(tmp_path / 'headless.pth')
    assert equal_parts(built(BOTH[:1], checkpoint=headless)) == {'neck'}
    with pytest.raises(ValueError, match='bbox_head'):
        built(BOTH, checkpoint=headless)


HEAD = [('decode_head', 'decode_head')]


def segmentor(inherit, student=None, **teacher):
    teacher = dict(toys.seg_teacher('fcn', 8), class_names=toys.CLASSES, **teacher)
    model = toys.model_config(toys.seg_net('fcn', 8, **(student or {})), teacher, dict(kd=dict(type='LogitKD')))
    return toys.ready(toys.build(dict(model, inherit=inherit)))


@pytest.mark.parametrize('option', [dict(classes='auto'), dict(allow_other_classes=True)])
def test_rows_of_other_classes_are_not_copied(option):
    """A head of as many classes in another order has the same shapes; its layers below the classes may be copied."""
    teacher = toys.teacher_of(segmentor(HEAD, **option))
    assert teacher.class_rows == [f'decode_head.conv_seg.{name}' for name in ('weight', 'bias')]
    check_teacher_classes(toys.CLASSES, teacher)
    words = r'model\.inherit copies rows .*other parts than decode_head\.conv_seg\.weight'
    with pytest.raises(ValueError, match=words):
        check_teacher_classes(toys.CLASSES[::-1], teacher)
    below = toys.teacher_of(segmentor([('decode_head.convs', 'decode_head.convs')], **option))
    check_teacher_classes(toys.CLASSES[::-1], below)
    detector = toys.teacher_of(built(allow_other_classes=True))
    assert detector.class_rows == [f'bbox_head.retina_cls.{name}' for name in ('weight', 'bias')]


def test_a_backbone_for_other_pixels_is_warned_of(monkeypatch):
    texts = []
    monkeypatch.setattr(teachers, 'print_log', lambda text, *_: texts.append(text))
    pixels = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)
    for inherit, student in ((HEAD, dict(data_preprocessor=pixels)), ([('backbone', 'backbone')], {})):
        segmentor(inherit, student)
        assert not any('pixels' in text for text in texts)
    segmentor([('backbone', 'backbone')], dict(data_preprocessor=pixels))
    assert any('weights are for the pixels of model.teacher' in text for text in texts)
