"""RoIHeadKD on mask heads: the formula on real networks, training, and pairs that do not fit."""

import math

import pytest
import torch

from tests import toys

MASKS = dict(
    type='RoIHeadKD', student_tap='roi_head.mask_head.conv_logits', output='mask_preds', form='sigmoid', temperature=2.0
)


def _config(student='mask_rcnn', teacher='mask_rcnn', **option):
    nets = toys.det_net(student), toys.det_teacher(teacher)
    return toys.model_config(*nets, dict(roi={**MASKS, **option}))


def _recorded(model, path):
    seen = []
    module = model.roi_head.get_submodule(path)
    return seen, module.register_forward_hook(lambda _, args, output: seen.append((args, output)))


@pytest.mark.parametrize(('teacher', 'stage'), [('mask_rcnn', 0), ('cascade_mask_rcnn', 2)])
def test_the_naive_formula_on_the_positive_rois(teacher, stage):
    model = toys.ready(toys.build(_config(teacher=teacher, stage=stage), scope='mmdet'))
    (extracted, first), (made, second) = (_recorded(model, path) for path in ('mask_roi_extractor', 'mask_head'))
    batch = toys.det_batch(masks=True)
    losses = toys.losses_of(model, batch)
    first.remove(), second.remove()
    ((_, rois), _), (_, student) = extracted[0], made[0]
    assert 0 < len(rois) == len(student) < 200, 'the positive ones'
    network = toys.teacher_of(model).network
    inputs = model.data_preprocessor(toys.det_batch(masks=True), True)['inputs']
    head, extractor = network.roi_head.mask_head, network.roi_head.mask_roi_extractor
    if teacher == 'cascade_mask_rcnn':
        head, extractor = head[stage], extractor[stage]
    with torch.no_grad():
        theirs = head(extractor(network.extract_feat(inputs)[:4], rois))
    total = 0.0
    for own, other in zip(student.flatten().tolist(), theirs.flatten().tolist(), strict=True):
        p, q = (1 / (1 + math.exp(-value / 2)) for value in (other, own))
        total += 4 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    expected = total / (len(rois) * student.shape[2] * student.shape[3])
    loss = losses['distill.roi.loss_roi']
    assert float(loss) == pytest.approx(expected, rel=1e-4) and loss > 0
    loss.backward()
    for part in ('backbone', 'neck', 'roi_head.mask_head'):
        assert any(one.grad is not None and one.grad.any() for one in model.get_submodule(part).parameters()), part


@pytest.mark.parametrize(('student', 'teacher', 'option', 'words'), [
    ('mask_rcnn', 'faster_rcnn', {}, r"output='mask_preds', but the RoI head of model\.teacher has no mask_head"),
    ('faster_rcnn', 'mask_rcnn', {}, 'mask_head.conv_logits.*no such module in FasterRCNN'),
    ('mask_rcnn', 'mask_rcnn', dict(form='l1', temperature=None), "binary scores: set form='sigmoid', got form='l1'"),
    ('mask_rcnn', 'cascade_mask_rcnn', dict(stage=3), r'roi\.stage=3, but .* has 3 stage'),
])  # fmt: skip
def test_pairs_that_do_not_fit_are_refused(student, teacher, option, words):
    with pytest.raises((ValueError, KeyError), match=words):
        toys.build(_config(student, teacher, **option), scope='mmdet')


def test_masks_of_other_sizes_are_refused_in_the_first_step():
    option = dict(roi_head=dict(mask_head=dict(num_classes=3)), checkpoint=None, allow_random=True)
    small = toys.det_teacher('mask_rcnn', **option)
    model = toys.distilled('mmdet', student=toys.det_net('mask_rcnn'), teacher=small, distillers=dict(roi=MASKS))
    with pytest.raises(ValueError, match=r'distillers\.roi: the masks are \(6, 28, 28\) and \(3, 28, 28\)'):
        toys.losses_of(model, toys.det_batch(masks=True))


def test_a_batch_without_objects_gives_no_loss_but_a_gradient_of_zero():
    model = toys.ready(toys.build(_config(), scope='mmdet'))
    batch = toys.det_batch(masks=True)
    for sample in batch['data_samples']:
        sample.gt_instances = sample.gt_instances[:0]
    losses = toys.losses_of(model, batch)
    assert losses['distill.roi.loss_roi'] == 0 and losses['distill.roi.loss_roi'].requires_grad
