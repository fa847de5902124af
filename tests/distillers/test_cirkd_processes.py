"""Two gloo processes keep one memory, and average to the losses and gradients of one process with all pictures."""

import pytest
import torch
import torch.distributed as dist
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmdistill_dense.distillers import CIRKD
from mmdistill_dense.distillers.base import RunState
from mmdistill_dense.engine import DistillDDP
from mmdistill_dense.utils.distributed import gather_rows_with_gradient, rows_before
from tests import gloo, toys

STEPS = 4
SPLIT = (3, 1)  # pictures of each process
BATCH = sum(SPLIT)
CLASSES = 3
PARTS = ('loss_minibatch', 'loss_pixel', 'loss_region')


def distiller(rank, **options):
    torch.manual_seed(0)
    sizes = dict(pixel_memory=9, region_memory=5, pixel_contrast=12, region_contrast=6, pixels_per_image=3)
    made = CIRKD('tap', num_classes=CLASSES, temperature=0.5, **sizes, **options)
    made.name = 'x'
    made.setup(*({'tap': [torch.Size((1, channels, 4, 4))]} for channels in (5, 7)))
    made.state = RunState(seed=1, rank=rank)
    made.double()
    made.parts[0].projector.eval()  # on the CPU a batch norm sees its own process alone
    return made


def step(made, number, mine):
    """One step on some of the pictures, which have different numbers of labelled pixels; the last is all ignored."""
    draw = torch.Generator().manual_seed(number)
    student, teacher = (
        torch.randn(BATCH, channels, 4, 4, generator=draw, dtype=torch.float64)[mine] for channels in (5, 7)
    )
    labels = torch.randint(0, CLASSES + 1, (BATCH, 1, 4, 4), generator=draw)
    labels = labels.masked_fill(labels == CLASSES, 255)
    labels[-1] = 255 if number == 2 else labels[-1]
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels[mine]]
    student.requires_grad_()
    made.state.iteration = number
    losses = made({'tap': [student]}, {'tap': [teacher]}, samples)
    made.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    return dict(
        losses={name: value.detach() for name, value in losses.items()},
        student=student.grad,
        weights=[parameter.grad.clone() for parameter in made.parameters()],
        state={name: value.clone() for name, value in made.named_buffers()},
    )


def gathered(rank):
    """Rows of both processes and the gradient of a sum in which each process weighs them by another factor."""
    rows = torch.arange(2.0 * SPLIT[rank]).view(-1, 2).requires_grad_()
    all_rows = gather_rows_with_gradient(rows)
    ((rank + 1) * all_rows * torch.arange(BATCH)[:, None]).sum().backward()
    return dict(rows=all_rows.detach(), before=rows_before(len(rows), 'cpu'), grad=rows.grad)


def network():
    """A real pair whose norms use their running statistics: batch statistics of half a batch are others."""
    option = dict(type='CIRKD', pixel_memory=30, region_memory=4)
    model = toys.distilled(student=toys.seg_net('fcn'), teacher=toys.seg_teacher('fcn'), distillers=dict(cirkd=option))
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model


def network_step(model, student, mine):
    """Losses of CIRKD and all gradients of a training step of a real network on some of the pictures."""
    batch = {name: values[mine] for name, values in toys.seg_batch(4).items()}
    losses = model(**student.data_preprocessor(batch, True), mode='loss')
    student.zero_grad()
    toys.total(losses).backward()
    return dict(
        losses={name: value.detach() for name, value in losses.items() if 'cirkd.loss' in name},
        gradients=[parameter.grad.clone() for parameter in student.parameters()],
    )


def process(rank, folder, teacher):
    folder = gloo.join(rank, folder, teacher)
    begin = sum(SPLIT[:rank])
    mine = slice(begin, begin + SPLIT[rank])
    made, own = distiller(rank), distiller(rank, gather=False)
    found = [step(made, number, mine) for number in range(STEPS)]
    alone = step(own, 0, mine)['losses']['loss_minibatch']
    pair = network()
    pair.distillation.state.rank = rank
    real = network_step(DistillDDP(pair, broadcast_buffers=False), pair, slice(2 * rank, 2 * rank + 2))
    torch.save(dict(steps=found, gathered=gathered(rank), own=alone, real=real), folder / f'rank{rank}.pth')
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp('two')
    gloo.start(process, str(folder), toys.teacher_file('fcn'))
    return [torch.load(folder / f'rank{rank}.pth') for rank in range(2)]


@pytest.fixture(scope='module')
def alone():
    made = distiller(0)
    return [step(made, number, slice(None)) for number in range(STEPS)]


def test_queues_are_equal_bit_for_bit_and_those_of_one_process(ranks, alone):
    for first, second, whole in zip(ranks[0]['steps'], ranks[1]['steps'], alone, strict=True):
        assert all(torch.equal(value, second['state'][name]) for name, value in first['state'].items())
        torch.testing.assert_close(first['state'], whole['state'])
    begin = distiller(0).parts[0].queue('pixel').rows
    assert not torch.isclose(begin, whole['state']['parts.0.queues.pixel.rows']).all(2).any(), 'each row was written'


def test_losses_and_gradients_average_to_those_of_one_process(ranks, alone):
    for *halves, whole in zip(ranks[0]['steps'], ranks[1]['steps'], alone, strict=True):
        for name in PARTS:
            mean = torch.stack([half['losses'][name] for half in halves]).mean()
            torch.testing.assert_close(mean, whole['losses'][name])
        torch.testing.assert_close(torch.cat([half['student'] for half in halves]) / 2, whole['student'])
        weights = [torch.stack(pair).mean(0) for pair in zip(*(half['weights'] for half in halves), strict=True)]
        torch.testing.assert_close(weights, whole['weights'])


def test_a_real_network_in_ddp_gets_the_gradients_of_one_process(ranks):
    model = network()
    whole = network_step(model, model, slice(None))
    assert set(whole['losses']) == {f'distill.cirkd.{name}' for name in PARTS}
    for name, value in whole['losses'].items():
        torch.testing.assert_close(torch.stack([rank['real']['losses'][name] for rank in ranks]).mean(), value)
    for rank in ranks:
        torch.testing.assert_close(rank['real']['gradients'], whole['gradients'], rtol=1e-4, atol=1e-6)


def test_without_gathering_a_process_compares_its_own_pictures(ranks):
    for rank, found in enumerate(ranks):
        begin = sum(SPLIT[:rank])
        own = step(distiller(0), 0, slice(begin, begin + SPLIT[rank]))
        torch.testing.assert_close(found['own'], own['losses']['loss_minibatch'])
        assert not torch.isclose(found['own'], found['steps'][0]['losses']['loss_minibatch'])


def test_gathered_rows_get_the_gradients_of_all_processes(ranks):
    rows = torch.cat([torch.arange(2.0 * count).view(-1, 2) for count in SPLIT])
    for rank, found in enumerate(ranks):
        begin = sum(SPLIT[:rank])
        assert torch.equal(found['gathered']['rows'], rows) and found['gathered']['before'] == begin
        expected = 3.0 * torch.arange(begin, begin + SPLIT[rank])[:, None].expand(-1, 2)
        assert torch.equal(found['gathered']['grad'], expected)
