"""Two gloo processes learn the same tokens. Everything happens in one start."""

import pytest
import torch

from mmdistill_dense.distillers.maskd import learning as token_learner
from tests import gloo, toys
from tests.distillers.maskd.learners import Interrupt, blobs, learner, stop_at
from tests.distillers.maskd.tokens import same, seg_model, tokens_of

BATCH = 4
pytestmark = pytest.mark.soak


def run_config(folder, **changes):
    wrapper = dict(type='mmdistill_dense.DistillDDP', broadcast_buffers=False)
    randomness = dict(diff_rank_seed=True)  # each process has a seed of its own; tokens must not
    options = dict(iters=2, launcher='pytorch', model_wrapper_cfg=wrapper, randomness=randomness)
    return toys.run_config(folder, seg_model(), **options, **changes)


def learned(folder, **changes):
    """Run to the end; return the tokens and the weights of the student."""
    runner = toys.train(None, run_config(folder, **changes))
    runner.model = runner.model.module
    return dict(tokens=tokens_of(runner), student=toys.student_state(runner.model))


def interrupted(folder, at):
    """Run until a step of the learning, where every process fails."""
    with pytest.MonkeyPatch.context() as patched, pytest.raises(Interrupt):
        stop_at(patched, at)
        toys.train(None, run_config(folder))


def error_of(folder):
    """What a process says about tokens that are not there."""
    config = run_config(folder)
    config.model.distillers.maskd.tokens = 'nowhere.pth'
    with pytest.raises(FileNotFoundError) as error:
        toys.train(None, config)
    return str(error.value)


def one_learning_step(rank, size):
    """Tokens after a step on this process's share of a batch."""
    logits, labels = blobs(torch.Generator().manual_seed(3), BATCH)
    part = slice(rank * BATCH // size, (rank + 1) * BATCH // size)
    single = learner(optimizer=dict(type='SGD', lr=1.0))
    step = single.step(logits[part], labels[part])
    return dict(tokens=single.detached()['0.mask_token'], told=[step.task, *step.dice])


def process(rank, folder):
    """What each of the two processes does."""
    losses_seen = []
    gated = token_learner.gated_loss
    token_learner.gated_loss = lambda *args: (losses_seen.append(args[3].sum()), gated(*args))[1]
    actual = dict(whole=learned(folder / 'whole'))
    actual['seen'] = torch.stack(losses_seen)
    actual['cached'] = learned(folder / 'whole')
    interrupted(folder / 'cut', 4)
    actual['files'] = [path.name for path in (folder / 'cut' / 'maskd_tokens').iterdir()]
    actual['continued'] = learned(folder / 'cut')
    actual['error'] = error_of(folder / 'error')
    token_learner.gated_loss = gated
    actual['learning'] = one_learning_step(rank, 2)
    return actual


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    """What two processes found."""
    return gloo.results(process, tmp_path_factory.mktemp('two'))


def test_tokens_are_equal_on_both_though_the_data_are_not(ranks):
    first, second = ranks
    assert len(first['seen']) == 6 and not (first['seen'] == second['seen']).any()
    assert same(first['whole']['tokens'], second['whole']['tokens'])


def test_the_student_is_the_same_with_tokens_found(ranks):
    for rank in ranks:
        for part in ('tokens', 'student'):
            assert same(rank['whole'][part], rank['cached'][part])


def test_interrupted_learning_continues_to_the_same_bits(ranks):
    assert ranks[0]['files'][0].endswith('.partial.pth')  # of the process that writes
    for rank in ranks:
        for part in ('tokens', 'student'):
            assert same(rank['whole'][part], rank['continued'][part])


def test_a_mistake_that_the_main_process_finds_stops_both(ranks):
    for rank in ranks:
        assert "model.distillers.maskd.tokens='nowhere.pth'" in rank['error']


def test_a_step_on_two_halves_is_the_step_on_the_whole(ranks):
    alone = one_learning_step(0, 1)
    for rank in ranks:
        torch.testing.assert_close(rank['learning']['tokens'], alone['tokens'])
        assert rank['learning']['told'] == pytest.approx(alone['told'], rel=1e-5)
