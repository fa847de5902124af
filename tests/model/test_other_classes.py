"""A teacher of other classes: each method compares those that both have, or is refused at the start."""

import functools
import json
from types import SimpleNamespace

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmdistill_dense.apps.check.run import check_config
from mmdistill_dense.apps.suite import job
from mmdistill_dense.datasets.shapes import CLASSES
from mmdistill_dense.engine.resume import describe, differ, identity
from mmdistill_dense.guards.config import check_teacher_classes
from mmdistill_dense.networks.class_pairs import ClassPairs, in_students_classes
from tests import toys

# the student's: background and textured shapes
SEG_NAMES = ('sky', CLASSES[2], CLASSES[1].replace('_', ' ').upper(), 'sea', *CLASSES[3:-1], 'dotted ring')
SHARED, UNKNOWN = CLASSES[1:-1], [0, len(CLASSES) - 1]
DET_NAMES = (CLASSES[2], 'dog', *CLASSES[3:], CLASSES[1])
OUTPUTS = ('conv_seg', 'fc_cls', 'fc_reg', 'retina_cls', 'retina_reg', 'gfl_cls', 'gfl_reg', 'conv_cls')
MAP = {CLASSES[1]: [SEG_NAMES[2], 'sea']}


def heads(kind: str, count: int) -> dict:
    """The overrides that give a network another number of classes."""
    if kind in toys.SEG:
        return dict(decode_head=dict(num_classes=count), auxiliary_head=dict(num_classes=count))
    return (
        dict(roi_head=dict(bbox_head=dict(num_classes=count)))
        if 'rcnn' in kind
        else dict(bbox_head=dict(num_classes=count))
    )


def outspoken(network: torch.nn.Module) -> torch.nn.Module:
    """The outputs of fresh heads are almost constant."""
    torch.manual_seed(4)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith('.weight') and name.split('.')[-2] in OUTPUTS:
                parameter.normal_(std=0.5)
    return network


@functools.cache
def teacher(kind: str, names: tuple[str, ...], told: bool = True, **options: object) -> dict:
    net = toys.seg_net if kind in toys.SEG else toys.det_net
    option = net(kind, 16, **heads(kind, len(names)))
    network = outspoken(toys.build_plain(option, seed=3))
    path = toys.fresh_dir() / f'{kind}.pth'
    meta = dict(dataset_meta=dict(classes=names)) if told else dict()
    torch.save(dict(state_dict=network.state_dict(), meta=meta), path)
    return dict(option, checkpoint=str(path))


def seg_pair(distillers: dict, classes: object = MAP, **keys: object) -> dict:
    return toys.model_config(toys.seg_net('fcn'), dict(teacher('fcn', SEG_NAMES), classes=classes), distillers, **keys)


def det_pair(kind: str, distillers: dict, names: tuple[str, ...] = DET_NAMES, classes: object = 'auto') -> dict:
    return toys.model_config(toys.det_net(kind), dict(teacher(kind, names), classes=classes), distillers)


def matched(config: dict, scope: str = 'mmseg') -> object:
    """A model whose classes are paired, as the start of a run does it."""
    model = toys.ready(toys.build(config, scope=scope))
    one = toys.teacher_of(model)
    one.load(next(model.parameters()))
    names = CLASSES if scope == 'mmseg' else CLASSES[1:]
    check_teacher_classes(names, one, model.distillers.values())
    return model


SEG_METHODS = dict(
    kd=dict(type='LogitKD'),
    weighed=dict(type='LogitKD', rest_rows='weigh', temperature=2.0),
    cwd=dict(type='CWD'),
    at=dict(type='AT', student_tap='backbone[3]'),
    ifvd=dict(type='IFVD'),
    cirkd=dict(type='CIRKD', pixel_memory=20, region_memory=4, pixel_contrast=30, region_contrast=9),
)


def test_segmentation_methods_train_beside_each_other(tmp_path, caplog):
    runner = toys.train(tmp_path, toys.run_config(tmp_path, seg_pair(SEG_METHODS), iters=2, log_level='INFO'))
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert f'classes have a partner: {CLASSES[1]} <- {SEG_NAMES[2]}, sea; ' in log
    assert f'does not know {CLASSES[0]}, {CLASSES[-1]}: labels alone teach them' in log
    scores = runner.message_hub.log_scalars
    for name in SEG_METHODS:
        values = [scores[one].current() for one in scores if one.startswith(f'train/distill.{name}.loss')]
        assert values and all(0 < value < 1e3 for value in values), name
    assert runner.model.distillers['cirkd'].class_count == len(CLASSES)


def test_unknown_classes_get_no_gradient_and_weighed_rows_count_less():
    """What the teacher does not know is pushed nowhere, and shared scores only against each other."""
    losses = []
    for option in (dict(type='LogitKD'), dict(type='LogitKD', rest_rows='weigh')):
        model = matched(seg_pair(dict(kd=option)))
        losses.append(toys.losses_of(model)['distill.kd.loss_kd'])
        (grad,) = torch.autograd.grad(losses[-1], model.decode_head.conv_seg.bias)
        assert (grad[UNKNOWN] == 0).all() and grad.abs().max() > 1e-3 and grad.sum().abs() < 1e-6
    assert 0 < losses[1] < losses[0]


ROI_SCORES = dict(type='RoIHeadKD', student_tap='roi_head.bbox_head.fc_cls', output='cls_score')
BOTH = [
    ('retinanet', dict(type='HeadOutputKD', student_tap='bbox_head.retina_cls', form='sigmoid')),
    ('retinanet', dict(type='LogitKD', student_tap='bbox_head.retina_cls', activation='sigmoid')),
    ('gfl', dict(type='LD')),
    ('faster_rcnn', dict(ROI_SCORES, form='softmax')),
]
OWN_COPIES = [
    ('fcn', dict(type='LogitKD')),
    ('fcn', dict(type='CWD')),
    ('fcn', dict(type='DIST')),
    *BOTH,
    ('fcos', dict(type='HeadOutputKD', student_tap='bbox_head.conv_cls', form='sigmoid')),
    ('faster_rcnn', dict(type='RoIHeadKD', student_tap='roi_head.bbox_head.fc_reg', form='l1')),
]


def permuted(kind: str) -> tuple[dict, torch.nn.Module]:
    """A teacher that is the student itself, with its classes in another order."""
    seg = kind in toys.SEG
    plain = outspoken(toys.build_plain(toys.seg_net(kind) if seg else toys.det_net(kind), seed=1))
    names = CLASSES if seg else CLASSES[1:]
    order = [*range(2, len(names)), 0, 1]
    state = dict(plain.state_dict())
    for name, value in state.items():
        layer = name.split('.')[-2]
        rows = {'conv_seg': 1, 'fc_cls': 1, 'fc_reg': 4}.get(layer)
        anchors = 1
        if layer in ('retina_cls', 'gfl_cls', 'conv_cls'):
            rows, anchors = 1, value.shape[0] // len(names)
        if rows:
            body = (
                value[: anchors * len(names) * rows].unflatten(0, (anchors, len(names), rows))[:, order].flatten(0, 2)
            )
            state[name] = torch.cat([body, value[anchors * len(names) * rows :]])
    path = toys.fresh_dir() / 'own.pth'
    torch.save(dict(state_dict=state, meta=dict(dataset_meta=dict(classes=[names[one] for one in order]))), path)
    option = toys.seg_net(kind, checkpoint=str(path)) if seg else toys.det_net(kind, checkpoint=str(path))
    return dict(option, classes='auto'), plain


@pytest.mark.parametrize(('kind', 'option'), OWN_COPIES, ids=lambda one: one if isinstance(one, str) else one['type'])
def test_a_copy_of_the_student_with_other_names_teaches_nothing(kind, option):
    own, plain = permuted(kind)
    seg = kind in toys.SEG
    student = toys.seg_net(kind) if seg else toys.det_net(kind)
    model = matched(toys.model_config(student, own, dict(one=option)), 'mmseg' if seg else 'mmdet')
    model.load_state_dict(plain.state_dict())
    toys.still_norms(model)  # as the teacher's
    found = model(**model.data_preprocessor(toys.seg_batch() if seg else toys.det_batch(), True), mode='loss')
    terms = {name: value for name, value in found.items() if name.startswith('distill.one.loss')}
    assert terms and all(value.abs() < 2e-6 for value in terms.values()), terms
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.split('.')[-2] in OUTPUTS:
                parameter.add_(torch.randn_like(parameter))
    again = model(**model.data_preprocessor(toys.seg_batch() if seg else toys.det_batch(), True), mode='loss')
    assert sum(value for name, value in again.items() if name in terms) > 1e-4, 'the test can fail'


DET_METHODS = [  # beside those above
    ('retinanet', dict(type='HeadOutputKD', student_tap='bbox_head.retina_reg', form='l1')),
    ('faster_rcnn', dict(ROI_SCORES, form='dist')),
    ('faster_rcnn', dict(type='RoIHeadKD', student_tap='roi_head.bbox_head.fc_reg')),
    ('faster_rcnn', dict(type='HeadOutputKD', student_tap='rpn_head.rpn_cls', form='sigmoid')),
    ('fcos', dict(type='HeadOutputKD', student_tap='bbox_head.conv_centerness', form='sigmoid')),
    ('faster_rcnn', dict(type='PKD', student_tap='neck')),
]


@pytest.mark.parametrize(('kind', 'option'), DET_METHODS, ids=lambda one: one if isinstance(one, str) else one['type'])
def test_detection_methods_train(kind, option):
    found = toys.losses_of(matched(det_pair(kind, dict(one=option)), 'mmdet'), toys.det_batch())
    values = [value for name, value in found.items() if name.startswith('distill.one.loss')]
    assert values and all(0 < value < 1e4 and value.requires_grad for value in values)


REFUSED = [
    ('fcn', dict(type='DIST'), 'auto', 'distillers.one compares all classes at once.*Use type=.LogitKD'),
    ('fcn', dict(type='LogitKD'), {name: [] for name in CLASSES[2:]}, 'one shared class cannot be compared'),
    ('fcn', dict(type='LogitKD'), {'grass': []}, "model.teacher.classes: 'grass' is no class of the student"),
    ('fcn', dict(type='LogitKD'), [1], "model.teacher.classes must be 'auto', or a dict"),
    ('fcn', dict(type='LogitKD', rest_rows='weigh', activation='sigmoid'), 'auto', "rest_rows='weigh' belongs to"),
    (
        'faster_rcnn',
        dict(type='RoIHeadKD', student_tap='roi_head.bbox_head.fc_reg'),
        {CLASSES[1]: [CLASSES[1], 'dog']},
        'regress a box for each class, and merged classes .* reg_class_agnostic=True',
    ),
]


@pytest.mark.parametrize(('kind', 'option', 'classes', 'message'), REFUSED)
def test_what_cannot_be_compared_is_refused_at_the_start(kind, option, classes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        if kind in toys.SEG:
            matched(seg_pair(dict(one=option), classes))
        else:
            matched(det_pair(kind, dict(one=option), classes=classes), 'mmdet')


def test_both_options_and_weighing_without_a_map_are_refused():
    other = dict(teacher('fcn', SEG_NAMES), classes='auto', allow_other_classes=True)
    with pytest.raises(ValueError, match='leave allow_other_classes out'):
        toys.build(toys.model_config(toys.seg_net('fcn'), other))
    with pytest.raises(ValueError, match=r"rest_rows='weigh' is for a teacher of other classes"):
        toys.distilled(distillers=dict(kd=dict(type='LogitKD', rest_rows='weigh')))


def test_names_come_from_the_option_where_the_file_does_not_say_them():
    other = dict(teacher('fcn', SEG_NAMES, told=False), classes='auto')

    def start(**more):
        return matched(toys.model_config(toys.seg_net('fcn'), dict(other, **more)))

    with pytest.raises(ValueError, match='the checkpoint does not say.*set model.teacher.class_names'):
        start()
    with pytest.raises(ValueError, match=f'2 names of teacher classes are known.*head has {len(SEG_NAMES)}'):
        start(class_names=['a', 'b'])
    assert toys.teacher_of(start(class_names=SEG_NAMES)).pairs is not None


def test_a_step_before_the_names_are_known_says_so():
    model = toys.distilled(
        **{key: value for key, value in seg_pair(dict(kd=dict(type='LogitKD'))).items() if key != 'type'}
    )
    with pytest.raises(RuntimeError, match='model.teacher.classes is resolved at the start of a run'):
        toys.losses_of(model)


def test_other_pairs_are_another_run():
    kd = dict(kd=dict(type='LogitKD'))
    same, again, other = (identity(matched(seg_pair(kd, one))) for one in (MAP, MAP, {CLASSES[1]: [SEG_NAMES[2]]}))
    assert not differ(same, again) and differ(same, other) and f"{SEG_NAMES[2]}', 'sea']" in describe(same)


def test_check_tells_the_pairs_and_takes_a_step(tmp_path):
    path = tmp_path / 'pair.py'
    toys.run_config(tmp_path / 'out', seg_pair(dict(kd=dict(type='LogitKD')))).dump(path)
    report = check_config(path)
    told = [one.message for one in report.findings if one.check == 'learned_classes']
    assert f'{CLASSES[1]} <- {SEG_NAMES[2]}, sea' in told[0] and 'labels alone teach them' in told[1]
    assert not report.stopped and 'kd' in json.dumps(report.as_dict())


@pytest.mark.parametrize('kind', ['fcn', 'retinanet'])
def test_what_a_teacher_predicts_is_scored_in_the_students_classes(kind):
    """A copy with its classes in another order predicts the same through the pairs."""
    own, plain = permuted(kind)
    seg = kind in toys.SEG
    model = matched(toys.model_config(toys.seg_net(kind) if seg else toys.det_net(kind), own,
                                      dict(fit=dict(type='FitNet', student_tap='backbone[3]'))),
                    'mmseg' if seg else 'mmdet')  # fmt: skip
    one = toys.teacher_of(model)
    batch = toys.seg_batch() if seg else toys.det_batch()
    network = toys.build_plain({key: value for key, value in own.items() if key not in ('checkpoint', 'classes')})
    network.load_state_dict(torch.load(own['checkpoint'])['state_dict'])
    expected = plain.eval().val_step(batch)
    found = in_students_classes(network.eval().val_step(batch), one.pairs)
    for mine, theirs in zip(found, expected, strict=True):
        if seg:
            assert torch.equal(mine.pred_sem_seg.data, theirs.pred_sem_seg.data)
        else:
            assert torch.equal(mine.pred_instances.labels, theirs.pred_instances.labels)
            assert torch.equal(mine.pred_instances.bboxes, theirs.pred_instances.bboxes)


def scored(labels: list[int], pairs: ClassPairs) -> list[int]:
    """What a teacher's labels count as in the student's classes."""
    sample = SegDataSample(pred_sem_seg=PixelData(data=torch.tensor([[labels]])))
    (found,) = in_students_classes([sample], pairs)
    return found.pred_sem_seg.data[0, 0].tolist()


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
def test_check_and_suites_test_a_teacher_by_the_pairs(tmp_path):
    own, _ = permuted('fcn')
    scores, suite = {}, SimpleNamespace(test_sets={}, path=tmp_path / 'suite.yaml')
    for name, change in (('paired', {}), ('as it is', dict(classes=None, class_names=None))):
        config = toys.run_config(tmp_path / name, toys.model_config(toys.seg_net('fcn'), {**own, **change}))
        config.update(test_dataloader=config.val_dataloader, test_evaluator=config.val_evaluator, test_cfg=dict())
        scores[name] = job.test_teacher(config, suite)['metrics']['val']['mIoU']
    assert scores['paired'] > scores['as it is'] + 1  # of the same network
    config = toys.run_config(tmp_path / 'c', toys.model_config(toys.seg_net('fcn'), own))
    config.dump(tmp_path / 'pair.py')
    (facts,) = check_config(tmp_path / 'pair.py').subject.teachers
    assert facts.metric['mIoU'] == pytest.approx(scores['paired'])


def test_an_old_student_teaches_its_classes_beside_new_ones(tmp_path):
    """The page on classes learned earlier: the same network, inherited, with a head for more classes."""
    old = CLASSES[:4]
    config = toys.model_config(
        toys.seg_net('fcn', 16),
        dict(teacher('fcn', old), classes='auto'),
        dict(kd=dict(type='LogitKD')),
        inherit=[('backbone', 'backbone')],
    )
    runner = toys.train(tmp_path, config, iters=2)
    one = toys.teacher_of(runner.model)
    assert [group.student for group in one.pairs.groups] == [(0, 4, 5, 6), (1,), (2,), (3,)], 'an open background'
    assert runner.message_hub.get_scalar('train/distill.kd.loss_kd').current() > 0
