"""Pictures without labels on two processes, and with a loss that is no number."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from mmdistill_dense.unlabelled.step import unlabelled_of
from tests import gloo, toys
from tests.faults import tools  # noqa: F401  (registers Sick)

ITERS = 4


def config(work_dir, pictures, distillers=None, **changes):
    distillers = distillers or dict(kd=dict(type='LogitKD'), mimic=dict(type='MaskedMimic', clip_max_norm=1.0))
    student, teacher = toys.seg_net('fcn', dropout=0.1), toys.seg_teacher('fcn')
    model = toys.model_config(student, teacher, distillers, unlabelled=dict(data_root=pictures, ratio=1))
    hooks = [dict(type='EMAHook', momentum=0.5)]
    return toys.run_config(work_dir, model, **toys.merged(dict(iters=ITERS, custom_hooks=hooks), changes))


def drawn(config):
    """Train; return the names of the pictures of each step beside the runner."""
    runner = toys.make_runner(config.work_dir, config)
    names = []
    step = runner.model.register_forward_pre_hook

    def note(*_):
        model = getattr(runner.model, 'module', runner.model)
        names.append([Path(one.img_path).name for one in unlabelled_of(model).batch['data_samples']])

    handle = step(note)
    try:
        runner.train()
    finally:
        handle.remove()
    return runner, names


def process(rank, folder, teacher, pictures):
    """What each of the two processes does."""
    folder = gloo.join(rank, folder, teacher)
    wrapper = dict(type='mmdistill_dense.DistillDDP', broadcast_buffers=False)
    both = dict(launcher='pytorch', model_wrapper_cfg=wrapper)
    runner, names = drawn(config(folder / 'a', pictures, **both))
    student = {name: value.detach().clone() for name, value in runner.model.module.named_parameters()}
    resume = dict(resume=True, load_from=str(folder / 'a' / 'iter_2.pth'))
    again, later = drawn(config(folder / 'b', pictures, **both, **resume))
    found = dict(names=names, later=later, student=student, again=dict(again.model.module.named_parameters()))
    each = dict(randomness=dict(seed=5, diff_rank_seed=True))
    runner, found['own_seeds'] = drawn(config(folder / 'd', pictures, **both, **each))
    found['seeds'] = runner.seed, runner.model.module.distillation.state.seed
    sick = dict(sick=dict(type='Sick', at=(1,), rank=1, part=True))
    try:
        drawn(config(folder / 'c', pictures, sick, **both))
    except RuntimeError as error:
        found['words'] = str(error)
    torch.save(found, folder / f'rank{rank}.pth')
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    path = tmp_path_factory.mktemp('two')
    gloo.start(process, str(path), toys.teacher_file('fcn'), toys.picture_folder(16))
    return [torch.load(path / f'rank{rank}.pth') for rank in range(2)]


@pytest.mark.soak
def test_two_processes_draw_other_pictures_and_agree(ranks):
    first, second = ([name for step in rank['names'] for name in step] for rank in ranks)
    assert len(set(first)) == len(set(second)) == 2 * ITERS and not set(first) & set(second)
    assert not toys.differing(ranks[0]['student'], ranks[1]['student'])


@pytest.mark.soak
def test_processes_with_seeds_of_their_own_share_the_order(ranks):
    """CIRKD's queues and the passes over the pictures need one seed; other streams add the rank to it."""
    assert [rank['seeds'] for rank in ranks] == [(5, 5), (6, 5)]
    assert [rank['own_seeds'] for rank in ranks] == [rank['names'] for rank in ranks]
    assert len({name for rank in ranks for step in rank['own_seeds'] for name in step}) == 16


@pytest.mark.soak
def test_two_processes_resume_exactly(ranks):
    for rank in ranks:
        assert rank['later'] == rank['names'][2:]
        assert not toys.differing(rank['student'], rank['again'])


@pytest.mark.soak
def test_all_processes_stop_and_name_the_pictures_of_both_parts(ranks):
    words = ranks[0]['words']
    assert words == ranks[1]['words'] and 'distill.sick.unlabelled_loss_sick is nan' in words
    labelled, others = words.split('Pictures: ')[1].split(' Pictures without labels: ')
    assert labelled.startswith('shapes/0/') and all(name in others for name in ranks[1]['names'][1])
