"""A run of epochs goes on with another batch size or other processes: what follows its share is right, to the end."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from mmdistill_dense.distillers.schedule import Schedule
from mmdistill_dense.engine.distill_hook import steps_ahead
from mmdistill_dense.registry import HOOKS
from mmdistill_dense.unlabelled.step import unlabelled_of
from tests import toys

EPOCHS, PICTURES = 4, 8
SCHEDULES = dict(falls=dict(ramp_down=(0, 1.0)), stops=dict(stop_at=0.5), warms=dict(warmup=1.0))


def loop_of(kind, done, of, dataloader, iteration):
    loop, by_epoch = object.__new__(kind), kind is EpochBasedTrainLoop
    count = dict(_max_epochs=of, _max_iters=of * len(dataloader)) if by_epoch else dict(_max_iters=of)
    vars(loop).update(count, _epoch=done, _iter=iteration, dataloader=dataloader)
    return loop


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 60), *[st.tuples(st.integers(1, 9), st.integers(1, 4))] * 2, st.integers(1, 12), st.data())
def test_schedules_are_where_the_share_of_the_epochs_is(pictures, before, now, epochs, data):
    """Loops, batch sizes, processes and schedules; also from a file within an epoch, which begins again."""
    steps, each = (-(-pictures // (batch * processes)) for batch, processes in (before, now))
    done = data.draw(st.integers(0, epochs - 1))
    within = data.draw(st.integers(0, steps - 1))
    loop = loop_of(EpochBasedTrainLoop, done, epochs, range(each), done * steps + within)
    iteration = loop.iter - steps_ahead(loop)
    assert iteration == done * each and loop.max_iters - iteration == (epochs - done) * each
    for options in SCHEDULES.values():
        unbroken = Schedule(**options).factor(done * each, epochs * each)
        assert Schedule(**options).factor(iteration, loop.max_iters) == unbroken
    assert steps_ahead(loop_of(IterBasedTrainLoop, 0, epochs * steps, range(each), done * steps + within)) == 0


@HOOKS.register_module()
class NotesFactors(Hook):
    """Notes, for each step, the share of the epochs that is done, the factors of the schedules, the other pictures, and
    what the loss is divided by."""

    priority = 'LOW'
    seen: list[SimpleNamespace] = []

    def before_train(self, runner):
        scale = runner.optim_wrapper.scale_loss

        def noted(loss):
            self.seen[-1].divisor = float(loss / scale(loss))
            return scale(loss)

        runner.optim_wrapper.scale_loss = noted

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        model, state = runner.model, runner.model.distillation.state
        share = (runner.epoch + batch_idx / len(runner.train_dataloader)) / EPOCHS
        factors = {
            name: method.schedule.factor(state.iteration, state.max_iters) for name, method in model.distillers.items()
        }
        more = unlabelled_of(model)
        self.seen.append(SimpleNamespace(share=share, **factors, more=more is not None and more.batch is not None))


def train(folder, batch, resume=None):
    falls = dict(type='LogitKD', schedule=SCHEDULES['falls'])
    stops = dict(type='CWD', schedule=SCHEDULES['stops'])
    warms = dict(type='AT', student_tap='backbone[3]', schedule=SCHEDULES['warms'])
    methods = dict(falls=falls, stops=stops, warms=warms)
    more = dict(data_root=toys.picture_folder(), start=0.7)
    model = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), methods, unlabelled=more)
    config = toys.run_config(folder, model, epochs=EPOCHS, load_from=resume, resume=bool(resume))
    config.train_dataloader.batch_size, config.optim_wrapper.accumulative_counts = batch, 2
    config.custom_hooks = [dict(type='mmdistill_dense.NotesFactors')]
    NotesFactors.seen.clear()
    runner = Runner.from_cfg(config)
    runner.train()
    return runner, list(NotesFactors.seen)


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Runs on a loader, on one of half the steps, and on this one again, each with what its steps saw."""
    folder, start, actual = tmp_path_factory.mktemp('runs'), None, []
    for name, (batch, epoch) in dict(a=(2, 1), b=(4, 2), c=(4, 4)).items():
        actual.append(train(folder / name, batch, start))
        start = str(folder / name / f'epoch_{epoch}.pth')
    return actual


@pytest.mark.soak
@pytest.mark.parametrize(('place', 'epoch', 'batch'), [(0, 0, 2), (1, 1, 4), (2, 2, 4)])
def test_schedules_go_on_at_the_share_of_the_epochs(runs, place, epoch, batch):
    steps, (_, steps_seen) = PICTURES // batch, runs[place]
    assert len(steps_seen) == (EPOCHS - epoch) * steps
    for step in steps_seen:
        assert step.falls == pytest.approx(1 - step.share)
        assert step.stops == float(step.share < 0.5)
        assert step.warms == pytest.approx(step.share + 1 / (EPOCHS * steps))  # full in the last step
        assert step.divisor == 2.0 or not place  # mmengine would count from the steps of before
        assert step.more == (step.share >= 0.7), 'pictures without labels'
