"""LARS against the formula, and as mmengine builds it; the golden steps are in tests/golden."""

import copy

import numpy as np
import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmdistill_dense.engine import LARS


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
def test_steps_follow_the_formula(released: bool) -> None:
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


def test_saved_state_goes_on_where_it_was() -> None:
    def run(steps: int, start=None):
        torch.manual_seed(0)
        param = nn.Parameter(torch.ones(3, 3))
        optimizer = LARS([param], lr=0.1, weight_decay=1e-2)
        if start is not None:
            param.data, state = start
            optimizer.load_state_dict(state)
        for _ in range(steps):
            param.grad = torch.arange(9.0).view(3, 3) - 3
            optimizer.step()
        return param.data, optimizer.state_dict()

    whole, state = run(4)
    half = run(2)
    again, _ = run(2, half)
    assert torch.equal(again, whole)
    assert set(state['state'][0]) == {'momentum_buffer'}
    half = run(2)
    for group in half[1]['param_groups']:  # as saved before there was this option
        del group['released']
    assert torch.equal(run(2, half)[0], whole)


def test_a_copy_takes_the_same_steps() -> None:
    param = nn.Parameter(torch.ones(2, 2))
    param.grad = torch.ones(2, 2)
    original = LARS([param], lr=0.1, released=True)
    again = copy.deepcopy(original)
    again.param_groups[0]['params'][0].grad = param.grad
    for one in (original, again):
        one.step()
    assert torch.equal(again.param_groups[0]['params'][0], param)


def test_half_precision_takes_its_norms_in_float32() -> None:
    param = nn.Parameter(torch.full((300, 300), 8.0, dtype=torch.float16))  # the sum of squares overflows
    param.grad = torch.full_like(param, 4.0)
    LARS([param], lr=1.0, momentum=0.0, eta=0.5).step()
    assert torch.allclose(param.float(), torch.full((300, 300), 4.0))


def test_closure_has_gradients_and_parameters_without_one_stay() -> None:
    param, idle = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([param, idle], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4
    assert bool((param < 1).all())
    assert bool((idle == 1).all())
    assert idle not in optimizer.state


def test_sparse_gradients_and_wrong_numbers_are_refused() -> None:
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = LARS(embedding.parameters(), lr=0.1)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match='no sparse gradients'):
        optimizer.step()
    for option in (dict(lr=-1), dict(lr=1, momentum=1.0), dict(lr=1, eta=-1e-3)):
        with pytest.raises(ValueError, match='LARS: (lr|momentum|eta) must be 0 or more'):
            LARS(embedding.parameters(), **option)


def test_mmengine_builds_it_and_names_what_is_excluded() -> None:
    model = nn.ModuleDict(dict(body=nn.Linear(3, 3), head=nn.Linear(3, 2)))
    wrapper = build_optim_wrapper(model, dict(
        type='OptimWrapper',
        optimizer=dict(type='mmdistill_dense.LARS', lr=0.2, weight_decay=1e-5),
        paramwise_cfg=dict(custom_keys={'head': dict(lars_exclude=True)}),
    ))  # fmt: skip
    assert isinstance(wrapper.optimizer, LARS)
    excluded = {
        id(param) for group in wrapper.optimizer.param_groups if group['lars_exclude'] for param in group['params']
    }
    assert excluded == {id(param) for param in model['head'].parameters()}
