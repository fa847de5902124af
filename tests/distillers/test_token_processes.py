"""Two gloo processes keep one queue and one set of statistics, and average to what one process computes."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from mmdistill_dense.distillers import FeatureMatch, QueueKL
from tests import gloo
from tests.distillers.steps import padded

STEPS = 4
OPTIONS = {'match': (FeatureMatch, dict(steps=3)), 'queue': (QueueKL, dict(queue_size=6, monitor_interval=0))}


def distiller(name):
    torch.manual_seed(0)
    cls, options = OPTIONS[name]
    made = cls('tap', **options)
    made.setup(*({'tap': [torch.Size((1, channels, 4, 4))]} for channels in (5, 7)))
    return made.double()


def step(made, number, mine):
    """One step on some of the pictures, two of which are padded: loss, gradient and state."""
    student, teacher, samples = padded(number, mine)
    (loss,) = made({'tap': [student]}, {'tap': [teacher]}, samples).values()
    gradient = torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, list(made.parameters()))])
    return dict(loss=loss.detach(), gradient=gradient, state={n: v.clone() for n, v in made.named_buffers()})


def process(rank, folder):
    torch.set_num_threads(1)
    rendezvous = f'file://{folder}/rendezvous'
    dist.init_process_group('gloo', init_method=rendezvous, rank=rank, world_size=2, timeout=timedelta(seconds=120))
    half = slice(2 * rank, 2 * rank + 2)
    found = {}
    for name in OPTIONS:
        made = distiller(name)
        found[name] = [step(made, number, half) for number in range(STEPS)]
    torch.save(found, f'{folder}/rank{rank}.pth')
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp('two')
    gloo.start(process, str(folder))
    return [torch.load(folder / f'rank{rank}.pth') for rank in range(2)]


@pytest.mark.parametrize('name', OPTIONS)
def test_state_is_one_and_losses_average(ranks, name):
    made = distiller(name)
    for first, second, whole in zip(
        *(rank[name] for rank in ranks), (step(made, number, slice(None)) for number in range(STEPS)), strict=True
    ):
        assert all(torch.equal(value, second['state'][key]) for key, value in first['state'].items())
        for key, value in whole['state'].items():
            torch.testing.assert_close(first['state'][key], value)
        for what in ('loss', 'gradient'):
            torch.testing.assert_close((first[what] + second[what]) / 2, whole[what])
