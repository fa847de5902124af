"""Pictures without labels on two processes, and with a loss that is no number."""

import pytest

from tests import gloo, toys
from tests.engine.resumption import TOGETHER, Diary, pair, train
from tests.faults import tools  # noqa: F401  (registers Sick)

ITERS = 4
METHODS = dict(kd=dict(type='LogitKD'), mimic=dict(type='MaskedMimic', clip_max_norm=1.0))


def drawn(folder, pictures, distillers=METHODS, **changes):
    """Train; return the names of the pictures of each step beside the runner."""
    Diary.seen.clear()
    runner = train(folder, pair(distillers, pictures, ratio=1), **TOGETHER, **changes)
    return runner, [[name for name, _ in more] for _, _, more in Diary.seen]


def process(rank, folder, pictures):
    """What each of the two processes does."""
    runner, names = drawn(folder / 'a', pictures)
    student = {name: value.detach().clone() for name, value in runner.model.module.named_parameters()}
    resume = dict(resume=True, load_from=str(folder / 'a' / 'iter_2.pth'))
    again, later = drawn(folder / 'b', pictures, **resume)
    found = dict(names=names, later=later, student=student, again=dict(again.model.module.named_parameters()))
    runner, found['own_seeds'] = drawn(folder / 'd', pictures, randomness=dict(seed=5, diff_rank_seed=True))
    found['seeds'] = runner.seed, runner.model.module.distillation.state.seed
    sick = dict(sick=dict(type='Sick', at=(1,), rank=1, part=True))
    try:
        drawn(folder / 'c', pictures, sick)
    except RuntimeError as error:
        found['words'] = str(error)
    return found


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    return gloo.results(process, tmp_path_factory.mktemp('two'), toys.picture_folder(16))


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
        assert rank['later'] == rank['names'][2:] and len(rank['names']) == ITERS
        assert not toys.differing(rank['student'], rank['again'])


@pytest.mark.soak
def test_all_processes_stop_and_name_the_pictures_of_both_parts(ranks):
    words = ranks[0]['words']
    assert words == ranks[1]['words'] and 'distill.sick.unlabelled_loss_sick is nan' in words
    labelled, others = words.split('Pictures: ')[1].split(' Pictures without labels: ')
    assert labelled.startswith('shapes/0/') and all(name in others for name in ranks[1]['names'][1])
