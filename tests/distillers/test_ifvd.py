"""Intra-class feature variation: the shared case, labels and classes, halves of a batch and the errors."""

import pytest
import torch

from mmdistill_dense.distillers import IFVD
from mmdistill_dense.losses import prototype_distance
from tests import toys


def _set_up(shapes, **options):
    distiller = IFVD('a', **options)
    distiller.setup(*({'a': [torch.Size(shape)]} for shape in shapes))
    return distiller


def test_labels_are_those_of_the_nearest_pixels_and_the_last_ones_count_as_classes():
    distiller = _set_up([(1, 3, 8, 8), (1, 5, 8, 8)])
    assert distiller.num_classes == 255 and not list(distiller.parameters())
    student, teacher = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 8, 8)
    samples = toys.seg_batch()['data_samples']
    samples[0].gt_sem_seg.data[:, :16] = 254
    samples[1].gt_sem_seg.data[:, :16] = 255
    labels = torch.stack([sample.gt_sem_seg.data[0, ::8, ::8] for sample in samples])
    (loss,) = distiller({'a': [student]}, {'a': [teacher]}, samples).values()
    torch.testing.assert_close(loss, prototype_distance(student, teacher, labels, num_classes=255))
    samples[0].gt_sem_seg.data[:, :16] = 255
    assert distiller({'a': [student]}, {'a': [teacher]}, samples)['loss_ifvd'] < loss


def test_the_classes_are_those_of_the_teacher():
    model = toys.distilled(teacher=toys.seg_teacher(), distillers=dict(ifvd=dict(type='IFVD')))
    assert model.distillers['ifvd'].num_classes == toys.NUM_CLASSES


def test_detection_data_are_refused():
    distiller = _set_up([(1, 3, 8, 8)] * 2)
    distiller.name = 'mine'
    maps = {'a': [torch.randn(2, 3, 8, 8)]}
    with pytest.raises(ValueError, match=r'distillers\.mine compares classes and needs label maps'):
        distiller(maps, maps, toys.det_batch()['data_samples'])


def test_a_teacher_of_other_classes_says_nothing_about_the_labels():
    """With its number of classes, the labels above it would be taken for ignored ones."""
    head = dict(decode_head=dict(num_classes=2), auxiliary_head=dict(num_classes=2))
    found = []
    for others in (False, True):
        teacher = toys.seg_net('fcn', 16, allow_random=True, allow_other_classes=others, **head)
        model = toys.distilled(student=toys.seg_net('fcn'), teacher=teacher, distillers=dict(ifvd=dict(type='IFVD')))
        found.append(model.distillers['ifvd'].num_classes)
    assert found == [2, 255]


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
