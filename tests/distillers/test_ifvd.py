"""Labels and classes, as IFVD and CIRKD see them."""

import pytest
import torch

from mmdistill_dense.distillers import IFVD
from mmdistill_dense.losses import prototype_distance
from tests import toys
from tests.distillers.steps import draw, set_up


def test_labels_are_those_of_the_nearest_pixels_and_the_last_ones_count_as_classes():
    distiller = set_up(IFVD, [(3, 8, 8), (5, 8, 8)])
    assert distiller.class_count == 255 and not list(distiller.parameters())
    student, teacher = draw(2, 3, 8, 8), draw(2, 5, 8, 8, seed=1)
    samples = toys.seg_batch()['data_samples']
    samples[0].gt_sem_seg.data[:, :16] = 254
    samples[1].gt_sem_seg.data[:, :16] = 255
    labels = torch.stack([sample.gt_sem_seg.data[0, ::8, ::8] for sample in samples])
    (loss,) = distiller({'tap': [student]}, {'tap': [teacher]}, samples).values()
    torch.testing.assert_close(loss, prototype_distance(student, teacher, labels, num_classes=255))
    samples[0].gt_sem_seg.data[:, :16] = 255
    assert distiller({'tap': [student]}, {'tap': [teacher]}, samples)['loss_ifvd'] < loss


def test_a_teacher_of_other_classes_says_nothing_about_the_labels():
    """With its number of classes, the labels above it would be taken for ignored ones."""
    head = dict(decode_head=dict(num_classes=2), auxiliary_head=dict(num_classes=2))
    found = []
    for others in (False, True):
        teacher = toys.seg_net('fcn', 16, allow_random=True, allow_other_classes=others, **head)
        model = toys.distilled(student=toys.seg_net('fcn'), teacher=teacher, distillers=dict(ifvd=dict(type='IFVD')))
        found.append(model.distillers['ifvd'].class_count)
    assert found == [2, toys.NUM_CLASSES], 'the student says it'


CIRKD = dict(type='CIRKD', minibatch_weight=0.0, pixel_memory=20, region_memory=4, pixel_contrast=30, region_contrast=9)


@pytest.mark.parametrize('option', [dict(type='IFVD'), CIRKD], ids=['ifvd', 'cirkd'])
def test_labels_that_the_students_head_ignores_are_no_class(option):
    """The head ignores label 0. The loss equals that of label maps with 255 in its place."""
    heads = dict(decode_head=dict(ignore_index=0), auxiliary_head=dict(ignore_index=0))
    teacher, batch = toys.seg_teacher('fcn'), toys.seg_batch()
    for sample in batch['data_samples']:
        labels = sample.gt_sem_seg.data
        assert 0 < (labels == 0).sum() < labels.numel()

    def loss(**changes):
        model = toys.distilled(student=toys.seg_net('fcn', **changes), teacher=teacher, distillers=dict(one=option))
        toys.losses_of(model, batch)  # fills the queues
        found = toys.losses_of(model, batch)
        return {name: value for name, value in found.items() if 'distill.one.loss' in name}

    ignored, background = loss(**heads), loss()
    for sample in batch['data_samples']:
        sample.gt_sem_seg.data[sample.gt_sem_seg.data == 0] = 255
    torch.testing.assert_close(ignored, loss(), rtol=0, atol=0)
    assert all(ignored[name] != background[name] for name in background), background
