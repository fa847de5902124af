"""FGD: the released formula step by step, and boxes on levels."""

import pytest
import torch
import torch.nn.functional as F

from mmdistill_dense.distillers import FGD
from mmdistill_dense.distillers.ground_truth import boxes_on_map
from tests.distillers.steps import boxed, draw, set_up
from tools.benchmark import reference

WEIGHTS = dict(alpha=0.1, beta=0.2, gamma=0.3, lambda_=0.4)


def _distiller(**options):
    return set_up(FGD, [(4, 8, 8), (4, 8, 8)], tap='neck', **options)


def _losses(distiller, student, teacher):
    return distiller({'neck': [student]}, {'neck': [teacher]}, boxed())


def _context(block, x):
    """The map with the block's context added."""
    first, norm, _, last = block.transform
    own = (first.weight, first.bias, norm.weight, norm.bias, last.weight, last.bias)
    return x + reference.fgd_context(x, block.mask.weight, *own)[..., None, None]


def test_equals_masked_copies_of_the_maps():
    """Square roots of the masks and attentions multiplied into both maps, then plain squared errors."""
    distiller, student, teacher = _distiller(**WEIGHTS, temperature=0.7), draw(2, 4, 8, 8), draw(2, 4, 8, 8, seed=1)
    for parameter in distiller.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    found = _losses(distiller, student, teacher)
    (where_s, which_s), (where, which) = (reference.fgd_attention(x, 0.7) for x in (student, teacher))
    boxes = [sample.gt_instances.bboxes.double() / 8 for sample in boxed()]
    fore = torch.stack([reference.fgd_foreground(one, student) for one in boxes])
    back = torch.stack([(one == 0).double() / max((one == 0).sum(), 1) for one in fore])
    assert 0 < (fore > 0).double().mean() < 1
    focal = 0
    for weight, mask in ((0.1, fore), (0.2, back)):
        scale = (mask[:, None] * where[:, None] * which[..., None, None]).sqrt()
        focal += weight * F.mse_loss(student * scale, teacher * scale, reduction='sum') / 2
    torch.testing.assert_close(found['loss_focal'], focal)
    attention = ((where_s - where).abs().sum() + (which_s - which).abs().sum()) / 2
    torch.testing.assert_close(found['loss_attention'], 0.3 * attention)
    blocks = distiller.parts[0]
    out_s, out_t = _context(blocks['student'], student), _context(blocks['teacher'], teacher)
    torch.testing.assert_close(found['loss_relation'], 0.4 * (out_s - out_t).square().sum() / 2)


def test_both_blocks_start_without_a_shift_and_learn():
    distiller, student, teacher = _distiller(), draw(2, 4, 8, 8), draw(2, 4, 8, 8, seed=1)
    loss = _losses(distiller, student, teacher)['loss_relation']
    torch.testing.assert_close(loss, 5e-6 * (student - teacher).square().sum() / 2)
    loss.backward()
    for side in ('student', 'teacher'):
        assert distiller.parts[0][side].transform[3].weight.grad.any()


def test_boxes_are_scaled_by_the_strides_of_the_padded_batch():
    samples = boxed(padded=(64, 128))
    like = torch.zeros((), dtype=torch.float64)
    for sample, boxes in zip(samples, boxes_on_map(samples, (16, 8), 'distillers.fgd', like), strict=True):
        strides = torch.tensor([16, 4, 16, 4], dtype=torch.float64)
        own = sample.gt_instances.bboxes.double()
        torch.testing.assert_close((boxes * strides)[: len(own)], own)


def test_pictures_of_few_boxes_and_of_none_are_painted_beside_others():
    boxes = [torch.rand(count, 4, generator=torch.Generator().manual_seed(count)) * 64 for count in (5, 0, 2)]
    samples = boxed(3)
    for sample, own in zip(samples, boxes, strict=True):
        own[:, 2:] += own[:, :2]
        sample.gt_instances = type(sample.gt_instances)(bboxes=own)
    distiller = FGD(alpha=1.0, beta=0.0)
    distiller.name = 'fgd'
    for size in ((8, 8), (1, 1), (2, 3)):
        found = distiller.position_weights(torch.zeros(3, 4, *size), samples)
        for own, sample in zip(found, samples, strict=True):
            (alone,) = distiller.position_weights(torch.zeros(1, 4, *size), [sample])
            assert torch.equal(own, alone) and own.any() == (len(sample.gt_instances) > 0)


@pytest.mark.parametrize(('padded', 'size', 'strides'), [
    *(((800, 1344), (-(-800 // one), -(-1344 // one)), (one, one)) for one in (8, 16, 32, 64, 128)),
    *(((96, 160), (-(-96 // one), -(-160 // one)), (one, one)) for one in (64, 128)),
    ((60, 36), (20, 6), (6, 3)),  # no powers of two: the ratio of the sides
])  # fmt: skip
def test_strides_are_those_of_the_anchors_where_the_padded_sides_are_no_multiples(padded, size, strides):
    samples = boxed(1, padded=padded)
    (found,) = boxes_on_map(samples, size, 'distillers.fgd', torch.zeros(()))
    torch.testing.assert_close(found, samples[0].gt_instances.bboxes / torch.tensor([*strides, *strides]))


def test_boxes_of_mmdets_own_type():
    from mmdet.structures.bbox import HorizontalBoxes

    plain, samples = boxed(), boxed()
    for sample in samples:
        sample.gt_instances.bboxes = HorizontalBoxes(sample.gt_instances.bboxes)
    like = torch.zeros(())
    for a, b in zip(*(boxes_on_map(s, (8, 8), 'distillers.fgd', like) for s in (plain, samples)), strict=True):
        assert torch.equal(a, b)
