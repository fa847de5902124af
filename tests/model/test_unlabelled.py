"""The part of a step on pictures without labels: what it adds, what it leaves alone, what it refuses."""

import copy
import pickle
import random

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS as DETECTORS
from mmengine.logging import MessageHub
from mmengine.structures import InstanceData
from torch import nn

from mmdistill_dense.distillers.roi_head_kd import RoIHeadKD
from mmdistill_dense.pretrain import BackboneStudent
from mmdistill_dense.unlabelled.step import Unlabelled, UnlabelledOption, prepared, unlabelled_of
from mmdistill_dense.utils.reproducible import stream_states
from tests import toys
from tests.query_nets import query_net

FOLDER = dict(data_root='more')
KD = 'loss_kd'
FITNET = dict(type='FitNet', student_tap='backbone[3]')


def seg_model(distillers=None, dropout=0.0, **option):
    student = toys.seg_net('fcn', dropout=dropout)
    return toys.distilled(
        student=student,
        teacher=toys.seg_teacher('fcn'),
        distillers=distillers or dict(kd=dict(type='LogitKD')),
        unlabelled=dict(FOLDER, **option),
    )


def det_model(distillers, student='retinanet', **option):
    return toys.distilled(
        'mmdet',
        student=toys.det_net(student),
        teacher=toys.det_teacher(student, 16, 16),
        distillers=distillers,
        unlabelled=dict(FOLDER, **option),
    )


def losses(model, unlabelled=None, labelled=None):
    """A step; a model's statistics and queues change as in training."""
    unlabelled_of(model).batch = copy.deepcopy(unlabelled)
    return toys.losses_of(model, labelled)


def test_the_labelled_pictures_again_give_their_loss_twice():
    """Each part is half of the loss; so the whole does not depend on the number of pictures, but on their weight."""
    model = seg_model()
    alone = losses(model)
    both = losses(model, toys.bare(toys.seg_batch()))
    name, second = f'distill.kd.{KD}', f'distill.kd.unlabelled_{KD}'
    torch.testing.assert_close(both[name], alone[name] / 2)
    torch.testing.assert_close(both[second], alone[name] / 2)
    torch.testing.assert_close(both['distill.kd.share'], alone['distill.kd.share'])
    assert set(both) == {*alone, second}
    for key in alone:
        assert key.startswith('distill.') or torch.equal(alone[key], both[key])
    model, more = seg_model(weight=3.0), toys.bare(toys.seg_batch(4, seed=3))
    one = losses(model)[name]
    assert losses(model, more)[name].item() == pytest.approx(one.item() * 2 / (2 + 3 * 4))


def test_nothing_else_in_the_run_changes():
    """Neither the random streams, from which the student's dropout and later pictures are drawn, nor the queue's."""
    distillers = dict(mimic=dict(type='MaskedMimic'), cwd=dict(type='CWD'))
    model, seen = seg_model(distillers, dropout=0.5), []
    model.decode_head.dropout.register_forward_hook(lambda *_: seen.append(1))
    states, found = [], []
    for more in (None, toys.bare(toys.seg_batch(3, seed=3))):
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        found.append(losses(model, more))
        states.append(stream_states())
    assert states[0] == states[1] and len(seen) == 3  # cwd's tap is behind the dropout, in both parts
    assert torch.equal(found[0]['decode.loss_ce'], found[1]['decode.loss_ce'])
    torch.testing.assert_close(found[1]['distill.mimic.loss_mimic'] * 5 / 2, found[0]['distill.mimic.loss_mimic'])


def test_its_random_numbers_are_others():
    """The same pictures get another mask; and the same in a step that is repeated."""
    model, name = seg_model(dict(mimic=dict(type='MaskedMimic'))), 'distill.mimic.unlabelled_loss_mimic'
    again = toys.bare(toys.seg_batch())
    first, second = losses(model, again), losses(model, again)
    assert not torch.equal(first['distill.mimic.loss_mimic'], first[name]) and torch.equal(first[name], second[name])


def test_gradients_end_where_the_tap_is():
    model = seg_model(dict(fit=FITNET))
    value = losses(model, toys.bare(toys.seg_batch(3, seed=3)))['distill.fit.unlabelled_loss_fitnet']
    value.backward()
    got = {name for name, one in model.named_parameters() if one.grad is not None}
    assert any(name.startswith('distillers.fit.') for name in got)
    assert {name.split('.')[0] for name in got} == {'backbone', 'distillers'}
    assert {name for name, _ in model.backbone.named_parameters(prefix='backbone')} <= got


@pytest.mark.parametrize('bn', ['both', 'labelled'])
def test_running_statistics_follow_these_pictures_or_not(bn):
    model, more = seg_model(bn=bn), toys.bare(toys.seg_batch(3, seed=3))
    plain = copy.deepcopy(model)
    losses(plain), losses(model, more)
    found = [{name: value for name, value in one.named_buffers() if 'distillers' not in name} for one in (plain, model)]
    assert bool(toys.differing(*found)) == (bn == 'both')
    assert all(one.track_running_stats for one in model.modules() if isinstance(one, nn.BatchNorm2d))
    assert toys.hooks_left(model) == 0


def test_running_statistics_cannot_be_kept_where_activations_are_recomputed():
    student = toys.merged(toys.seg_net('fcn'), dict(backbone=dict(with_cp=True)))
    option = dict(FOLDER, bn='labelled')
    with pytest.raises(ValueError, match="with_cp=True of backbone.* recomputes activations.*bn='labelled'"):
        toys.build(toys.model_config(student, toys.seg_teacher('fcn'), unlabelled=option))


def test_a_method_that_needs_labels_keeps_its_weight():
    model = seg_model(dict(ifvd=dict(type='IFVD'), kd=dict(type='LogitKD')))
    alone, both = losses(model), losses(model, toys.bare(toys.seg_batch(2, seed=3)))
    assert torch.equal(alone['distill.ifvd.loss_ifvd'], both['distill.ifvd.loss_ifvd'])
    assert f'distill.kd.unlabelled_{KD}' in both and not any('ifvd.unlabelled' in name for name in both)


def test_cirkd_needs_labels_for_its_queues_alone():
    option = dict(type='CIRKD', pixel_memory=8, region_memory=4, pixel_contrast=8, region_contrast=8)
    with pytest.raises(ValueError, match=r'model.unlabelled: c \(CIRKD\) needs labels.*LogitKD'):
        seg_model(dict(c=option))
    model = seg_model(dict(c=dict(option, pixel_weight=0, region_weight=0)))
    assert 'distill.c.unlabelled_loss_minibatch' in losses(model, toys.bare(toys.seg_batch(2, seed=3)))


def test_nothing_runs_while_all_weights_are_zero():
    model = seg_model(dict(kd=dict(type='LogitKD', schedule=dict(stop_at=5))))
    model.distillation.state.iteration = 6
    calls = []
    model.backbone.register_forward_hook(lambda *_: calls.append(1))
    losses(model, toys.bare(toys.seg_batch(2, seed=3)))
    assert len(calls) == 1


def test_pcd_compares_and_stores_both_parts_without_padding():
    pcd = dict(type='PCD', queue_size=64, student_tap='backbone[3]', enqueue='pooled')
    model = seg_model(dict(pcd=pcd))
    more = toys.bare(toys.seg_batch(3, seed=3, side=48))  # padded to 64
    _, samples = prepared(model, more)
    assert [tuple(one.metainfo['pad_shape']) for one in samples] == [(64, 64)] * 3
    masks = []
    compare = model.distillers['pcd'].compare
    model.distillers['pcd'].compare = lambda *args: (masks.append(compare(*args).mask), compare(*args))[1]
    losses(model, more)
    assert masks[0] is None and masks[1].float().mean().item() == pytest.approx((48 / 64) ** 2, abs=0.1)
    assert len(model.distillers['pcd'].queue.negatives()) == 5


def test_balance_measures_the_sum_of_both_parts():
    model, more = seg_model(dict(kd=dict(type='LogitKD', balance=2.0))), toys.bare(toys.seg_batch(2, seed=3))
    balancer = model.distillers['kd'].balancer
    balancer.start(1200, 1)
    balancer.begin(0, 1.0, 'kd')
    found = losses(model, more)
    both = [found[f'distill.kd.{name}'] for name in (KD, f'unlabelled_{KD}')]
    parts = [value / found['distill.kd.weight'] for value in both]
    gradients = torch.autograd.grad(sum(parts), list(model.backbone.parameters()))
    norm = torch.cat([one.flatten() for one in gradients]).norm().item()
    assert balancer.tries[0][2] == pytest.approx(norm, rel=1e-4)


def test_half_precision_learns_about_the_same():
    model, more = seg_model(dict(fit=FITNET)), toys.bare(toys.seg_batch(3, seed=3))
    name = 'distill.fit.unlabelled_loss_fitnet'
    expected = losses(model, more)[name]
    with torch.autocast('cpu', torch.bfloat16):
        found = losses(model, more)
    assert found[name].dtype == torch.float32
    torch.testing.assert_close(found[name], expected, rtol=0.05, atol=0)
    toys.total(found).backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in model.parameters())


def test_a_copy_and_a_pickle_keep_the_option_and_not_the_pictures():
    model = seg_model(ratio=2)
    unlabelled_of(model).batch = toys.bare(toys.seg_batch())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        second = unlabelled_of(other)
        assert second.option == unlabelled_of(model).option and second.batch is None


# Detection


def crowded(count=4):
    """Pictures full of objects, which nobody has annotated."""
    batch = toys.det_batch(count, seed=4)
    for sample in batch['data_samples']:
        sample.gt_instances = InstanceData()
    return batch


@pytest.mark.parametrize('student', ['retinanet', 'gfl'])
def test_an_unlabelled_object_is_no_background(student):
    """The losses of the head are those of the labelled pictures, to the bit; the neck and the head's scores learn."""
    scores = dict(retinanet='bbox_head.retina_cls', gfl='bbox_head.gfl_cls')[student]
    kd = dict(type='HeadOutputKD', student_tap=scores, form='sigmoid')
    model = det_model(dict(fit=dict(type='FitNet', student_tap='neck'), kd=kd), student)
    alone, both = losses(model, None, toys.det_batch()), losses(model, crowded(), toys.det_batch())
    own = [name for name in alone if not name.startswith('distill.')]
    assert len(own) >= 2
    for name in own:
        for one, other in zip(alone[name], both[name], strict=True):
            assert torch.equal(one, other)
    added = [name for name in both if 'unlabelled_loss' in name]
    assert len(added) == 2
    sum(both[name] for name in added).backward()
    assert all(one.grad is not None for one in model.neck.parameters())
    regression = 'retina_reg' if student == 'retinanet' else 'gfl_reg'
    assert getattr(model.bbox_head, regression).weight.grad is None


def test_a_two_stage_detector_learns_as_far_as_its_neck():
    model = det_model(dict(fit=dict(type='FitNet', student_tap='neck')), 'faster_rcnn')
    found = losses(model, crowded(), toys.det_batch())
    assert 'distill.fit.unlabelled_loss_fitnet' in found


def test_methods_that_read_boxes_or_proposals_are_refused_alone():
    for kind, student in (('DeFeat', 'retinanet'), ('FGD', 'retinanet'), ('RoIHeadKD', 'faster_rcnn'), ('LD', 'gfl')):
        with pytest.raises(ValueError, match=rf'model.unlabelled: a \({kind}\) needs labels'):
            det_model(dict(a=dict(type=kind)), student)


def test_a_tap_on_proposals_is_refused(monkeypatch):
    """A method of somebody else may tap them and not say that it needs labels."""
    monkeypatch.setattr(RoIHeadKD, 'needs_labels', False)
    with pytest.raises(ValueError, match=r"a.student_tap='roi_head.bbox_head.fc_reg' runs on proposals.*the neck"):
        det_model(dict(a=dict(type='RoIHeadKD')), 'faster_rcnn')


def augmented(option):
    """A detector with an augmentation of batches, and that."""
    model = det_model(dict(fit=dict(type='FitNet', student_tap='neck')))
    model.data_preprocessor.batch_augments = nn.ModuleList([DETECTORS.build(option)])
    return model, model.data_preprocessor.batch_augments[0]


def test_a_random_size_of_the_batch_stays_the_labelled_ones():
    """mmdet's resizing keeps the size between steps: the other part uses it and does not change it."""
    model, augment = augmented(dict(type='BatchSyncRandomResize', random_size_range=(96, 96), interval=1))
    augment._input_size = (32, 32)
    before = dict(vars(augment))
    MessageHub.get_current_instance().update_info('iter', 0)
    batch = crowded()
    for sample in batch['data_samples']:
        sample.ignored_instances = InstanceData()  # as mmdet's PackDetInputs leaves it where there are no labels
    inputs, samples = prepared(model, batch)
    assert inputs.shape[-2:] == (32, 32) and vars(augment) == before
    assert not any('bboxes' in part for one in samples for part in (one.gt_instances, one.ignored_instances))


def test_a_preprocessor_that_pads_masks_finds_none():
    """As Mask2Former's: the step with labels after it pads them again."""
    model, augment = augmented(dict(type='BatchFixedSizePad', size=(128, 128), pad_mask=True, pad_seg=True))
    inputs, _ = prepared(model, crowded())
    assert inputs.shape[-2:] == (128, 128) and augment.pad_mask and augment.pad_seg


# Options


def test_without_distillers_it_is_ignored():
    model = toys.build(toys.model_config(toys.seg_net('fcn'), distillers={}, unlabelled=FOLDER))
    assert not hasattr(model, 'distillation')
    off = dict(kd=dict(type='LogitKD', loss_weight=0))
    model = toys.build(toys.model_config(toys.seg_net('fcn'), distillers=off, unlabelled=FOLDER))
    assert not hasattr(model, 'distillation')


@pytest.mark.parametrize(('option', 'words'), [
    ('data/more', 'model.unlabelled must be a dict'),
    (dict(ratio=1), 'model.unlabelled names no pictures: set data_root'),
    (dict(FOLDER, ratoi=1), "no option 'ratoi'.*Did you mean 'ratio'"),
    (dict(FOLDER, ratio=0), 'model.unlabelled.ratio must be a finite number > 0, got 0'),
    (dict(FOLDER, weight=-1), 'model.unlabelled.weight must be'),
    (dict(FOLDER, start=1.5), 'model.unlabelled.start must be'),
    (dict(FOLDER, bn='none'), "model.unlabelled.bn must be one of 'both', 'labelled'"),
    (dict(FOLDER, pipeline='same'), "model.unlabelled.pipeline must be 'auto' or a list"),
    (dict(FOLDER, workers=-1), 'model.unlabelled.workers must be'),
    (dict(FOLDER, pseudo={}), 'unlabelled.pseudo has left: '),
    (dict(FOLDER, strong=True), 'unlabelled.strong has left: '),
])  # fmt: skip
def test_a_wrong_option_is_named(option, words):
    with pytest.raises((TypeError, ValueError), match=words):
        toys.build(toys.model_config(toys.seg_net('fcn'), distillers={}, unlabelled=option))


def test_a_pretraining_reads_such_pictures_already():
    student = BackboneStudent(dict(type='mmdet.ResNet', depth=18, base_channels=8))
    with pytest.raises(ValueError, match='BackboneStudent is pre-trained without labels already.*train_dataloader'):
        Unlabelled(UnlabelledOption(FOLDER)).attach(student, {}, ())


def test_a_high_ratio_is_warned_of(monkeypatch):
    said = []
    monkeypatch.setattr('mmdistill_dense.unlabelled.step.print_log', lambda text, *_: said.append(text))
    seg_model(ratio=8)
    assert not said
    seg_model(ratio=9)
    assert 'model.unlabelled.ratio=9: a step takes 10 times as long' in said[0]


def test_there_is_at_least_one_picture():
    assert [UnlabelledOption(FOLDER, ratio=ratio).count(8) for ratio in (0.01, 0.5, 1, 3)] == [1, 4, 8, 24]


@pytest.mark.soak
def test_a_detector_with_queries_learns_as_far_as_its_neck():
    network, fit = query_net('deformable'), dict(type='FitNet', student_tap='neck')
    teacher = dict(network, allow_random=True)
    model = toys.distilled('mmdet', student=network, teacher=teacher, distillers=dict(fit=fit), unlabelled=FOLDER)
    found = losses(model, crowded(2), toys.det_batch())
    assert found['distill.fit.unlabelled_loss_fitnet'].requires_grad and 'd0.loss_cls' in found
