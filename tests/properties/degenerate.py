"""What is asked of every loss on degenerate inputs: flat ones, of one element or none, huge ones, other layouts."""

import math
from typing import Any

import hypothesis.strategies as st
import torch
from torch import Tensor

from tests.properties.cases import CASES, Case, Inputs
from tests.properties.promises import DOUBLE, Draw, graded
from tests.properties.strategies import DTYPES, ORDINARY

STEEP = 1e4  # how many times the ordinary gradient is too much


def attempt(case: Case, inputs: Inputs, options: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]] | None:
    """The loss and its gradients, or ``None`` where the inputs are refused in words."""
    try:
        loss, grads = graded(case, inputs, options)
    except ValueError as error:
        assert len(str(error).split()) > 4, f'{error} says too little'
        return None
    if loss.isfinite():
        assert not any(bool(grad.isnan().any()) for grad in grads.values()), 'NaN behind a finite loss'
    return loss, grads


def _finite(found: tuple[Tensor, dict[str, Tensor]] | None) -> None:
    if found is not None:
        assert math.isfinite(found[0]) and all(bool(grad.isfinite().all()) for grad in found[1].values())


def _sides(case: Case, draw: Draw) -> tuple[str, ...]:
    """One of the compared sides, or both."""
    names = [name for name in ('student', 'teacher') if name in case.axes] or [*case.learns]
    return draw(st.sampled_from([*((name,) for name in names), tuple(names)]))


def flat_inputs_are_no_cliff(case: Case, draw: Draw) -> None:
    """Rows without variation: finite, and a gradient of moderate size."""
    inputs, options = case.draw(draw, ('normal',), torch.float32)
    ordinary = attempt(case, inputs, options)
    sides, zero = _sides(case, draw), draw(st.booleans())
    if case.learns == ('student',) and 'row_weight' in case.axes:
        zero = True  # unit rows or none
    axis = draw(st.integers(0, 3))
    changed = dict(inputs)
    for name in sides:
        x = inputs[name]
        whole = x.mean(axis % x.ndim, keepdim=True).expand_as(x) if x.numel() else x
        changed[name] = torch.zeros_like(x) if zero else whole.clone()
    found = attempt(case, changed, options)
    _finite(found)
    if ordinary is None or found is None:
        return
    for name, grad in found[1].items():
        usual = max(float(ordinary[1][name].norm()), 0.1)  # a saturated softmax has next to none
        assert float(grad.norm()) <= STEEP * usual, name


def one_element_or_none_is_refused_or_finite(case: Case, draw: Draw) -> None:
    """An axis of one element, or of none: no picture, no position and no row cost nothing."""
    inputs, options = case.draw(draw, ('normal',), torch.float32)
    letter = draw(
        st.sampled_from(sorted({letter for axes in case.axes.values() for letter in axes} & set('bhwnckdgt')))
    )
    count = draw(st.sampled_from([0, 1])) if letter in 'bhwngk' else 1
    cut = {
        name: x.narrow(axes.index(letter), 0, min(count, x.shape[axes.index(letter)])) if letter in axes else x
        for (name, axes), x in ((item, inputs[item[0]]) for item in case.axes.items())
    }
    found = attempt(case, cut, options)
    _finite(found)
    if found is not None and not count and letter in case.axes[case.learns[0]]:
        assert found[0] == 0, 'a loss of nothing'


def keeps_its_digits(case: Case, draw: Draw) -> None:
    """A large offset or scale of the student or the teacher: the value that double precision gives."""
    inputs, options = case.draw(draw, ('normal',), torch.float32)
    sides, factor, offset = _sides(case, draw), *draw(st.sampled_from([(1.0, 1e4), (1e4, 0.0)]))
    if 'row_weight' in case.axes:
        return  # rows of length 1
    changed = dict(inputs, **{name: inputs[name] * factor + offset for name in sides})
    found = attempt(case, changed, options)
    _finite(found)
    if found is None:
        return
    exact, _ = graded(case, {n: x.to(DOUBLE) if x.is_floating_point() else x for n, x in changed.items()}, options)
    digits = 2e-2 if case.loss is CASES['channel attention'].loss else 2e-5
    assert float((found[0] - exact).abs()) <= 2e-3 * float(exact.abs()) + digits
    if case.sign:
        assert found[0] >= -2e-5


def overflows_in_sight(case: Case, draw: Draw) -> None:
    """Values of 1e18, whose squares no sum holds: where the loss is finite, so is its gradient."""
    inputs, options = case.draw(draw, ('normal',), torch.float32)
    changed = dict(inputs, **{name: inputs[name] * 1e18 for name in _sides(case, draw)})
    if 'row_weight' not in case.axes:
        attempt(case, changed, options)


def layouts_do_not_matter(case: Case, draw: Draw) -> None:
    """Channels-last maps, views of larger tensors, expanded ones: the same loss and the same gradient, in any dtype."""
    dtype = draw(st.sampled_from(DTYPES))
    inputs, options = case.draw(draw, ORDINARY, dtype)
    found = attempt(case, inputs, options)
    layout = draw(st.sampled_from([_channels_last, _strided, _transposed]))
    other = attempt(case, {n: layout(x) if x.is_floating_point() else x for n, x in inputs.items()}, options)
    assert (found is None) == (other is None)
    if found is None or other is None:
        return
    eps = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(other[0], found[0], rtol=1e-4, atol=1e-5)
    for name, grad in found[1].items():
        torch.testing.assert_close(other[1][name], grad, rtol=max(eps, 1e-3), atol=max(eps, 1e-5))


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _strided(x: Tensor) -> Tensor:
    return torch.stack([x, x], -1)[..., 0]


def _transposed(x: Tensor) -> Tensor:
    return x.mT.contiguous().mT if x.ndim > 1 else x


QUESTIONS = (
    *(flat_inputs_are_no_cliff, one_element_or_none_is_refused_or_finite, keeps_its_digits),
    *(overflows_in_sight, layouts_do_not_matter),
)
