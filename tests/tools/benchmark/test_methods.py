import pytest
import torch

from tools.benchmark import loss_cases
from tools.benchmark.baseline_cases import METHODS as BASELINES
from tools.benchmark.method_cases import METHODS


@pytest.mark.parametrize('method', METHODS)
def test_every_size_is_described(method: str) -> None:
    sizes = METHODS[method].SIZES
    assert METHODS[method].DEFAULT_SIZE in sizes and 'small' in sizes
    assert all('channels' in METHODS[method].describe(size) for size in sizes)


@pytest.mark.parametrize('method', BASELINES)
def test_ours_is_the_released_formula(method: str) -> None:
    """Values and gradients in float64, or the comparison would mean nothing."""
    for case in BASELINES[method].cases('small'):
        tensors = [x.double() for x in (*case.inputs, *case.constants)]
        torch.testing.assert_close(case.ours(*tensors), case.released(*tensors), rtol=1e-9, atol=1e-12)
        ours, released = (loss_cases.one_pass(f, case, torch.float64)() for f in (case.ours, case.released))
        torch.testing.assert_close(ours, released, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize('method', BASELINES)
def test_rows_are_complete(method: str) -> None:
    for case in BASELINES[method].cases('small'):
        row = loss_cases.measure(case)
        assert row.name == case.name and 0 < row.ours_error < 1e-4
        assert row.result_bytes <= row.ours_bytes and row.ours_time.median > 0
