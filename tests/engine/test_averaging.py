"""The average of the weights is one of the student; distillers lie on the device where they train."""

import copy
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.runner import BaseLoop

from mmdistill_dense.engine.distill_hook import average_the_student, place_distillers
from tests import toys


@pytest.fixture(scope='module')
def model():
    return toys.distilled(student=toys.seg_net('fcn'), distillers=dict(mimic=dict(type='MaskedMimic')))


def averaging(model, update_buffers):
    """A runner's stand-in with an ``EMAHook``, as it is when training starts."""
    hook = EMAHook(momentum=0.5, update_buffers=update_buffers)
    runner = SimpleNamespace(model=model, hooks=[hook], iter=0)
    hook.before_run(runner)
    average_the_student(runner)
    return runner, hook


@pytest.mark.parametrize('update_buffers', [False, True])
def test_an_average_is_of_the_student_alone(model, update_buffers):
    model = copy.deepcopy(model)
    runner, hook = averaging(model, update_buffers)
    held = {*dict(hook.ema_model.module.named_parameters()), *dict(hook.ema_model.module.named_buffers())}
    assert not any(name.startswith('distillers') for name in [*held, *hook.ema_model.avg_parameters])
    assert len(list(model.distillers.parameters())) == 4, 'the model itself keeps them'

    plain = toys.build_plain(toys.seg_net('fcn'))
    plain.load_state_dict(model.state_dict())
    reference = EMAHook(momentum=0.5, update_buffers=update_buffers)
    reference.before_run(SimpleNamespace(model=plain))
    for iteration in range(3):
        runner.iter = iteration
        for one, of in ((model, hook), (plain, reference)):
            torch.manual_seed(iteration)
            with torch.no_grad():
                for value in one.state_dict().values():
                    value.add_(torch.randn(value.shape).to(value.dtype))
            of.after_train_iter(runner, iteration)
    ours, theirs = hook.ema_model.state_dict(), reference.ema_model.state_dict()
    assert not toys.differing(ours, theirs), 'to the bit what the plain student has'

    trained, own = toys.student_state(model), toys.student_state(model.distillers)
    hook.before_val_epoch(runner)
    reference.before_val_epoch(runner)
    assert not toys.differing(model.state_dict(), plain.state_dict()) and toys.differing(model.state_dict(), trained)
    assert not toys.differing(model.distillers.state_dict(), own)
    hook.after_val_epoch(runner)
    assert not toys.differing(model.state_dict(), trained)


def test_it_may_be_arranged_twice_and_hooks_of_other_kinds_are_left_alone(model):
    runner, hook = averaging(model, update_buffers=False)
    average_the_student(runner)
    hook.after_train_iter(runner, 0)
    other = SimpleNamespace(ema_model=SimpleNamespace(module=SimpleNamespace(distillers=1)))
    average_the_student(SimpleNamespace(hooks=[other, SimpleNamespace(), EMAHook()]))
    assert other.ema_model.module.distillers == 1


def test_distillers_lie_on_the_device_where_they_train(model):
    model = copy.deepcopy(model)
    model.backbone.to('meta')
    for loop, device in ((dict(type='IterBasedTrainLoop'), 'cpu'), (None, 'cpu'), (mock.Mock(BaseLoop), 'meta')):
        place_distillers(SimpleNamespace(_train_loop=loop), model)
        assert {value.device.type for value in model.distillers.state_dict().values()} == {device}
