"""Steps of optimizers: LARS against the formula, and the limits of distillers."""

import copy
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from torch import nn

from mmdistill_dense.distillers.base import Distiller
from mmdistill_dense.engine import LARS
from mmdistill_dense.engine.loss_guard import Clipping
from tests.engine.resumption import half_on_the_cpu


def formula(w, g, mu, lr, momentum, decay, eta, excluded, released):
    """One tensor, one step, in python floats of numpy's."""
    u, trust = g, 1.0
    if w.ndim > 1 and not excluded:
        u = g + decay * w
        norm_w, norm_u, norm_g = (np.sqrt((x**2).sum()) for x in (w, u, g))
        trust = eta * norm_w / (norm_g + decay * norm_w if released else norm_u)
    if released:
        mu = momentum * (u if mu is None else mu) + u
        return w - lr * trust * mu, mu
    mu = momentum * (0 if mu is None else mu) + u * trust
    return w - lr * mu, mu


@pytest.mark.parametrize('released', [False, True])
def test_steps_follow_the_formula(released):
    rng = np.random.default_rng(0)
    shapes = [(3, 4), (5,), (2, 3, 3, 3), (1,), (4, 4)]
    values = [rng.standard_normal(shape) for shape in shapes]
    excluded = [False, False, False, False, True]
    params = [nn.Parameter(torch.from_numpy(value.copy())) for value in values]
    groups = [dict(params=params[:4]), dict(params=params[4:], lars_exclude=True, lr=0.5)]
    optimizer = LARS(groups, lr=0.3, momentum=0.8, weight_decay=0.1, eta=0.02, released=released)
    buffers = [None] * len(shapes)
    for _ in range(4):
        for index, param in enumerate(params):
            grad = rng.standard_normal(param.shape)
            param.grad = torch.from_numpy(grad)
            rate = 0.5 if excluded[index] else 0.3
            values[index], buffers[index] = formula(
                values[index], grad, buffers[index], rate, 0.8, 0.1, 0.02, excluded[index], released
            )
        optimizer.step()
        for param, value in zip(params, values, strict=True):
            assert np.abs(param.detach().numpy() - value).max() < 1e-13


def test_a_copy_goes_on_where_it_was():
    def run(steps, optimizer):
        (param,) = optimizer.param_groups[0]['params']
        for _ in range(steps):
            param.grad = torch.arange(9.0).view(3, 3) - 3
            optimizer.step()
        return param.detach().clone()

    def new(value=1.0, **options):
        return LARS([nn.Parameter(torch.ones(3, 3) * value)], lr=0.1, weight_decay=1e-2, **options)

    whole, half = run(4, new()), new()
    weights, state = run(2, half), half.state_dict()
    assert set(state['state'][0]) == {'momentum_buffer'}
    assert torch.equal(run(2, copy.deepcopy(half)), whole)
    again, older, old_state = new(weights), new(weights), copy.deepcopy(state)
    del old_state['param_groups'][0]['released']  # as saved before there was this option
    for one, saved in ((again, state), (older, old_state)):
        one.load_state_dict(saved)
        assert torch.equal(run(2, one), whole)
    released = new(released=True)
    run(1, released)
    assert torch.equal(run(2, copy.deepcopy(released)), run(2, released))


def test_half_precision_takes_its_norms_in_float32():
    param = nn.Parameter(torch.full((300, 300), 8.0, dtype=torch.float16))  # the sum of squares overflows
    param.grad = torch.full_like(param, 4.0)
    LARS([param], lr=1.0, momentum=0.0, eta=0.5).step()
    assert torch.allclose(param.float(), torch.full((300, 300), 4.0))


def test_a_closure_has_gradients():
    param, idle = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([param, idle], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4
    assert bool((param < 1).all()) and bool((idle == 1).all()) and idle not in optimizer.state


def test_sparse_gradients_are_refused():
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = LARS(embedding.parameters(), lr=0.1)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match='no sparse gradients'):
        optimizer.step()
    for option in (dict(lr=-1), dict(lr=1, momentum=1.0), dict(lr=1, eta=-1e-3)):
        with pytest.raises(ValueError, match='LARS: (lr|momentum|eta) must be 0 or more'):
            LARS(embedding.parameters(), **option)


# Clipping of distillers' gradients, in every way in which a step can be taken


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
def mixed_precision_on_the_cpu():
    with half_on_the_cpu():
        yield


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


def trained(**options):
    """Weights after two steps, and the norms that were logged."""
    model, wrapper, logged, _ = attached(**options)
    for turn in range(2 * options.get('accumulated', 1)):
        wrapper.update_params(model(torch.full((2, 4), 1.0 + turn // options.get('accumulated', 1))))
    assert {name for name, _ in logged} == {'train/distill.small.grad_norm'}
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]), [norm for _, norm in logged]


WAYS = itertools.product((False, True), (False, True), (1, 2), ({}, dict(foreach=True), dict(fused=True)))


@pytest.mark.parametrize('kind', ['SGD', 'AdamW'])
@pytest.mark.parametrize(('amp', 'users', 'accumulated', 'implementation'), WAYS)
def test_a_step_is_the_plain_one(kind, amp, users, accumulated, implementation):
    """An optimizer with ``fused=True`` leaves unscaling to its own step; gradients are scaled until then."""
    expected, norms = trained(kind=kind, users=users)
    actual, logged = trained(kind=kind, amp=amp, users=users, accumulated=accumulated, **implementation)
    assert norms[0] > 2 * LIMIT and len(logged) == 2
    assert logged == pytest.approx(norms, rel=1e-4)
    assert torch.allclose(actual, expected, rtol=1e-5, atol=1e-7)


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


def test_an_optimizer_that_takes_the_scaler_is_refused(monkeypatch):
    """Of torch's old protocol: whether the gradients are scaled is known to the two of them alone."""

    class Old(torch.optim.SGD):
        _step_supports_amp_scaling = True

        def step(self, closure=None, *, grad_scaler=None):
            return super().step(closure)

    monkeypatch.setattr(torch.optim, 'Old', Old, raising=False)
    with pytest.raises(ValueError, match=r'model\.distillers\.small\.clip_max_norm: Old\.step uses the scaler'):
        attached('Old', amp=True)
    attached('Old')


def test_two_limits_do_not_see_each_other():
    """A distiller's own one reaches its parameters alone; to the user's, its large gradient does not count. Attached
    twice, it clips once."""
    model, wrapper, logged, clipping = attached(users=True)
    norms, parts, clip = [], (model.student, model.distillers), wrapper.clip_func.args[0]
    hub = SimpleNamespace(update_scalar=lambda *text: logged.append(text))
    clipping.before_train(SimpleNamespace(model=model, optim_wrapper=wrapper, message_hub=hub))
    wrapper.optimizer.register_step_pre_hook(lambda *_: norms.append([float(norm_of(part)) for part in parts]))
    wrapper.backward(100 * model(torch.ones(2, 4)))
    before = float(norm_of(model.distillers))
    wrapper.step()
    assert norms[0] == pytest.approx([0.25, LIMIT], rel=1e-3)
    assert logged == [('train/distill.small.grad_norm', pytest.approx(before))] and before > 1
    assert wrapper.clip_func.args[0] is clip
    clipping.after_train(None)
    assert wrapper.clip_func is clip
    logged.clear()
    wrapper.update_params(model(torch.ones(2, 4)))
    assert not logged


def norm_of(part):
    return nn.utils.get_total_norm([parameter.grad for parameter in part.parameters()])


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
    for name, step in made.items():
        step.step()
        assert float(norm_of(parts[name])) == pytest.approx(0.25, rel=1e-3), name
