"""What makes a teacher cheaper leaves what it records as it was, within the tolerance that each option states."""

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from mmdistill_dense.networks.acceleration import Acceleration
from mmdistill_dense.networks.teacher import FrozenTeacher
from tests import toys

ROUNDING = 1e-5  # of the largest value, as Acceleration states
HALF = 3e-2


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


@pytest.mark.parametrize('options', [
    dict(channels_last=True), dict(dtype='bfloat16'), dict(channels_last=True, dtype='bfloat16'),
], ids=str)  # fmt: skip
def test_options_alone_and_together(options: dict) -> None:
    (expected,), (found,) = (
        traced('deeplabv3', ['backbone[3]'], **given)(picture())['backbone[3]'] for given in ({}, options)
    )
    assert_close(dict(map=[found]), dict(map=[expected]), HALF if 'dtype' in options else ROUNDING)
    assert ((found - expected).abs().max() > 1e-4 * expected.abs().max()) == ('dtype' in options)
    assert found.is_contiguous(memory_format=torch.channels_last) or 'channels_last' not in options


# Options


@pytest.mark.parametrize(('option', 'message'), [
    (dict(fold=True), "model.teacher.accelerate has no option 'fold'; known: channels_last, dtype"),
    (dict(fold_bn=True), 'accelerate.fold_bn has left: leave it out'),
    ('all', 'model.teacher.accelerate must be a dict of channels_last, dtype'),
    (dict(dtype='float8'), "accelerate.dtype must be one of 'bfloat16', 'float16' or None, got 'float8'"),
    (dict(channels_last='yes'), "accelerate.channels_last must be True or False, got 'yes'"),
])  # fmt: skip
def test_wrong_options(option: object, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        FrozenTeacher(dict(toys.seg_teacher(), accelerate=option))
    assert Acceleration.parse(None, '') == Acceleration() == Acceleration.parse(False, '')


def test_options_reach_the_teacher_of_a_student() -> None:
    model = toys.distilled(
        teacher=toys.seg_teacher(accelerate=dict(dtype='bfloat16')), distillers=dict(kd=dict(type='LogitKD'))
    )
    plain = toys.distilled(teacher=toys.seg_teacher(accelerate=False), distillers=dict(kd=dict(type='LogitKD')))
    plain.load_state_dict(model.state_dict())
    losses, expected = (toys.losses_of(m)['distill.kd.loss_kd'] for m in (model, plain))
    assert losses.dtype == torch.float32 and losses != expected
    torch.testing.assert_close(losses, expected, rtol=0.05, atol=0)
