import shutil

import pytest
import torch
from torch import Tensor

from mmdistill_dense.losses import contrast_kernel, dense_contrast

VARIANTS = {
    'omni': dict(contrast='omni', groups=4),
    'omni_full': dict(contrast='omni', negatives='all', groups=4),
    'channel': dict(contrast='channel', groups=8),
    'spatial': dict(contrast='spatial'),
}
needs_compiler = pytest.mark.skipif(shutil.which('c++') is None, reason='no C++ compiler')


@pytest.fixture(autouse=True)
def no_cached_library():
    """A library that was not found must not stay so for other tests."""
    yield
    if contrast_kernel._library.cache_info().currsize and contrast_kernel._library() is None:
        contrast_kernel._library.cache_clear()


def _maps(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return student.to(dtype).requires_grad_(), teacher.relu().to(dtype)


def _both(student: Tensor, teacher: Tensor, **options) -> list[tuple[Tensor, Tensor]]:
    found = []
    for compiled in (True, False):
        loss = dense_contrast(student, teacher, compiled=compiled, **options)
        found.append((loss.detach(), torch.autograd.grad(loss, student)[0]))
    return found


@needs_compiler
@pytest.mark.parametrize('temperature', [0.07, 1.0, 50.0])
@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('threads', [1, 3])
def test_equals_plain(variant: str, temperature: float, threads: int) -> None:
    """Patches that do not divide the map, candidates in whole and broken vectors, rows split within a patch."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for patch, shape in (((3, 2), (2, 24, 7, 9)), (None, (1, 16, 5, 9))):
            options = {**VARIANTS[variant], 'temperature': temperature, 'patch_size': patch, 'pool_size': 0}
            ours, plain = _both(*_maps(*shape), **options)
            torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-13)
    finally:
        torch.set_num_threads(before)


@needs_compiler
def test_float32_is_as_exact_as_plain() -> None:
    student, teacher = _maps(1, 512, 16, 16, dtype=torch.float32)
    exact = _both(student.detach().double().requires_grad_(), teacher.double(), pool_size=0)[1][1]
    ours, plain = (float((grad - exact).abs().max()) for _, grad in _both(student, teacher, pool_size=0))
    assert ours <= 2 * plain and ours <= 1e-4 * float(exact.abs().max())


@needs_compiler
@pytest.mark.parametrize('compiled', [False, True])
def test_maps_of_any_layout_stay_what_they_are(compiled: bool) -> None:
    """Also those whose lists of positions are the map itself: one position, or one channel."""
    cases = {(2, 8, 1, 1): dict(contrast='channel', groups=2), (2, 1, 4, 4): dict(contrast='spatial')}
    for shape, options in {**cases, (2, 8, 4, 4): dict(groups=2)}.items():
        student, teacher = _maps(*shape)
        before = student.detach().clone(), teacher.clone()
        last = dict(memory_format=torch.channels_last)
        for maps in ((student, teacher), (student.contiguous(**last), teacher.contiguous(**last))):
            grad = torch.autograd.grad(dense_contrast(*maps, pool_size=0, compiled=compiled, **options), student)[0]
            assert torch.equal(student, before[0]) and torch.equal(teacher, before[1])
            torch.testing.assert_close(grad, _both(student, teacher, pool_size=0, **options)[1][1])


@needs_compiler
def test_nan_and_ties() -> None:
    student, teacher = _maps(1, 32, 8, 8, dtype=torch.float32)
    equal = _both(teacher.clone().requires_grad_(), teacher, pool_size=0, temperature=5.0)
    torch.testing.assert_close(*equal, rtol=1e-4, atol=1e-6)
    student = student.detach()
    student[0, 3, 2, 2] = torch.nan
    loss, grad = _both(student.requires_grad_(), teacher, pool_size=0)[0]
    assert loss.isnan() and grad.isnan().any()


@needs_compiler
def test_no_gradient_is_made_where_none_is_asked_for() -> None:
    student, teacher = _maps(1, 32, 8, 8)
    loss = dense_contrast(student.detach(), teacher, pool_size=0, compiled=True)
    torch.testing.assert_close(loss, dense_contrast(student, teacher, pool_size=0).detach())
    assert not loss.requires_grad


@pytest.mark.parametrize(
    'compiler, message', [('no-such-compiler', "no C.. compiler 'no-such-comp"), ('false', 'fail')]
)
def test_without_a_compiler_plain_is_taken_and_said(
    compiler: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('CXX', compiler)
    contrast_kernel._library.cache_clear()
    with pytest.warns(UserWarning, match=message):
        ours, plain = _both(*_maps(1, 32, 8, 8), pool_size=0)
    assert torch.equal(ours[0], plain[0]) and torch.equal(ours[1], plain[1])
