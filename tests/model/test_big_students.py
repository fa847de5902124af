"""What large students and batches are trained with: recomputed activations, accumulated steps, AMP, compilation."""

import copy

import pytest
import torch
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope

from tests import toys

MIMIC = dict(type='MaskedMimic', schedule=dict(warmup=3))
PCD = dict(type='PCD', queue_size=16, queue_init='random', head=dict(type='linear'))
DISTILLERS = dict(
    kd=dict(type='LogitKD', schedule=dict(stop_at=3)),
    mimic=dict(MIMIC, student_tap=['backbone[0]', 'backbone[3]']),
    cwd=dict(type='CWD', student_tap='backbone[2]'),
    pcd=dict(PCD, student_tap='backbone[3]'),
)
STEPS = 5


def _make(**overrides):
    """A distilled student with weights of its own, the same in every call."""
    student, teacher = toys.seg_net('fcn', **overrides), toys.seg_teacher('fcn')
    model = toys.distilled(student=student, teacher=teacher, distillers=DISTILLERS)
    model.load_state_dict(toys.build_plain(toys.seg_net('fcn'), seed=2).state_dict())
    return model


def _run(model, wrapper=OptimWrapper, **options):
    """Train some steps on different batches; returns the losses of each and the student's weights at the end."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    wrapper_ = wrapper(optimizer, **options)
    wrapper_.initialize_count_status(model, 0, STEPS)
    logs = []
    for iteration in range(STEPS):
        model.distillation.state.iteration = iteration
        logs.append(model.train_step(toys.seg_batch(seed=iteration), wrapper_))
    return logs, toys.student_state(model)


def _assert_close(first, second, **tolerance):
    for grad, naive_grad in zip(first[0], second[0], strict=True):
        torch.testing.assert_close(grad, naive_grad, **tolerance)
    torch.testing.assert_close(first[1], second[1], **tolerance)


@pytest.fixture(scope='module')
def usual():
    return _run(_make())


def test_recomputed_activations_change_nothing(usual):
    model = _make(backbone=dict(with_cp=True))
    logs, state = _run(model)
    # running statistics see each batch twice, also in the student alone
    weights = {name: value for name, value in state.items() if 'running' not in name and 'num_batches' not in name}
    _assert_close((logs, weights), (usual[0], {name: usual[1][name] for name in weights}))
    assert toys.hooks_left(model) == 0


def test_accumulated_steps_are_the_mean_of_their_gradients():
    model = _make()
    toys.still_norms(model)
    batches = [toys.seg_batch(seed=seed) for seed in (0, 1)]
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for batch in batches:
        other = copy.deepcopy(model)  # queues move on with each step
        toys.total(toys.losses_of(other, batch)).backward()
        for name, parameter in other.named_parameters():
            expected[name] += 0 if parameter.grad is None else parameter.grad / 2
        _follow(model, other)
    model = _make()
    toys.still_norms(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0), accumulative_counts=2)
    wrapper.initialize_count_status(model, 0, 2)
    for batch in batches:
        model.train_step(copy.deepcopy(batch), wrapper)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] - expected[name], rtol=1e-4, atol=1e-5, msg=name)


def _follow(model, other):
    buffers = dict(other.distillers.named_buffers())
    for name, buffer in model.distillers.named_buffers():
        buffer.copy_(buffers[name])


@pytest.fixture
def compiler():
    import torch._dynamo as dynamo

    dynamo.reset()
    dynamo.utils.counters.clear()
    yield dynamo
    dynamo.reset()


@pytest.mark.soak
@pytest.mark.usefixtures('compiler')
@pytest.mark.parametrize('part', ['', 'backbone.layer3'])
def test_a_compiled_student_learns_the_same(usual, part):
    model = _make()
    if part:
        model.get_submodule(part).compile(backend='aot_eager')
    else:
        model.forward = torch.compile(model.forward, backend='eager')
    _assert_close(_run(model), usual, rtol=1e-4, atol=1e-5)
    assert toys.hooks_left(model) == 0
    assert list(model.state_dict()) == list(usual[1])


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
