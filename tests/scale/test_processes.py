"""One, two and four gloo processes compute the same. All that needs them happens in one start."""

from typing import Any

import pytest
import torch

from tests import gloo, toys
from tests.scale import pairs

pytestmark = pytest.mark.soak

CASES = [(task, method) for task, methods in pairs.METHODS.items() for method in methods]


@pytest.fixture(scope='module')
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What the processes found, by their number and rank."""
    folder = tmp_path_factory.mktemp('processes')
    files = {'fcn': toys.teacher_file('fcn'), 'gfl': toys.teacher_file('gfl')}
    gloo.start(pairs.work, str(folder), files, processes=max(pairs.SIZES))
    return {size: [torch.load(folder / f'{size}_{rank}.pth') for rank in range(size)] for size in pairs.SIZES}


@pytest.mark.parametrize('size', [2, 4])
@pytest.mark.parametrize(('task', 'method'), CASES)
def test_gradients_of_processes_average_to_one_process(ranks, task, method, size):
    """The gradient at the student's first layer, of each method alone; the documents name the exceptions."""
    (alone,), own_batch = ranks[1], method in pairs.OWN_BATCH
    whole = {name: v for name, v in alone[task]['losses'].items() if name.startswith(f'distill.{method}.')}
    assert whole and all(value != 0 for value in whole.values())
    for name, value in whole.items():
        mean = torch.stack([rank[task]['losses'][name] for rank in ranks[size]]).mean()
        near = dict(rtol=1e-5) if own_batch else dict(rtol=1e-4, atol=1e-7)
        assert torch.isclose(mean, value, **near) != own_batch, name
    expected = alone[task]['stem'][method]
    mean = torch.stack([rank[task]['stem'][method] for rank in ranks[size]]).mean(0)
    error = (mean - expected).norm() / expected.norm()
    assert expected.any() and (error > 1e-3 if own_batch else error < 1e-4), float(error)


@pytest.mark.parametrize('size', [2, 4])
@pytest.mark.parametrize('task', list(pairs.METHODS))
def test_ddp_gives_every_process_the_gradients_of_one(ranks: Any, task: str, size: int) -> None:
    """Of task and distillation together, for every parameter, adapters included; queues are one and the same."""
    (alone,) = ranks[1]
    expected = alone[task]
    assert any(name.startswith('distillers.') for name in expected['gradients']) and expected['queues']
    for rank in ranks[size]:
        assert rank[task]['gradients'].keys() == expected['gradients'].keys()
        for name, gradient in expected['gradients'].items():
            error = (rank[task]['gradients'][name] - gradient).norm()
            assert error <= 1e-4 * gradient.norm() + 1e-6, name
        assert not toys.differing(rank[task]['queues'], ranks[size][0][task]['queues'])
        torch.testing.assert_close(rank[task]['queues'], expected['queues'])


@pytest.mark.parametrize(('size', 'run'), [(2, 'run'), (4, 'run'), (1, 'accumulated'), (2, 'accumulated')])
def test_runs_end_with_the_same_student(ranks: Any, size: int, run: str) -> None:
    """The ordinary runner, with GN, one clipping of the gradient and data in the same order; accumulated steps are
    one step."""
    (alone,) = ranks[1]
    expected = alone['run']['weights']
    for rank in (rank[run] for rank in ranks[size]):
        assert rank['iterations'] == pairs.STEPS if run == 'run' else rank['iterations'] > pairs.STEPS
        assert run != 'run' or not toys.differing(rank['weights'], ranks[size][0][run]['weights']), 'one student'
        assert rank['weights'].keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(rank['weights'][name], value, rtol=1e-4, atol=2e-6, msg=name)


def test_uneven_last_batches_keep_one_student(ranks: Any) -> None:
    """Ten pictures on four processes, two of each in a step: each process sees three, the last step takes one.
    Processes with different numbers would wait for each other for ever."""
    first, *other_results = (rank['uneven'] for rank in ranks[4])
    assert first['iterations'] == 2 and any('queue' in name for name in first['weights'])
    running = ('running_mean', 'running_var')  # of each process's own pictures: BN, no SyncBN, on the CPU
    for other in other_results:
        assert [name for name in toys.differing(first['weights'], other['weights']) if not name.endswith(running)] == []
    for rank in ranks[4]:
        assert all(words in rank['refused'] for words in ('train_dataloader', '2, 2, 1, 1', 'round_up=True'))
