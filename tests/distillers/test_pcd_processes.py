"""Two gloo processes keep one queue, and average to the loss and the gradients of one process with all pictures."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from mmdistill_dense.distillers import PCD
from mmdistill_dense.distillers.base import RunState
from tests import gloo
from tests.distillers.steps import padded

STEPS = 5
SPLIT = (3, 1)  # pictures of each process
BATCH = sum(SPLIT)


def distiller(rank):
    torch.manual_seed(0)
    made = PCD('tap', queue_size=14, center=True, queue_init='random')
    shapes = [{'tap': [torch.Size((1, channels, 4, 4))]} for channels in (5, 7)]
    made.setup(*shapes)
    made.state = RunState(seed=1, rank=rank)
    return made.double()


def step(made, number, mine):
    """One step on some of the pictures, two of which are padded: the share of the loss, its gradients, the queue."""
    student, teacher, samples = padded(number, mine)
    student.requires_grad_()
    loss = made({'tap': [student]}, {'tap': [teacher]}, samples)['loss_pcd']
    made.zero_grad()
    loss.backward()
    state = {name: value.clone() for name, value in made.named_buffers()}
    weight = made.projector.weight.grad.clone()
    return dict(loss=loss.detach(), student=student.grad, weight=weight, state=state)


def process(rank, folder):
    torch.set_num_threads(1)
    rendezvous = f'file://{folder}/rendezvous'
    dist.init_process_group('gloo', init_method=rendezvous, rank=rank, world_size=2, timeout=timedelta(seconds=120))
    begin = sum(SPLIT[:rank])
    made = distiller(rank)
    found = [step(made, number, slice(begin, begin + SPLIT[rank])) for number in range(STEPS)]
    torch.save(found, f'{folder}/rank{rank}.pth')
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp('two')
    gloo.start(process, str(folder))
    return [torch.load(folder / f'rank{rank}.pth') for rank in range(2)]


@pytest.fixture(scope='module')
def alone():
    made = distiller(0)
    return [step(made, number, slice(None)) for number in range(STEPS)]


def test_queues_are_equal_bit_for_bit_although_batches_are_not(ranks):
    for first, second in zip(*ranks, strict=True):
        assert all(torch.equal(value, second['state'][name]) for name, value in first['state'].items())
    assert first['state']['queue.ptr'] == STEPS * BATCH % 14


def test_queue_and_running_mean_are_those_of_one_process(ranks, alone):
    for found, expected in zip(ranks[0], alone, strict=True):
        torch.testing.assert_close(found['state'], expected['state'])


def test_losses_and_gradients_average_to_those_of_one_process(ranks, alone):
    """The processes have different numbers of valid pixels."""
    for *halves, whole in zip(*ranks, alone, strict=True):
        for name in ('loss', 'weight'):
            torch.testing.assert_close(torch.stack([half[name] for half in halves]).mean(0), whole[name])
        torch.testing.assert_close(torch.cat([half['student'] for half in halves]) / 2, whole['student'])
