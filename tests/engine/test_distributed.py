"""Two gloo processes compute what one does. Everything that needs them happens in one start."""

import pytest
import torch

from mmdistill_dense.engine import DistillDDP
from tests import gloo, toys
from tests.engine import resumption
from tests.faults import ranks as sick
from tests.faults.tools import content

BATCH = 4
DISTILLERS = dict(
    kd=dict(type='LogitKD', temperature=2.0),
    auxiliary=dict(type='LogitKD', student_tap='auxiliary_head', loss_weight=0.4),
    mimic=dict(type='MaskedMimic', ratio=1.1, schedule=dict(stop_at=5)),
    afdcd=dict(type='AfDCD', mask=dict(type='centre'), pool_size=0, student_tap='backbone[2]'),
)


def pair(distillers=DISTILLERS):
    """A pair whose norms use their running statistics: batch statistics of half a batch are others."""
    model = toys.distilled(student=toys.seg_net('fcn'), teacher=toys.seg_teacher('fcn'), distillers=distillers)
    toys.still_norms(model)
    return model


def share(rank, size):
    batch = toys.seg_batch(BATCH)
    return {name: values[rank * BATCH // size : (rank + 1) * BATCH // size] for name, values in batch.items()}


def one_step(model, student, rank, size):
    """Losses and gradients of one training step on this process's share of the batch."""
    inputs = student.data_preprocessor(share(rank, size), True)
    losses = model(**inputs, mode='loss')
    student.zero_grad()
    toys.total(losses).backward()
    values = {name: value.detach() for name, value in losses.items() if name.startswith('distill.')}
    return dict(losses=values, gradients={name: p.grad.clone() for name, p in student.named_parameters()})


def trained(folder, **resume):
    methods = dict(kd=dict(type='LogitKD', loss_weight=2.0), mimic=dict(type='MaskedMimic', clip_max_norm=1.0))
    resumption.train(folder, resumption.pair(methods), **resumption.TOGETHER, **resume)


def process(rank, folder):
    student = pair()
    wrapped = DistillDDP(student, broadcast_buffers=False)
    actual = one_step(wrapped, student, rank, 2)
    student.distillation.state.iteration = 6
    actual['stopped'] = one_step(wrapped, student, rank, 2)
    trained(folder / 'a')
    trained(folder / 'b', resume=True, load_from=str(folder / 'a' / 'iter_2.pth'))
    return actual | dict(sick=sick.runs(folder))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('two')


@pytest.fixture(scope='module')
def ranks(folder):
    return gloo.results(process, folder)


@pytest.fixture(scope='module')
def single():
    model = pair()
    actual = one_step(model, model, 0, 1)
    model.distillation.state.iteration = 6
    return actual | dict(stopped=one_step(model, model, 0, 1))


def test_losses_of_two_halves_average_to_the_whole(single, ranks):
    """Student's and distillers': the student's own loss is a mean over pixels too. A term that a schedule has ended
    needs no search for unused parameters."""
    names = [name for name in single['losses'] if 'loss' in name]
    assert len(names) == 5
    for name in names:
        halves = [rank['losses'][name] for rank in ranks]
        assert not torch.equal(*halves)
        torch.testing.assert_close(torch.stack(halves).mean(), single['losses'][name], msg=name)
    assert any('distillers.afdcd' in name for name in single['gradients'])
    for one, expected in [(rank, single) for rank in ranks] + [(rank['stopped'], single['stopped']) for rank in ranks]:
        assert one['gradients'].keys() == expected['gradients'].keys()
        for name, gradient in expected['gradients'].items():
            torch.testing.assert_close(one['gradients'][name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    for actual in (single, *ranks):
        stopped = actual['stopped']
        assert stopped['losses']['distill.mimic.loss_off'] == 0
        assert not any(g.any() for name, g in stopped['gradients'].items() if name.startswith('distillers.mimic'))


def test_a_distributed_run_resumes_bit_for_bit(ranks, folder):
    first, second = (folder / name / 'iter_4.pth' for name in 'ab')
    expected = content(first)
    assert {name.split('.')[0] for name in expected} == {'distillers', 'ema_state_dict', 'optimizer', 'state_dict'}
    assert not toys.differing(content(second), expected)
    weights = torch.load(first, weights_only=False)['state_dict']
    toys.build_plain(toys.seg_net('fcn')).load_state_dict(weights, strict=True)


def test_both_processes_stop_for_the_loss_of_one(ranks, folder):
    first, second = (rank['sick']['stopping']['words'] for rank in ranks)
    assert first == second and 'Iteration 3: the loss is not finite' in first and 'loss_sick is nan' in first
    assert sorted(path.name for path in (folder / 'stopping').glob('*.pth')) == ['iter_1.pth', 'iter_2.pth']
    first, second = (rank['sick']['blind'] for rank in ranks)
    assert first == second and 'mean and std of its data_preprocessor' in first and "{'type': 'Normalize'" in first


def drawn(folder, pictures, distillers=None, **changes):
    """Train with pictures without labels; return the names of those of each step beside the runner."""
    resumption.Diary.seen.clear()
    distillers = distillers or dict(kd=dict(type='LogitKD'), mimic=dict(type='MaskedMimic', clip_max_norm=1.0))
    runner = resumption.train(folder, resumption.pair(distillers, pictures, ratio=1), **resumption.TOGETHER, **changes)
    return runner, [[name for name, _ in more] for _, _, more in resumption.Diary.seen]


def process_with_more(rank, folder, pictures):
    runner, names = drawn(folder / 'a', pictures)
    student = {name: value.detach().clone() for name, value in runner.model.module.named_parameters()}
    again, later = drawn(folder / 'b', pictures, resume=True, load_from=str(folder / 'a' / 'iter_2.pth'))
    actual = dict(names=names, later=later, student=student, again=dict(again.model.module.named_parameters()))
    runner, actual['own_seeds'] = drawn(folder / 'd', pictures, randomness=dict(seed=5, diff_rank_seed=True))
    actual['seeds'] = runner.seed, runner.model.module.distillation.state.seed
    ill = dict(sick=dict(type='Sick', at=(1,), rank=1, part=True))
    with pytest.raises(RuntimeError) as error:
        drawn(folder / 'c', pictures, ill)
    return dict(actual, words=str(error.value))


@pytest.mark.soak
def test_pictures_without_labels_on_two_processes(tmp_path):
    """They draw others, agree, resume exactly, and stop together."""
    ranks = gloo.results(process_with_more, tmp_path, toys.picture_folder(16))
    first, second = ([name for step in rank['names'] for name in step] for rank in ranks)
    assert len(set(first)) == len(set(second)) == 2 * 4 and not set(first) & set(second)
    assert not toys.differing(ranks[0]['student'], ranks[1]['student'])
    for rank in ranks:
        assert rank['later'] == rank['names'][2:] and len(rank['names']) == 4
        assert not toys.differing(rank['student'], rank['again'])
    # CIRKD's queues and the passes over the pictures need one seed; other streams add the rank to it
    assert [rank['seeds'] for rank in ranks] == [(5, 5), (6, 5)]
    assert [rank['own_seeds'] for rank in ranks] == [rank['names'] for rank in ranks]
    words = ranks[0]['words']
    assert words == ranks[1]['words'] and 'distill.sick.unlabelled_loss_sick is nan' in words
    labelled, unlabelled = words.split('Pictures: ')[1].split(' Pictures without labels: ')
    assert labelled.startswith('shapes/0/') and all(name in unlabelled for name in ranks[1]['names'][1])
