"""Losses of scores and of rows: divergences, correlations, InfoNCE and its parts, the dense contrast."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense import losses
from mmdistill_dense.losses import contrast as contrast_module
from tests.distillers.steps import divergence, draw
from tools.benchmark import reference
from tools.benchmark.timing import peak_extra_memory


def _softmax(student: list[float], teacher: list[float], temperature: float) -> float:
    return temperature**2 * divergence(student, teacher, temperature)


def _sigmoid(student: list[float], teacher: list[float], temperature: float) -> float:
    return sum(_softmax([s, 0.0], [t, 0.0], temperature) for s, t in zip(student, teacher, strict=True))


@pytest.mark.parametrize('temperature', [1.0, 4.0])
@pytest.mark.parametrize(('function', 'naive', 'shape'), [
    *((losses.softmax_divergence, _softmax, shape) for shape in ((2, 3, 4, 5), (6, 3))),
    *((losses.sigmoid_divergence, _sigmoid, shape) for shape in ((2, 3, 4, 5), (6, 3))),
    (losses.channel_divergence, _softmax, (2, 3, 4, 5)),
])  # fmt: skip
def test_scores_equal_the_naive_formula(function: Any, naive: Any, shape: tuple, temperature: float) -> None:
    maps = [3 * draw(*shape), 3 * draw(*shape, seed=1)]
    by_row = [x.flatten(0, 1).flatten(1) if function is losses.channel_divergence else x.movedim(1, -1).flatten(0, -2)
              for x in maps]  # fmt: skip
    expected = [naive(s, t, temperature) for s, t in zip(*(x.tolist() for x in by_row), strict=True)]
    loss = function(*maps, temperature=temperature)
    assert loss.item() == pytest.approx(sum(expected) / len(expected), rel=1e-12)


def _groups(rows: int = 5, groups: int = 3, keys: int = 4, student: int = 2, teacher: int = 6) -> list[Tensor]:
    """Student rows and keys (leaves), teacher rows and keys."""
    shapes = [(rows, student), (groups, keys, student), (rows, teacher), (groups, keys, teacher)]
    made = [F.normalize(draw(*shape, seed=seed), dim=-1) for seed, shape in enumerate(shapes)]
    return [x.requires_grad_() for x in made[:2]] + made[2:]


@pytest.mark.parametrize('temperature', [0.1, 1.0])
@pytest.mark.parametrize('sizes', [{}, dict(groups=1), dict(rows=1, keys=1), dict(student=1, teacher=1)])
def test_equals_plain_arithmetic(sizes: dict[str, int], temperature: float) -> None:
    inputs = _groups(**sizes)
    scores = [torch.einsum('nc,gkc->ngk', *pair).tolist() for pair in (inputs[:2], inputs[2:])]
    expected = [
        sum(divergence(s, t, temperature) for s, t in zip(*rows, strict=True)) / len(rows[0])
        for rows in zip(*scores, strict=True)
    ]
    loss = losses.similarity_divergence(*inputs, temperature=temperature)
    assert loss.item() == pytest.approx(sum(expected) / len(expected), rel=1e-10, abs=1e-14)
    weight = torch.linspace(0, 2, len(expected), dtype=torch.float64)
    weighted = losses.similarity_divergence(*inputs, temperature=temperature, row_weight=weight)
    assert weighted.item() == pytest.approx((torch.tensor(expected, dtype=torch.float64) @ weight).item(), abs=1e-12)


def _naive_correlation(
    student: Tensor, teacher: Tensor, temperature: float, beta: float, gamma: float, activation: str
) -> Tensor:
    """Correlations by ``torch.corrcoef``, one by one."""
    odds = ((x / temperature).exp() for x in (student, teacher))
    s, t = (x / x.sum(1, keepdim=True) if activation == 'softmax' else x / (1 + x) for x in odds)
    rows = [1 - torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(s, t, strict=True)]
    columns = [1 - torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(s.T, t.T, strict=True)]
    return temperature**2 * (beta * torch.stack(rows).mean() + gamma * torch.stack(columns).mean())


@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
@pytest.mark.parametrize('options', [(1.0, 1.0, 1.0), (4.0, 1.0, 0.0), (0.5, 0.3, 2.0)])
def test_equals_correlations_one_by_one(options: tuple[float, float, float], activation: str) -> None:
    student, teacher = (2 * draw(24, 11, seed=seed) for seed in (0, 1))
    words = dict(zip(('temperature', 'beta', 'gamma'), options, strict=True), activation=activation)
    loss = losses.correlation_distance(student, teacher, **words)
    torch.testing.assert_close(loss, _naive_correlation(student, teacher, **words), rtol=1e-6, atol=0)
    maps = (x.reshape(2, 3, 4, 11).permute(0, 3, 1, 2) for x in (student, teacher))
    torch.testing.assert_close(losses.correlation_distance(*maps, **words), loss)  # positions of maps are rows


@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
def test_scores_that_hardly_vary_have_a_moderate_gradient(activation: str) -> None:
    """A classifier that starts at 0: 1e7 before, a step of which would have thrown the student away."""
    noise, teacher = (2 * draw(500, 11, seed=seed) for seed in (0, 1))
    norms = {}
    for scale in (1.0, 1e-2, 1e-4, 1e-6, 0.0):
        student = (scale * noise.detach()).float().requires_grad_()
        loss = losses.correlation_distance(student, teacher.detach().float(), activation=activation)
        (grad,) = torch.autograd.grad(loss, student)
        norms[scale] = float(grad.norm())
        better = losses.correlation_distance(student - 1e-2 * grad, teacher.detach().float(), activation=activation)
        assert better < loss
    assert norms[1e-6] <= 1.1 * norms[1e-4] < 30 * norms[1.0]
    assert norms[0.0] == pytest.approx(norms[1e-6], rel=1e-2)


# InfoNCE over pixels


def _unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return F.normalize(draw(*shape, seed=seed), dim=1).to(dtype)


def _rows(n: int = 30, k: int = 50, c: int = 8, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Student (a leaf), teacher, negatives."""
    student, teacher, negatives = (_unit(size, c, seed=seed, dtype=dtype) for seed, size in enumerate((n, n, k)))
    return student.requires_grad_(), teacher, negatives


@pytest.mark.parametrize('sizes', [(30, 50, 8), (1, 50, 8), (30, 1, 8), (30, 50, 1)])
@pytest.mark.parametrize('temperature', [1.0, 0.2, 0.005])
def test_the_gradient_equals_the_released_formula(sizes: tuple[int, int, int], temperature: float) -> None:
    student, teacher, negatives = _rows(*sizes)
    loss, per_pixel = losses.pixel_info_nce(student, teacher, negatives, temperature, block=16)
    expected = reference.pcd_info_nce(student, teacher, negatives, temperature)
    (grad,), (expected_grad,) = (torch.autograd.grad(3 * value, student) for value in (loss, expected))
    torch.testing.assert_close((loss, grad), (expected, expected_grad), rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(per_pixel.mean(), loss)
    assert not per_pixel.requires_grad


def test_row_weights_weigh_the_rows() -> None:
    student, teacher, negatives = _rows()
    weight = torch.zeros(30, dtype=torch.float64)
    weight[[3, 8]] = torch.tensor([0.25, 2.0], dtype=torch.float64)
    loss, per_pixel = losses.pixel_info_nce(student, teacher, negatives, row_weight=weight)
    torch.testing.assert_close(loss, 0.25 * per_pixel[3] + 2 * per_pixel[8])
    loss.backward()
    assert student.grad.any(1).nonzero().flatten().tolist() == [3, 8]


def test_a_small_loss_keeps_its_digits_in_float32() -> None:
    """The logsumexp of all logits minus the positive loses half of them."""
    student, _, negatives = _rows(30, 20, 64)
    teacher = F.normalize(student.detach() + 0.1 * _unit(30, 64, seed=5), dim=1)
    exact, _ = losses.pixel_info_nce(student, teacher, negatives, 0.05)
    loss, _ = losses.pixel_info_nce(student.float(), teacher.float(), negatives.float(), 0.05)
    assert exact < 1e-3
    assert abs(loss.item() / exact.item() - 1) < 1e-5


@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_pixels_without_direction_have_no_part(side: str) -> None:
    student, teacher = draw(2, 8, 3, 5).requires_grad_(), draw(2, 8, 3, 5, seed=1)
    valid = torch.ones(2, 3, 5, dtype=torch.bool)
    valid[1, 2, 4] = False
    with torch.no_grad():
        (student if side == 'student' else teacher)[0, :, 1, 1] = 1e-9
    rows, targets, weight = losses.pixel_pairs(student, teacher, valid)
    assert (weight == 0).nonzero().flatten().tolist() == [6, 29]
    loss, _ = losses.pixel_info_nce(rows, targets, _unit(20, 8), 0.2, weight / weight.sum())
    loss.backward()
    untouched = (student.grad == 0).all(1)
    assert untouched.nonzero().tolist() == [[0, 1, 1], [1, 2, 4]]
    assert student.grad.abs().max() < 10  # the plain formula gives 1e8 here


def test_a_mean_of_zero_closes_the_gate() -> None:
    x = torch.tensor([[[[-1.0, 1.0]], [[-1.0, 2.0]]]])
    assert losses.spatial_gate(x).tolist() == [[[[0.0, 0.0]], [[-1.0, 2.0]]]]
    large = torch.full((1, 1, 300, 300), 3.0, dtype=torch.float16)  # the sum overflows float16
    for kind in ('relu', 'gelu', 'silu'):
        gated = losses.spatial_gate(large, kind)
        assert gated.dtype == torch.float16 and gated.isfinite().all() and gated.min() > 2


# Dense contrast


VARIANTS = {
    'omni': dict(contrast='omni', groups=2),
    'omni_full': dict(contrast='omni', negatives='all', groups=2),
    'channel': dict(contrast='channel', groups=4),
    'spatial': dict(contrast='spatial'),
    'spatial_map': dict(contrast='spatial', patch_size=None),
}


def _naive_of(student: Tensor, teacher: Tensor, options: dict) -> Tensor:
    """The released form; where all tokens of a patch are candidates, each is a group of its own."""
    contrast, size = options['contrast'], options.get('pool_size') or 1
    student, teacher = (F.max_pool2d(x, size) for x in (student, teacher))
    patch = (1, 1) if contrast == 'channel' else options.get('patch_size', (4, 4)) or student.shape[2:]
    groups = 1 if contrast == 'spatial' else options['groups']
    tokens = [reference.afdcd_tokens(x, groups, patch) for x in (student, teacher)]
    if contrast == 'spatial' or options.get('negatives') == 'all':
        groups = tokens[0].shape[1]
    total = reference.afdcd_token_contrast(*tokens, groups, options.get('temperature', 0.07))
    height, width = (side // step * step for side, step in zip(student.shape[2:], patch, strict=True))
    return total / student[:, 0, :height, :width].numel()


def _pair(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return student.to(dtype).requires_grad_(), teacher.relu().to(dtype)


@pytest.mark.parametrize('temperature', [0.07, 0.5, 20.0])
@pytest.mark.parametrize('variant', VARIANTS)
def test_contrast_equals_the_naive_formula(variant: str, temperature: float) -> None:
    options = {'temperature': temperature, 'patch_size': (2, 3), **VARIANTS[variant]}
    student, teacher = _pair(2, 8, 9, 17)
    loss = losses.dense_contrast(student, teacher, pool_size=2, **options)
    expected = _naive_of(student, teacher, {**options, 'pool_size': 2})
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    grads = [torch.autograd.grad(value, student)[0] for value in (loss, expected)]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('share', [0.0, 1.0])
def test_sparse_and_dense_backward_agree(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = _pair(1, 16, 4, 4)
    monkeypatch.setattr(contrast_module, '_SPARSE_SHARE', share)
    options = dict(contrast='omni', groups=4, temperature=2.0)
    actual = losses.dense_contrast(student, teacher, pool_size=0, **options), _naive_of(student, teacher, options)
    torch.testing.assert_close(*(torch.autograd.grad(loss, student) for loss in actual))


@pytest.mark.parametrize('size, options, same', [
    ((8, 8), dict(pool_size=4), dict(pool_size=4, patch_size=(2, 2))),
    ((3, 8), dict(pool_size=4, contrast='channel'), None),
    ((7, 2), dict(), dict(patch_size=(4, 2))),
    ((1, 1), dict(pool_size=2), dict(contrast='channel')),
])  # fmt: skip
def test_a_map_smaller_than_a_window_is_one_window(size: tuple[int, int], options: dict, same: dict | None) -> None:
    """P5 of small pictures in a training on large ones."""
    student, teacher = _pair(2, 32, *size)
    loss = losses.dense_contrast(student, teacher, **{'pool_size': 0, **options})
    if same is None:  # pooled over all rows, and by 4 over the columns
        pooled = [F.max_pool2d(x, (3, 4)) for x in (student, teacher)]
        expected = losses.dense_contrast(*pooled, pool_size=0, contrast='channel')
    else:
        expected = losses.dense_contrast(student, teacher, **{'pool_size': 0, **same})
    torch.testing.assert_close(loss, expected)
    assert torch.autograd.grad(loss, student)[0].any()


def test_temperatures_of_the_variants() -> None:
    assert [losses.contrast_temperature(kind, 2048) for kind in ('omni', 'channel')] == [0.07, 0.07]
    assert losses.contrast_temperature('spatial', 2048) == pytest.approx(143.36)
    student, teacher = _pair(1, 8, 4, 4)
    default, words = (
        losses.dense_contrast(student, teacher, contrast='spatial', pool_size=0, **options)
        for options in ({}, dict(temperature=0.56))
    )
    torch.testing.assert_close(default, words)


# Memory


def test_memory_of_the_contrast_is_a_share_of_the_released_form() -> None:
    """At half the Cityscapes map; the released steps grow with the patches, ours is one chunk beside the gradient."""
    forms = partial(losses.dense_contrast, pool_size=0), lambda *x: reference.afdcd_contrast(*x, 16, 0.07, 0, (4, 4))
    maps = _pair(1, 2048, 16, 16, dtype=torch.float32)
    peak, released = (peak_extra_memory(lambda f=f: torch.autograd.grad(f(*maps), maps[0])) for f in forms)
    assert peak <= 0.25 * released
