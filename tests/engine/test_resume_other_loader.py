"""A run of epochs goes on with another batch size: what follows the share of the training is right, to the end."""

import pytest
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdistill_dense.registry import HOOKS
from tests import toys

EPOCHS, PICTURES = 6, 8


@HOOKS.register_module()
class NotesFactors(Hook):
    """Notes the share of the epochs that is done at each step, and the factors of the distillers' schedules."""

    seen: list[tuple[float, dict[str, float]]] = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        model, state = runner.model, runner.model.distillation.state
        share = (runner.epoch + batch_idx / len(runner.train_dataloader)) / EPOCHS
        factors = {
            name: one.schedule.factor(state.iteration, state.max_iters) for name, one in model.distillers.items()
        }
        self.seen.append((share, factors))


def train(folder, batch, resume=None, **changes):
    """The factors of the steps that this call trains."""
    falls = dict(type='LogitKD', schedule=dict(ramp_down=(0, 1.0)))
    stops = dict(type='CWD', schedule=dict(stop_at=0.5))
    warms = dict(type='AT', student_tap='backbone[3]', schedule=dict(warmup=1.0))
    distillers = dict(falls=falls, stops=stops, warms=warms)
    distillers['falls'].update(changes)
    model = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), distillers)
    config = toys.run_config(folder, model, epochs=EPOCHS, load_from=resume, resume=bool(resume))
    config.train_dataloader.batch_size = batch
    config.custom_hooks = [dict(type='mmdistill_dense.NotesFactors')]
    NotesFactors.seen.clear()
    runner = Runner.from_cfg(config)
    runner.train()
    return runner, list(NotesFactors.seen)


@pytest.fixture(scope='module')
def begun(tmp_path_factory):
    folder = tmp_path_factory.mktemp('begun')
    _, seen = train(folder, 2)
    assert [factors['falls'] for _, factors in seen] == pytest.approx([1 - share for share, _ in seen])
    return folder


@pytest.mark.parametrize(('epoch', 'batch'), [(1, 8), (3, 1), (3, 4), (5, 1), (5, 2)])
def test_schedules_go_on_at_the_share_of_the_epochs(begun, tmp_path, epoch, batch):
    _, seen = train(tmp_path, batch, str(begun / f'epoch_{epoch}.pth'))
    assert len(seen) == (EPOCHS - epoch) * (PICTURES // batch)
    step = 1 / (EPOCHS * PICTURES // batch)
    for share, factors in seen:
        assert factors['falls'] == pytest.approx(1 - share)
        assert factors['stops'] == float(share < 0.5)
        assert factors['warms'] == pytest.approx(share + step)  # full in the last step


def test_measurements_of_a_balance_go_on_in_steps_of_the_new_loader(tmp_path):
    balance = dict(ratio=2.0, until=1.0)
    train(tmp_path / 'a', 2, balance=balance)
    runner, _ = train(tmp_path / 'b', 4, str(tmp_path / 'a' / 'epoch_3.pth'), balance=balance)
    found = [one.iteration for one in runner.model.distillers['falls'].balancer.tries]
    assert found == sorted(found) and found[-1] < EPOCHS * PICTURES // 4
    assert any(one < 6 for one in found) and any(one >= 6 for one in found)
