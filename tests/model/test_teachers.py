"""Teachers of other classes, of which methods compare those that both have, and several teachers at once."""

import functools
from types import SimpleNamespace

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmdistill_dense.apps.check.run import check_config
from mmdistill_dense.apps.suite import job
from mmdistill_dense.datasets.shapes import CLASSES
from mmdistill_dense.engine.resume import describe_identity, differ, identity
from mmdistill_dense.guards.config import check_teacher_classes
from mmdistill_dense.networks.class_pairs import ClassPairs, in_students_classes
from tests import toys

# the student's: background and textured shapes
SEG_NAMES = ('sky', CLASSES[2], CLASSES[1].replace('_', ' ').upper(), 'sea', *CLASSES[3:-1], 'dotted ring')
UNKNOWN = [0, len(CLASSES) - 1]
OUTPUTS = ('conv_seg', 'fc_cls', 'fc_reg', 'retina_cls', 'retina_reg', 'gfl_cls', 'gfl_reg', 'conv_cls')
MAP = {CLASSES[1]: [SEG_NAMES[2], 'sea']}


def heads(kind, count):
    """The overrides that give a network another number of classes."""
    if kind in toys.SEG:
        return dict(decode_head=dict(num_classes=count), auxiliary_head=dict(num_classes=count))
    head = dict(bbox_head=dict(num_classes=count))
    return dict(roi_head=head) if 'rcnn' in kind else head


def outspoken(network):
    """The outputs of fresh heads are almost constant."""
    torch.manual_seed(4)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith('.weight') and name.split('.')[-2] in OUTPUTS:
                parameter.normal_(std=0.5)
    return network


@functools.cache
def teacher(kind, names, message=True, **options):
    net = toys.seg_net if kind in toys.SEG else toys.det_net
    option = net(kind, 16, **heads(kind, len(names)))
    network = outspoken(toys.build_plain(option, seed=3))
    path = toys.fresh_dir() / f'{kind}.pth'
    meta = dict(dataset_meta=dict(classes=names)) if message else dict()
    torch.save(dict(state_dict=network.state_dict(), meta=meta), path)
    return dict(option, checkpoint=str(path))


def seg_pair(distillers, classes=MAP, **keys):
    return toys.model_config(toys.seg_net('fcn'), dict(teacher('fcn', SEG_NAMES), classes=classes), distillers, **keys)


def matched(config, scope='mmseg'):
    """A model whose classes are paired, as the start of a run does it."""
    model = toys.ready(toys.build(config, scope=scope))
    teacher = toys.teacher_of(model)
    teacher.load(next(model.parameters()))
    names = CLASSES if scope == 'mmseg' else CLASSES[1:]
    check_teacher_classes(names, teacher, model.distillers.values())
    return model


def test_unknown_classes_get_no_gradient():
    """What the teacher does not know is pushed nowhere, and shared scores only against each other."""
    losses = []
    for option in ({}, dict(rest_rows='weigh'), dict(temperature=4.0)):
        model = matched(seg_pair(dict(kd=dict(option, type='LogitKD'))))
        losses.append(toys.losses_of(model)['distill.kd.loss_kd'])
        (grad,) = torch.autograd.grad(losses[-1], model.decode_head.conv_seg.bias)
        assert (grad[UNKNOWN] == 0).all() and grad.abs().max() > 1e-3 and grad.sum().abs() < 1e-6
    assert 0 < losses[1] < losses[0] < losses[2]


ROI_SCORES = dict(type='RoIHeadKD', student_tap='roi_head.bbox_head.fc_cls', output='cls_score')
OWN_COPIES = [
    ('fcn', dict(type='CWD')),
    ('fcn', dict(type='DIST')),
    ('retinanet', dict(type='LogitKD', student_tap='bbox_head.retina_cls', activation='sigmoid')),
    ('gfl', dict(type='LD')),
    ('faster_rcnn', dict(ROI_SCORES, form='softmax')),
    ('fcos', dict(type='HeadOutputKD', student_tap='bbox_head.conv_cls', form='sigmoid')),
    ('faster_rcnn', dict(type='RoIHeadKD', student_tap='roi_head.bbox_head.fc_reg', form='l1')),
]


def net_of(kind, **options):
    return (toys.seg_net if kind in toys.SEG else toys.det_net)(kind, **options)


def batch_of(kind):
    return toys.seg_batch() if kind in toys.SEG else toys.det_batch()


def permuted(kind):
    """A teacher that is the student itself, with its classes in another order."""
    plain = outspoken(toys.build_plain(net_of(kind), seed=1))
    names = CLASSES if kind in toys.SEG else CLASSES[1:]
    order = [*range(2, len(names)), 0, 1]
    state = dict(plain.state_dict())
    for name, value in state.items():
        layer = name.split('.')[-2]
        rows, anchors = {'conv_seg': 1, 'fc_cls': 1, 'fc_reg': 4}.get(layer), 1
        if layer in ('retina_cls', 'gfl_cls', 'conv_cls'):
            rows, anchors = 1, value.shape[0] // len(names)
        if rows:
            count = anchors * len(names) * rows
            body = value[:count].unflatten(0, (anchors, len(names), rows))[:, order].flatten(0, 2)
            state[name] = torch.cat([body, value[count:]])
    path = toys.fresh_dir() / 'own.pth'
    torch.save(dict(state_dict=state, meta=dict(dataset_meta=dict(classes=[names[index] for index in order]))), path)
    return dict(net_of(kind, checkpoint=str(path)), classes='auto'), plain


@pytest.mark.sample(3)
@pytest.mark.parametrize(('kind', 'option'), OWN_COPIES, ids=lambda one: one if isinstance(one, str) else one['type'])
def test_a_copy_of_the_student_with_other_names_teaches_nothing(kind, option):
    net, plain = permuted(kind)
    model = matched(toys.model_config(net_of(kind), net, dict(one=option)), 'mmseg' if kind in toys.SEG else 'mmdet')
    model.load_state_dict(plain.state_dict())
    toys.still_norms(model)  # as the teacher's

    def terms():
        actual = toys.losses_of(model, batch_of(kind))
        return [value for name, value in actual.items() if name.startswith('distill.one.loss')]

    same = terms()
    assert same and all(value.abs() < 2e-6 for value in same), same
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.split('.')[-2] in OUTPUTS:
                parameter.add_(torch.randn_like(parameter))
    assert sum(terms()) > 1e-4, 'the test can fail'


REFUSED = [
    (dict(type='DIST'), 'auto', 'distillers.one compares all classes at once.*Use type=.LogitKD'),
    (dict(type='LogitKD'), {name: [] for name in CLASSES[2:]}, 'one shared class cannot be compared'),
    (dict(type='LogitKD'), {'grass': []}, "model.teacher.classes: 'grass' is no class of the student"),
    (dict(type='LogitKD'), [1], "model.teacher.classes must be 'auto', or a dict"),
    (dict(type='LogitKD', rest_rows='weigh', activation='sigmoid'), 'auto', "rest_rows='weigh' belongs to"),
]


@pytest.mark.parametrize(('option', 'classes', 'message'), REFUSED)
def test_what_cannot_be_compared_is_refused_at_the_start(option, classes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        matched(seg_pair(dict(one=option), classes))


def test_names_come_from_the_option_without_a_file():
    other = dict(teacher('fcn', SEG_NAMES, message=False), classes='auto')

    def start(**more):
        return matched(toys.model_config(toys.seg_net('fcn'), dict(other, **more)))

    with pytest.raises(ValueError, match='the checkpoint does not say.*set model.teacher.class_names'):
        start()
    with pytest.raises(ValueError, match=f'2 names of teacher classes are known.*head has {len(SEG_NAMES)}'):
        start(class_names=['a', 'b'])
    assert toys.teacher_of(start(class_names=SEG_NAMES)).pairs is not None
    with pytest.raises(ValueError, match='leave allow_other_classes out'):
        start(class_names=SEG_NAMES, allow_other_classes=True)
    with pytest.raises(ValueError, match=r"rest_rows='weigh' is for a teacher of other classes"):
        toys.distilled(distillers=dict(kd=dict(type='LogitKD', rest_rows='weigh')))
    early = toys.ready(toys.build(seg_pair(dict(kd=dict(type='LogitKD')))))
    with pytest.raises(RuntimeError, match='a loop of your own calls match_classes before'):
        toys.losses_of(early)


def test_other_pairs_are_another_run():
    kd = dict(kd=dict(type='LogitKD'))
    same, again, other = (identity(matched(seg_pair(kd, one))) for one in (MAP, MAP, {CLASSES[1]: [SEG_NAMES[2]]}))
    assert not differ(same, again) and differ(same, other) and f"{SEG_NAMES[2]}', 'sea']" in describe_identity(same)


@pytest.mark.parametrize('kind', ['fcn', 'retinanet'])
def test_a_teacher_is_scored_in_the_students_classes(kind):
    """A copy with its classes in another order predicts the same through the pairs."""
    own_copy, plain = permuted(kind)
    fit = dict(fit=dict(type='FitNet', student_tap='backbone[3]'))
    model = matched(toys.model_config(net_of(kind), own_copy, fit), 'mmseg' if kind in toys.SEG else 'mmdet')
    network = toys.build_plain({key: value for key, value in own_copy.items() if key not in ('checkpoint', 'classes')})
    network.load_state_dict(torch.load(own_copy['checkpoint'])['state_dict'])
    expected = plain.eval().val_step(batch_of(kind))
    actual = in_students_classes(network.eval().val_step(batch_of(kind)), toys.teacher_of(model).pairs)
    for grad, naive_grad in zip(actual, expected, strict=True):
        if kind in toys.SEG:
            assert torch.equal(grad.pred_sem_seg.data, naive_grad.pred_sem_seg.data)
        else:
            assert torch.equal(grad.pred_instances.labels, naive_grad.pred_instances.labels)
            assert torch.equal(grad.pred_instances.bboxes, naive_grad.pred_instances.bboxes)


def scored(labels, pairs):
    """What a teacher's labels count as in the student's classes."""
    sample = SegDataSample(pred_sem_seg=PixelData(data=torch.tensor([[labels]])))
    (class_name,) = in_students_classes([sample], pairs)
    return class_name.pred_sem_seg.data[0, 0].tolist()


def test_classes_that_the_student_does_not_have_are_misses():
    """A coarse class is scored as its first member; where both have one, as background, which holds the others."""
    pairs = matched(seg_pair(dict(kd=dict(type='LogitKD')))).distillation.teachers['teacher'].pairs
    labels = scored([*range(len(SEG_NAMES))], pairs)
    assert labels[0] == labels[-1] == 255 and labels[2] == labels[3] == 1  # sky, the dotted ring; merged ones
    assert labels[1] == 2 and labels[4:-1] == [CLASSES.index(name) for name in SEG_NAMES[4:-1]]
    open_ones = ClassPairs.of('auto', ['forklift', 'background', 'car'], ['background', 'bus', 'car'], 'k')
    assert scored([0, 1, 2], open_ones) == [1, 1, 2]
    coarse = {'car': ['vehicle'], 'truck': ['vehicle']}
    assert scored([0, 1], ClassPairs.of(coarse, ['road', 'car', 'truck'], ['vehicle', 'road'], 'k')) == [1, 0]


@pytest.mark.soak
def test_a_teacher_is_tested_by_the_pairs(tmp_path):
    own_copy, plain = permuted('fcn')
    torch.save(dict(state_dict=plain.state_dict(), meta={}), tmp_path / 'plain.pth')
    scores, suite = {}, SimpleNamespace(test_sets={}, path=tmp_path / 'suite.yaml')
    other, itself = {**own_copy, 'classes': None, 'class_names': None}, dict(checkpoint=str(tmp_path / 'plain.pth'))
    for name, teacher in dict(other=other, plain=net_of('fcn', **itself), paired=own_copy).items():
        config = toys.run_config(tmp_path / name, toys.model_config(toys.seg_net('fcn'), teacher))
        config.update(test_dataloader=config.val_dataloader, test_evaluator=config.val_evaluator, test_cfg=dict())
        scores[name] = job.test_teacher(config, suite)['metrics']['val']['mIoU']
    assert scores['paired'] == pytest.approx(scores['plain']) and abs(scores['paired'] - scores['other']) > 0.1
    config.dump(tmp_path / 'pair.py')
    (facts,) = check_config(tmp_path / 'pair.py').context.teachers
    assert facts.metric['mIoU'] == pytest.approx(scores['paired'])


# Several teachers: what each gives is what it would give alone


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


def test_each_term_is_what_its_teacher_alone_gives():
    def terms_of(model):
        losses = toys.losses_of(model)
        return {name: value for name, value in losses.items() if name.startswith('distill.') and '.loss_' in name}

    idle = dict(cfg='nowhere.py')
    together = toys.distilled(student=STUDENT, teacher=dict(TEACHERS, idle=idle), distillers=TERMS)
    assert {name: teacher.key for name, teacher in together.distillation.teachers.items()} == {
        name: f'model.teacher.{name}' for name in TEACHERS
    }, 'one that nobody asks is not built'
    actual = terms_of(together)
    assert len(actual) == len(TERMS)
    for name, option in TERMS.items():
        teacher = TEACHERS[option['teacher']]
        distillers = {name: {key: value for key, value in option.items() if key != 'teacher'}}
        alone = toys.distilled(student=STUDENT, teacher=teacher, distillers=distillers)
        alone.load_state_dict(together.state_dict())
        alone.distillers[name].load_state_dict(together.distillers[name].state_dict())
        ((key, value),) = terms_of(alone).items()
        torch.testing.assert_close(actual[key], value)
    assert not torch.isclose(actual['distill.kd.loss_kd'], actual['distill.kd_deep.loss_kd'])


def test_each_teacher_runs_once_in_a_step():
    ends, mimic = dict(schedule=dict(stop_at=5)), TERMS['mimic']
    terms = dict(kd=dict(TERMS['kd'], **ends), mimic=mimic, early=dict(mimic, student_tap='backbone[2]', **ends))
    model = toys.distilled(student=STUDENT, teacher=TEACHERS, distillers=terms)
    calls, parts = [], {'early': model.distillers['early']}
    for name, teacher in model.distillation.teachers.items():
        parts |= {name: teacher.network.backbone, f'{name} head': teacher.network.decode_head.conv_seg}
    for name, part in parts.items():
        part.register_forward_hook(lambda *_, name=name: calls.append(name))
    for iteration, expected in ((5, ['deep']), (4, ['wide', 'wide head', 'deep', 'early'])):  # recorded again
        model.distillation.state.iteration = iteration
        losses = toys.losses_of(model)
        assert calls == expected
        calls.clear()
        toys.total(losses).backward()
        assert all(p.grad is not None for p in model.distillers.parameters()), 'connected, for DDP'
        model.zero_grad()
