"""Methods that read label maps: CIRKD, each part against loops, and its queues; IFVD; which labels count."""

import math
import types
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmdistill_dense.distillers import CIRKD, IFVD
from mmdistill_dense.distillers.cirkd import ClassQueue, choose_pixels
from mmdistill_dense.losses import prototype_distance
from mmdistill_dense.registry import DISTILLERS
from tests import toys
from tests.distillers import steps
from tests.distillers.steps import draw, loss_of, set_up
from tools.benchmark import reference

CLASSES = 3
IGNORED = 255


def label_maps(*shape, seed=0, ignored=0.2):
    """Random labels, a part of them ignored."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, shape, generator=draw)
    return labels.masked_fill(torch.rand(shape, generator=draw) < ignored, IGNORED)


def samples_of(labels):
    """Data samples whose label maps have the size of the compared maps."""
    made = [SegDataSample() for _ in labels]
    for sample, label in zip(made, labels, strict=True):
        sample.gt_sem_seg = PixelData(data=label[None])
    return made


def make(student=(2, 4, 3, 2), teacher=(2, 5, 3, 2), **options):
    """All rows of its queues are compared."""
    small = dict(num_classes=CLASSES, pixel_memory=6, region_memory=4, pixel_contrast=10**3, region_contrast=10**3)
    return set_up(CIRKD, (student[1:], teacher[1:]), **{**small, 'pixels_per_image': 2, **options})


def run(distiller, student, teacher, labels=None):
    return steps.run(distiller, student, teacher, None if labels is None else samples_of(labels))


@pytest.mark.parametrize('pool', [1, 2])
def test_minibatch_equals_the_released_loop_over_pictures(pool):
    student, teacher = draw(3, 4, 3, 2), draw(3, 5, 3, 2, seed=1)
    distiller = make(pixel_weight=0, region_weight=0, minibatch_weight=2.0, temperature=0.3, pool=pool)
    pooled = (F.avg_pool2d(x, pool, ceil_mode=True) for x in (student, teacher))
    expected = 2 * reference.cirkd_minibatch(*pooled, 0.3).item()
    assert loss_of(distiller, student, teacher).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('kind', ['pixel', 'region'])
def test_memory_parts_equal_the_released_formula(kind):
    student, teacher, labels = draw(2, 4, 3, 2), draw(2, 5, 3, 2, seed=1), label_maps(2, 3, 2)
    distiller = make(**{f'{kind}_weight': 0.7}, temperature=0.3)
    losses = run(distiller, student, teacher, labels)
    memory = distiller.parts[0]
    labelled = labels.flatten() != IGNORED
    rows = (x.movedim(1, -1).flatten(0, 2)[labelled] for x in (memory.projector(student), teacher))
    keys = memory.queues[kind].rows.flatten(0, 1)  # those of this step among them
    assert 0 < labelled.sum() < 12
    expected = 0.7 * reference.cirkd_memory(*rows, keys, 0.3).item()
    assert losses[f'loss_{kind}'].item() == pytest.approx(expected, rel=1e-6)


def test_a_part_of_weight_zero_is_left_out_with_its_queue():
    student, teacher, labels = draw(2, 4, 3, 2), draw(2, 5, 3, 2, seed=1), label_maps(2, 3, 2)
    for weights, names, queues in (
        (dict(pixel_weight=0), {'loss_minibatch', 'loss_region'}, ['region']),
        (dict(minibatch_weight=0, region_weight=0), {'loss_pixel'}, ['pixel']),
    ):
        distiller = make(**weights)
        assert set(run(distiller, student, teacher, labels)) == names
        assert list(distiller.parts[0].queues) == queues
    alone = make(pixel_weight=0, region_weight=0, num_classes=None)
    assert set(run(alone, student, teacher)) == {'loss_minibatch'} and not alone.state_dict()


def test_a_step_writes_pixels_of_their_class():
    teacher, labels = draw(2, 5, 3, 2, seed=1), label_maps(2, 3, 2)
    distiller = make()
    memory = distiller.parts[0]
    random = memory.queues.pixel.rows.clone()
    run(distiller, draw(2, 4, 3, 2), teacher, labels)
    targets = F.normalize(teacher, dim=1).flatten(2).mT
    for kind in range(CLASSES):
        rows_of_kind = [rows[label == kind] for rows, label in zip(targets, labels.flatten(1), strict=True)]
        means = F.normalize(torch.stack([rows.mean(0) for rows in rows_of_kind if len(rows)]), dim=1)
        regions, pixels = memory.queues.region, memory.queues.pixel
        assert int(regions.ptr[kind]) == len(means)
        torch.testing.assert_close(regions.rows[kind, : len(means)], means)
        count = sum(min(2, len(rows)) for rows in rows_of_kind)
        written = pixels.rows[kind]
        assert int(pixels.ptr[kind]) == count % 6
        torch.testing.assert_close(written[count:], random[kind, count:])
        assert torch.cdist(written[:count], torch.cat(rows_of_kind)).amin(1).max() < 1e-12
        assert len({tuple(row.tolist()) for row in written[:count]}) == count, 'no pixel twice'


def test_a_queue_is_a_ring_of_the_last_rows_of_each_class():
    queue = ClassQueue(CLASSES, 2, 2)  # often less than a class has in a batch
    expected = {kind: queue.rows[kind].tolist() for kind in range(CLASSES)}
    counts = Counter()
    draw = torch.Generator().manual_seed(0)
    for _ in range(8):
        labels = torch.randint(0, CLASSES - 1, (5,), generator=draw)
        keys = torch.randn(5, 2, generator=draw)
        queue.enqueue(keys[:, None].expand(5, CLASSES, 2)[..., None, :], F.one_hot(labels, CLASSES)[..., None].bool())
        for key, label in zip(keys.tolist(), labels.tolist(), strict=True):
            expected[label][counts[label] % 2] = key
            counts[label] += 1
        assert queue.ptr.tolist() == [counts[kind] % 2 for kind in range(CLASSES)]
        torch.testing.assert_close(queue.rows, torch.tensor([expected[kind] for kind in range(CLASSES)]))
    queue.enqueue(torch.zeros(0, CLASSES, 1, 2), torch.zeros(0, CLASSES, 1, dtype=torch.bool))
    assert queue.ptr.tolist() == [counts[kind] % 2 for kind in range(CLASSES)]


def test_a_sample_has_different_rows_of_each_class():
    queue = ClassQueue(2, 7, 3)
    drawn = queue.sample(4, torch.Generator().manual_seed(0))
    assert drawn.shape == (8, 3)
    drawn_rows = [torch.cdist(rows, queue.rows[kind]).argmin(1).tolist() for kind, rows in enumerate(drawn.split(4))]
    assert drawn_rows[0] == drawn_rows[1] and len(set(drawn_rows[0])) == 4
    assert not torch.equal(drawn, queue.sample(4, torch.Generator().manual_seed(1)))
    assert len(queue.sample(100, torch.Generator())) == 14


def test_pixels_are_drawn_anew_for_each_generator():
    labels = torch.tensor([0] * 40 + [1] * 3 + [IGNORED] * 20 + [2] * 40)[torch.randperm(103)]
    orders = torch.stack([torch.randperm(103, generator=torch.Generator().manual_seed(seed)) for seed in range(300)])
    actual, valid = choose_pixels(labels.expand(300, -1), CLASSES, 8, orders)
    chosen = [pixels[is_valid] for pixels, is_valid in zip(actual, valid, strict=True)]
    assert all(labels[c].tolist() == [0] * 8 + [1] * 3 + [2] * 8 for c in chosen)
    counts = torch.bincount(torch.cat(chosen), minlength=103)
    assert counts[labels == IGNORED].sum() == 0 and (counts[labels == 1] == 300).all()
    share = counts[(labels == 0) | (labels == 2)] / 300
    assert ((share - 8 / 40).abs() < 5 * math.sqrt(0.2 * 0.8 / 300)).all()


def test_a_teacher_of_other_classes_moves_no_labels():
    """With its number of classes, the labels above it would be taken for ignored ones."""
    head = dict(decode_head=dict(num_classes=2), auxiliary_head=dict(num_classes=2))
    options = dict(ifvd=dict(type='IFVD'), cirkd=dict(type='CIRKD', pixel_memory=20, region_memory=4))
    for has_other_classes, expected in ((False, 2), (True, toys.NUM_CLASSES)):  # which the student says
        teacher = toys.seg_net('fcn', 16, allow_random=True, allow_other_classes=has_other_classes, **head)
        made = toys.build(toys.model_config(toys.seg_net('fcn'), teacher, options)).distillers
        assert [made[name].class_count for name in options] == [expected] * 2
    distiller = DISTILLERS.build(dict(options['cirkd'], student_tap='tap'))
    distiller.teacher = types.SimpleNamespace(key='model.teacher', option=types.SimpleNamespace(other_classes=True))
    with pytest.raises(ValueError, match='Set num_classes to the number'):
        distiller.setup({}, {})


# IFVD, and what counts as a class


def test_labels_are_those_of_the_nearest_pixels():
    distiller = set_up(IFVD, [(3, 8, 8), (5, 8, 8)])
    assert distiller.class_count == 255 and not list(distiller.parameters())
    student, teacher = draw(2, 3, 8, 8), draw(2, 5, 8, 8, seed=1)
    samples = toys.seg_batch()['data_samples']
    samples[0].gt_sem_seg.data[:, :16] = 254
    samples[1].gt_sem_seg.data[:, :16] = 255
    labels = torch.stack([sample.gt_sem_seg.data[0, ::8, ::8] for sample in samples])
    loss = loss_of(distiller, student, teacher, samples)
    torch.testing.assert_close(loss, prototype_distance(student, teacher, labels, num_classes=255))
    samples[0].gt_sem_seg.data[:, :16] = 255
    assert loss_of(distiller, student, teacher, samples) < loss


MEMORY = dict(pixel_memory=20, region_memory=4, pixel_contrast=30, region_contrast=9)


@pytest.mark.parametrize('option', [dict(type='IFVD'), dict(MEMORY, type='CIRKD', minibatch_weight=0.0)])
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
        actual = toys.losses_of(model, batch)
        return {name: value for name, value in actual.items() if 'distill.one.loss' in name}

    ignored, background = loss(**heads), loss()
    for sample in batch['data_samples']:
        sample.gt_sem_seg.data[sample.gt_sem_seg.data == 0] = 255
    torch.testing.assert_close(ignored, loss(), rtol=0, atol=0)
    assert all(ignored[name] != background[name] for name in background), background
