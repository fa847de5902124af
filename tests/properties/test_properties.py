"""Every loss, and what the losses are made of, over drawn shapes, values and precisions: what a formula promises.

Numbers come from torch under a drawn seed, so that an example is cheap and shrinks by its shape and kind.
"""

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any
from unittest import mock

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from mmdistill_dense import losses
from mmdistill_dense.losses import tensors as blocks

# All are legal: what a network gives at the start, at a dead channel, in a padded corner, before it diverges.
KINDS = ('normal', 'zeros', 'constant', 'sparse', 'large', 'small', 'one pixel')
ORDINARY = ('normal', 'sparse')  # for equalities, which large or vanishing values meet only up to their rounding
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

SLOW = [HealthCheck.too_slow]
few = settings(max_examples=4, deadline=None, derandomize=True, database=None, suppress_health_check=SLOW)
many = settings(few, max_examples=int(os.environ.get('PROPERTY_EXAMPLES', 50)))  # in `make soak`

seeds = st.integers(0, 2**31 - 1)
sides = st.integers(1, 9)
batches = st.integers(1, 4)
channels = st.integers(1, 6)
temperatures = st.sampled_from([0.05, 0.5, 1.0, 4.0])


def tensor(seed: int, kind: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers of a kind; half precision never leaves its range."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == 'zeros':
        x = torch.zeros_like(x)
    elif kind == 'constant':
        x = torch.full_like(x, float(x.flatten()[0]) if x.numel() else 0.0)
    elif kind == 'sparse':
        x = x * (torch.rand(shape, generator=generator) < 0.5)
    elif kind == 'large':
        x = x * 1e4
    elif kind == 'small':
        x = x * 1e-20
    elif kind == 'one pixel':
        x = x * (torch.arange(x[0, 0].numel() if x.ndim > 2 else 1).eq(0).view(shape[2:] if x.ndim > 2 else ()))
    return _in_range(x, dtype)


def _in_range(x: Tensor, dtype: torch.dtype) -> Tensor:
    largest = torch.finfo(dtype).max
    return x.clamp(-largest, largest).to(dtype)


def values(kinds: tuple[str, ...] = KINDS) -> st.SearchStrategy[tuple[int, str]]:
    """A seed and a kind, the arguments of :func:`tensor`."""
    return st.tuples(seeds, st.sampled_from(kinds))


Inputs = dict[str, Tensor]
Strategies = Mapping[str, st.SearchStrategy[Any]]
rows = st.integers(0, 9)
LENGTHS: Strategies = {
    **dict(b=batches, c=channels, d=channels, h=sides, w=sides, t=batches, n=rows, k=rows),
    **dict(g=st.integers(0, 3), j=st.integers(2, 4), m=st.integers(1, 17)),
}


def _like(draw: Any, shape: Any, kind: str = 'normal') -> Tensor:
    return tensor(draw(seeds), kind, shape, torch.float64)


def _chance(draw: Any, shape: Any) -> Tensor:
    share = draw(st.sampled_from([0.0, 0.5, 1.0]))
    return torch.rand(shape, generator=torch.Generator().manual_seed(draw(seeds))) < share


def _labels(draw: Any, shape: Any) -> Tensor:
    """Three classes, ignored ones on both sides of them, or nothing but ignored ones."""
    actual = torch.randint(-1, 4, shape, generator=torch.Generator().manual_seed(draw(seeds)))
    return actual.fill_(255) if draw(st.integers(0, 4)) == 0 else actual


# What the tensors beside the compared ones hold, by name.
HELD: dict[str, Callable[..., Tensor]] = {
    **dict.fromkeys(
        ('weight', 'position', 'channel', 'row_weight'), lambda draw, shape: _like(draw, shape, 'sparse').abs()
    ),
    **dict.fromkeys(('inside', 'valid'), _chance),
    **dict.fromkeys(
        ('negatives', 'bands', 'conv_weight', 'conv_bias', 'fc_weight', 'fc_bias', 'student_keys', 'teacher_keys'),
        _like,
    ),
    'richness': lambda draw, shape: _like(draw, shape).sigmoid(),
    'mask': lambda draw, shape: _like(draw, shape).sigmoid().round(),
    'labels': _labels,
}


@dataclass(frozen=True)
class Case:
    """A loss function, and the tensors and options that hypothesis draws for it.

    ``axes`` names the axes of every tensor: b pictures, h and w positions, c channels of the student (d of a teacher
    that may have others), further letters as a loss needs them; a digit is a length. ``options`` are drawn too.
    ``kinds`` are the only values that are legal, ``made`` changes what was drawn. ``unlike``:
    the student may differ in these axes for an error, and in their number where ``any_rank``. ``shows_nan``: a NaN
    anywhere in a map makes the loss NaN. ``broken``: what a network that diverged may put into the inputs.
    """

    loss: Callable[..., Tensor]
    axes: Mapping[str, str]
    options: Strategies = field(default_factory=dict)
    learns: tuple[str, ...] = ('student',)
    lengths: Strategies = field(default_factory=dict)
    kinds: tuple[str, ...] = ()
    made: Callable[[Inputs], Inputs] = lambda inputs: inputs
    unlike: str = 'bchw'
    any_rank: bool = True
    shows_nan: bool = True
    broken: tuple[float, ...] = (math.nan, math.inf)

    def draw(self, draw: Any, kinds: tuple[str, ...], dtype: torch.dtype) -> tuple[Inputs, dict[str, Any]]:
        """Tensors and options."""
        kinds = tuple(kind for kind in kinds if kind in (self.kinds or kinds))
        letters = sorted({letter for axes in self.axes.values() for letter in axes} & {*LENGTHS})
        length = {letter: draw({**LENGTHS, **self.lengths}[letter]) for letter in letters}
        length['x'] = length.get('c', 0)  # of a square kernel
        inputs: Inputs = {}
        for name, axes in self.axes.items():
            shape = tuple(length[axis] if axis.isalpha() else int(axis) for axis in axes)
            x = HELD[name](draw, shape) if name in HELD else tensor(*draw(values(kinds)), shape, torch.float64)
            inputs[name] = _in_range(x, dtype) if x.is_floating_point() else x
        if self.axes.get('teacher', '-') == self.axes.get('student') and draw(st.integers(0, 5)) == 0:
            inputs['teacher'] = inputs['student'].clone()
        return self.made(inputs), {name: draw(option) for name, option in self.options.items()}


def _unit_rows(inputs: Inputs) -> Inputs:
    unit = ('student', 'teacher', 'negatives')
    return {n: F.normalize(x.double(), dim=1).to(x.dtype) if n in unit else x for n, x in inputs.items()}


def _with_branch(student: Tensor, teacher: Tensor, tokens: Tensor, **rest: Any) -> Tensor:
    branch = losses.Branch(**{name: rest.pop(name) for name in losses.Branch._fields})
    return losses.masked_feature_loss(student, teacher, tokens, branch, **rest)


def _pixel_rows(student: Tensor, teacher: Tensor, valid: Tensor, negatives: Tensor) -> Tensor:
    """What PCD makes of two maps."""
    s, t, weight = losses.pixel_pairs(student, teacher, valid)
    weight = weight / weight.sum().clamp_min(1)
    return losses.pixel_info_nce(s, t, F.normalize(negatives.to(s.dtype), dim=1), 0.2, weight)[0]


def _attended(student: Tensor, teacher: Tensor, temperature: float, attention: Any) -> Tensor:
    """What FGD compares: attention of both sides."""
    return losses.absolute_error(attention(student, temperature), attention(teacher.detach(), temperature))


def _contrast(student: Tensor, teacher: Tensor, depth: int, **options: Any) -> Tensor:
    """Of groups of so many channels."""
    return losses.dense_contrast(student, teacher, groups=student.shape[1] // depth, **options)


def some(*options: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(options)


MAPS = {'student': 'bchw', 'teacher': 'bchw'}
FREE = {'student': 'bchw', 'teacher': 'bdhw'}  # channels of their own
WARM = dict(temperature=temperatures)
TOKENS = dict(student_mask=st.booleans(), eps=some(0.0, 1e-5), factor=some(0.5, 1.0))
BRANCH = dict(conv_weight='xc33', conv_bias='x', fc_weight='tx11', fc_bias='t')
CASES: dict[str, Case] = {
    **{name: Case(getattr(losses, name), MAPS) for name in ('absolute_error', 'instance_distance', 'standardized_mse')},
    **{f'{name}_divergence': Case(getattr(losses, f'{name}_divergence'), MAPS, WARM)
       for name in ('channel', 'softmax', 'sigmoid')},
    **{name: Case(getattr(losses, name), {**MAPS, 'richness': 'bhw'}) for name in ('rich_squares', 'rich_entropy')},
    'attention_distance': Case(
        losses.attention_distance, FREE, dict(power=some(1.0, 1.5, 2.0, 4.0), reduction=some('mean', 'sum')),
        unlike='bhw',
    ),
    'dense_contrast': Case(
        _contrast, MAPS,
        dict(
            contrast=some('omni', 'channel', 'spatial'), negatives=some('other_groups', 'all'), depth=some(1, 2),
            temperature=some(0.07, 1.0), pool_size=st.integers(0, 2), patch_size=some(None, (1, 2), (2, 2), (3, 1)),
        ),
        lengths=dict(b=st.integers(1, 2), c=some(4, 6), h=st.integers(6, 7), w=st.integers(4, 6)),
    ),
    'correlation_distance': Case(
        losses.correlation_distance, MAPS, dict(WARM, activation=some('softmax', 'sigmoid'))
    ),
    **{f'{kind} attention': Case(
        _attended, MAPS, dict(WARM, attention=some(getattr(losses, f'{kind}_attention'))), unlike=axes, any_rank=False
    ) for kind, axes in (('spatial', 'bhw'), ('channel', 'bc'))},
    'focal_entropy': Case(losses.focal_entropy, {**MAPS, 'weight': 'bhw'}, dict(beta=some(0.0, 1.0, 2.0))),
    'focal_error': Case(losses.focal_error, {**MAPS, 'position': 'bhw', 'channel': 'bc'}, shows_nan=False),
    'decoupled_squares': Case(lambda *_, **maps: losses.decoupled_squares(**maps).sum(), {**MAPS, 'mask': 'bhw'}),
    'shifted_error': Case(losses.shifted_error, {**MAPS, 'shift': 'bc'}, learns=('student', 'shift')),
    'pixel_info_nce': Case(
        lambda *_, **arguments: losses.pixel_info_nce(**arguments)[0],
        dict(student='nc', teacher='nc', negatives='kc', row_weight='n'),
        dict(temperature=some(0.005, 0.2, 1.0), block=some(None, 1, 4)),
        kinds=('normal', 'sparse', 'zeros'), made=_unit_rows, unlike='nc', shows_nan=False,
        broken=(math.nan,),  # they are unit rows; infinite pixels become NaN when they are made
    ),
    'pixel_pairs': Case(_pixel_rows, {**MAPS, 'valid': 'bhw', 'negatives': 'kc'}, shows_nan=False),
    'weighted_divergence': Case(
        losses.weighted_divergence, dict(student='nm', teacher='nm', weight='n'), WARM, unlike='nm', shows_nan=False
    ),
    'mask_dice': Case(
        losses.mask_dice, dict(m='bthw'), learns=('m',), unlike='',
        made=lambda inputs: {n: x.double().sigmoid().to(x.dtype) for n, x in inputs.items()},
    ),
    'weighted_mse': Case(losses.weighted_mse, {**MAPS, 'weight': 'b1hw'}, shows_nan=False),
    'masked_feature_loss': Case(losses.masked_feature_loss, {**MAPS, 'tokens': 'tc'}, TOKENS, shows_nan=False),
    'masked_feature_loss of a branch': Case(
        _with_branch, {**MAPS, 'tokens': 'tc', **BRANCH}, TOKENS, shows_nan=False
    ),
    'frequency_terms': Case(
        lambda student, teacher, bands, which: losses.frequency_terms(student, teacher, bands, which).sum(),
        {**MAPS, 'bands': 'jtc'}, dict(which=some('high', 'all')),
    ),
    'feature_mimic': Case(losses.feature_mimic, MAPS, dict(reduction=some('sum', 'mean'))),
    'feature_match': Case(
        lambda student, teacher, inside, weights: losses.feature_match(student, teacher, inside=inside, **weights),
        {**MAPS, 'inside': 'bhw'}, dict(weights=some({}, dict(cosine=0.0, mse=1.0), dict(smooth_l1=0.0))),
        shows_nan=False,
    ),
    'pairwise_distance': Case(losses.pairwise_distance, FREE, unlike='bhw'),
    'prototype_distance': Case(
        losses.prototype_distance, {**FREE, 'labels': 'bhw'}, dict(num_classes=st.just(3)), unlike='bhw',
        shows_nan=False,
    ),
    'smooth_l1': Case(losses.smooth_l1, MAPS, dict(beta=some(0.0, 0.1, 1.0))),
    'similarity_divergence': Case(
        losses.similarity_divergence,
        dict(student='nc', student_keys='gkc', teacher='nd', teacher_keys='gkd', row_weight='n'),
        dict(temperature=some(0.1, 1.0), block=some(None, 1, 4)),
        learns=('student', 'student_keys'), kinds=('normal', 'sparse'), unlike='nc', shows_nan=False,
    ),
}  # fmt: skip


# The promises

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
    """Any legal input gives a finite loss, no less than 0, and finite gradients."""
    inputs, options = case.draw(draw, KINDS, draw(st.sampled_from([torch.float32, DOUBLE])))
    loss, grads = graded(case, inputs, options)
    assert loss.ndim == 0 and math.isfinite(loss)
    assert all(bool(grad.isfinite().all()) for grad in grads.values())
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
    generator = torch.Generator().manual_seed(draw(seeds))
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
    return {
        'finite': is_finite,
        'precision': has_a_precision,
        'gradient': has_the_gradient_of_its_values,
        'blocks': knows_no_blocks,
        'NaN': hides_no_nan,
        **({'shapes': refuses_other_shapes} if case.unlike else {}),
    }


# What the losses are made of, where no formula beside them says it: boxes and grids


def box_weights_are_inverse_areas(draw: Draw) -> None:
    """A cell has the weight of the smallest box over it, whatever the order of the boxes; none: all 0."""
    height, width, count = draw(sides), draw(sides), draw(st.integers(0, 5))
    corners = tensor(draw(seeds), 'normal', (count, 2), DOUBLE) * 5
    boxes = torch.cat([corners, corners + tensor(draw(seeds), 'normal', (count, 2), DOUBLE).abs() * 4], 1)
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
    outside = losses.background_weights(torch.stack([painted, torch.zeros_like(painted)]))
    assert outside.sum((1, 2)).tolist() == pytest.approx([float((painted == 0).any()), 1])  # each picture by itself
    assert not (outside[0] * painted).any()


def grids_fit(draw: Draw) -> None:
    """A constant stays, values stay in their range, the size is the asked one; whole images have all pixels inside."""
    shape = draw(batches), draw(channels), draw(sides), draw(sides)
    x = tensor(*draw(values(('normal', 'constant'))), shape, DOUBLE)
    size = draw(sides), draw(sides)
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
ASKED: dict[str, Callable[[Draw], None]] = {part.__name__: part for part in PARTS}
for name, case in CASES.items():
    ASKED |= {f'{name}-{promise}': partial(function, case) for promise, function in promises(case).items()}


@pytest.mark.parametrize('effort', [pytest.param(few, id='1'), pytest.param(many, id='2', marks=pytest.mark.soak)])
@pytest.mark.parametrize('name', ASKED)
def test_property(name: str, effort: settings) -> None:
    @effort
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        ASKED[name](data.draw)

    holds()
