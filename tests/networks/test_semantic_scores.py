"""Class scores of segmentors whose heads do not end in ``conv_seg``: cascades, iterated kernels, tokens, queries."""

import functools

import pytest
import torch
from mmengine.config import ConfigDict
from torch import nn

from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.networks.modes import train_without_noise
from mmdistill_dense.networks.recording import Recorder, replacing
from mmdistill_dense.networks.taps import Tap, heads_of, mask_scores, resolve_tap, semantic_scores
from tests import toys
from tests.zoo.narrow import narrow

SIDE = 64
CLASSES = 19
NARROWED = dict(
    mask2former='mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024',
    maskformer='maskformer/maskformer_r50-d32_8xb2-160k_ade20k-512x512',
    ocrnet='ocrnet/ocrnet_r101-d8_4xb2-40k_cityscapes-512x1024',
    pointrend='point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024',
)
TOKENS = dict(embed_dims=16, num_layers=1, num_heads=2)
SEGMENTER = dict(
    cfg='mmseg::segmenter/segmenter_vit-t_mask_8xb1-160k_ade20k-512x512.py',
    pretrained=None,
    data_preprocessor=dict(size=(SIDE, SIDE)),
    backbone=dict(TOKENS, img_size=(SIDE, SIDE)),
    decode_head=dict(TOKENS, in_channels=16, channels=16),
)
_HEAD = dict(in_channels=256, channels=16)
_UPDATE = dict(in_channels=16, out_channels=16, feedforward_channels=16, num_heads=2)
_UPDATE.update(feat_transform_cfg=None, kernel_updator_cfg=dict(in_channels=16, feat_channels=16, out_channels=16))
KNET = dict(
    cfg='mmseg::knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py',
    pretrained=None,
    data_preprocessor=dict(size=(SIDE, SIDE)),
    backbone=dict(base_channels=8, stem_channels=8),
    decode_head=dict(kernel_generate_head=_HEAD, kernel_update_head={str(stage): _UPDATE for stage in range(3)}),
    auxiliary_head=dict(in_channels=128, channels=8),
)
WRITTEN = dict(segmenter=SEGMENTER, knet=KNET)
KINDS = (*NARROWED, *WRITTEN)
QUICK = ('mask2former', 'ocrnet', 'segmenter')
SCORES = 'decode_head.conv_seg'  # the default of the methods for class scores


@functools.cache
def option(kind: str) -> dict:
    if kind in WRITTEN:
        return WRITTEN[kind]
    net = narrow(load_model(dict(cfg=f'mmseg::{NARROWED[kind]}.py'), 'model'))
    net['data_preprocessor']['size'] = (SIDE, SIDE)
    return net


def own_copy(kind: str):
    """A network, and beside it a copy of itself as the teacher, in eval mode but for what the student runs."""
    net = option(kind)
    model = toys.distilled(student=net, teacher=dict(net, allow_random=True))
    toys.teacher_of(model).network.load_state_dict(model.state_dict(), strict=False)
    return model


@pytest.mark.parametrize('kind', KINDS)
def test_scores_are_those_that_the_network_predicts(kind):
    network = toys.build_plain(option(kind)).eval()
    network.test_cfg = ConfigDict(subdivision_steps=0)
    inputs = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    recorder = Recorder(network, [Tap.parse(SCORES), Tap.parse('decode_head')], 'student_tap')
    metas = [dict(ori_shape=(SIDE, SIDE), img_shape=(SIDE, SIDE), pad_shape=(16, 16))] * 2
    with torch.no_grad(), recorder.recording() as tensors:
        predicted = network.encode_decode(inputs, metas)
    (scores,) = tensors[SCORES]
    assert torch.equal(scores, tensors['decode_head'][0])
    if kind in ('mask2former', 'maskformer'):  # probabilities, which do not sum to 1
        scores = scores.exp()
    resized = nn.functional.interpolate(scores, predicted.shape[2:], mode='bilinear', align_corners=False)
    rough = dict(rtol=0.02, atol=2e-3) if kind == 'maskformer' else {}  # it resizes before the sigmoid
    torch.testing.assert_close(resized, predicted, **rough)
    assert toys.hooks_left(network) == 0 and all('forward' not in vars(module) for module in network.modules())


@pytest.mark.parametrize(
    'kind', [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.soak) for kind in KINDS]
)
def test_a_step_against_the_own_copy(kind):
    model = own_copy(kind)
    train_without_noise(model)
    losses = toys.losses_of(model, toys.seg_batch(side=SIDE))
    assert abs(losses['distill.kd.loss_kd']) < 1e-5
    model = model.train()
    with torch.no_grad():
        for parameter in toys.teacher_of(model).network.parameters():
            parameter.mul_(1.5)
    losses = toys.losses_of(model, toys.seg_batch(side=SIDE))
    assert losses['distill.kd.loss_kd'] > 0
    losses['distill.kd.loss_kd'].backward()
    gradients = {name: p.grad.norm() for name, p in model.named_parameters() if p.grad is not None}
    assert all(g.isfinite() for g in gradients.values())
    assert any(g > 0 for name, g in gradients.items() if name.startswith('backbone'))
    assert any(g > 0 for name, g in gradients.items() if name.startswith('decode_head'))


def test_queries_teach_a_convolutional_student():
    student = toys.seg_net('pspnet', decode_head=dict(num_classes=CLASSES), auxiliary_head=dict(num_classes=CLASSES))
    model = toys.distilled(
        student=dict(student, data_preprocessor=dict(size=(SIDE, SIDE))),
        teacher=dict(option('mask2former'), allow_random=True),
        distillers={name: dict(type=name) for name in ('LogitKD', 'DIST', 'CWD')},
    )
    losses = toys.losses_of(model, toys.seg_batch(side=SIDE))
    terms = [value for key, value in losses.items() if key.startswith('distill.') and '.loss_' in key]
    assert len(terms) == 3 and all(value > 0 for value in terms)
    sum(terms).backward()
    assert model.decode_head.conv_seg.weight.grad.abs().sum() > 0


def test_mask_scores_are_the_log_of_the_sum_over_queries():
    draw = torch.Generator().manual_seed(0)
    classes, masks = torch.randn(2, 3, 5, generator=draw), torch.randn(2, 3, 4, 6, generator=draw)
    expected = torch.zeros(2, 4, 4, 6)
    for query in range(3):
        of_query = classes[:, query].softmax(-1)[:, :-1]
        expected += of_query[:, :, None, None] * masks[:, query, None].sigmoid()
    torch.testing.assert_close(mask_scores(classes, masks), expected.log())
    none = torch.full((1, 3, 5), -200.0)
    none[..., -1] = 200  # no query claims a class
    none.requires_grad_()
    scores = mask_scores(none, masks[:1])
    scores.sum().backward()
    assert scores.isfinite().all() and none.grad.isfinite().all()
    assert mask_scores(classes.to('meta'), masks.to('meta')).shape == expected.shape, 'without arithmetic'
    half = mask_scores(classes.half(), masks.half())
    assert half.dtype == torch.float32


def test_early_stages_of_a_cascade_count_once():
    """In training a cascade runs them again, for the stage behind."""
    net, early = option('ocrnet'), dict(type='LogitKD', student_tap='decode_head.0.conv_seg')
    model = toys.distilled(student=net, teacher=dict(net, allow_random=True), distillers=dict(kd=early))
    assert toys.losses_of(model, toys.seg_batch(side=SIDE))['distill.kd.loss_kd'] > 0
    stages = [one for one in heads_of(toys.build_plain(net)) if one.in_decoder]
    assert [(one.path, one.early) for one in stages] == [('decode_head.0', True), ('decode_head.1', False)]


def test_what_has_no_scores_is_refused():
    network = nn.Module()
    network.decode_head = nn.Conv2d(3, 4, 1)
    for output in (None, [], torch.zeros(1, 4, 2), (torch.zeros(1, 3, 5), torch.zeros(1, 3, 4, 4)), 'text'):
        with pytest.raises(ValueError, match=r"student_tap='decode_head'.*what Conv2d returns.*type='CWD'"):
            semantic_scores(network.decode_head, output, "student_tap='decode_head'")


def test_input_of_conv_seg_needs_one():
    network = toys.build_plain(option('mask2former'))
    with pytest.raises(KeyError, match='Mask2FormerHead makes its class scores without conv_seg') as error:
        resolve_tap(network, Tap.parse('decode_head.conv_seg:input'), 'student_tap')
    assert 'loss' not in str(error.value)
    with (
        pytest.raises(ValueError, match='out of several outputs'),
        replacing(network, Tap.parse(SCORES), lambda _, x: x, 'tap'),
    ):
        pass
