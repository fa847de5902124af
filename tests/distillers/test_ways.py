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


def asked_of(fits: Callable[[Way], bool]) -> pytest.MarkDecorator:
    """Ask a test of the ways that fit."""
    return pytest.mark.parametrize('way', [pytest.param(way, id=name) for name, way in WAYS.items() if fits(way)])


ALL, FITTING = asked_of(lambda way: True), asked_of(lambda way: way.option is not WHOLE)


def test_every_registered_method_is_asked() -> None:
    ours = {name for name, kind in DISTILLERS.module_dict.items() if kind.__module__.startswith('mmdistill_dense.')}
    assert ours == {way.name for way in WAYS.values()} | {'CrossKD', 'KDDETR'}, 'which need a head, see their own tests'


def check_finite(loss: Tensor, grad: Tensor) -> None:
    assert math.isfinite(loss) and grad.isfinite().all()


@pytest.mark.parametrize('change', [dict(), dict(c=1), dict(d=1), dict(c=1, d=1), dict(side=1)], ids=str)
@ALL
def test_it_teaches_or_is_refused(way: Way, change: dict[str, int]) -> None:
    """One class, one channel, one position: no training for hours with a constant loss."""
    shapes = way.shapes(**change)
    try:
        distiller = way.made(*shapes)
    except ValueError as error:
        assert change or way.option is WHOLE, error
        assert str(error).startswith('distillers.mine') and len(str(error).split()) > 8
        return
    loss, grad = way.step(distiller, *maps(*shapes), samples())
    check_finite(loss, grad)
    assert grad.norm() > 1e-9, 'a loss without a gradient'


@FITTING
def test_flat_maps_huge_ones_and_none(way: Way) -> None:
    """Finite on constants, zeros, offsets and scales of 1e4, in half precision; no NaN behind a finite loss at 1e18."""
    student, teacher = maps(*way.shapes())
    flat = [x.mean((2, 3), keepdim=True).expand_as(x) for x in (student, teacher)]
    zeros = [torch.zeros_like(x) for x in (student, teacher)]
    for s, t in [
        *((flat[0], teacher), (student, flat[1]), flat, (zeros[0], teacher), (student, zeros[1]), zeros),
        *((student + 1e4, teacher), (student, teacher + 1e4), (student * 1e4, teacher), (student, teacher * 1e4)),
        *((x.contiguous(memory_format=torch.channels_last) for x in (student, teacher)), (student.mT, teacher.mT)),
    ]:
        check_finite(*way.step(way.made(), s, t, samples()))
    for s, t in ((student * 1e18, teacher), (student, teacher * 1e18), (student * 1e18, teacher * 1e18)):
        loss, grad = way.step(way.made(), s, t, samples())
        assert not loss.isfinite() or not grad.isnan().any()
    exact = way.step(way.made(), student, teacher, samples())[0]
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast('cpu', dtype):
            loss, grad = way.step(way.made(), student.to(dtype), teacher.to(dtype), samples())
        assert loss.dtype == torch.float32 and grad.dtype == dtype
        check_finite(loss, grad)
        torch.testing.assert_close(loss, exact, rtol=0.1, atol=1e-2)


@FITTING
def test_nothing_annotated_and_no_picture(way: Way) -> None:
    """All labels ignored and no box: finite. A batch of no picture: finite, or refused in words."""
    student, teacher = maps(*way.shapes())
    check_finite(*way.step(way.made(), student, teacher, samples(ignored=True)))
    try:
        check_finite(*way.step(way.made(), student[:0], teacher[:0], []))
    except ValueError as error:
        assert str(error).startswith('distillers.mine') and 'needs' in str(error)


@asked_of(lambda way: way.option is not WHOLE and not way.reads_labels)
def test_labels_that_no_method_reads_change_nothing(way: Way) -> None:
    assert torch.equal(*(way.step(way.made(), *maps(*way.shapes()), labels)[0] for labels in (samples(), None)))


# RoIHeadKD reads none, and needs the proposals of a pass with labels.
@asked_of(lambda way: way.reads_labels and way.name != 'RoIHeadKD')
@pytest.mark.parametrize(
    'missing', [None, [type(one)(metainfo=one.metainfo) for one in samples()]], ids=['none', 'empty']
)
def test_labels_that_a_method_reads_are_asked_for(way: Way, missing: Any) -> None:
    distiller = way.made()
    distiller.teacher = gfl_teacher() if way.name == 'LD' else None
    with pytest.raises(ValueError, match=r'distillers\.mine (compares classes and )?needs (label maps|boxes)'):
        way.step(distiller, *maps(*way.shapes()), missing)


@FITTING
def test_pictures_smaller_than_the_traced_size_stop_no_run(way: Way) -> None:
    for side in (5, 3, 1):
        check_finite(*way.step(way.made(), *maps(*way.shapes(side=side)), samples()))


@asked_of(lambda way: way.name in ('FeatureMatch', 'PCD', 'QueueKL', 'SimReg'))
def test_what_lies_in_the_padding_takes_no_part(way: Way) -> None:
    """In loss, gradient, statistics and queues; all that lies in the picture does."""
    student, teacher = maps(*way.shapes())
    inside = torch.ones(2, SIDE, SIDE, dtype=torch.bool)
    inside[1, 5:] = inside[1, :, 3:] = False
    found = []
    for number in range(2):
        distiller = way.made()
        given = [torch.where(inside[:, None], x, 7.0 * number * x.flip(1)) for x in (student, teacher)]
        for distiller.state.iteration in (0, 1):  # the second one meets the queue of the first
            loss, grad = way.step(distiller, *given, samples(padded=True))
        found.append((loss, grad, distiller.state_dict()))
    torch.testing.assert_close(*found)
    touched = found[0][1].abs().sum(1) > 0
    drawn = way.option.get('num_pixels') or way.option.get('diagonal') is False
    assert not touched[~inside].any() and (drawn or torch.equal(touched, inside))


@FITTING
def test_evaluation_and_a_broken_map_leave_no_trace(way: Way) -> None:
    """In no queue and no statistics; those of batch norms are broken in the student too."""
    student, teacher = maps(*way.shapes())
    distiller = way.made().eval()
    before = {name: value.clone() for name, value in distiller.state_dict().items()}
    way.step(distiller, student, teacher, samples())
    assert not toys.differing(before, distiller.state_dict())
    for value in (math.nan, math.inf):
        distiller, broken = way.made(), teacher.clone()
        broken[0, :, 1, 2] = value
        for given in (broken, teacher):
            found = way.step(distiller, student, given, samples())
            kept = {name: x for name, x in distiller.named_buffers() if 'running' not in name}
            assert not [name for name, x in kept.items() if not x.isfinite().all()]
        check_finite(*found)


@asked_of(lambda way: way.name not in ('LD', 'RoIHeadKD') and way.option.get('form') not in ('l1', 'smooth_l1'))
def test_rows_of_tokens_are_refused(way: Way) -> None:
    """(B, N, C): a softmax over dim 1 would be one over the tokens. Plain differences need no axis of classes."""
    with pytest.raises(ValueError, match=r'^distillers\.mine: .*64, 6\)'):
        way.made((2, 64, 6), (2, 64, 6))


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
def test_a_term_of_weight_0_is_left_out_and_the_others_stay(name: str, off: str, left: list) -> None:
    """Each parameter gets a gradient, since DDP waits for every one of them."""
    way, (student, teacher), found = Way(name, {**WAYS[name].option, off: 0.0}), maps(*WAYS[name].shapes()), []
    for one in (WAYS[name], way):
        distiller = one.made()
        sides = [one.recorded(distiller, x, samples()) for x in (student.clone().requires_grad_(), teacher)]
        found.append(distiller.step(*sides, samples()))
    whole, part = ({key: value for key, value in one.items() if key.startswith('loss')} for one in found)
    assert sorted(part) == left and all(torch.equal(part[key], whole[key]) for key in left)
    sum(part.values()).backward()
    assert all(parameter.grad is not None for parameter in distiller.parameters())


@pytest.mark.parametrize('name', ['SKD', 'AfDCD1', 'CIRKD'])
def test_a_coarse_student_is_compared_on_the_finer_grid(name: str) -> None:
    """Its own 2 x 2 positions would be pooled to one; the teacher's grid is the one that counts."""
    shapes = (2, 4, 2, 2), (2, 6, SIDE, SIDE)
    way = Way(WAYS[name].name, dict(WAYS[name].option, resize='student'))
    assert way.step(way.made(*shapes), *maps(*shapes), samples())[1].any()


class _NoFloat64(TorchDispatchMode):
    """Refuses tensors of float64, as Apple's GPUs do."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        assert not any(isinstance(x, Tensor) and x.dtype == torch.float64 for x in tree_leaves(found)), func
        return found


@ALL
def test_no_method_needs_float64(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that lacks it; a stand-in for one, as there is none here."""
    monkeypatch.setattr(precision, 'WITHOUT_FLOAT64', {'cpu'})
    shapes = way.shapes(side=2 * SIDE)
    distiller, given = way.made(*shapes), maps(*shapes)
    with _NoFloat64():
        loss, grad = way.step(distiller, *given, samples())
    check_finite(loss, grad)
