"""Two gloo processes keep one queue and one set of statistics, and average to what one process computes."""

import pytest
import torch
import torch.distributed as dist

from mmdistill_dense.distillers import PCD, FeatureMatch, QueueKL
from mmdistill_dense.distillers.base import RunState
from tests import gloo
from tests.distillers.steps import padded

STEPS = 5
# Method, options and the pictures of each process; PCD's have different numbers of valid pixels.
OPTIONS = {
    'match': (FeatureMatch, dict(steps=3), (2, 2)),
    'pcd': (PCD, dict(queue_size=14, center=True, queue_init='random', monitor_interval=0), (3, 1)),
    'queue': (QueueKL, dict(queue_size=6, monitor_interval=0), (2, 2)),
}


def distiller(name, rank=0):
    torch.manual_seed(0)
    cls, options, _ = OPTIONS[name]
    made = cls('tap', **options)
    made.setup(*({'tap': [torch.Size((1, channels, 4, 4))]} for channels in (5, 7)))
    made.state = RunState(seed=1, rank=rank)
    return made.double()


def step(made, number, mine):
    """One step on some of the pictures, two of which are padded: the loss, its gradients and the state."""
    student, teacher, samples = padded(number, mine)
    (loss,) = made({'tap': [student.requires_grad_()]}, {'tap': [teacher]}, samples).values()
    of_student, *weights = torch.autograd.grad(loss, [student, *made.parameters()])
    state = {name: value.clone() for name, value in made.named_buffers()}
    weights = torch.cat([grad.flatten() for grad in weights])
    return dict(loss=loss.detach(), student=of_student, weights=weights, state=state)


def process(rank, folder):
    folder = gloo.join(rank, folder, '')
    found = {}
    for name, (*_, split) in OPTIONS.items():
        made, begin = distiller(name, rank), sum(split[:rank])
        found[name] = [step(made, number, slice(begin, begin + split[rank])) for number in range(STEPS)]
    torch.save(found, folder / f'rank{rank}.pth')
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp('two')
    gloo.start(process, str(folder))
    return [torch.load(folder / f'rank{rank}.pth') for rank in range(2)]


@pytest.mark.parametrize('name', OPTIONS)
def test_state_is_one_and_losses_and_gradients_average(ranks, name):
    made = distiller(name)
    whole = [step(made, number, slice(None)) for number in range(STEPS)]
    for *halves, expected in zip(*(rank[name] for rank in ranks), whole, strict=True):
        first, second = halves
        assert all(torch.equal(value, second['state'][key]) for key, value in first['state'].items())
        torch.testing.assert_close(first['state'], expected['state'])
        for what in ('loss', 'weights'):
            torch.testing.assert_close(torch.stack([half[what] for half in halves]).mean(0), expected[what])
        torch.testing.assert_close(torch.cat([half['student'] for half in halves]) / 2, expected['student'])
    if name == 'pcd':
        assert first['state']['queue.ptr'] == STEPS * 4 % 14
