"""Several gloo processes give the losses, the queue and the statistics of a single process."""

from functools import partial

import pytest
import torch
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from mmdistill_dense.distillers import CIRKD, PCD, DeFeat, FeatureMatch, QueueKL, SimReg
from mmdistill_dense.distillers.base import RunState
from mmdistill_dense.utils.distributed import gather_rows, gather_rows_with_gradient, rows_before
from tests import gloo
from tests.distillers import steps_on_heads as on_heads
from tests.distillers.steps import padded, set_up

STEPS, CLASSES = 5, 3
SPLIT = (3, 1)  # pictures of each process: different numbers of valid pixels and of labels
SIZES = dict(pixel_memory=9, region_memory=5, pixel_contrast=12, region_contrast=6, pixels_per_image=3)
OPTIONS = {
    'match': (FeatureMatch, dict(steps=3), (2, 2)),
    'pcd': (PCD, dict(queue_size=14, center=True, queue_init='random', monitor_interval=0), SPLIT),
    'queue': (QueueKL, dict(queue_size=6, monitor_interval=0), (2, 2)),
    'seed': (QueueKL, dict(queue_size=6, own_key=True, monitor_interval=0), (2, 2)),
    'simreg': (SimReg, dict(head=dict(type='linear')), (2, 2)),
    'defeat': (DeFeat, {}, SPLIT),
    'cirkd': (CIRKD, dict(num_classes=CLASSES, temperature=0.5, **SIZES), SPLIT),
}
ON_HEADS = {  # losses and gradients of some of four pictures; the last ones by numbers of RoIs of each picture
    **{kind: partial(on_heads.crosskd_step, kind) for kind in on_heads.KINDS},
    **{('ld', reduction): partial(on_heads.ld_step, reduction) for reduction in ('sum', 'mean')},
    'kddetr': on_heads.kddetr_step,
    **{(output, counts): partial(on_heads.roi_step, output, counts)
       for output in on_heads.FORMS for counts in ((5, 1, 0, 2), (3, 1, 2, 0))},
}  # fmt: skip


def distiller(name, rank=0, **more):
    cls, options, _ = OPTIONS[name]
    made = set_up(cls, [(5, 4, 4), (7, 4, 4)], **options, **more)
    made.state = RunState(seed=1, rank=rank)
    if name == 'cirkd':
        made.parts[0].projector.eval()  # on the CPU a batch norm sees its own process alone
    return made


def mine_of(rank, split=SPLIT):
    begin = sum(split[:rank])
    return slice(begin, begin + split[rank])


def step(made, number, pictures):
    """One step on some of the pictures, two of which are padded, and the last of which once has no label."""
    student, teacher, samples = padded(number, pictures)
    labels = torch.randint(0, CLASSES + 1, (4, 1, 4, 4), generator=torch.Generator().manual_seed(number))
    labels = labels.masked_fill(labels == CLASSES, 255)
    labels[-1] = 255 if number == 2 else labels[-1]
    boxes = torch.tensor([[[0.0, 0, 9, 30]], [[4, 4, 12, 20]], [[8, 0, 32, 32]], [[0, 0, 3, 3]]])[pictures]
    samples = [
        SegDataSample(metainfo=sample.metainfo, gt_sem_seg=PixelData(data=label), gt_instances=InstanceData(bboxes=box))
        for sample, label, box in zip(samples, labels[pictures], boxes, strict=True)
    ]
    made.state.iteration = number
    losses = made({'tap': [student.requires_grad_()]}, {'tap': [teacher]}, samples)
    total = torch.stack(list(losses.values())).sum()
    of_student, *weights = torch.autograd.grad(total, [student, *made.parameters()])
    averaged = {name: value.detach() for name, value in losses.items()}
    averaged['weights'] = torch.cat([grad.flatten() for grad in weights])
    return dict(averaged=averaged, student=of_student, state={n: v.clone() for n, v in made.named_buffers()})


def gathered(rank):
    """Rows of both processes and the gradient of a sum in which each process weighs them by another factor."""
    rows = torch.arange(2.0 * SPLIT[rank]).view(-1, 2).requires_grad_()
    all_rows = gather_rows_with_gradient(rows)
    ((rank + 1) * all_rows * torch.arange(4)[:, None]).sum().backward()
    return dict(rows=all_rows.detach(), before=rows_before(len(rows), 'cpu'), grad=rows.grad)


def process(rank, folder):
    with pytest.raises(ValueError, match='rows of 3, 4 values'):  # a collective would end the process, or wait for ever
        gather_rows(torch.zeros(2 - rank, 3 + rank))
    actual = dict(gathered=gathered(rank))
    for name, (*_, split) in OPTIONS.items():
        made = distiller(name, rank)
        actual[name] = [step(made, number, mine_of(rank, split)) for number in range(STEPS)]
    actual['own'] = step(distiller('cirkd', rank, gather=False), 0, mine_of(rank))['averaged']['loss_minibatch']
    actual['heads'] = {case: step(mine_of(rank)) for case, step in ON_HEADS.items()}
    return actual


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    return gloo.results(process, tmp_path_factory.mktemp('two'))


@pytest.mark.parametrize('name', OPTIONS)
def test_losses_of_two_processes_average(ranks, name):
    made = distiller(name)
    begin = {key: value.clone() for key, value in made.named_buffers()}
    whole = [step(made, number, slice(None)) for number in range(STEPS)]
    for first, second, expected in zip(*(rank[name] for rank in ranks), whole, strict=True):
        assert all(torch.equal(value, second['state'][key]) for key, value in first['state'].items())
        torch.testing.assert_close(first['state'], expected['state'])
        for what, value in expected['averaged'].items():
            torch.testing.assert_close((first['averaged'][what] + second['averaged'][what]) / 2, value, msg=what)
        torch.testing.assert_close(torch.cat([first['student'], second['student']]) / 2, expected['student'])
    if name == 'pcd':
        assert first['state']['queue.ptr'] == STEPS * 4 % 14
    if name == 'cirkd':
        rows = 'parts.0.queues.pixel.rows'
        assert set(expected['averaged']) == {'loss_minibatch', 'loss_pixel', 'loss_region', 'weights'}
        assert not torch.isclose(begin[rows], first['state'][rows]).all(2).any(), 'each row was written'


@pytest.mark.parametrize('case', ON_HEADS, ids=str)
def test_terms_on_heads_average_to_one_process_with_all_pictures(ranks, case):
    """Also where a process has more RoIs than the other, or none. Summed edges, as released, count half as much."""
    whole, halves = ON_HEADS[case](slice(0, 4)), [rank['heads'][case] for rank in ranks]
    for name, value in whole['losses'].items():
        factor = 0.5 if case == ('ld', 'sum') and name != 'loss_kd' else 1.0
        average = (halves[0]['losses'][name] + halves[1]['losses'][name]) / 2
        torch.testing.assert_close(average, factor * value, rtol=1e-6, atol=0, msg=name)
    of_towers = dict(rtol=1e-4, atol=1e-6) if isinstance(case, str) else {}
    allowed = dict(rtol=1e-5, atol=1e-12) if case[0] == 'ld' else of_towers
    for grads, other, value in zip(*(half['grads'] for half in halves), whole['grads'], strict=True):
        if case != ('ld', 'sum'):
            average = torch.cat([grads, other], axis=1 if case == 'kddetr' else 0) / 2
            torch.testing.assert_close(average, value, **allowed)


def test_without_gathering_a_process_compares_its_own_pictures(ranks):
    for rank, actual in enumerate(ranks):
        expected = step(distiller('cirkd'), 0, mine_of(rank))['averaged']['loss_minibatch']
        torch.testing.assert_close(actual['own'], expected)
        assert not torch.isclose(actual['own'], actual['cirkd'][0]['averaged']['loss_minibatch'])


def test_gathered_rows_get_the_gradients_of_all_processes(ranks):
    rows = torch.cat([torch.arange(2.0 * count).view(-1, 2) for count in SPLIT])
    for rank, actual in enumerate(ranks):
        rows_of_rank = mine_of(rank)
        assert torch.equal(actual['gathered']['rows'], rows) and actual['gathered']['before'] == rows_of_rank.start
        expected = 3.0 * torch.arange(4)[rows_of_rank, None].expand(-1, 2)
        assert torch.equal(actual['gathered']['grad'], expected)


def step_of_three(rank, folder):
    pictures = mine_of(rank, (1, 2, 1))
    actual = {name: step(distiller(name, rank), 0, pictures) for name in ('pcd', 'defeat', 'cirkd')}
    return actual | {case: on_head(pictures) for case, on_head in ON_HEADS.items() if case != ('ld', 'sum')}


@pytest.mark.soak
def test_losses_of_three_processes_average(tmp_path):
    """Where a mean over processes divides by two, two processes do not show it."""
    ranks = gloo.results(step_of_three, tmp_path, size=3)
    for name in ranks[0]:
        kind = 'losses' if name in ON_HEADS else 'averaged'
        expected = ON_HEADS[name](slice(0, 4)) if name in ON_HEADS else step(distiller(name), 0, slice(None))
        for term, value in expected[kind].items():
            average = torch.stack([rank[name][kind][term] for rank in ranks]).mean(0)
            torch.testing.assert_close(average, value, rtol=1e-5, atol=1e-6, msg=f'{name} {term}')
