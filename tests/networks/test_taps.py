"""Taps: their syntax, what they pick, where they lead and that nothing of them stays behind."""

import functools

import pytest
import torch
from mmengine.config import ConfigDict
from torch import nn

from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.networks.modes import train_without_noise
from mmdistill_dense.networks.recording import Recorder, replacing, run_parts
from mmdistill_dense.networks.taps import Tap, heads_of, mask_scores, resolve_tap, semantic_scores
from tests import toys
from tests.zoo.narrow import narrow


class TinyNet(nn.Module):
    """Stages give a tuple; ``head`` is called once per stage; ``idle`` never."""

    def __init__(self):
        super().__init__()
        self.stages = Stages()
        self.head = nn.Conv2d(2, 3, 1)
        self.mix = Mix()
        self.idle = nn.Conv2d(2, 2, 1)

    def forward(self, x):
        feats = self.stages(x)
        return self.mix(feats[0], feats[1]), [self.head(f) for f in feats]


class Stages(nn.Module):
    def forward(self, x):
        return x, 2 * x, (3 * x, 4 * x)[0]


class Mix(nn.Module):
    def forward(self, a, b):
        return dict(out=a + b)


def record(network, *taps, stop_after=None, inputs=None):
    recorder = Recorder(network, [Tap.parse(tap) for tap in taps], 'student_tap', stop_after)
    inputs = torch.ones(1, 2, 4, 4) if inputs is None else inputs
    with recorder.recording() as tensors:
        network(inputs)
    recorder.check_complete()
    return tensors


@pytest.mark.parametrize(('text', 'path', 'index', 'argument'), [
    ('neck', 'neck', None, None),
    ('backbone[3]', 'backbone', 3, None),
    ('backbone[-1]', 'backbone', -1, None),
    ('neck[:3]', 'neck', slice(None, 3), None),
    ('neck[-2:-1]', 'neck', slice(-2, -1), None),
    ('decode_head.conv_seg:input', 'decode_head.conv_seg', None, 0),
    ('a.b.0:input[2]', 'a.b.0', None, 2),
    ('neck[0]:input[1]', 'neck', 0, 1),
    ('', '', None, None),
    ('[0]', '', 0, None),
])  # fmt: skip
def test_parse(text, path, index, argument):
    tap = Tap.parse(text)
    assert (tap.path, tap.index, tap.argument, str(tap)) == (path, index, argument, text)


@pytest.mark.parametrize(
    'text', ['a[b]', 'a:output', 'a..b', '.a', 'a.', 'a[1][2]', 'a b', 'a[1', 'neck[::2]', 3, None]
)
def test_parse_refuses(text):
    with pytest.raises(ValueError, match='is not a tap: write'):
        Tap.parse(text)
    assert len({Tap.parse('neck[:3]'), Tap.parse('neck[:3]'), Tap.parse('neck[:2]')}) == 2


def test_an_index_picks_from_each_call():
    """An empty path is the network's own output."""
    means = {name: [round(t.mean().item()) for t in actual] for name, actual in record(
        TinyNet(), 'stages[1]', 'stages[:2]', 'stages[-1]', 'stages', 'mix:input', 'mix:input[1]'
    ).items()}  # fmt: skip
    assert means == {
        'stages[1]': [2], 'stages[:2]': [1, 2], 'stages[-1]': [3], 'stages': [1, 2, 3],
        'mix:input': [1], 'mix:input[1]': [2],
    }  # fmt: skip
    tensors = record(TinyNet(), 'head[-1]', 'stages:input')
    assert len(tensors['head[-1]']) == 3 and tensors['stages:input'][0].shape == (1, 2, 4, 4)
    tensors = record(TinyNet().stages, '', '[2]')
    assert [[t.mean().item() for t in tensors[name]] for name in ('', '[2]')] == [[1, 2, 3], [3]]


class Overwriting(nn.Module):
    """What ``norm`` gives is written to by ``relu``, and once more by the sum behind it."""

    def __init__(self):
        super().__init__()
        self.norm = nn.Conv2d(1, 1, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.relu(self.norm(x))
        out += 1
        return out


def test_what_is_recorded_is_not_written_to():
    network, inputs = Overwriting(), torch.randn(1, 1, 4, 4)
    tensors = record(network, 'norm', 'relu:input', 'relu', 'norm:input', '', inputs=inputs)
    normed = network.norm(inputs)
    assert torch.equal(tensors['norm'][0], normed) and torch.equal(tensors['relu:input'][0], normed)
    assert torch.equal(tensors['relu'][0], normed.relu()) and torch.equal(tensors[''][0], normed.relu() + 1)
    assert torch.equal(tensors['norm:input'][0], inputs)
    (gradient,) = torch.autograd.grad(tensors['norm'][0].sum(), [network.norm.bias])
    assert gradient.item() == 16


@pytest.mark.parametrize(('tap', 'words'), [
    ('stages[7]', ["student_tap: tap 'stages[7]'", 'has 3 entries; stages[2] or stages[-1] is the last']),
    ('head[0]', ["'head[0]'", 'a Tensor, not a tuple']),
    ('stages:input[1]', ['called with 1 positional argument']),
    ('mix', ["'mix'", 'a dict (', 'tap the modules that make its entries']),
    ('mix[-1]', ["'mix[-1]'", 'a dict (']),
    ('stages[5:]', ['without any tensor']),
    ('idle', ["student_tap='idle' never fired in the forward pass of TinyNet"]),
])  # fmt: skip
def test_wrong_picks_are_explained(tap, words):
    with pytest.raises(ValueError) as error:
        record(TinyNet(), 'head', tap)
    assert all(word in str(error.value) for word in words), error.value


def test_replacing_refuses():
    for tap, words in (
        ('mix:input[1]', 'an input cannot be replaced'), ('idle', 'never fired'), ('stages[7]', 'has 3 entries'),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            replaced(TinyNet(), tap, lambda index, tensor: tensor)


def test_an_unknown_path_names_close_ones():
    network = toys.build_plain(toys.seg_net())
    for path, words in (
        ('backbone.layer5', ["student_tap='backbone.layer5'", 'EncoderDecoder', 'Close names: backbone.layer',
                             'Modules in backbone: stem, maxpool, layer1, layer2, layer3, layer4']),
        ('neck', ['Modules in EncoderDecoder: data_preprocessor, backbone, decode_head']),
    ):  # fmt: skip
        with pytest.raises(KeyError) as error:
            resolve_tap(network, Tap.parse(path), 'student_tap')
        assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize('kind', ['deeplabv3', 'pspnet', 'fcn'])
def test_decode_head_means_its_logits(kind):
    """Of a head with a classifier of its own, what that returns."""
    network, inputs = toys.build_plain(toys.seg_net(kind)).eval(), torch.randn(1, 3, 64, 64)
    for name in ('decode_head', 'auxiliary_head'):
        assert resolve_tap(network, Tap.parse(name), 'k').module is getattr(network, name).conv_seg
    assert torch.equal(record(network, 'decode_head', inputs=inputs)['decode_head'][0], network(inputs))

    overrides = dict(cls_seg=lambda self, feat: 2 * self.conv_seg(feat))
    network.decode_head.__class__ = type('OwnLogits', (type(network.decode_head),), overrides)
    actual = record(network, 'decode_head', 'decode_head.conv_seg', inputs=inputs)
    assert torch.equal(actual['decode_head'][0], network(inputs))
    assert torch.equal(actual['decode_head'][0], 2 * actual['decode_head.conv_seg'][0])


def test_class_tokens_beside_maps_are_left_out():
    """As DPT's backbone returns them: a map and a token of each stage."""
    stages = tuple((torch.full((1, 4, 2, 2), float(index)), torch.zeros(1, 4)) for index in range(3))
    assert [x.shape for x in Tap.parse('x').pick((), stages)] == [(1, 4, 2, 2)] * 3
    (last,) = Tap.parse('x[-1]').pick((), stages)
    assert last.unique().tolist() == [2]
    changed = Tap.parse('x[1:]').put(stages, lambda x: x + 5)
    assert changed[0] is not stages[0] and [float(x[0].mean()) for x in changed] == [0, 6, 7]
    assert [float(x[1].mean()) for x in changed] == [0, 0, 0]
    rows = [torch.zeros(2, 3), torch.zeros(2, 4)]  # of boxes: no maps
    assert len(Tap.parse('x').pick((), rows)) == 2


def test_no_hook_stays_behind():
    def fail(*_):
        raise RuntimeError('from inside')

    network = TinyNet()
    record(network, 'stages', stop_after=1)
    recorder = Recorder(network, [Tap.parse('head')], 'k')
    with pytest.raises(RuntimeError, match='from inside'), recorder.recording():
        fail()
    with pytest.raises(RuntimeError, match='from inside'):
        replaced(network, 'head', fail)
    assert toys.hooks_left(network) == 0
    for _ in range(2):
        with recorder.recording() as tensors:
            network(torch.ones(1, 2, 4, 4))
        assert len(tensors['head']) == 3, 'the record starts anew'


def replaced(network, tap, function, inputs=None):
    inputs = torch.ones(1, 2, 4, 4) if inputs is None else inputs
    with replacing(network, Tap.parse(tap), function, 'tap'):
        return network(inputs)


def test_replaced_tensors_go_on_through_the_network():
    network, inputs = TinyNet(), torch.rand(1, 2, 4, 4)
    mixed, heads = replaced(network, 'stages[1:]', lambda index, tensor: tensor + index, inputs)
    torch.testing.assert_close(mixed['out'], inputs + 2 * inputs)
    for head, head_input in zip(heads, (inputs, 2 * inputs, 3 * inputs + 1), strict=True):
        torch.testing.assert_close(head, network.head(head_input))
    assert toys.hooks_left(network) == 0
    _, heads = replaced(network, 'head', lambda index, tensor: torch.full_like(tensor, index))
    assert [head.unique().tolist() for head in heads] == [[0.0], [1.0], [2.0]], 'calls of a shared module are counted'
    output = [torch.zeros(1), (torch.ones(1), 'name')]
    changed = Tap.parse('x[-1]').put(output, lambda tensor: tensor + 5)
    assert isinstance(changed, list) and changed[0] is output[0]
    assert isinstance(changed[1], tuple) and changed[1][0].item() == 6 and changed[1][1] == 'name'


# Class scores of segmentors whose heads do not end in conv_seg: cascades, iterated kernels, tokens, queries


SIDE = 64
NARROWED = dict(
    mask2former='mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024',
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
def option(kind):
    if kind in WRITTEN:
        return WRITTEN[kind]
    net = narrow(load_model(dict(cfg=f'mmseg::{NARROWED[kind]}.py'), 'model'))
    net['data_preprocessor']['size'] = (SIDE, SIDE)
    return net


def own_copy(kind):
    """A network, and beside it a copy of itself as the teacher, in eval mode but for what the student runs."""
    net = option(kind)
    model = toys.distilled(student=net, teacher=dict(net, allow_random=True))
    toys.teacher_of(model).network.load_state_dict(model.state_dict(), strict=False)
    return model


@pytest.mark.sample(3)
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
    if kind == 'mask2former':  # probabilities, which do not sum to 1
        scores = scores.exp()
    resized = nn.functional.interpolate(scores, predicted.shape[2:], mode='bilinear', align_corners=False)
    torch.testing.assert_close(resized, predicted)
    assert toys.hooks_left(network) == 0 and all('forward' not in vars(module) for module in network.modules())


@pytest.mark.sample(1)
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
    losses['distill.kd.loss_kd'].backward()
    for part in (model.backbone, model.decode_head):
        assert any(parameter.grad is not None and parameter.grad.any() for parameter in part.parameters())


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
    stages = [head for head in heads_of(toys.build_plain(net)) if head.in_decoder]
    assert [(stage.path, stage.early) for stage in stages] == [('decode_head.0', True), ('decode_head.1', False)]


def test_heads_beside_another_run_on_the_same_features():
    net, taps = option('ocrnet'), [Tap.parse(f'{head}.conv_seg') for head in ('decode_head.1', 'auxiliary_head')]
    network = toys.build_plain(dict(net, auxiliary_head=net['decode_head'][0])).eval()
    recorder, heads = Recorder(network, taps, 'teacher_tap'), None
    for _ in range(2):  # the second pass knows the heads
        with recorder.recording() as tensors, torch.no_grad():
            heads = run_parts(network, taps, torch.rand(1, 3, SIDE, SIDE), heads=heads)
        assert heads == ['decode_head.1', 'auxiliary_head'] and all(len(tensors[tap.text]) == 1 for tap in taps)


def test_what_has_no_scores_is_refused():
    network = nn.Module()
    network.decode_head = nn.Conv2d(3, 4, 1)
    for output in (None, [], torch.zeros(1, 4, 2), (torch.zeros(1, 3, 5), torch.zeros(1, 3, 4, 4)), 'text'):
        with pytest.raises(ValueError, match=r"student_tap='decode_head'.*what Conv2d returns.*type='CWD'"):
            semantic_scores(network.decode_head, output, "student_tap='decode_head'")
    network = toys.build_plain(option('mask2former'))
    with pytest.raises(KeyError, match='Mask2FormerHead makes its class scores without conv_seg') as error:
        resolve_tap(network, Tap.parse('decode_head.conv_seg:input'), 'student_tap')
    assert 'loss' not in str(error.value)
    with pytest.raises(ValueError, match='out of several outputs'):
        replacing(network, Tap.parse(SCORES), lambda _, x: x, 'tap').__enter__()
