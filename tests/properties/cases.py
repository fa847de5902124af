"""Every loss with what its formula promises: which orders, scales and offsets of its inputs do not matter."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense import losses
from tests.properties.strategies import batches, channels, map_shapes, seeds, sides, temperatures, tensor, values

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A loss and its promises.

    ``axes`` names the axes of every tensor: b pictures, h and w positions, c channels of the student (d of a teacher
    that may have others), further letters as a loss needs them. ``orders`` are the axes whose order does not matter.
    ``averages``: the loss of a batch is the mean of the losses of its pictures. ``scale`` and ``shift`` name tensors
    that may be multiplied by a positive number, or have a constant along these axes added. ``zero``: a loss of equal
    student and teacher is 0. ``sign``: never below 0. ``unlike``: the student may differ in these axes for an error,
    and in their number where ``any_rank``. ``shows_nan``: a NaN anywhere in a map makes the loss NaN.
    ``broken``: what a network that diverged may put into the inputs.
    """

    loss: Callable[..., Tensor]
    axes: Mapping[str, str]
    draw: Callable[..., tuple[Inputs, dict[str, Any]]]
    orders: str = 'bpc'
    averages: bool = True
    scale: tuple[str, ...] = ()
    shift: Mapping[str, str] = field(default_factory=dict)
    zero: bool = True
    sign: bool = True
    learns: tuple[str, ...] = ('student',)
    unlike: str = 'bchw'
    any_rank: bool = True
    shows_nan: bool = True
    broken: tuple[float, ...] = (math.nan, math.inf)


MAPS = {'student': 'bchw', 'teacher': 'bchw'}
FREE = {'student': 'bchw', 'teacher': 'bdhw'}  # channels of their own


def _pair(draw: st.DrawFn, kinds: tuple[str, ...], dtype: torch.dtype, shape: Any, other: Any = None) -> Inputs:
    student = tensor(*draw(values(kinds)), shape, dtype)
    if other is None and draw(st.integers(0, 5)) == 0:
        return dict(student=student, teacher=student.clone())
    return dict(student=student, teacher=tensor(*draw(values(kinds)), other or shape, dtype))


def _maps(**options: st.SearchStrategy[Any]) -> Any:
    def make(draw: st.DrawFn, kinds: tuple[str, ...], dtype: torch.dtype) -> tuple[Inputs, dict[str, Any]]:
        inputs = _pair(draw, kinds, dtype, draw(map_shapes()))
        return inputs, {name: draw(option) for name, option in options.items()}

    return make


def _free_maps(**options: st.SearchStrategy[Any]) -> Any:
    def make(draw: st.DrawFn, kinds: tuple[str, ...], dtype: torch.dtype) -> tuple[Inputs, dict[str, Any]]:
        shape = draw(map_shapes())
        inputs = _pair(draw, kinds, dtype, shape, (shape[0], draw(channels), *shape[2:]))
        return inputs, {name: draw(option) for name, option in options.items()}

    return make


def _prototypes(draw: st.DrawFn, kinds: Any, dtype: torch.dtype) -> tuple[Inputs, dict[str, Any]]:
    inputs, _ = _free_maps()(draw, kinds, dtype)
    classes = draw(st.integers(1, 4))
    shape = inputs['student'].shape[0], *inputs['student'].shape[2:]
    generator = torch.Generator().manual_seed(draw(seeds))
    labels = torch.randint(-1, classes + 1, shape, generator=generator)
    if draw(st.integers(0, 4)) == 0:
        labels.fill_(255)  # nothing but ignored positions
    return {**inputs, 'labels': labels}, dict(num_classes=classes)


def _contrast(draw: st.DrawFn, kinds: Any, dtype: torch.dtype) -> tuple[Inputs, dict[str, Any]]:
    contrast = draw(st.sampled_from(['omni', 'channel', 'spatial']))
    groups, depth, pool = draw(st.integers(2, 3)), draw(st.integers(1, 3)), draw(st.integers(0, 2))
    patch = draw(st.sampled_from([None, (1, 2), (2, 2), (3, 1)]))
    height, width = (draw(st.integers(max(pool, 1) * side, 6)) for side in patch or (2, 2))
    inputs = _pair(draw, kinds, dtype, (draw(st.integers(1, 2)), groups * depth, height, width))
    negatives = draw(st.sampled_from(['other_groups', 'all']))
    options = dict(contrast=contrast, negatives=negatives, groups=groups, pool_size=pool, patch_size=patch)
    return inputs, dict(options, temperature=draw(st.sampled_from([0.07, 1.0])))


def _focal(draw: st.DrawFn, kinds: Any, dtype: torch.dtype) -> tuple[Inputs, dict[str, Any]]:
    inputs, _ = _maps()(draw, kinds, dtype)
    b, c, h, w = inputs['student'].shape
    seed = draw(seeds)
    position, channel = (tensor(seed + i, 'sparse', shape, dtype).abs() for i, shape in enumerate([(b, h, w), (b, c)]))
    return dict(inputs, position=position, channel=channel), {}


def _rich(draw: st.DrawFn, kinds: Any, dtype: torch.dtype) -> tuple[Inputs, dict[str, Any]]:
    inputs, _ = _maps()(draw, kinds, dtype)
    b, _, h, w = inputs['student'].shape
    return dict(inputs, richness=tensor(draw(seeds), 'normal', (b, h, w), dtype).sigmoid()), {}


def _apart(draw: st.DrawFn, kinds: Any, dtype: torch.dtype) -> tuple[Inputs, dict[str, Any]]:
    inputs, _ = _rich(draw, kinds, dtype)
    return dict(student=inputs['student'], teacher=inputs['teacher'], mask=inputs['richness'].round()), {}


def _weighted_rows(draw: st.DrawFn, kinds: Any, dtype: torch.dtype) -> tuple[Inputs, dict[str, Any]]:
    inputs, _ = _rich(draw, kinds, dtype)
    weight = inputs.pop('richness')
    return dict(inputs, weight=weight), dict(beta=draw(st.sampled_from([0.0, 1.0, 2.0])))


def _shifted(draw: st.DrawFn, kinds: Any, dtype: torch.dtype) -> tuple[Inputs, dict[str, Any]]:
    inputs, _ = _maps()(draw, kinds, dtype)
    return dict(inputs, shift=tensor(*draw(values(kinds)), inputs['student'].shape[:2], dtype)), {}


def _token_loss(draw: st.DrawFn, kinds: Any, dtype: torch.dtype) -> tuple[Inputs, dict[str, Any]]:
    inputs, _ = _maps()(draw, kinds, dtype)
    tokens = tensor(*draw(values(kinds)), (draw(batches), inputs['student'].shape[1]), dtype)
    options = dict(student_mask=draw(st.booleans()), eps=draw(st.sampled_from([0.0, 1e-5])))
    return dict(inputs, tokens=tokens), dict(options, factor=draw(st.sampled_from([0.5, 1.0])))


def _branch(draw: st.DrawFn, kinds: Any, dtype: torch.dtype) -> tuple[Inputs, dict[str, Any]]:
    inputs, options = _token_loss(draw, kinds, dtype)
    count, c = inputs['tokens'].shape
    shapes = dict(conv_weight=(c, c, 3, 3), conv_bias=(c,), fc_weight=(count, c, 1, 1), fc_bias=(count,))
    seed = draw(seeds)
    return dict(inputs, **{name: tensor(seed, 'normal', shape, dtype) for name, shape in shapes.items()}), options


def _with_branch(student: Tensor, teacher: Tensor, tokens: Tensor, **rest: Any) -> Tensor:
    branch = losses.Branch(**{name: rest.pop(name) for name in losses.Branch._fields})
    return losses.masked_feature_loss(student, teacher, tokens, branch, **rest)


def _frequencies(student: Tensor, teacher: Tensor, tokens: Tensor, **rest: Any) -> Tensor:
    return losses.frequency_terms(student, teacher, tokens, **rest).sum()


def _token_bands(draw: st.DrawFn, kinds: Any, dtype: torch.dtype) -> tuple[Inputs, dict[str, Any]]:
    inputs, _ = _maps()(draw, kinds, dtype)
    shape = (draw(st.integers(2, 4)), draw(st.integers(1, 3)), inputs['student'].shape[1])
    tokens = tensor(draw(seeds), 'normal', shape, dtype)
    return dict(inputs, tokens=tokens), dict(bands=draw(st.sampled_from(['high', 'all'])))


def _weighted(draw: st.DrawFn, kinds: Any, dtype: torch.dtype) -> tuple[Inputs, dict[str, Any]]:
    inputs, _ = _maps()(draw, kinds, dtype)
    b, _, h, w = inputs['student'].shape
    return dict(inputs, weight=tensor(draw(seeds), 'sparse', (b, 1, h, w), dtype).abs()), {}


def _rows(draw: st.DrawFn, kinds: Any, dtype: torch.dtype) -> tuple[Inputs, dict[str, Any]]:
    rows = draw(st.integers(0, 12))
    inputs = _pair(draw, kinds, dtype, (rows, draw(st.integers(1, 17))))
    weight = tensor(draw(seeds), 'sparse', (rows,), dtype).abs()
    return dict(inputs, weight=weight), dict(temperature=draw(temperatures))


def _info_nce(draw: st.DrawFn, kinds: Any, dtype: torch.dtype) -> tuple[Inputs, dict[str, Any]]:
    rows, c, keys = draw(st.integers(0, 9)), draw(channels), draw(st.integers(0, 9))
    inputs = _pair(draw, ('normal', 'sparse', 'zeros'), dtype, (rows, c))
    inputs['negatives'] = tensor(draw(seeds), 'normal', (keys, c), dtype)
    inputs = {name: F.normalize(x.double(), dim=1).to(dtype) for name, x in inputs.items()}
    inputs['row_weight'] = tensor(draw(seeds), 'sparse', (rows,), dtype).abs()
    return inputs, dict(temperature=draw(st.sampled_from([0.005, 0.2, 1.0])), block=draw(st.sampled_from([None, 1, 4])))


def _similarity(draw: st.DrawFn, kinds: Any, dtype: torch.dtype) -> tuple[Inputs, dict[str, Any]]:
    rows, groups, keys = draw(st.integers(0, 9)), draw(st.integers(0, 3)), draw(st.integers(0, 6))
    inputs = {}
    for side in ('student', 'teacher'):
        c = draw(channels)
        inputs[side] = tensor(draw(seeds), 'normal', (rows, c), dtype)
        inputs[f'{side}_keys'] = tensor(
            draw(seeds), draw(st.sampled_from(['normal', 'sparse'])), (groups, keys, c), dtype
        )
    inputs['row_weight'] = tensor(draw(seeds), 'sparse', (rows,), dtype).abs()
    return inputs, dict(temperature=draw(st.sampled_from([0.1, 1.0])), block=draw(st.sampled_from([None, 1, 4])))


def _inside(draw: st.DrawFn, inputs: Inputs) -> Inputs:
    """The inputs, and which positions are inside the pictures."""
    b, _, h, w = inputs['teacher'].shape
    share = draw(st.sampled_from([0.0, 0.5, 1.0]))
    return dict(inputs, inside=torch.rand(b, h, w, generator=torch.Generator().manual_seed(draw(seeds))) < share)


def _match(draw: st.DrawFn, kinds: Any, dtype: torch.dtype) -> tuple[Inputs, dict[str, Any]]:
    inputs, _ = _maps()(draw, kinds, dtype)
    return _inside(draw, inputs), draw(st.sampled_from([{}, dict(cosine=0.0, mse=1.0), dict(smooth_l1=0.0)]))


def _relations(draw: st.DrawFn, kinds: Any, dtype: torch.dtype) -> tuple[Inputs, dict[str, Any]]:
    inputs, options = _free_maps(temperature=st.sampled_from([0.07, 1.0]), diagonal=st.booleans())(draw, kinds, dtype)
    return _inside(draw, inputs), options


def _query(draw: st.DrawFn, kinds: Any, dtype: torch.dtype) -> tuple[Inputs, dict[str, Any]]:
    inputs, _ = _maps()(draw, kinds, dtype)
    values_of = tensor(*draw(values(kinds)), inputs['student'].shape, dtype)
    return _inside(draw, dict(inputs, value=values_of)), {}


def _read(student: Tensor, teacher: Tensor, value: Tensor, inside: Tensor) -> Tensor:
    return losses.query_match(student, value, teacher, inside=inside)


def _masks(draw: st.DrawFn, kinds: Any, dtype: torch.dtype) -> tuple[Inputs, dict[str, Any]]:
    x = tensor(*draw(values(kinds)), (draw(batches), draw(batches), draw(sides), draw(sides)), torch.float64)
    return dict(m=x.sigmoid().to(dtype)), {}


def _pixel_rows(student: Tensor, teacher: Tensor, valid: Tensor, negatives: Tensor) -> Tensor:
    """What PCD makes of two maps."""
    s, t, weight = losses.pixel_pairs(student, teacher, valid)
    weight = weight / weight.sum().clamp_min(1)
    return losses.pixel_info_nce(s, t, F.normalize(negatives.to(s.dtype), dim=1), 0.2, weight)[0]


def _pixels(draw: st.DrawFn, kinds: Any, dtype: torch.dtype) -> tuple[Inputs, dict[str, Any]]:
    inputs, _ = _maps()(draw, kinds, dtype)
    b, c, h, w = inputs['student'].shape
    valid = torch.rand(b, h, w, generator=torch.Generator().manual_seed(draw(seeds))) < draw(
        st.sampled_from([0, 0.5, 1])
    )
    return dict(inputs, valid=valid, negatives=tensor(draw(seeds), 'normal', (draw(st.integers(0, 5)), c), dtype)), {}


def _attended(student: Tensor, teacher: Tensor, temperature: float, channel: bool) -> Tensor:
    """What FGD compares: attention of both sides."""
    attention = losses.channel_attention if channel else losses.spatial_attention
    return losses.absolute_error(attention(student, temperature), attention(teacher.detach(), temperature))


CASES: dict[str, Case] = {
    'attention_distance': Case(
        losses.attention_distance,
        FREE,
        _free_maps(power=st.sampled_from([1.0, 1.5, 2.0, 4.0]), reduction=st.sampled_from(['mean', 'sum'])),
        orders='bpcd',
        scale=('student', 'teacher'),
        unlike='bhw',
    ),
    'channel_divergence': Case(
        losses.channel_divergence, MAPS, _maps(temperature=temperatures), shift=dict(student='bc', teacher='bc')
    ),
    'dense_contrast': Case(losses.dense_contrast, MAPS, _contrast, orders='b', zero=False),
    'correlation_distance': Case(
        losses.correlation_distance,
        MAPS,
        _maps(temperature=temperatures, activation=st.sampled_from(['softmax', 'sigmoid'])),
        averages=False,
        zero=False,  # of constant scores it is the maximum
    ),
    'softmax_divergence': Case(
        losses.softmax_divergence, MAPS, _maps(temperature=temperatures), shift=dict(student='bhw', teacher='bhw')
    ),
    'sigmoid_divergence': Case(losses.sigmoid_divergence, MAPS, _maps(temperature=temperatures)),
    'spatial attention': Case(
        _attended, MAPS, _maps(temperature=temperatures, channel=st.just(False)), unlike='bhw', any_rank=False
    ),
    'channel attention': Case(
        _attended, MAPS, _maps(temperature=temperatures, channel=st.just(True)), unlike='bc', any_rank=False
    ),
    'absolute_error': Case(losses.absolute_error, MAPS, _maps()),
    'focal_entropy': Case(losses.focal_entropy, {**MAPS, 'weight': 'bhw'}, _weighted_rows, averages=False, zero=False),
    'focal_error': Case(losses.focal_error, {**MAPS, 'position': 'bhw', 'channel': 'bc'}, _focal, shows_nan=False),
    'decoupled_squares': Case(
        lambda *args, **kwargs: losses.decoupled_squares(*args, **kwargs).sum(),
        {**MAPS, 'mask': 'bhw'},
        _apart,
        averages=False,
    ),
    'rich_squares': Case(losses.rich_squares, {**MAPS, 'richness': 'bhw'}, _rich, averages=False),
    'rich_entropy': Case(losses.rich_entropy, {**MAPS, 'richness': 'bhw'}, _rich, averages=False, zero=False),
    'shifted_error': Case(
        losses.shifted_error, {**MAPS, 'shift': 'bc'}, _shifted, zero=False, learns=('student', 'shift')
    ),
    'pixel_info_nce': Case(
        lambda *args, **kwargs: losses.pixel_info_nce(*args, **kwargs)[0],
        dict(student='nc', teacher='nc', negatives='kc', row_weight='n'),
        _info_nce,
        orders='nkc',
        averages=False,
        zero=False,
        unlike='nc',
        shows_nan=False,
        broken=(math.nan,),  # they are unit rows; infinite pixels become NaN when they are made
    ),
    'pixel_pairs': Case(
        _pixel_rows,
        {**MAPS, 'valid': 'bhw', 'negatives': 'kc'},
        _pixels,
        orders='bpck',
        averages=False,
        scale=('student', 'teacher'),
        zero=False,
        shows_nan=False,
    ),
    'weighted_divergence': Case(
        losses.weighted_divergence,
        dict(student='nk', teacher='nk', weight='n'),
        _rows,
        orders='nk',
        averages=False,
        shift=dict(student='n', teacher='n'),
        unlike='nk',
        shows_nan=False,
    ),
    'mask_dice': Case(losses.mask_dice, dict(m='bthw'), _masks, orders='btp', zero=False, learns=('m',), unlike=''),
    'weighted_mse': Case(losses.weighted_mse, {**MAPS, 'weight': 'b1hw'}, _weighted, shows_nan=False),
    'masked_feature_loss': Case(
        losses.masked_feature_loss, {**MAPS, 'tokens': 'tc'}, _token_loss, orders='bpct', shows_nan=False
    ),
    'masked_feature_loss of a branch': Case(
        _with_branch,
        {**MAPS, 'tokens': 'tc', 'conv_weight': 'xcyz', 'conv_bias': 'x', 'fc_weight': 'txyz', 'fc_bias': 't'},
        _branch,
        orders='bct',  # the convolution sees who is beside whom
        shows_nan=False,
    ),
    'frequency_terms': Case(
        _frequencies,
        {**MAPS, 'tokens': 'jtc'},
        _token_bands,
        orders='btc',  # a cell of the wavelet sees who is beside whom
    ),
    'feature_mimic': Case(losses.feature_mimic, MAPS, _maps(reduction=st.sampled_from(['sum', 'mean']))),
    'instance_distance': Case(losses.instance_distance, MAPS, _maps(), shift=dict(student='bc', teacher='bc')),
    'feature_match': Case(losses.feature_match, {**MAPS, 'inside': 'bhw'}, _match, shows_nan=False),
    'token_relations': Case(
        losses.token_relations,
        {**FREE, 'inside': 'bhw'},
        _relations,
        orders='bpcd',
        scale=('student', 'teacher'),
        unlike='bhw',
        shows_nan=False,
    ),
    'query_match': Case(
        _read,
        {**MAPS, 'value': 'bchw', 'inside': 'bhw'},
        _query,
        zero=False,
        learns=('student', 'value'),
        shows_nan=False,
    ),
    'pairwise_distance': Case(
        losses.pairwise_distance, FREE, _free_maps(), orders='bpcd', scale=('student', 'teacher'), unlike='bhw'
    ),
    'prototype_distance': Case(
        losses.prototype_distance,
        {**FREE, 'labels': 'bhw'},
        _prototypes,
        orders='bpcd',
        scale=('student', 'teacher'),
        unlike='bhw',
        shows_nan=False,
    ),
    'smooth_l1': Case(losses.smooth_l1, MAPS, _maps(beta=st.sampled_from([0.0, 0.1, 1.0]))),
    'similarity_divergence': Case(
        losses.similarity_divergence,
        dict(student='nc', student_keys='gkc', teacher='nd', teacher_keys='gkd', row_weight='n'),
        _similarity,
        orders='ngkcd',
        averages=False,
        zero=False,
        learns=('student', 'student_keys'),
        unlike='nc',
        shows_nan=False,
    ),
    'standardized_mse': Case(
        losses.standardized_mse,
        MAPS,
        _maps(),
        averages=False,
        scale=('student', 'teacher'),
        shift=dict(student='c', teacher='c'),
    ),
}
