"""Every loss with the axes of its tensors, what is drawn for them, and where its promises have an exception.

Numbers come from torch under a drawn seed, so that an example is cheap and shrinks by its shape and kind.
"""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import torch
import torch.nn.functional as F
from hypothesis import settings
from torch import Tensor

from mmdistill_dense import losses
from tests.fuzz import examples

FEW, MANY = 4, 50  # examples of a property in `make test` and in `make soak`
# All are legal: what a network gives at the start, at a dead channel, in a padded corner, before it diverges.
KINDS = ('normal', 'zeros', 'constant', 'sparse', 'large', 'small', 'one pixel')
ORDINARY = ('normal', 'sparse')  # for equalities, which large or vanishing values meet only up to their rounding
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

few = settings(examples.few, max_examples=FEW)
many = settings(examples.few, max_examples=int(os.environ.get('PROPERTY_EXAMPLES', MANY)))

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
    largest = torch.finfo(dtype).max
    return x.clamp(-largest, largest).to(dtype)


def values(kinds: tuple[str, ...] = KINDS) -> st.SearchStrategy[tuple[int, str]]:
    """A seed and a kind, the arguments of :func:`tensor`."""
    return st.tuples(seeds, st.sampled_from(kinds))


Inputs = dict[str, Tensor]
Strategies = Mapping[str, st.SearchStrategy[Any]]
rows = st.integers(0, 9)
LENGTHS: Strategies = dict(b=batches, c=channels, d=channels, h=sides, w=sides, t=batches, n=rows, k=rows)
LENGTHS = dict(LENGTHS, g=st.integers(0, 3), j=st.integers(2, 4), m=st.integers(1, 17))


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
    """A loss and what is drawn for it.

    ``axes`` names the axes of every tensor: b pictures, h and w positions, c channels of the student (d of a teacher
    that may have others), further letters as a loss needs them; a digit is a length. ``options`` are drawn too.
    ``kinds`` are the only values that are legal, ``made`` changes what was drawn. ``sign``: never below 0. ``unlike``:
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
    sign: bool = True
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


def _in_range(x: Tensor, dtype: torch.dtype) -> Tensor:
    largest = torch.finfo(dtype).max
    return x.clamp(-largest, largest).to(dtype)


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
