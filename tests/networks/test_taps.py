"""Taps: their syntax, what they pick, where they lead and that nothing of them stays behind."""

import pytest
import torch
from mmseg.models.decode_heads import FCNHead
from torch import nn

from mmdistill_dense.networks.recording import Recorder, replacing, run_parts
from mmdistill_dense.networks.taps import Tap, resolve_tap
from tests import toys


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
    ('neck[1:]', 'neck', slice(1, None), None),
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


def test_taps_are_equal_by_text_and_hashable():
    assert len({Tap.parse('neck[:3]'), Tap.parse('neck[:3]'), Tap.parse('neck[:2]')}) == 2


def test_index_slice_and_input_pick_from_each_call():
    """An empty path is the network's own output."""
    means = {name: [round(t.mean().item()) for t in found] for name, found in record(
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
    taps = [Tap.parse(tap) for tap in ('norm', 'relu:input', 'relu', 'norm:input')]
    recorder = Recorder(network, taps, 'student_tap')
    with recorder.recording() as tensors:
        output = network(inputs)
    recorder.check_complete()
    given = network.norm(inputs)
    assert torch.equal(tensors['norm'][0], given) and torch.equal(tensors['relu:input'][0], given)
    assert torch.equal(tensors['relu'][0], given.relu()) and torch.equal(output, given.relu() + 1)
    assert torch.equal(tensors['norm:input'][0], inputs)
    (gradient,) = torch.autograd.grad(tensors['norm'][0].sum(), [network.norm.bias])
    assert gradient.item() == 16


def test_without_copies_the_record_is_what_the_network_goes_on_with():
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sigmoid())
    recorder = Recorder(network, [Tap.parse('0')], 'student_tap', copies=False)
    with recorder.recording() as tensors:
        output = network(torch.randn(1, 1, 4, 4))
    (gradient,) = torch.autograd.grad(output.sum(), tensors['0'])
    torch.testing.assert_close(gradient, output * (1 - output))


def test_what_ends_the_pass_is_not_copied():
    network, given = Overwriting(), []
    network.relu.register_forward_hook(lambda _, args, output: given.append(output))
    taps = [Tap.parse('norm'), Tap.parse('relu')]
    recorder = Recorder(network, taps, 'teacher_tap', stop_after=2)
    with recorder.recording() as tensors:
        network(torch.randn(1, 1, 4, 4))
    recorder.check_complete()
    assert tensors['relu'][0] is given[0] and tensors['norm'][0] is not given[0]
    calls = []
    network.relu.register_forward_hook(lambda *_: calls.append(1))
    early = Recorder(network, [Tap.parse('relu:input')], 'teacher_tap', stop_after=1)
    with early.recording():
        network(torch.randn(1, 1, 4, 4))
    early.check_complete()
    assert not calls, 'an input is recorded before its module runs'


@pytest.mark.parametrize(('tap', 'words'), [
    ('stages[7]', ["student_tap: tap 'stages[7]'", 'has 3 entries; stages[2] or stages[-1] is the last']),
    ('head[0]', ["'head[0]'", 'a Tensor, not a tuple']),
    ('stages:input[1]', ['called with 1 positional argument']),
    ('mix', ["'mix'", 'a dict (', 'tap the modules that make its entries']),
    ('mix[-1]', ["'mix[-1]'", 'a dict (']),
    ('stages[5:]', ['without any tensor']),
])  # fmt: skip
def test_wrong_picks_are_explained(tap, words):
    with pytest.raises(ValueError) as error:
        record(TinyNet(), tap)
    assert all(word in str(error.value) for word in words), error.value


def test_unknown_path_names_close_ones_and_the_level():
    network = toys.build_plain(toys.seg_net())
    with pytest.raises(KeyError) as error:
        resolve_tap(network, Tap.parse('backbone.layer5'), 'student_tap')
    message = str(error.value)
    assert "student_tap='backbone.layer5'" in message and 'EncoderDecoder' in message
    assert 'Close names: backbone.layer' in message
    assert 'Modules in backbone: stem, maxpool, layer1, layer2, layer3, layer4' in message
    with pytest.raises(KeyError, match='Modules in EncoderDecoder: data_preprocessor, backbone, decode_head'):
        resolve_tap(network, Tap.parse('neck'), 'student_tap')


def test_a_module_that_is_not_called_is_refused():
    with pytest.raises(ValueError, match=r"student_tap='idle' never fired in the forward pass of TinyNet"):
        record(TinyNet(), 'head', 'idle')


@pytest.mark.parametrize('kind', ['deeplabv3', 'pspnet', 'fcn'])
def test_decode_head_means_its_logits(kind):
    network = toys.build_plain(toys.seg_net(kind)).eval()
    for name in ('decode_head', 'auxiliary_head'):
        assert resolve_tap(network, Tap.parse(name), 'k').module is getattr(network, name).conv_seg
    inputs = torch.randn(1, 3, 64, 64)
    logits = record(network, 'decode_head', inputs=inputs)['decode_head']
    assert torch.equal(logits[0], network(inputs))


def test_scores_of_a_head_with_a_classifier_of_its_own_are_what_it_returns():
    class OwnLogits(FCNHead):
        def cls_seg(self, feat):
            return 2 * self.conv_seg(feat)

    network = toys.build_plain(toys.seg_net('fcn')).eval()
    network.decode_head.__class__ = OwnLogits
    inputs = torch.randn(1, 3, 64, 64)
    found = record(network, 'decode_head', 'decode_head.conv_seg', inputs=inputs)
    assert torch.equal(found['decode_head'][0], network(inputs))
    assert torch.equal(found['decode_head'][0], 2 * found['decode_head.conv_seg'][0])


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
    network = TinyNet()
    record(network, 'head', 'stages')
    record(network, 'stages', stop_after=1)
    assert toys.hooks_left(network) == 0
    recorder = Recorder(network, [Tap.parse('head')], 'k')
    with pytest.raises(RuntimeError, match='from inside'), recorder.recording():
        raise RuntimeError('from inside')
    with pytest.raises(RuntimeError, match='from inside'):
        replaced(network, 'head', lambda *_: (_ for _ in ()).throw(RuntimeError('from inside')))
    assert toys.hooks_left(network) == 0
    with pytest.raises(KeyError):
        record(network, 'head', 'unknown')
    assert toys.hooks_left(network) == 0


def test_replaced_modules_are_found():
    network = TinyNet()
    recorder = Recorder(network, [Tap.parse('head')], 'k')
    for channels in (3, 5):
        with recorder.recording() as tensors:
            network(torch.ones(1, 2, 4, 4))
        assert [tensor.shape[1] for tensor in tensors['head']] == [channels] * 3, 'the record starts anew'
        network.head = nn.Conv2d(2, 5, 1)


def replaced(network, tap, function, inputs=None):
    inputs = torch.ones(1, 2, 4, 4) if inputs is None else inputs
    with replacing(network, Tap.parse(tap), function, 'tap'):
        return network(inputs)


def test_replaced_tensors_go_on_through_the_network():
    network, inputs = TinyNet(), torch.rand(1, 2, 4, 4)
    mixed, heads = replaced(network, 'stages[1:]', lambda index, tensor: tensor + index, inputs)
    torch.testing.assert_close(mixed['out'], inputs + 2 * inputs)
    for head, seen in zip(heads, (inputs, 2 * inputs, 3 * inputs + 1), strict=True):
        torch.testing.assert_close(head, network.head(seen))
    assert toys.hooks_left(network) == 0
    _, heads = replaced(network, 'head', lambda index, tensor: torch.full_like(tensor, index))
    assert [head.unique().tolist() for head in heads] == [[0.0], [1.0], [2.0]], 'calls of a shared module are counted'
    output = [torch.zeros(1), (torch.ones(1), 'name')]
    changed = Tap.parse('x[-1]').put(output, lambda tensor: tensor + 5)
    assert isinstance(changed, list) and changed[0] is output[0]
    assert isinstance(changed[1], tuple) and changed[1][0].item() == 6 and changed[1][1] == 'name'


@pytest.mark.parametrize(
    ('tap', 'words'),
    [('mix:input[1]', 'an input cannot be replaced'), ('idle', 'never fired'), ('stages[7]', 'has 3 entries')],
)
def test_replacing_refuses(tap, words):
    with pytest.raises(ValueError, match=words):
        replaced(TinyNet(), tap, lambda index, tensor: tensor)


class Cascade(nn.Module):
    """A segmentor whose head needs more than features, beside an auxiliary one."""

    def __init__(self):
        super().__init__()
        self.backbone, self.decode_head, self.auxiliary_head = nn.Conv2d(2, 3, 1), Later(), nn.Conv2d(3, 4, 1)

    def extract_feat(self, inputs):
        return self.backbone(inputs)

    def encode_decode(self, inputs, metas):
        features = self.extract_feat(inputs)
        return self.decode_head(features, features)


class Later(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 5, 1)

    def forward(self, features, before):
        return self.body(features + before)


def test_heads_beside_one_that_needs_more_run_on_the_same_features():
    network, inputs = Cascade(), torch.rand(1, 2, 4, 4)
    taps = [Tap.parse('decode_head.body'), Tap.parse('auxiliary_head')]
    recorder, heads = Recorder(network, taps, 'teacher_tap'), None
    for _ in range(2):  # the second pass knows the heads
        with recorder.recording() as tensors:
            heads = run_parts(network, taps, inputs, heads=heads)
        assert heads == ['decode_head', 'auxiliary_head']
        assert [tensors[tap.text][0].shape[1] for tap in taps] == [5, 4]
