"""Steps of optimizers: LARS, the limits of distillers and the rates of layers."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import nn

from mmdistill_dense.distillers.base import Distiller
from mmdistill_dense.engine import LARS
from mmdistill_dense.engine.loss_guard import Clipping
from tests import toys
from tests.engine.resumption import half_on_the_cpu


def run(steps, optimizer):
    """The weights after some steps with the same gradient."""
    (param,) = optimizer.param_groups[0]['params']
    for _ in range(steps):
        param.grad = torch.arange(9.0).view(3, 3) - 3
        optimizer.step()
    return param.detach().clone()


def test_a_state_goes_on_where_it_was():
    """Also one that was saved before there was the option ``released``."""

    def new(value):
        return LARS([nn.Parameter(value)], lr=0.1, weight_decay=1e-2)

    whole, half = run(4, new(torch.ones(3, 3))), new(torch.ones(3, 3))
    weights, state = run(2, half), half.state_dict()
    del state['param_groups'][0]['released']
    again = new(weights)
    again.load_state_dict(state)
    assert torch.equal(run(2, again), whole)


def test_an_excluded_group_steps_as_sgd():
    """All else is compared with the values of tests/golden."""
    group = dict(params=[nn.Parameter(torch.ones(3, 3))], lars_exclude=True)
    plain = torch.optim.SGD([nn.Parameter(torch.ones(3, 3))], lr=0.1, momentum=0.8)
    torch.testing.assert_close(run(3, LARS([group], lr=0.1, momentum=0.8, weight_decay=0.1)), run(3, plain))


def test_half_precision_takes_its_norms_in_float32():
    param = nn.Parameter(torch.full((300, 300), 8.0, dtype=torch.float16))  # the sum of squares overflows
    param.grad = torch.full_like(param, 4.0)
    LARS([param], lr=1.0, momentum=0.0, eta=0.5).step()
    assert torch.allclose(param.float(), torch.full((300, 300), 4.0))


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


def test_layer_decay_leaves_distillers_at_the_whole_rate():
    """mmseg's constructor goes by names; parts of a distiller are no early layers."""
    init_default_scope('mmseg')
    head = dict(type='FCNHead', in_index=2, channels=8, num_convs=1, num_classes=7, norm_cfg=dict(type='BN'))
    backbone = dict(type='BEiT', img_size=(64, 64), patch_size=16, num_layers=3, num_heads=2, out_indices=(0, 1, 2))
    networks = [
        dict(
            type='EncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64)),
            backbone=dict(backbone, embed_dims=width),
            decode_head=dict(head, in_channels=width),
        )
        for width in (16, 32)
    ]
    teacher = dict(networks[1], checkpoint=None, allow_random=True)
    fit = dict(fit=dict(type='FitNet', student_tap='backbone[2]'))
    model = toys.build(toys.model_config(networks[0], teacher, fit))
    decay = dict(constructor='LayerDecayOptimizerConstructor', paramwise_cfg=dict(num_layers=3, layer_decay_rate=0.9))
    wrapper = build_optim_wrapper(model, dict(decay, optimizer=dict(type='AdamW', lr=1.0)))
    rates = {id(value): group['lr'] for group in wrapper.optimizer.param_groups for value in group['params']}
    rate_of_name = {name: rates[id(value)] for name, value in model.named_parameters()}
    assert {rate for name, rate in rate_of_name.items() if name.startswith('distillers.')} == {1.0}
    assert rate_of_name['backbone.patch_embed.projection.weight'] == pytest.approx(0.9**4)
