"""Methods that hand maps or scores to one loss: the shared case of each, and what all are asked in tables."""

import pytest
import torch
import torch.nn.functional as F

from mmdistill_dense import losses
from mmdistill_dense.distillers import AT, CWD, DIST, MGD, PKD, SKD, FitNet, LogitKD
from mmdistill_dense.registry import DISTILLERS
from tests import toys
from tests.distillers.case import DistillerCase
from tests.distillers.steps import detector_steps, draw, set_up, trained_children

SCORES = 'decode_head.conv_seg'
OF_SCORES = dict(student=(2, 5, 6, 7), teacher=(2, 5, 6, 7), zero_on_identical=True)
OF_HEAD = dict(student=(2, 6, 6, 7), teacher=(2, 6, 6, 7), zero_on_identical=True)
WIDE = dict(student=(2, 16, 8, 8), teacher=(2, 32, 8, 8), zero_on_identical=True)
LABELLED = dict(WIDE, samples=toys.seg_batch()['data_samples'])
CASES = {
    'AT': dict(option=dict(type='AT'), zero_on_identical=True),
    'AfDCD': dict(option=dict(type='AfDCD', pool_size=0)),
    'AfDCDEnhanced': dict(option=dict(type='AfDCD', projector='enhanced', patch_size=None, mask=dict(type='centre'))),
    'CWD': dict(option=dict(type='CWD'), **OF_SCORES),
    'CWDOfFeatures': dict(option=dict(type='CWD', student_tap=f'{SCORES}:input')),
    'DIST': dict(option=dict(type='DIST'), **OF_SCORES),
    'FeatureMatch': dict(option=dict(type='FeatureMatch')),
    'FeatureMatchOfTokens': dict(
        option=dict(type='FeatureMatch', standardise='token', smooth_l1=0.0, mse=0.5, resize='teacher'),
        teacher=(2, 128, 5, 3),
    ),
    'FitNet': dict(option=dict(type='FitNet')),
    'HeadOutputKD': dict(option=dict(type='HeadOutputKD', student_tap=SCORES, beta=0.11), **OF_HEAD),
    'HeadOutputKDSoftmax': dict(
        option=dict(type='HeadOutputKD', student_tap=SCORES, form='softmax', temperature=2.0), **OF_HEAD
    ),
    'IFVD': dict(option=dict(type='IFVD'), **LABELLED),
    'LogitKD': dict(option=dict(type='LogitKD', temperature=2.0), **OF_SCORES),
    'MGD': dict(option=dict(type='MGD', student_tap='backbone[3]', mask_ratio=0.75, alpha=2e-4)),
    'PKD': dict(
        option=dict(type='PKD', student_tap=SCORES), student=(2, 7, 8, 8), teacher=(2, 7, 8, 8), zero_on_identical=True
    ),
    'PKDOfOtherWidths': dict(option=dict(type='PKD', student_tap='backbone[3]')),
    'QueryMatch': dict(option=dict(type='QueryMatch')),
    'SKD': dict(option=dict(type='SKD'), **WIDE),
    'TokenRelations': dict(option=dict(type='TokenRelations')),
}
for name, found in CASES.items():
    globals()[f'Test{name}'] = type(f'Test{name}', (DistillerCase,), found)


def loss_of(distiller, student, teacher):
    (loss,) = distiller({'tap': student}, {'tap': teacher}, None).values()
    return loss


def released_nodes(student, teacher):
    return losses.pairwise_distance(*(F.max_pool2d(x, 4, ceil_mode=True) for x in (student, teacher)))


def standardised_channels(student, teacher):
    """By hand, over the batch and the positions, at the default temperature."""
    spread = [(x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt() for x in (student, teacher)]
    maps = [(x - x.mean((0, 2, 3), keepdim=True)) / s for x, s in zip((student, teacher), spread, strict=True)]
    return losses.channel_divergence(*maps, temperature=4.0)


@pytest.mark.parametrize(('kind', 'options', 'formula', 'of_formula'), [
    (AT, dict(power=3.0, reduction='sum'), losses.attention_distance, None),
    (CWD, {}, losses.channel_divergence, dict(temperature=4.0)),
    (CWD, dict(temperature=2.0), losses.channel_divergence, None),
    (CWD, dict(norm=True), standardised_channels, {}),
    (LogitKD, dict(temperature=4.0), losses.softmax_divergence, None),
    (LogitKD, dict(temperature=3.0, activation='sigmoid'), losses.sigmoid_divergence, dict(temperature=3.0)),
    (DIST, dict(temperature=3.0), losses.correlation_distance, None),
    (DIST, dict(beta=0.5, gamma=2.0), losses.correlation_distance, None),
    (DIST, dict(activation='sigmoid'), losses.correlation_distance, None),
    (PKD, {}, losses.standardized_mse, None),
    (SKD, dict(patch_size=4), released_nodes, {}),
    (FitNet, dict(align='none'), F.mse_loss, {}),
])  # fmt: skip
def test_options_reach_the_formula(kind, options, formula, of_formula):
    distiller = set_up(kind, [(3, 4, 5)] * 2, **options)
    assert not list(distiller.parameters())
    student, teacher = draw(2, 3, 4, 5), draw(2, 3, 4, 5, seed=1)
    expected = formula(student, teacher, **(options if of_formula is None else of_formula))
    torch.testing.assert_close(loss_of(distiller, [student], [teacher]), expected)


@pytest.mark.parametrize(('option', 'kind', 'levels'), [
    (dict(type='AT', student_tap='neck', reduction='sum'), 'retinanet', 5),
    (dict(type='CWD', student_tap='bbox_head.retina_cls', temperature=1.0, loss_weight=5.0), 'retinanet', 5),
    (dict(type='MGD'), 'retinanet', 5),
    (dict(type='CanKD', student_tap='neck[:4]'), 'retinanet', 4),
    (dict(type='PKD', loss_weight=10), 'faster_rcnn', 4),
], ids=lambda value: value['type'] if isinstance(value, dict) else str(value))  # fmt: skip
def test_it_trains_a_real_detector(option, kind, levels):
    model, values = detector_steps(option, kind)
    assert values[-1] < values[0] and len(model.distillers['x'].levels) == levels
    head = {'bbox_head'} if 'bbox_head' in option.get('student_tap', '') else set()
    assert trained_children(model) == {'backbone', 'neck'} | head
    assert all(p.grad is not None for p in model.distillers.parameters())


@pytest.mark.parametrize(('kind', 'options', 'names'), [
    (CWD, {}, {3: ['weight'], 5: []}),
    (FitNet, {}, {3: ['weight', 'bias'], 5: ['weight', 'bias']}),
    (FitNet, dict(align='auto'), {3: ['weight', 'bias'], 5: []}),
    (MGD, {}, {3: ['weight', 'bias'], 5: []}),
])  # fmt: skip
def test_the_alignment(kind, options, names):
    for channels, expected in names.items():
        distiller = set_up(kind, [(channels, 4, 4), (5, 4, 4)], **options)
        assert [name for name, _ in distiller.aligns[0].named_parameters()] == expected


def test_levels_are_aligned_brought_to_the_teachers_size_and_summed():
    distiller = set_up(FitNet, [(3, 4, 2), (5, 4, 2)], [(3, 2, 2), (5, 4, 4)])
    students, teachers = [draw(2, 3, 4, 2), draw(2, 3, 2, 2)], [draw(2, 5, 4, 2, seed=1), draw(2, 5, 4, 4, seed=1)]
    total = 0
    for align, s, t in zip(distiller.aligns, students, teachers, strict=True):
        total += F.mse_loss(F.interpolate(align(s), t.shape[2:], mode='bilinear', align_corners=False), t)
    torch.testing.assert_close(loss_of(distiller, students, teachers), total)


@pytest.mark.parametrize(('options', 'size', 'nodes'), [
    ({}, (8, 12), (4, 6)),
    (dict(patch_size=2), (5, 6), (3, 3)),  # a last incomplete patch is a node
    (dict(patch_size=3), (2, 9), (1, 3)),  # a patch no larger than the map
    (dict(patch_size=1), (5, 6), (5, 6)),
    (dict(pool_scale=0.5), (8, 12), (2, 2)),
    (dict(pool_scale=0.5), (5, 12), (3, 2)),
    (dict(pool_scale=1.0), (8, 12), (1, 1)),
    (dict(pool_scale=0.1), (5, 20), (5, 10)),  # never less than a position
])  # fmt: skip
def test_nodes_of_skd_are_the_largest_values_of_patches(options, size, nodes):
    x = torch.randn(2, 3, *size)
    pooled = SKD(**options).nodes(x)
    assert pooled.shape == (2, 3, *nodes) and pooled.amax() == x.amax()


def test_weights_per_tap():
    weighted = dict(type='LogitKD', student_tap=['decode_head', ('auxiliary_head', 0.4)])
    options = dict(both=weighted, main=dict(type='LogitKD', student_tap='decode_head'),
                   auxiliary=dict(type='LogitKD', student_tap='auxiliary_head'))  # fmt: skip
    found = toys.losses_of(toys.distilled(teacher=toys.seg_teacher(), distillers=options))
    both, main, auxiliary = (
        next(value for key, value in found.items() if key.startswith(f'distill.{part}.loss_')) for part in options
    )
    torch.testing.assert_close(both, main + 0.4 * auxiliary)
    assert auxiliary > 0


@pytest.mark.parametrize('kind', [LogitKD, DIST])
@pytest.mark.parametrize('resize', ['default', 'teacher'])
def test_scores_of_another_stride_are_resized_the_students_unless_told_otherwise(kind, resize):
    """A transformer of stride 4 teaches a network of stride 8."""
    options = {} if resize == 'default' else dict(resize=resize)
    student, teacher = draw(2, 3, 4, 4), draw(2, 3, 8, 8, seed=1)
    distiller = set_up(kind, [(3, 4, 4), (3, 8, 8)], **options)
    size = (4, 4) if resize == 'teacher' else (8, 8)
    resized = [F.interpolate(x, size, mode='bilinear', align_corners=False) for x in (student, teacher)]
    (expected,) = kind('a').loss(*resized, 0).values()
    assert torch.equal(loss_of(distiller, [student], [teacher]), expected)


def test_other_classes_are_refused_at_construction():
    teacher = toys.seg_teacher(decode_head=dict(num_classes=4))
    words = (
        rf'distillers\.kd: {SCORES} -> {SCORES} \(level 0\) has {toys.NUM_CLASSES} class scores of the student and 4'
    )
    with pytest.raises(ValueError, match=words):
        toys.build(toys.model_config(teacher=teacher))


def binary(**options):
    """A segmentor with one channel of scores for two classes."""
    loss = dict(type='CrossEntropyLoss', use_sigmoid=True)
    head = dict(num_classes=2, out_channels=1, threshold=0.5, loss_decode=loss)
    return toys.seg_net('fcn', decode_head=head, auxiliary_head=head, **options)


@pytest.mark.parametrize(('option', 'way_out'), [
    (dict(type='LogitKD'), "distillers.x.activation='sigmoid'"),
    (dict(type='DIST'), "distillers.x.activation='sigmoid' and distillers.x.beta=0"),
    (dict(type='DIST', activation='sigmoid'), 'distillers.x.beta=0'),
    (dict(type='HeadOutputKD', student_tap=SCORES, form='softmax'), "distillers.x.form='sigmoid'"),
])  # fmt: skip
def test_a_softmax_over_the_one_channel_of_a_binary_head_is_refused(option, way_out):
    """It is always 1: training would go on for hours with a loss of 0."""
    with pytest.raises(ValueError, match=r'distillers\.x: decode_head\.conv_seg.* has one class score') as error:
        toys.distilled(student=binary(), teacher=binary(width=16, allow_random=True), distillers=dict(x=option))
    assert way_out in str(error.value)


def test_class_scores_of_other_numbers_get_no_convolution_between_them():
    """It could give the teacher's scores while the student's are wrong."""
    teacher = toys.seg_net('fcn', width=16, allow_random=True)
    with pytest.raises(ValueError, match=r'conv_seg.* has 1 class scores of the student and 7 of the teacher.*=2'):
        toys.distilled(student=binary(), teacher=teacher, distillers=dict(x=dict(type='CWD')))


def test_a_binary_head_is_distilled_by_its_sigmoid():
    distillers = dict(
        kd=dict(type='LogitKD', activation='sigmoid'), dist=dict(type='DIST', activation='sigmoid', beta=0)
    )
    model = toys.distilled(student=binary(), teacher=binary(width=16, allow_random=True), distillers=distillers)
    batch = toys.seg_batch()
    for sample in batch['data_samples']:
        sample.gt_sem_seg.data = (sample.gt_sem_seg.data > 2).long()
    found = toys.losses_of(model, batch)
    for name in ('kd', 'dist'):
        weight = model.decode_head.conv_seg.weight
        (grad,) = torch.autograd.grad(found[f'distill.{name}.loss_{name}'], [weight], retain_graph=True)
        assert grad.any(), name


@pytest.mark.parametrize('name', ['AfDCD', 'MGD'])
def test_masks_depend_on_seed_rank_iteration_and_level(name):
    distiller = set_up(DISTILLERS.get(name), [(3, 16, 16), (32, 16, 16)])
    mask = distiller.keep
    first = mask((2, 16, 16), 0)
    others = [mask((2, 16, 16), 1)]
    for place in ('seed', 'rank', 'iteration'):
        kept = getattr(distiller.state, place)
        setattr(distiller.state, place, 7)
        others.append(mask((2, 16, 16), 0))
        setattr(distiller.state, place, kept)
    assert torch.equal(first, mask((2, 16, 16), 0))
    every = [first, *others]
    assert all(not torch.equal(a, b) for i, a in enumerate(every) for b in every[:i])
