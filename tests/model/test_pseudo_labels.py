"""Labels of the teacher on pictures without labels: which they are, what the student's loss makes of them."""

import copy
import functools
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS
from mmengine.structures import InstanceData
from torch import nn

from mmdistill_dense.unlabelled import pseudo_labels
from mmdistill_dense.unlabelled.pseudo_labels import check_scores, probabilities, sure_boxes, sure_pixels
from mmdistill_dense.unlabelled.step import UnlabelledOption
from mmdistill_dense.unlabelled.stream import open_pictures
from tests import toys
from tests.model.test_unlabelled import crowded, det_model, losses, seg_model

FIT = dict(fit=dict(type='FitNet', student_tap='neck'))
LOW = dict(threshold=0.06)


def test_pixels_below_the_threshold_are_ignored():
    scores = torch.tensor([[0.96, 0.5], [0.04, 0.5], [0.0, 0.0]])[None, :, None]  # (1, 3, 1, 2)
    assert sure_pixels(scores, 0.95).tolist() == [[[0, 255]]]
    assert sure_pixels(probabilities(torch.tensor([[[[4.0, -4.0, 0.0]]]])), 0.95).tolist() == [[[1, 0, 255]]]
    assert sure_pixels(scores, 0.95, -1).tolist() == [[[0, -1]]]


def test_boxes_between_the_thresholds_are_to_be_ignored():
    found = InstanceData(
        bboxes=torch.arange(12.0).reshape(3, 4), labels=torch.tensor([1, 2, 3]), scores=torch.tensor([0.95, 0.5, 0.01])
    )
    sure, unsure = sure_boxes(found, 0.9)
    assert sure.labels.tolist() == [1] and unsure.labels.tolist() == [2]


def own(found):
    return {name: value for name, value in found.items() if name.startswith('unlabelled.')}


def test_the_students_loss_is_that_on_the_teachers_labels():
    """Nothing else changes; few sure pixels give a small loss, also where the student's loss would hide it."""
    option = dict(pseudo=dict(threshold=0.3, weight=2.0))
    model, more = seg_model(**option), toys.bare(toys.seg_batch(3, seed=3))
    model.decode_head.loss_decode.avg_non_ignore = True
    plain = losses(copy.deepcopy(model))
    labels = []
    loss = model.decode_head.loss_by_feat
    model.decode_head.loss_by_feat = lambda scores, samples: (
        labels.append(torch.stack([one.gt_sem_seg.data for one in samples])),
        loss(scores, samples),
    )[1]
    found = losses(model, more)
    assert model.decode_head.loss_decode.avg_non_ignore
    assert {name.split('.', 1)[1] for name in own(found)} == {name for name in plain if not name.startswith('distill')}
    for name in plain:
        assert name.startswith('distill.') or torch.equal(plain[name], found[name])
    given = labels[1].squeeze(1)
    teacher = toys.teacher_of(model).network
    inputs = model.data_preprocessor(copy.deepcopy(more), True)['inputs']
    scores = teacher.encode_decode(inputs, [dict(img_shape=inputs.shape[-2:])] * 3).softmax(1)
    assert torch.equal(given, sure_pixels(scores, 0.3)) and 0 < (given == 255).float().mean() < 1
    found['unlabelled.decode.loss_ce'].backward()
    assert model.decode_head.conv_seg.weight.grad is not None and toys.hooks_left(model) == 0


@pytest.mark.parametrize('ignored', [0, -1])
def test_unsure_pixels_get_the_label_that_the_students_heads_ignore(ignored):
    more, found = toys.bare(toys.seg_batch(2, seed=3)), []
    for value in (255, ignored):
        heads = {name: dict(ignore_index=value) for name in ('decode_head', 'auxiliary_head')}
        student = toys.merged(toys.seg_net('fcn'), heads)
        option = dict(data_root='more', pseudo=dict(threshold=0.3))
        model = toys.distilled(student=student, teacher=toys.seg_teacher('fcn'), unlabelled=option)
        found.append(losses(model, more)['unlabelled.decode.loss_ce'].item())
    assert found[0] > 0 and (found[1] == found[0] if ignored < 0 else 0 < found[1] < found[0])


def test_heads_that_ignore_different_labels_are_refused():
    student = toys.merged(toys.seg_net('fcn'), dict(auxiliary_head=dict(ignore_index=0)))
    option = dict(data_root='more', pseudo=dict(threshold=0.3))
    with pytest.raises(ValueError, match='decode_head.ignore_index=255, auxiliary_head.ignore_index=0: give them the'):
        toys.build(toys.model_config(student, toys.seg_teacher('fcn'), unlabelled=option))


def test_few_sure_pixels_give_a_small_loss():
    more, found = toys.bare(toys.seg_batch(2, seed=3)), []
    for threshold in (0.06, 0.999):
        model = seg_model(pseudo=dict(threshold=threshold))
        model.decode_head.loss_decode.avg_non_ignore = True
        found.append(losses(model, more)['unlabelled.decode.loss_ce'].item())
    assert 0 <= found[1] < 0.5 * found[0]


def test_padding_has_no_label():
    model, seen = seg_model(pseudo=LOW), []
    loss = model.decode_head.loss_by_feat
    model.decode_head.loss_by_feat = lambda scores, samples: (seen.append(samples), loss(scores, samples))[1]
    losses(model, toys.bare(toys.seg_batch(1, seed=3, side=48)))
    labels = seen[1][0].gt_sem_seg.data[0]
    assert labels.shape == (64, 64) and (labels[:48, :48] != 255).all() and (labels == 255).sum() == 64**2 - 48**2


def test_what_the_pipeline_adds_has_no_label():
    """Pad, for instance, after which a picture has the size of the batch."""
    crop = dict(type='CenterCrop', crop_size=(40, 48))
    steps = [dict(type='LoadImageFromFile'), crop, dict(type='Pad', size=(64, 64)), dict(type='PackSegInputs')]
    option = UnlabelledOption.parse(dict(data_root=toys.picture_folder(), pipeline=steps, pseudo=LOW))
    config = toys.run_config('x', toys.seg_net('fcn'))
    pictures = open_pictures(option, config, DATASETS.build(config.train_dataloader.dataset))
    model, seen = seg_model(pseudo=LOW), []
    loss = model.decode_head.loss_by_feat
    model.decode_head.loss_by_feat = lambda scores, samples: (seen.append(samples), loss(scores, samples))[1]
    losses(model, pseudo_collate([pictures.dataset[0]]))
    labels = seen[1][0].gt_sem_seg.data[0]
    assert (labels[:48, :40] != 255).all() and (labels == 255).sum() == 64**2 - 48 * 40


def test_they_are_kept_of_a_method_that_needs_labels():
    """It sees the labelled part alone, also with labels of a teacher; alone with them it is not refused."""
    found = losses(seg_model(dict(ifvd=dict(type='IFVD')), pseudo=LOW), toys.bare(toys.seg_batch(2, seed=3)))
    assert 'unlabelled.decode.loss_ce' in found and not any('ifvd.unlabelled' in name for name in found)


def test_they_go_on_when_the_distillers_stop():
    model = seg_model(dict(kd=dict(type='LogitKD', schedule=dict(stop_at=5))), pseudo=LOW)
    model.distillation.state.iteration = 6
    found = losses(model, toys.bare(toys.seg_batch(2, seed=3)))
    assert found['unlabelled.decode.loss_ce'] > 0 and not any('distill.kd.loss' in name for name in found)


# Detection


@pytest.mark.parametrize('kind', ['gfl', 'faster_rcnn'])
def test_a_detector_learns_from_sure_boxes_and_leaves_out_the_rest(kind):
    model = det_model(FIT, kind, pseudo=LOW)
    found = losses(model, crowded(2), toys.det_batch())
    names = {name.split('.', 1)[1] for name in own(found)}
    assert names == {name for name in found if '.' not in name} and 'loss_cls' in names
    assert 'distill.fit.unlabelled_loss_fitnet' in found
    total = toys.total(own(found))
    assert total > 0
    total.backward()
    assert all(one.grad is None or one.grad.isfinite().all() for one in model.parameters())
    assert all(one.ignore_iof_thr == -1 for one in pseudo_labels._assigners(model))
    assert not any('assign' in vars(one) for one in pseudo_labels._assigners(model))


@pytest.mark.parametrize('kind', ['gfl', 'faster_rcnn'])
def test_pictures_without_a_sure_box_are_no_background(kind, monkeypatch):
    """Their part of the loss is zero, although the assigners alone would make all of it background."""
    none = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    monkeypatch.setattr(pseudo_labels, 'sure_boxes', lambda *_: (none, none))
    found = own(losses(det_model(FIT, kind, pseudo=LOW), crowded(2), toys.det_batch()))
    assert found and toys.total(found).item() == 0


@pytest.mark.parametrize('kind', ['retinanet', 'gfl'])
def test_an_unsure_object_is_no_background(kind, monkeypatch):
    """Of two labels, a sure and an unsure one, the unsure one's anchors get no label at all."""
    boxes, one = torch.tensor([[2.0, 2, 30, 30], [32, -32, 96, 96]]), torch.zeros(1, dtype=torch.long)
    sure, unsure = (InstanceData(bboxes=boxes[i : i + 1], labels=one) for i in (0, 1))
    none = InstanceData(bboxes=torch.zeros(0, 4), labels=one[:0])
    model, answers = det_model(FIT, kind, pseudo=LOW), []
    (assigner,) = pseudo_labels._assigners(model)
    assign = assigner.assign
    assigner.assign = functools.wraps(assign)(lambda *a, **k: answers.append(assign(*a, **k)) or answers[-1])
    for weak in (none, unsure):
        monkeypatch.setattr(pseudo_labels, 'sure_boxes', lambda *_, weak=weak: (sure, weak))
        losses(model, crowded(1), toys.det_batch(1))
    _, without, _, found = answers
    assert (found.gt_inds > 0).any() and (found.gt_inds == 0).any()
    assert (found.gt_inds == -1).sum() > (without.gt_inds == -1).sum() + 5


# Refusals


@pytest.mark.parametrize(
    ('pseudo', 'words'),
    [
        (0.95, r'model.unlabelled.pseudo must be a dict'),
        (dict(treshold=0.9), r"pseudo has no option 'treshold'.*Did you mean 'threshold'"),
        (dict(threshold=1), r'pseudo.threshold must be a number above 0.05 and below 1'),
        (dict(weight=0), r'pseudo.weight must be a number > 0'),
        (dict(teacher='other'), r"pseudo.teacher='other': the distillers learn from teacher; name one"),
    ],
)
def test_a_wrong_option_is_named(pseudo, words):
    with pytest.raises((TypeError, ValueError), match=words):
        seg_model(pseudo=pseudo)


def test_students_that_cannot_leave_objects_out_are_refused():
    with pytest.raises(ValueError, match='DistilledFCOS|FCOS assigns boxes by a rule of its own'):
        det_model(FIT, 'fcos', pseudo=LOW)
    with pytest.raises(ValueError, match='learns masks, and these labels are boxes'):
        det_model(FIT, 'cascade_mask_rcnn', pseudo=LOW)


@pytest.mark.parametrize(
    ('option', 'words'),
    [(dict(scale=2.0), 'sees another size'), (dict(allow_other_classes=True), 'may have other classes')],
)
def test_teachers_that_cannot_label_are_refused(option, words):
    with pytest.raises(ValueError, match=f'pseudo: model.teacher {words}'):
        toys.distilled(
            student=toys.seg_net('fcn'),
            teacher=toys.seg_teacher('fcn', **option),
            distillers=dict(fit=dict(type='FitNet', student_tap='backbone[3]')),
            unlabelled=dict(data_root='more', pseudo=LOW),
        )


@pytest.mark.parametrize(
    ('kind', 'test', 'key'),
    [
        ('retinanet', dict(score_thr=0.5), 'test_cfg.score_thr'),
        ('faster_rcnn', dict(rcnn=dict(score_thr=0.5)), 'test_cfg.rcnn.score_thr'),
    ],
)
def test_a_teacher_that_hides_its_unsure_boxes_is_refused(kind, test, key):
    """Their objects would be background. The key that the message names is the one to set."""
    path = f'model.teacher.{key}'
    build = functools.partial(
        toys.distilled,
        'mmdet',
        student=toys.det_net(),
        distillers=FIT,
        unlabelled=dict(data_root='more', pseudo=LOW),
    )
    teacher = toys.det_teacher(kind, test_cfg=test)
    with pytest.raises(ValueError, match=f'{re.escape(path)}=0.5 hides boxes.*Set {re.escape(path)}=0.05'):
        build(teacher=teacher)
    config = Config(dict(model=dict(teacher=teacher)))
    config.merge_from_dict({path: 0.05})
    build(teacher=config.model.teacher)


def test_a_teacher_of_masks_has_no_probabilities():
    masks = nn.Module()
    masks.decode_head = nn.Module()
    with pytest.raises(ValueError, match='gives no probabilities of classes at a pixel'):
        check_scores(masks)


def test_a_loss_that_needs_more_labels_is_refused():
    model = seg_model(pseudo=LOW)
    loss = model.decode_head.loss_by_feat

    def edges(scores, samples):
        if 'gt_edge_map' not in samples[0] and 'img_path' in samples[0]:
            raise AttributeError("'SegDataSample' object has no attribute 'gt_edge_map'")
        return loss(scores, samples)

    plain = toys.seg_batch()
    for sample in plain['data_samples']:
        sample.gt_edge_map = sample.gt_sem_seg
    model.decode_head.loss_by_feat = edges
    with pytest.raises(ValueError, match='needs more than classes of pixels or boxes.*gt_edge_map'):
        losses(model, toys.bare(toys.seg_batch()), plain)
