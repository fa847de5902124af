"""Every loss, and what the losses are made of, over drawn shapes, values and precisions: what a formula promises."""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any
from unittest import mock

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from mmdistill_dense import losses
from mmdistill_dense.losses import tensors as blocks
from tests.properties import cases
from tests.properties.cases import CASES, DTYPES, KINDS, ORDINARY, Case, Inputs, few, many, tensor

Draw = Callable[..., Any]
DOUBLE = torch.float64


def graded(
    case: Case, inputs: Inputs, options: dict[str, Any], autocast: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and its gradients of what learns; what does not learn asks for one too, and must not get it."""
    leaves = {n: x.clone().requires_grad_() if x.is_floating_point() else x for n, x in inputs.items()}
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        loss = case.loss(**leaves, **options)
    grads = torch.autograd.grad(loss, [leaves[name] for name in case.learns], allow_unused=True)
    actual = zip(case.learns, grads, strict=True)
    return loss.detach(), {n: torch.zeros_like(inputs[n]) if grad is None else grad for n, grad in actual}


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-7) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=1e-9, equal_nan=False)


def is_finite(case: Case, draw: Draw) -> None:
    """Any legal input gives a finite loss, no less than 0 where that is a distance, and finite gradients."""
    inputs, options = case.draw(draw, KINDS, draw(st.sampled_from([torch.float32, DOUBLE])))
    loss, grads = graded(case, inputs, options)
    assert loss.ndim == 0 and math.isfinite(loss)
    assert all(bool(grad.isfinite().all()) for grad in grads.values())
    if case.sign:
        largest = max((float(x.abs().max()) for x in inputs.values() if x.numel() and x.dtype != torch.bool), default=0)
        assert loss >= -1e-5 * max(1.0, min(largest, 1e4))


def has_a_precision(case: Case, draw: Draw) -> None:
    """Half precision gives float32, the value of the lifted input; autocast outside changes nothing."""
    dtype = draw(st.sampled_from(DTYPES))
    inputs, options = case.draw(draw, ORDINARY, dtype)
    lifted = {name: x.float() if x.is_floating_point() and x.dtype != DOUBLE else x for name, x in inputs.items()}
    loss, grads = graded(case, inputs, options, autocast=draw(st.booleans()))
    expected, expected_grads = graded(case, lifted, options)
    assert loss.dtype == (DOUBLE if dtype == DOUBLE else torch.float32)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-7)
    for name, grad in grads.items():
        assert grad.dtype == dtype and grad.shape == inputs[name].shape
        naive_grad = expected_grads[name].to(dtype)
        torch.testing.assert_close(grad, naive_grad, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def has_the_gradient_of_its_values(case: Case, draw: Draw) -> None:
    """Only the named inputs get a gradient, that of the values: along a random direction it equals their difference.

    Without gradients the value is the same, and nothing is changed in place.
    """
    inputs, options = case.draw(draw, ('normal',), DOUBLE)
    options |= {'student_mask': False} if 'student_mask' in options else {}  # which is taken as a constant
    if 'teacher' in inputs and torch.equal(inputs['student'], inputs['teacher']):
        inputs['teacher'] = 1.5 * inputs['teacher'] + 0.1  # an absolute difference of 0 has no derivative
    leaves = {n: x.clone().requires_grad_() if x.is_floating_point() else x for n, x in inputs.items()}
    loss = case.loss(**leaves, **options)
    loss.backward()
    grads = {name: x.grad for name, x in leaves.items() if x.grad is not None}
    assert set(grads) <= set(case.learns)
    assert all(torch.equal(leaves[name].detach(), x) for name, x in inputs.items())
    with torch.no_grad():
        close(case.loss(**inputs, **options), loss.detach())
    generator = torch.Generator().manual_seed(draw(cases.seeds))
    for name, grad in grads.items():
        step = 1e-7 * torch.randn(grad.shape, generator=generator, dtype=DOUBLE)
        ahead, behind = (case.loss(**dict(inputs, **{name: inputs[name] + sign * step}), **options) for sign in (1, -1))
        actual, expected = (ahead - behind) / 2, (grad * step).sum()
        torch.testing.assert_close(actual, expected, rtol=1e-2, atol=1e-11)


def refuses_other_shapes(case: Case, draw: Draw) -> None:
    """A teacher of another shape is an error that names both shapes, and is never broadcast."""
    inputs, options = case.draw(draw, ORDINARY, DOUBLE)
    axis = case.axes['student'].index(draw(st.sampled_from(case.unlike)))
    teacher = inputs['teacher']
    other = [*teacher.shape]
    other[axis] = draw(st.integers(0, 4).filter(lambda size: size != teacher.shape[axis]))
    if case.any_rank and draw(st.booleans()):
        other.append(1)
    with pytest.raises(ValueError, match=r'differ|shape|must be|fit') as error:
        case.loss(**dict(inputs, teacher=torch.zeros(other, dtype=DOUBLE)), **options)
    if case.any_rank and 'student_keys' not in case.axes:  # else parts of it are compared
        assert all(str(tuple(shape)) in str(error.value) for shape in (inputs['student'].shape, other)), error.value


def hides_no_nan(case: Case, draw: Draw) -> None:
    """Behind a finite loss no gradient is NaN; a loss of whole maps is not finite where a map is not."""
    inputs, options = case.draw(draw, ORDINARY, torch.float32)
    name = draw(st.sampled_from(sorted({*case.learns, *({'teacher'} & set(inputs))})))
    if not inputs[name].numel():
        return
    broken = inputs[name].clone()
    broken.view(-1)[0] = draw(st.sampled_from(case.broken))
    loss, grads = graded(case, dict(inputs, **{name: broken}), options)
    if math.isfinite(loss):
        assert all(bool(grad.isfinite().all()) for grad in grads.values())
    if case.shows_nan and broken.isnan().any():
        assert not math.isfinite(loss), f'NaN of {name} does not show'


def _sizes_of_blocks() -> dict[ModuleType, dict[str, int]]:
    """The private whole numbers of all modules of losses: how many elements, rows, pairs or bytes a block holds."""
    modules = [import_module(f'{losses.__name__}.{found.name}') for found in iter_modules(losses.__path__)]
    return {
        module: found
        for module in modules
        if (found := {name: n for name, n in vars(module).items() if re.fullmatch('_[A-Z_]+', name) and type(n) is int})
    }


BLOCKS = _sizes_of_blocks()


@contextmanager
def in_blocks(size: int) -> Iterator[None]:
    """Let every block of every loss hold so much."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(blocks, '_BLOCK', {'cpu': size}))
        for module, block in BLOCKS.items():
            stack.enter_context(mock.patch.multiple(module, **dict.fromkeys(block, size)))
        yield


def knows_no_blocks(case: Case, draw: Draw) -> None:
    """Small blocks give the value and the gradient of large ones, in which the drawn maps fit whole."""
    inputs, options = case.draw(draw, ORDINARY, DOUBLE)
    loss, grads = graded(case, inputs, options)
    with in_blocks(draw(st.sampled_from([1, 2, 7, 40]))):
        other, other_grads = graded(case, inputs, options)
    close(other, loss)
    for name, grad in grads.items():
        close(other_grads[name], grad)


def promises(case: Case) -> dict[str, Callable[[Case, Draw], None]]:
    """Return what applies to a case, by name."""
    asked = {
        'finite': is_finite,
        'precision': has_a_precision,
        'gradient': has_the_gradient_of_its_values,
        'blocks': knows_no_blocks,
        'shapes': refuses_other_shapes if case.unlike else None,
        'NaN': hides_no_nan,
    }
    return {name: function for name, function in asked.items() if function is not None}


# What the losses are made of, where no formula beside them says it: boxes and grids


def box_weights_are_inverse_areas(draw: Draw) -> None:
    """A cell has the weight of the smallest box over it, whatever the order of the boxes; none: all 0."""
    height, width, count = draw(cases.sides), draw(cases.sides), draw(st.integers(0, 5))
    corners = tensor(draw(cases.seeds), 'normal', (count, 2), DOUBLE) * 5
    boxes = torch.cat([corners, corners + tensor(draw(cases.seeds), 'normal', (count, 2), DOUBLE).abs() * 4], 1)
    with in_blocks(draw(st.sampled_from([1, 3, 64]))):
        painted = losses.box_weights(boxes, height, width)
    assert painted.shape == (height, width)
    assert torch.equal(painted, losses.box_weights(boxes.flip(0), height, width))
    for i in range(height):
        for j in range(width):
            sizes = [
                (math.ceil(x2) - math.floor(x1) + 1) * (math.ceil(y2) - math.floor(y1) + 1)
                for x1, y1, x2, y2 in boxes.tolist()
                if math.floor(x1) <= j <= math.ceil(x2) and math.floor(y1) <= i <= math.ceil(y2)
            ]
            assert float(painted[i, j]) == pytest.approx(1 / min(sizes) if sizes else 0)
    outside = losses.background_weights(painted[None])
    assert float(outside.sum()) == pytest.approx(float((painted == 0).any()))
    assert not (outside[0] * painted).any()


def grids_fit(draw: Draw) -> None:
    """A constant stays, values stay in their range, the size is the asked one; whole images have all pixels inside."""
    shape = draw(cases.batches), draw(cases.channels), draw(cases.sides), draw(cases.sides)
    x = tensor(*draw(cases.values(('normal', 'constant'))), shape, DOUBLE)
    size = draw(cases.sides), draw(cases.sides)
    actual = losses.to_grid(x, size)
    assert actual.shape == (*x.shape[:2], *size)
    assert actual.min() >= x.min() - 1e-9 and actual.max() <= x.max() + 1e-9
    padded = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    images = [(draw(st.integers(1, padded[0])), draw(st.integers(1, padded[1])), 3) for _ in range(2)]  # and channels
    inside = losses.centres_inside([*images, padded], padded, size)
    assert inside.shape == (3, *size) and inside[2].all()
    for actual, image in zip(inside, images, strict=False):
        rows, columns = (
            [(i + 0.5) * (padded[axis] / size[axis]) < image[axis] for i in range(size[axis])] for axis in (0, 1)
        )
        assert actual.tolist() == [[row and column for column in columns] for row in rows]


PARTS = (box_weights_are_inverse_areas, grids_fit)


# What is asked, and how often: in `make test` and in `make soak`.
ASKED: dict[str, tuple[Callable[[Draw], None], settings, settings]] = {}
for name, case in CASES.items():
    for promise, function in promises(case).items():
        ASKED[f'{name}-{promise}'] = partial(function, case), few, many
for part in PARTS:
    ASKED[part.__name__] = part, few, many


@pytest.mark.parametrize('length', [1, pytest.param(2, marks=pytest.mark.soak)])
@pytest.mark.parametrize('name', ASKED)
def test_property(name: str, length: int) -> None:
    asked, effort = ASKED[name][0], ASKED[name][length]

    @effort
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        asked(data.draw)

    holds()
