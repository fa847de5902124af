"""What makes a teacher cheaper leaves what it records as it was, within the tolerance that each option states."""

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdistill_dense.networks.acceleration import Acceleration, fold, foldable, untapped_parts
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.networks.teacher import FrozenTeacher
from tests import toys

FOLDED = 1e-5  # of the largest value, as Acceleration states
HALF = 3e-2
TAPS = {
    'deeplabv3': ['backbone[3]', 'decode_head.conv_seg', 'auxiliary_head.conv_seg'],
    'fcos': ['neck[1]'],
}


def traced(kind: str, taps: list[str], **accelerate) -> FrozenTeacher:
    """A loaded teacher as a student's construction leaves it, its statistics far from their initial values."""
    make = toys.seg_teacher if kind in toys.SEG else toys.det_teacher
    teacher = toys.frozen(dict(make(kind), accelerate=accelerate or False), *taps)
    teacher.load(torch.zeros(1))
    draw = torch.Generator().manual_seed(3)
    for module in teacher.network.modules():
        if isinstance(module, _BatchNorm):
            for value in (module.running_mean, module.weight, module.bias):
                value.data.add_(0.3 * torch.randn(value.shape, generator=draw))
            module.running_var.uniform_(0.3, 3, generator=draw)
    return teacher


def picture(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def assert_close(found: dict, expected: dict, tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        for a, b in zip(found[name], expected[name], strict=True):
            assert a.dtype == b.dtype
            assert float((a - b).abs().max()) <= tolerance * float(b.abs().max()), name


def batch_norms(module: nn.Module) -> int:
    return sum(isinstance(part, _BatchNorm) for part in module.modules())


@pytest.mark.parametrize('kind', TAPS)
def test_folded_norms_change_nothing_but_the_rounding(kind: str) -> None:
    plain, folded = traced(kind, TAPS[kind]), traced(kind, TAPS[kind], fold_bn=True)
    expected = plain(picture())
    assert_close(folded(picture()), expected, FOLDED)
    assert batch_norms(plain.network.backbone) and not batch_norms(folded.network.backbone)
    assert plain.network.state_dict().keys() != folded.network.state_dict().keys()


def test_it_is_exact_in_float64() -> None:
    plain, folded = (traced('deeplabv3', TAPS['deeplabv3'], fold_bn=on) for on in (False, True))
    for teacher in (plain, folded):
        teacher.follow(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    assert_close(folded(picture().double()), plain(picture().double()), 1e-13)


@pytest.mark.parametrize('options', [
    dict(fold_bn=True, channels_last=True), dict(dtype='bfloat16'),
    dict(fold_bn=True, channels_last=True, dtype='bfloat16'),
], ids=str)  # fmt: skip
def test_options_alone_and_together(options: dict) -> None:
    (expected,), (found,) = (
        traced('deeplabv3', ['backbone[3]'], **given)(picture())['backbone[3]'] for given in ({}, options)
    )
    assert_close(dict(map=[found]), dict(map=[expected]), HALF if 'dtype' in options else FOLDED)
    assert ((found - expected).abs().max() > 1e-4 * expected.abs().max()) == ('dtype' in options)


def test_channels_last_reaches_the_maps() -> None:
    tensor = traced('deeplabv3', ['backbone[3]'], channels_last=True)(picture())['backbone[3]'][0]
    assert tensor.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.soak
def test_compiled_parts_keep_their_taps_and_are_what_the_teacher_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    ran, real = set(), torch.compile

    def counting(function):
        compiled = real(function)
        return lambda *inputs, **options: ran.add(function) or compiled(*inputs, **options)

    monkeypatch.setattr(torch, 'compile', counting)
    taps = ['backbone.layer2', 'auxiliary_head.convs']
    expected, teacher = traced('deeplabv3', taps)(picture()), traced('deeplabv3', taps, compile=True)
    for _ in range(2):
        assert_close(teacher(picture()), expected, FOLDED)
    assert ran


def test_the_largest_parts_without_a_tap_inside() -> None:
    network = toys.build_plain(toys.seg_net())
    taps = [Tap.parse('backbone[3]'), Tap.parse('decode_head.conv_seg')]
    parts = {
        name
        for name, module in network.named_modules()
        if any(module is part for part in untapped_parts(network, taps))
    }
    assert {'backbone', 'auxiliary_head', 'decode_head.conv_seg'} <= parts
    assert not any(name.startswith('backbone.') for name in parts)


# What may be folded


class Shared(nn.Module):
    """A convolution before two norms, one before something else, one used twice, and two pairs that may be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.skipped, self.twice, self.tapped, self.free = (nn.Conv2d(3, 3, 1) for _ in range(5))
        self.first, self.second, self.after, self.part, self.watched, self.norm = (nn.BatchNorm2d(3) for _ in range(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(self.shared(x)) + self.second(self.shared(x))
        x = self.after(self.skipped(x) + 1)
        y = self.twice(x)
        x = self.part(y) + y.view_as(y)
        x = self.watched(self.tapped(x))
        return self.norm(self.free(x))


def pairs_of(network: nn.Module, *taps: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    with foldable(network, [Tap.parse(tap) for tap in taps], found), torch.no_grad():
        network.eval()(torch.randn(1, 3, 4, 4))
    return found


def test_only_a_convolution_that_feeds_one_norm_is_folded() -> None:
    assert pairs_of(Shared()) == [('tapped', 'watched'), ('free', 'norm')]


@pytest.mark.parametrize('tap', ['tapped', 'watched:input'])
def test_what_is_tapped_between_stays(tap: str) -> None:
    assert pairs_of(Shared(), tap) == [('free', 'norm')]


def test_a_tapped_norm_is_folded_and_still_tapped() -> None:
    network = Shared().eval()
    x, seen, pairs = torch.randn(2, 3, 4, 4), [], pairs_of(network, 'watched')
    with torch.no_grad():
        network.watched.register_forward_hook(lambda *args: seen.append(args[-1]))
        expected = network(x)
        fold(network, pairs)
        network.watched.register_forward_hook(lambda *args: seen.append(args[-1]))
        torch.testing.assert_close(network(x), expected)
    torch.testing.assert_close(seen[1], seen[0])
    assert isinstance(network.watched, nn.Identity)


class TwoNames(nn.Module):
    """A convolution and a norm that a list holds as well; the pass takes them from the list or by name."""

    def __init__(self, listed: str) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.listed, self.layers = listed, nn.ModuleList([getattr(self, listed)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = dict(convolution=self.convolution, norm=self.norm) | {self.listed: self.layers[0]}
        return parts['norm'](parts['convolution'](x))


@pytest.mark.parametrize('listed', ['convolution', 'norm'])
def test_a_module_of_two_names_stays(listed: str) -> None:
    network, x = TwoNames(listed).eval(), torch.randn(2, 3, 4, 4)
    network.norm.running_mean.fill_(3)
    network.norm.weight.data.fill_(5)
    with torch.no_grad():
        expected = network(x)
        fold(network, pairs_of(network))
        assert torch.equal(network(x), expected)


class NormWithActivation(nn.BatchNorm2d):
    """As timm's BatchNormAct2d."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).relu()


class Standardised(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


@pytest.mark.parametrize('pair', [
    (nn.Conv2d(3, 3, 1), NormWithActivation(3)), (Standardised(3, 3, 1), nn.BatchNorm2d(3)),
    (nn.utils.spectral_norm(nn.Conv2d(3, 3, 1)), nn.BatchNorm2d(3)),  # by a hook
])  # fmt: skip
def test_norms_that_do_more_and_convolutions_that_change_their_weight_stay(pair: tuple) -> None:
    assert pairs_of(nn.Sequential(*pair, nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))) == [('2', '3')]


# Options


@pytest.mark.parametrize(('option', 'message'), [
    (dict(fold=True), 'model.teacher.accelerate is False or a dict of fold_bn'),
    ('all', 'model.teacher.accelerate is False or a dict'),
    (dict(dtype='float8'), "accelerate.dtype must be bfloat16, float16 or None, got 'float8'"),
    (dict(compile='yes'), "accelerate.compile must be True or False, got 'yes'"),
])  # fmt: skip
def test_wrong_options(option: object, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        FrozenTeacher(dict(toys.seg_teacher(), accelerate=option))
    assert Acceleration.parse(None, '') == Acceleration() != Acceleration.parse(False, '')


def test_options_reach_the_teacher_of_a_student() -> None:
    model = toys.distilled(
        teacher=toys.seg_teacher(accelerate=dict(dtype='bfloat16')), distillers=dict(kd=dict(type='LogitKD'))
    )
    plain = toys.distilled(teacher=toys.seg_teacher(accelerate=False), distillers=dict(kd=dict(type='LogitKD')))
    plain.load_state_dict(model.state_dict())
    losses, expected = (toys.losses_of(m)['distill.kd.loss_kd'] for m in (model, plain))
    assert losses.dtype == torch.float32 and losses != expected
    torch.testing.assert_close(losses, expected, rtol=0.05, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='a second stream needs a CUDA device')
def test_a_second_stream_gives_the_same() -> None:
    teacher, beside = traced('deeplabv3', ['backbone[3]']), traced('deeplabv3', ['backbone[3]'], stream=True)
    for one in (teacher, beside):
        one.apply(lambda tensor: tensor.cuda())
    found = beside(picture().cuda())
    beside.join(found)
    assert_close(found, teacher(picture().cuda()), FOLDED)
