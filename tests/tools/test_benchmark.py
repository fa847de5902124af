"""The benchmarks: what their ratios count, and losses beside the released ones. Their commands: tests/test_stops.py."""

import pytest
import torch
from mmengine.config import Config

from mmdistill_dense.apps.inspect import step_cost
from mmdistill_dense.apps.inspect.step_cost import Timing
from tools.benchmark import compare_losses, step
from tools.benchmark.loss_cases import METHODS


def test_a_ratio_counts_the_teacher() -> None:
    control, teacher, distilled, adapter = (Timing(median, 0, 100) for median in (4.0, 2.0, 13.0, 3.0))
    cost = step.StepCost(1, (8, 8), 'random', control, teacher, distilled, {}, {'a': adapter}, 0, 0)
    assert cost.overhead == 13 / (4 + 2) and cost.without_adapters == (13 - 3) / (4 + 2)
    epochs = Config({'train_cfg': {'max_epochs': 3}, 'train_dataloader': {'batch_size': 2}})
    assert step_cost.run_length(Config({'train_cfg': {'max_iters': 7}})) == 7
    assert step_cost.run_length(epochs) == step_cost.DEFAULT_ITERATIONS
    assert step_cost.run_length(epochs, pictures=40, processes=4) == 3 * 5


@pytest.mark.parametrize('method', [*sorted({*METHODS} - {'pcd'}), pytest.param('pcd', marks=pytest.mark.soak)])
def test_ours_is_the_released_formula(method: str) -> None:
    """Values and gradients in float64, or the comparison would mean nothing."""
    for case in METHODS[method].cases(METHODS[method].sizes['small']):
        own_pass, released = (compare_losses.one_pass(f, case, torch.float64)() for f in (case.ours, case.released))
        torch.testing.assert_close(own_pass, released, rtol=1e-6, atol=1e-9)
        for level in zip(*case.inputs, *case.constants, strict=True):
            level = [x.double() for x in level]
            torch.testing.assert_close(case.ours(*level), case.released(*level), rtol=1e-9, atol=1e-12)
