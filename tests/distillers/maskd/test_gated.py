"""The frozen teacher in its own training loss behind the gate."""

import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import nn

from mmdistill_dense.distillers.maskd.learning import (
    GatedTap,
    gated_loss,
    initial_tokens,
    only_possible_heads,
    task_loss,
    training_objective,
)
from mmdistill_dense.losses import mask_dice
from mmdistill_dense.networks.taps import Tap
from tests import toys
from tools.benchmark import reference

T = 3
LEVELS = 5
NECK = [GatedTap(Tap.parse('neck'), 0, LEVELS)]


def frozen(kind, det=True, **options):
    """A network with weights that say something, as the teacher holds it."""
    network = toys.build_plain((toys.det_net if det else toys.seg_net)(kind, **options))
    network.load_state_dict(toys._plain_teacher(kind, 8, None).state_dict())
    network.requires_grad_(False)
    network.eval()
    return network


def batch(network, det=True, masks=False):
    raw = toys.det_batch(masks=masks) if det else toys.seg_batch()
    return network.data_preprocessor(raw, True)


def neck_tokens(channels=16, branch=True, seed=0):
    shapes = {'mask_token': (T, channels)}
    if branch:
        shapes |= {'prob.0.weight': (channels, channels, 3, 3), 'prob.0.bias': (channels,)}
        shapes |= {'prob.2.weight': (T, channels, 1, 1), 'prob.2.bias': (T,)}
    every = {f'{i}.{name}': torch.Size(shape) for i in range(LEVELS) for name, shape in shapes.items()}
    values = initial_tokens(every, seed)
    return {name: (value + 0.1).requires_grad_() for name, value in values.items()}


def naive_gate(values, level, x):
    """The gated map and its masks, with an ordinary convolution."""
    masks = reference.maskd_masks(values[f'{level}.mask_token'], x)
    branch = [value for name, value in values.items() if name.startswith(f'{level}.prob.')]
    return reference.maskd_gate(x, masks, reference.maskd_mask_weights(x, *branch) if branch else None), masks


@pytest.mark.parametrize('branch', [True, False])
def test_the_heads_of_a_detector_see_the_masked_levels(branch):
    network, values = frozen('retinanet'), neck_tokens(branch=branch)
    data = batch(network)
    with training_objective(network):
        task, dice = gated_loss(network, NECK, values, data['inputs'], data['data_samples'])
        features = network.extract_feat(data['inputs'])
        gated, masks = zip(*(naive_gate(values, level, x) for level, x in enumerate(features)), strict=True)
        expected = toys.total(network.bbox_head.loss(gated, data['data_samples']))
    torch.testing.assert_close(task, expected)
    torch.testing.assert_close(dice, [mask_dice(m) for m in masks])
    assert toys.hooks_left(network) == 0


def test_the_logits_of_a_segmenter_are_gated_before_they_are_resized():
    network = frozen('fcn', det=False)
    values = {'0.mask_token': torch.randn(T, toys.NUM_CLASSES, requires_grad=True)}
    data = batch(network, det=False)
    tap = GatedTap(Tap.parse('decode_head.conv_seg'), 0, 1)
    with training_objective(network):
        task, _ = gated_loss(network, [tap], values, data['inputs'], data['data_samples'])
        features = network.extract_feat(data['inputs'])
        head = network.decode_head
        gated, _ = naive_gate(values, 0, head(features))
        labels = torch.stack([sample.gt_sem_seg.data[0] for sample in data['data_samples']])
        resized = F.interpolate(gated, labels.shape[1:], mode='bilinear', align_corners=False)
        auxiliary = toys.total(network._auxiliary_head_forward_train(features, data['data_samples']))
    torch.testing.assert_close(task, F.cross_entropy(resized, labels, ignore_index=255) + auxiliary)


@pytest.mark.parametrize('kind', ['retinanet', 'fcos', 'reppoints', 'faster_rcnn', 'cascade_mask_rcnn'])
def test_every_detector_trains_its_tokens_at_every_level(kind):
    network, values = frozen(kind), neck_tokens()
    data = batch(network, masks=kind == 'cascade_mask_rcnn')
    with training_objective(network):
        task, dice = gated_loss(network, NECK, values, data['inputs'], data['data_samples'])
    assert len(dice) == LEVELS and task.isfinite()
    (task + torch.stack(dice).sum()).backward()
    assert all(
        value.grad.isfinite().all() and value.grad.any() for name, value in values.items() if 'mask_token' in name
    )


class Counting(nn.Module):
    """A loss with state, as some detection heads have."""

    def __init__(self):
        super().__init__()
        self.register_buffer('seen', torch.zeros(()))

    def forward(self, x):
        self.seen += 1
        return x


def test_the_teacher_is_left_as_it_was():
    network = frozen('fcos')
    network.counting = Counting()
    network.backbone.layer1.train()  # a mixture of modes, as freezing leaves it
    before = copy.deepcopy(network.state_dict())
    modes = {name: module.training for name, module in network.named_modules()}
    data = batch(network)
    with training_objective(network):
        norms = [m for m in network.modules() if isinstance(m, (nn.BatchNorm2d, nn.GroupNorm, nn.Dropout))]
        assert norms and not any(m.training for m in norms)
        assert network.training and network.bbox_head.training and network.backbone.training
        network.counting(data['inputs'])
        gated_loss(network, NECK, neck_tokens(), data['inputs'], data['data_samples'])
    assert not toys.differing(network.state_dict(), before)
    assert modes == {name: module.training for name, module in network.named_modules()}
    assert toys.hooks_left(network) == 0 and not any(p.requires_grad for p in network.parameters())


def test_other_levels_than_were_traced_are_an_error():
    network = frozen('retinanet')
    data = batch(network)
    with (
        training_objective(network),
        pytest.raises(RuntimeError, match='5 maps were masked in the teacher, but its trace had 6'),
    ):
        taps = [GatedTap(Tap.parse('neck'), 0, 6)]
        gated_loss(network, taps, neck_tokens(), data['inputs'], data['data_samples'])


def test_mask_branch_is_off_without_masks_and_back_afterwards():
    network = frozen('cascade_mask_rcnn')
    mask_head = network.roi_head.mask_head
    without, with_masks = batch(network), batch(network, masks=True)
    names = []
    network.parse_losses = lambda losses: (names.append(sorted(losses)), BaseModel.parse_losses(network, losses))[1]
    with training_objective(network):
        assert task_loss(network, without['inputs'], without['data_samples']).isfinite()
        assert task_loss(network, with_masks['inputs'], with_masks['data_samples']).isfinite()
    assert not any('mask' in name for name in names[0]) and any('mask' in name for name in names[1])
    assert network.roi_head.mask_head is mask_head and network.roi_head.with_mask
    with only_possible_heads(network, without['data_samples']) as off:
        assert off and not network.roi_head.with_mask
    with only_possible_heads(network, with_masks['data_samples']) as off:
        assert not off


class NormAct(nn.BatchNorm2d):
    """A norm that is no leaf, as timm's."""

    def __init__(self):
        super().__init__(3)
        self.act = nn.ReLU()


class Block(nn.Module):
    """Dropout inside attention is not a module of its own."""

    def __init__(self):
        super().__init__()
        self.norm, self.attention = NormAct(), nn.MultiheadAttention(4, 1, dropout=0.9)

    def forward(self, x):
        return self.attention(x, x, x)[0]


def test_norms_and_dropout_stay_in_evaluation_wherever_they_are():
    network, x = nn.Sequential(Block(), nn.Dropout()).eval(), torch.randn(5, 4)
    with training_objective(network):
        assert [network[0].training, network[0].norm.training, network[1].training] == [True, False, False]
        assert torch.equal(network[0](x), network[0](x))
    assert not any(module.training for module in network.modules())
