"""The gradients that distillers' clipping sees, in every way in which a step can be taken."""

import functools
import itertools
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.optim.optimizer import amp_optimizer_wrapper
from torch import nn

from mmdistill_dense.distillers.base import Distiller
from mmdistill_dense.engine.loss_guard import Clipping

LIMIT, USERS = 0.5, dict(max_norm=0.25)


class Small(Distiller):
    """One layer and a limit."""

    def __init__(self):
        super().__init__('backbone', clip_max_norm=LIMIT)
        self.layer = nn.Linear(4, 4)


class Pair(nn.Module):
    """A student and a distiller behind it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.student = nn.Linear(4, 4)
        self.distillers = nn.ModuleDict({'small': Small()})

    def forward(self, inputs):
        return self.distillers['small'].layer(self.student(inputs)).square().sum()


@pytest.fixture(autouse=True)
def mixed_precision_on_the_cpu(monkeypatch):
    """mmengine lets it run on accelerators alone."""
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', functools.partial(torch.amp.GradScaler, 'cpu'))


def attached(kind='SGD', amp=False, users=False, accumulated=1, **implementation):
    """A pair, its optimizer and what is logged."""
    model = Pair()
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.1, **implementation)
    options = dict(optimizer=optimizer, accumulative_counts=accumulated, clip_grad=dict(USERS) if users else None)
    wrapper = AmpOptimWrapper(**options) if amp else OptimWrapper(**options)
    logged = []
    hub = SimpleNamespace(update_scalar=lambda name, value: logged.append((name, float(value))))
    clipping = Clipping()
    clipping.before_train(SimpleNamespace(model=model, optim_wrapper=wrapper, message_hub=hub))
    return model, wrapper, logged, clipping


def trained(**way):
    """Weights after two steps, and the norms that were logged."""
    model, wrapper, logged, _ = attached(**way)
    for turn in range(2 * way.get('accumulated', 1)):
        wrapper.update_params(model(torch.full((2, 4), 1.0 + turn // way.get('accumulated', 1))))
    assert {name for name, _ in logged} == {'train/distill.small.grad_norm'}
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]), [norm for _, norm in logged]


WAYS = itertools.product((False, True), (False, True), (1, 2), ({}, dict(foreach=True), dict(fused=True)))


@pytest.mark.parametrize('kind', ['SGD', 'AdamW'])
@pytest.mark.parametrize(('amp', 'users', 'accumulated', 'implementation'), WAYS)
def test_a_step_is_the_plain_one(kind, amp, users, accumulated, implementation):
    """An optimizer with ``fused=True`` leaves unscaling to its own step; gradients are scaled until then."""
    expected, norms = trained(kind=kind, users=users)
    found, logged = trained(kind=kind, amp=amp, users=users, accumulated=accumulated, **implementation)
    assert norms[0] > 2 * LIMIT and len(logged) == 2
    assert logged == pytest.approx(norms, rel=1e-4)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('users', [False, True])
@pytest.mark.parametrize('implementation', [{}, dict(foreach=True), dict(fused=True)])
def test_a_step_that_overflows_is_left_out_whole(users, implementation):
    """Nothing is logged of it, and the gradients stay as they were found."""
    model, wrapper, logged, _ = attached(amp=True, users=users, **implementation)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    scale = wrapper.loss_scaler.get_scale()
    wrapper.backward(model(torch.ones(2, 4)))
    layer = model.distillers['small'].layer
    layer.bias.grad[0] = torch.inf
    wrapper.step()
    assert not logged and wrapper.loss_scaler.get_scale() == scale / 2
    assert all(map(torch.equal, before, model.parameters()))
    assert layer.bias.grad[0] == torch.inf and layer.weight.grad.isfinite().all() and layer.weight.grad.norm() > 0


def test_an_optimizer_that_takes_the_scaler_is_refused():
    """Of torch's old protocol: whether the gradients are scaled is known to the two of them alone."""

    class Old(torch.optim.SGD):
        _step_supports_amp_scaling = True

        def step(self, closure=None, *, grad_scaler=None):
            return super().step(closure)

    torch.optim.Old = Old
    try:
        with pytest.raises(ValueError, match=r'model\.distillers\.small\.clip_max_norm: Old\.step uses the scaler'):
            attached('Old', amp=True)
        attached('Old')
    finally:
        del torch.optim.Old


def test_two_limits_do_not_see_each_other_and_end_with_the_run():
    """A distiller's own one reaches its parameters alone; to the user's, its large gradient does not count."""
    model, wrapper, logged, clipping = attached(users=True)
    norms, parts = [], (model.student, model.distillers)
    wrapper.optimizer.register_step_pre_hook(lambda *_: norms.append([float(norm_of(part)) for part in parts]))
    wrapper.backward(100 * model(torch.ones(2, 4)))
    before = float(norm_of(model.distillers))
    wrapper.step()
    assert norms[0] == pytest.approx([0.25, LIMIT], rel=1e-3)
    assert logged == [('train/distill.small.grad_norm', pytest.approx(before))] and before > 1
    clip = wrapper.clip_func
    clipping.after_train(None)
    assert wrapper.clip_func is clip.args[0]
    logged.clear()
    wrapper.update_params(model(torch.ones(2, 4)))
    assert not logged


def norm_of(part):
    return nn.utils.get_total_norm([parameter.grad for parameter in part.parameters()])


def test_attached_twice_it_clips_once():
    model, wrapper, logged, clipping = attached(users=True)
    clip = wrapper.clip_func.args[0]
    runner = SimpleNamespace(
        model=model, optim_wrapper=wrapper, message_hub=SimpleNamespace(update_scalar=lambda *_: logged.append(1))
    )
    clipping.before_train(runner)
    wrapper.update_params(model(torch.ones(2, 4)))
    assert len(logged) == 1 and wrapper.clip_func.args[0] is clip


def test_the_limit_of_an_optimizer_of_distillers_alone_is_theirs():
    """Of several optimizers; without the student's parameters there would be nothing to clip."""
    model = Pair()
    model.distillers['small'].clip_max_norm = None
    parts = dict(student=model.student, distillers=model.distillers)
    made = {
        name: OptimWrapper(torch.optim.SGD(part.parameters(), lr=0.1), clip_grad=USERS) for name, part in parts.items()
    }
    wrapper = OptimWrapperDict(**made)
    Clipping().before_train(SimpleNamespace(model=model, optim_wrapper=wrapper, message_hub=None))
    (100 * model(torch.ones(2, 4))).backward()
    for name, one in made.items():
        one.step()
        assert float(norm_of(parts[name])) == pytest.approx(0.25, rel=1e-3), name
