"""What every method promises in every way that it compares: on bare maps, degenerate ones too, and in real networks."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmdistill_dense.losses import tensors as precision
from mmdistill_dense.registry import DISTILLERS
from tests import toys
from tests.distillers.case import DistillerCase
from tests.distillers.ways import CASES, SIDE, WAYS, WHOLE, Way, gfl_teacher, maps, samples

# The shared case of each method, in tiny real networks too


class TestEveryMethod(DistillerCase):
    """Each case in turn; LD's teacher has a head that says which anchors are positive."""

    @pytest.fixture(autouse=True, params=CASES)
    def case(self, request: pytest.FixtureRequest) -> None:
        option, facts = CASES[request.param]
        vars(self).update(facts, option=dict(option, type=request.param.split()[0]))
        if self.option['type'] == 'LD':
            self.samples = toys.det_batch()['data_samples']

    def make(self, **changes: Any) -> Any:
        distiller = super().make(**changes)
        distiller.teacher = gfl_teacher() if self.option['type'] == 'LD' else distiller.teacher
        return distiller

    @pytest.mark.parametrize('case', [name for name, (_, facts) in CASES.items() if 'zero_on_identical' in facts],
                             indirect=True)  # fmt: skip
    def test_identical_maps(self) -> None:
        super().test_identical_maps()

    @pytest.mark.sample(10)
    def test_step_in_a_real_network(self) -> None:
        super().test_step_in_a_real_network()


def asked_of(fits: Callable[[Way], bool]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        'method', [pytest.param(method, id=name) for name, method in WAYS.items() if fits(method)]
    )


ALL, FITTING = asked_of(lambda method: True), asked_of(lambda method: method.option is not WHOLE)


def test_every_registered_method_is_asked() -> None:
    ours = {name for name, kind in DISTILLERS.module_dict.items() if kind.__module__.startswith('mmdistill_dense.')}
    assert ours == {method.name for method in WAYS.values()} | {'CrossKD', 'KDDETR'}, (
        'which need a head, see their own tests'
    )


def check_finite(loss: Tensor, grad: Tensor) -> None:
    assert math.isfinite(loss) and grad.isfinite().all()


@pytest.mark.parametrize('change', [dict(), dict(c=1), dict(d=1), dict(c=1, d=1), dict(side=1)], ids=str)
@ALL
def test_it_teaches_or_is_refused(method: Way, change: dict[str, int]) -> None:
    """One class, one channel, one position: no training for hours with a constant loss."""
    shapes = method.shapes(**change)
    try:
        distiller = method.made(*shapes)
    except ValueError as error:
        assert change or method.option is WHOLE, error
        assert str(error).startswith('distillers.mine') and len(str(error).split()) > 8
        return
    loss, grad = method.step(distiller, *maps(*shapes), samples())
    check_finite(loss, grad)
    assert grad.norm() > 1e-9, 'a loss without a gradient'


@FITTING
def test_flat_huge_or_half_precision_maps(method: Way) -> None:
    """Finite on constants, zeros, offsets and scales of 1e4, in float16; no NaN behind a finite loss at 1e18."""
    student, teacher = maps(*method.shapes())
    flat = [x.mean((2, 3), keepdim=True).expand_as(x) for x in (student, teacher)]
    zeros = [torch.zeros_like(x) for x in (student, teacher)]
    for s, t in [
        *((flat[0], teacher), (student, flat[1]), flat, (zeros[0], teacher), (student, zeros[1]), zeros),
        *((student + 1e4, teacher), (student, teacher + 1e4), (student * 1e4, teacher), (student, teacher * 1e4)),
        *((x.contiguous(memory_format=torch.channels_last) for x in (student, teacher)), (student.mT, teacher.mT)),
    ]:
        check_finite(*method.step(method.made(), s, t, samples()))
    for s, t in ((student * 1e18, teacher), (student, teacher * 1e18), (student * 1e18, teacher * 1e18)):
        loss, grad = method.step(method.made(), s, t, samples())
        assert not loss.isfinite() or not grad.isnan().any()
    with torch.autocast('cpu', torch.float16):
        half = method.step(method.made(), student.half(), teacher.half(), samples())
    check_finite(*half)
    exact = method.step(method.made(), student, teacher, samples())[0]
    torch.testing.assert_close(half[0], exact, rtol=0.1, atol=1e-2)


@FITTING
def test_nothing_annotated(method: Way) -> None:
    """All labels ignored and no box: finite. A batch of no picture: finite, or refused in words."""
    student, teacher = maps(*method.shapes())
    check_finite(*method.step(method.made(), student, teacher, samples(ignored=True)))
    try:
        check_finite(*method.step(method.made(), student[:0], teacher[:0], []))
    except ValueError as error:
        assert str(error).startswith('distillers.mine') and 'needs' in str(error)


# RoIHeadKD reads none, and needs the proposals of a pass with labels.
@asked_of(lambda method: method.reads_labels and method.name != 'RoIHeadKD')
@pytest.mark.parametrize(
    'missing', [None, [type(sample)(metainfo=sample.metainfo) for sample in samples()]], ids=['none', 'empty']
)
def test_labels_that_a_method_reads_are_asked_for(method: Way, missing: Any) -> None:
    distiller = method.made()
    distiller.teacher = gfl_teacher() if method.name == 'LD' else None
    with pytest.raises(ValueError, match=r'distillers\.mine (compares classes and )?needs (label maps|boxes)'):
        method.step(distiller, *maps(*method.shapes()), missing)


@FITTING
def test_pictures_smaller_than_the_traced_size_stop_no_run(method: Way) -> None:
    for side in (5, 3, 1):
        check_finite(*method.step(method.made(), *maps(*method.shapes(side=side)), samples()))


@asked_of(lambda method: method.name in ('FeatureMatch', 'PCD', 'QueueKL', 'SimReg'))
def test_what_lies_in_the_padding_takes_no_part(method: Way) -> None:
    """In loss, gradient, statistics and queues; all that lies in the picture does."""
    student, teacher = maps(*method.shapes())
    inside = torch.ones(2, SIDE, SIDE, dtype=torch.bool)
    inside[1, 5:] = inside[1, :, 3:] = False
    actual = []
    for number in range(2):
        distiller = method.made()
        pair = [torch.where(inside[:, None], x, 7.0 * number * x.flip(1)) for x in (student, teacher)]
        for distiller.state.iteration in (0, 1):  # the second one meets the queue of the first
            loss, grad = method.step(distiller, *pair, samples(padded=True))
        actual.append((loss, grad, distiller.state_dict()))
    torch.testing.assert_close(*actual)
    touched = actual[0][1].abs().sum(1) > 0
    drawn = method.option.get('num_pixels') or method.option.get('diagonal') is False
    assert not touched[~inside].any() and (drawn or torch.equal(touched, inside))


@FITTING
def test_evaluation_leaves_no_trace(method: Way) -> None:
    """In no queue and no statistics; those of batch norms are broken in the student too."""
    student, teacher = maps(*method.shapes())
    distiller = method.made().eval()
    before = {name: value.clone() for name, value in distiller.state_dict().items()}
    method.step(distiller, student, teacher, samples())
    assert not toys.differing(before, distiller.state_dict())
    for value in (math.nan, math.inf):
        distiller, broken = method.made(), teacher.clone()
        broken[0, :, 1, 2] = value
        for targets in (broken, teacher):
            losses = method.step(distiller, student, targets, samples())
            buffers = {name: x for name, x in distiller.named_buffers() if 'running' not in name}
            assert not [name for name, x in buffers.items() if not x.isfinite().all()]
        check_finite(*losses)


@asked_of(
    lambda method: method.name not in ('LD', 'RoIHeadKD') and method.option.get('form') not in ('l1', 'smooth_l1')
)
def test_rows_of_tokens_are_refused(method: Way) -> None:
    """(B, N, C): a softmax over dim 1 would be one over the tokens. Plain differences need no axis of classes."""
    with pytest.raises(ValueError, match=r'^distillers\.mine: .*64, 6\)'):
        method.made((2, 64, 6), (2, 64, 6))


@pytest.mark.parametrize(('name', 'off', 'left'), [
    ('AfDCD', 'fd_weight', ['loss_ctr']),
    ('AfDCD', 'ctr_weight', ['loss_fd']),
    ('DeFeat', 'foreground_weight', ['loss_background']),
    ('DeFeat', 'background_weight', ['loss_foreground']),
    ('FRS', 'class_weight', ['loss_feature']),
    ('FRS', 'feature_weight', ['loss_class']),
    ('FreeKD', 'mse_weight', ['loss_freekd']),
    ('LD', 'main_weight', ['loss_kd', 'loss_vlr']),
    ('LD', 'valuable_weight', ['loss_kd', 'loss_ld']),
    ('LD', 'class_weight', ['loss_ld', 'loss_vlr']),
])  # fmt: skip
def test_a_term_of_weight_0_is_left_out(name: str, off: str, left: list) -> None:
    """Each parameter gets a gradient, since DDP waits for every one of them."""
    method, (student, teacher), actual = Way(name, {**WAYS[name].option, off: 0.0}), maps(*WAYS[name].shapes()), []
    for variant in (WAYS[name], method):
        distiller = variant.made()
        sides = [variant.recorded(distiller, x, samples()) for x in (student.clone().requires_grad_(), teacher)]
        actual.append(distiller.step(*sides, samples()))
    whole, part = ({key: value for key, value in terms.items() if key.startswith('loss')} for terms in actual)
    assert sorted(part) == left and all(torch.equal(part[key], whole[key]) for key in left)
    sum(part.values()).backward()
    assert all(parameter.grad is not None for parameter in distiller.parameters())


@pytest.mark.parametrize('name', ['SKD', 'AfDCD1', 'CIRKD'])
def test_a_coarse_student_is_compared_on_the_finer_grid(name: str) -> None:
    """Its own 2 x 2 positions would be pooled to one; the teacher's grid is the one that counts."""
    shapes = (2, 4, 2, 2), (2, 6, SIDE, SIDE)
    method = Way(WAYS[name].name, dict(WAYS[name].option, resize='student'))
    assert method.step(method.made(*shapes), *maps(*shapes), samples())[1].any()


class _NoFloat64(TorchDispatchMode):
    """Refuses tensors of float64, as Apple's GPUs do."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        actual = func(*args, **(kwargs or {}))
        assert not any(isinstance(x, Tensor) and x.dtype == torch.float64 for x in tree_leaves(actual)), func
        return actual


@ALL
def test_no_method_needs_float64(method: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that lacks it; a stand-in for one, as there is none here."""
    monkeypatch.setattr(precision, 'WITHOUT_FLOAT64', {'cpu'})
    shapes = method.shapes(side=2 * SIDE)
    distiller, argv = method.made(*shapes), maps(*shapes)
    with _NoFloat64():
        loss, grad = method.step(distiller, *argv, samples())
    check_finite(loss, grad)
