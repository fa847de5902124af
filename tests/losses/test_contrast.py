import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense.apps.inspect.step_cost import peak_extra_memory
from mmdistill_dense.losses import contrast_chunks as contrast_module
from mmdistill_dense.losses import contrast_temperature, dense_contrast
from tools.benchmark import reference

VARIANTS = {
    'omni': dict(contrast='omni', groups=2),
    'omni_full': dict(contrast='omni', negatives='all', groups=2),
    'channel': dict(contrast='channel', groups=4),
    'spatial': dict(contrast='spatial'),
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
    return total / student[:, 0].numel()


def _maps(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return student.to(dtype).requires_grad_(), teacher.relu().to(dtype)


@pytest.mark.parametrize('temperature', [0.07, 0.5, 20.0])
@pytest.mark.parametrize('variant', VARIANTS)
def test_equals_the_naive_formula(variant: str, temperature: float) -> None:
    options = {**VARIANTS[variant], 'temperature': temperature, 'patch_size': (2, 3)}
    student, teacher = _maps(2, 8, 9, 13)
    loss = dense_contrast(student, teacher, pool_size=2, **options)
    expected = _naive_of(student, teacher, {**options, 'pool_size': 2})
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    grads = [torch.autograd.grad(value, student)[0] for value in (loss, expected)]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)


def test_whole_map_patches_of_several_images() -> None:
    options = dict(contrast='spatial', patch_size=None, temperature=0.3)
    student, teacher = _maps(3, 4, 3, 5)
    loss, expected = dense_contrast(student, teacher, pool_size=0, **options), _naive_of(student, teacher, options)
    torch.testing.assert_close(loss, expected)
    grads = [torch.autograd.grad(value, student)[0] for value in (loss, expected)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize('share, dense', [(0.0, True), (1.0, False)])
def test_sparse_and_dense_backward_agree(share: float, dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = _maps(1, 16, 4, 4)
    calls = []
    sparse = contrast_module._sparse_sign_sum
    monkeypatch.setattr(contrast_module, '_sparse_sign_sum', lambda *args: calls.append(1) or sparse(*args))
    monkeypatch.setattr(contrast_module, '_SPARSE_SHARE', share)
    options = dict(contrast='omni', groups=4, temperature=2.0)
    grad, expected = (
        torch.autograd.grad(loss, student)[0]
        for loss in (dense_contrast(student, teacher, pool_size=0, **options), _naive_of(student, teacher, options))
    )
    torch.testing.assert_close(grad, expected)
    assert bool(calls) is not dense


def test_warm_rows_take_the_dense_backward() -> None:
    """At a large temperature every pair survives the threshold."""
    student, teacher = _maps(1, 32, 4, 4, dtype=torch.float32)
    loss = dense_contrast(student, teacher, pool_size=0, temperature=50.0)
    expected = reference.afdcd_contrast(student.double(), teacher.double(), 16, 50.0, 0, (4, 4))
    grads = [torch.autograd.grad(value, student)[0] for value in (loss, expected)]
    torch.testing.assert_close(*grads, rtol=0, atol=2e-6 * float(grads[1].abs().max()))


def test_ties() -> None:
    """Worked out by hand: sign(0) = 0, and the first maximum of a pooling window takes the whole gradient."""
    student = torch.ones(1, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.ones(1, 4, 4, 4, dtype=torch.float64)
    teacher[:, :2] = 3.0
    loss = dense_contrast(student, teacher, pool_size=2, patch_size=(2, 2), groups=2, temperature=1.0)
    # group 0: positive at distance 4, four candidates at distance 0 whose sign is 0; group 1: the other way round
    own, other = math.exp(-4) / (math.exp(-4) + 4), math.exp(-4) / (1 + 4 * math.exp(-4))
    assert loss.item() == pytest.approx(-math.log(own) + math.log(1 + 4 * math.exp(-4)))
    expected = torch.zeros(1, 4, 4, 4, dtype=torch.float64)
    expected[:, :2, ::2, ::2] = -(1 - own) / 4
    expected[:, 2:, ::2, ::2] = 4 * other / 4
    torch.testing.assert_close(torch.autograd.grad(loss, student)[0], expected)


@pytest.mark.parametrize('size, options, same', [
    ((8, 8), dict(pool_size=4), dict(pool_size=4, patch_size=(2, 2))),
    ((3, 8), dict(pool_size=4, contrast='channel'), None),
    ((7, 2), dict(), dict(patch_size=(4, 2))),
    ((1, 1), dict(pool_size=2), dict(contrast='channel')),
])  # fmt: skip
def test_a_map_smaller_than_a_window_is_one_window(size: tuple[int, int], options: dict, same: dict | None) -> None:
    """P5 of small pictures in a training on large ones."""
    student, teacher = _maps(2, 32, *size)
    loss = dense_contrast(student, teacher, **{'pool_size': 0, **options})
    if same is None:  # pooled over all rows, and by 4 over the columns
        pooled = [F.max_pool2d(x, (3, 4)) for x in (student, teacher)]
        expected = dense_contrast(*pooled, pool_size=0, contrast='channel')
    else:
        expected = dense_contrast(student, teacher, **{'pool_size': 0, **same})
    torch.testing.assert_close(loss, expected)
    assert torch.autograd.grad(loss, student)[0].any()


@pytest.mark.parametrize('noise', [1.0, 0.3])
def test_the_spatial_contrast_of_long_vectors_has_a_gradient(noise: float) -> None:
    """With the temperature of short tokens its softmax is one-hot for every student that has learned something.

    Times temperature / 0.07, as AfDCD takes it, the gradient is about that of the omni contrast where that has one.
    """
    student, teacher = _maps(1, 2048, 16, 16)
    student = (teacher + noise * student.detach()).requires_grad_()
    options = dict(contrast='spatial', pool_size=2)
    (saturated,) = torch.autograd.grad(dense_contrast(student, teacher, temperature=0.07, **options), student)
    (grad,) = torch.autograd.grad(dense_contrast(student, teacher, **options), student)
    (omni,) = torch.autograd.grad(dense_contrast(student, teacher, pool_size=2), student)
    assert not saturated.any()
    assert 2048 * grad.norm() > max(0.3 * omni.norm(), 0.3)


def test_temperatures_of_the_variants() -> None:
    assert [contrast_temperature(kind, 2048) for kind in ('omni', 'channel')] == [0.07, 0.07]
    assert contrast_temperature('spatial', 2048) == pytest.approx(143.36)
    student, teacher = _maps(1, 8, 4, 4)
    default, given = (
        dense_contrast(student, teacher, contrast='spatial', pool_size=0, **options)
        for options in ({}, dict(temperature=0.56))
    )
    torch.testing.assert_close(default, given)


def test_memory_is_a_quarter_of_the_released_formula() -> None:
    """At half the Cityscapes map; the released steps grow with the patches, ours is one chunk beside the gradient."""
    student, teacher = _maps(1, 2048, 16, 16, dtype=torch.float32)
    ours = peak_extra_memory(lambda: dense_contrast(student, teacher, pool_size=0).backward())
    student.grad = None
    released = peak_extra_memory(lambda: reference.afdcd_contrast(student, teacher, 16, 0.07, 0, (4, 4)).backward())
    assert ours <= 0.25 * released
