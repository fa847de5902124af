"""The frozen teacher: loaded or refused, never changed, and exactly what running it alone would give."""

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mmdistill_dense.config.resolve import without_pretrained
from mmdistill_dense.model.distill_model import run_teachers
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.networks.trace import TeacherOption, Traced
from mmdistill_dense.registry import MODELS
from mmdistill_dense.utils.reproducible import stream_states
from tests import toys


def loaded(option, *taps, stop_after=None, parts=None):
    """A loaded teacher with taps."""
    teacher = FrozenTeacher(option, Traced([Tap.parse(tap) for tap in taps], stop_after, parts))
    teacher.load(torch.zeros(1))
    return teacher


def calls_of(module):
    """A list that grows with each call of the module, and the handle."""
    calls = []
    return calls, module.register_forward_hook(lambda *_: calls.append(1))


# Frozen


def test_weights_and_mode_never_change():
    model = toys.distilled(
        student=toys.seg_net('fcn', dropout=0.1),
        teacher=toys.seg_teacher('fcn', decode_head=dict(dropout_ratio=0.5)),
        distillers=dict(kd=dict(type='LogitKD', student_tap=['decode_head', 'auxiliary_head'])),
    )
    network = toys.teacher_of(model).network
    toys.losses_of(model)  # the first pass folds the batch norms
    before, student = toys.student_state(network), toys.student_state(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for mode in (True, False, True):
        model.train(mode)
        assert not any(module.training for module in network.modules())
    for seed in range(3):
        optimizer.zero_grad()
        toys.total(toys.losses_of(model, toys.seg_batch(seed=seed))).backward()
        optimizer.step()
    assert not toys.differing(network.state_dict(), before), 'batch statistics too'
    assert toys.differing(model.state_dict(), student)
    assert not any(p.requires_grad or p.grad is not None for p in network.parameters())


def test_outputs_have_no_gradient_but_can_be_saved_for_backward():
    teacher = loaded(toys.seg_teacher('fcn'), 'backbone[3]')
    (feature,) = teacher(torch.randn(1, 3, 64, 64, requires_grad=True))['backbone[3]']
    assert not feature.requires_grad and not feature.is_inference()
    weight = torch.ones(1, requires_grad=True)
    (weight * feature).pow(2).sum().backward()
    assert weight.grad is not None


def test_it_follows_the_students_dtype():
    model = toys.distilled(student=toys.seg_net('fcn'), teacher=toys.seg_teacher('fcn'))
    for dtype in (torch.float64, torch.bfloat16):
        model.to(dtype)
        assert {p.dtype for p in toys.teacher_of(model).network.parameters()} == {dtype}


def test_loading_twice_keeps_the_network():
    model = toys.distilled(student=toys.seg_net('fcn'), teacher=toys.seg_teacher('fcn'))
    network = toys.teacher_of(model).network
    model.init_weights()
    assert toys.teacher_of(model).network is network


# Equal to the teacher alone


PREPROCESSORS = {
    'same': {},
    'all': dict(mean=[103.5, 110.0, 120.0], std=[57.0, 60.0, 61.0], bgr_to_rgb=False),
}


@pytest.mark.parametrize('changes', PREPROCESSORS.values(), ids=PREPROCESSORS)
def test_renormalised_batch_is_what_its_own_preprocessor_makes(changes):
    teacher_option = toys.seg_teacher('fcn', data_preprocessor=changes)
    model = toys.distilled(
        student=toys.seg_net('fcn'), teacher=teacher_option, distillers=dict(kd=dict(type='LogitKD'))
    )
    teacher = toys.teacher_of(model)
    assert (teacher.plan.renormalise is None) == (changes == {})
    batch = toys.seg_batch()
    ours = teacher(model.data_preprocessor(copy.deepcopy(batch), True)['inputs'])['decode_head.conv_seg'][0]
    own = teacher.network.data_preprocessor(copy.deepcopy(batch), True)['inputs']
    theirs = teacher.network(own)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    if changes:  # the difference matters: the student's pixels would have given something else
        unaware = FrozenTeacher(teacher.option, replace(teacher.plan, renormalise=None))
        unaware.adopt(teacher.network)
        wrong = unaware(model.data_preprocessor(copy.deepcopy(batch), True)['inputs'])['decode_head.conv_seg'][0]
        assert (wrong - theirs).abs().max() > 1e-2


def test_features_equal_the_networks_own():
    teacher = loaded(toys.seg_teacher(), 'backbone', 'decode_head:input', 'auxiliary_head')
    inputs = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = teacher.network.extract_feat(inputs)
        auxiliary = teacher.network.auxiliary_head(features)
    ours = teacher(inputs)
    assert all(torch.equal(a, b) for a, b in zip(ours['backbone'], features, strict=True))
    assert torch.equal(ours['auxiliary_head'][0], auxiliary)
    assert torch.equal(ours['decode_head:input'][0], features[0]), 'the list of features, flattened'


class Drawing(nn.Module):
    """Multiplies by random numbers in evaluation too, as SegNeXt's head does."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.layer(x) * torch.rand(3, 1, 1) * float(np.random.rand()) * random.random()


def test_random_numbers_of_a_teacher_are_its_own():
    MODELS.register_module(module=Drawing, force=True)
    teacher = loaded(dict(type='mmdistill_dense.Drawing', allow_random=True), 'layer', '')
    inputs, expected = torch.ones(1, 3, 2, 2), None
    for place in range(3):
        torch.manual_seed(place)
        before = stream_states()
        found = [teacher(inputs, seed)[''][0] for seed in (1, 2, 1)]
        assert stream_states() == before, 'no stream of the student moves'
        assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])
        assert expected is None or torch.equal(found[0], expected), 'nor does the place in it matter'
        expected = found[0]


class Thinning(nn.Module):
    """Drops by torch's function, and by a module that no name of dropout tells; with ``always`` in evaluation too."""

    def __init__(self, always):
        super().__init__()
        self.layer, self.always = nn.Conv2d(3, 3, 1), always

    def forward(self, x):
        return nn.functional.dropout(self.layer(x), 0.5, self.training or self.always)


@pytest.mark.parametrize('always', [False, True])
def test_a_network_that_is_random_in_training_alone_teaches_in_eval_mode(always, monkeypatch):
    told = []
    monkeypatch.setattr('mmdistill_dense.networks.teacher.print_log', lambda text, *_: told.append(text))
    MODELS.register_module(module=Thinning, force=True)
    option = dict(type='mmdistill_dense.Thinning', always=always, allow_random=True)
    teacher = FrozenTeacher(TeacherOption.parse(option), Traced([Tap.parse('')], None, None, as_trained=True))
    teacher.load(torch.zeros(1))
    inputs = torch.ones(1, 3, 9, 9)
    first, second = (teacher(inputs, seed)[''][0] for seed in (1, 2))
    assert torch.equal(first, teacher.network(inputs)) is torch.equal(first, second) is not always
    assert len(told) == (not always) and all('draws random numbers in training' in text for text in told)


def test_a_teacher_that_draws_nothing_leaves_the_streams_untouched(monkeypatch):
    teacher = loaded(toys.seg_teacher('fcn'), 'backbone[3]')
    inputs = torch.ones(1, 3, 64, 64)
    first = teacher(inputs)['backbone[3]'][0]
    monkeypatch.setattr(torch, 'set_rng_state', lambda *_: pytest.fail('the streams were forked'))
    assert torch.equal(teacher(inputs)['backbone[3]'][0], first)


def test_a_step_gives_the_teacher_a_seed_by_iteration(monkeypatch):
    model, seeds = toys.distilled(student=toys.seg_net('fcn'), teacher=toys.seg_teacher('fcn')), []
    monkeypatch.setattr(FrozenTeacher, '__call__', lambda _, inputs, seed, samples: seeds.append(seed) or {})
    for iteration in (0, 1, 0):
        model.distillation.state.iteration = iteration
        run_teachers(dict(model.distillers.items()), torch.ones(1, 3, 64, 64), next(model.parameters()))
    assert seeds[0] == seeds[2] != seeds[1]


@pytest.mark.parametrize('inputs', [dict(sup=torch.ones(1, 3, 64, 64)), ['a'], None, {}], ids=str)
def test_inputs_that_are_no_pictures_are_refused(inputs):
    teacher = loaded(toys.seg_teacher('fcn'), 'backbone[3]')
    with pytest.raises(TypeError) as error:
        teacher(inputs)
    message = str(error.value)
    assert 'model.teacher takes one batch of pictures' in message
    assert f'model.student.data_preprocessor gives a {type(inputs).__name__}' in message


# Stops after its last tap


def test_one_of_several_auxiliary_heads():
    head = dict(type='FCNHead', num_convs=1, channels=4, num_classes=3, norm_cfg=toys.BN)
    heads = [dict(head, in_channels=width, in_index=index) for index, width in ((1, 32), (2, 64))]
    teacher = loaded(toys.seg_net('fcn', 16, auxiliary_head=heads, allow_random=True), 'auxiliary_head.1')
    first, handle = calls_of(teacher.network.auxiliary_head[0].conv_seg)
    inputs = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = teacher.network.auxiliary_head[1](teacher.network.extract_feat(inputs))
    assert torch.equal(teacher(inputs)['auxiliary_head.1'][0], expected) and not first
    handle.remove()


def test_backbone_tap_stops_inside_the_backbone():
    exact = loaded(toys.seg_teacher(), 'backbone.layer2')
    early = loaded(toys.seg_teacher(), 'backbone.layer2', stop_after=1)
    inputs = torch.randn(1, 3, 64, 64)
    later, _ = calls_of(early.network.backbone.layer3)
    head, _ = calls_of(early.network.decode_head.conv_seg)
    assert torch.equal(early(inputs)['backbone.layer2'][0], exact(inputs)['backbone.layer2'][0])
    assert not later and not head
    assert toys.hooks_left(early.network) == 2, 'only the two of this test'


# Loading


def test_checkpoint_is_required():
    with pytest.raises(ValueError) as error:
        toys.distilled(teacher=toys.seg_net('fcn', 16))
    message = str(error.value)
    assert message.startswith('model.teacher.checkpoint is not set') and 'allow_random=True' in message
    assert toys.SEG['fcn'] in message and "'auto'" in message


def test_random_teacher_on_request_is_the_same_every_time():
    option = toys.seg_net('fcn', allow_random=True)
    torch.manual_seed(1)
    first = loaded(option, 'backbone')
    state = torch.get_rng_state()
    second = loaded(option, 'backbone')
    assert not toys.differing(first.network.state_dict(), second.network.state_dict())
    assert torch.equal(state, torch.get_rng_state()), 'and moves no random stream'
    assert first.receipt.sha256 is None and first.receipt.matched == 0


def test_wrong_checkpoint_is_refused():
    """A student's file, another architecture's, and one with only a backbone."""
    for file in (toys.teacher_file('fcn', 8), toys.teacher_file('pspnet', 16)):
        with pytest.raises(ValueError, match=r'model\.teacher\.checkpoint=.*does not fit EncoderDecoder'):
            toys.distilled(teacher=toys.seg_net('fcn', 16, checkpoint=file))
    network = toys.build_plain(toys.seg_net('fcn', 16))
    path = str(toys.fresh_dir() / 'backbone.pth')
    torch.save(dict(state_dict=network.backbone.state_dict()), path)
    with pytest.raises(ValueError, match='missing: backbone'):
        toys.distilled(teacher=toys.seg_net('fcn', 16, checkpoint=path))


def test_untapped_head_may_have_other_classes():
    """Distilling features from a teacher of other classes: its head is not needed and takes what fits."""
    option = toys.seg_net('fcn', 16, checkpoint=toys.teacher_file('fcn', 16), decode_head=dict(num_classes=3))
    teacher = loaded(option, 'backbone[3]', parts={'backbone'})
    assert teacher.receipt.ignored == 2
    with pytest.raises(ValueError, match=r'unfit: decode_head\.conv_seg\.weight'):
        loaded(option, 'decode_head', parts={'backbone', 'decode_head'})


class Chain(nn.Module):
    """A network without extract_feat: ``after`` works on what ``before`` made."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.before, self.after, self.unused = (nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, x):
        return self.unused(self.after(self.before(x * self.scale)))


class Stubborn(Chain):
    """Overrides what moves it, as LD and LAD of mmdet do."""

    def to(self, device=None):
        return super().to(device=device)

    def cuda(self, device=None):
        raise AssertionError('nobody asked')

    def train(self, mode=True):
        super().train(mode)


def test_a_network_with_a_to_of_its_own_teaches(tmp_path):
    MODELS.register_module(module=Stubborn, force=True)
    torch.save(Stubborn().state_dict(), tmp_path / 'stubborn.pth')
    option = dict(type='mmdistill_dense.Stubborn', accelerate=dict(channels_last=True))
    for weights in (dict(checkpoint=str(tmp_path / 'stubborn.pth')), dict(allow_random=True)):
        teacher = FrozenTeacher({**option, **weights}, Traced([Tap.parse('after')]))
        teacher.load(torch.zeros(1, dtype=torch.float64))
        teacher.follow(lambda tensor: tensor.float())
        assert teacher(torch.ones(1, 3, 2, 2))['after'][0].dtype == torch.float32


def test_its_data_preprocessor_follows_it():
    teacher = loaded(toys.seg_teacher('fcn'), 'backbone[3]')
    teacher.follow(lambda tensor: tensor.to('meta'))
    assert teacher.network.data_preprocessor.device.type == 'meta'


@pytest.mark.parametrize('lost', ['before.weight', 'after.bias', 'scale'])
def test_what_a_tap_stands_on_must_be_in_the_file(tmp_path, lost):
    MODELS.register_module(module=Chain, force=True)
    weights = Chain().state_dict()
    option = dict(type='mmdistill_dense.Chain', checkpoint=str(tmp_path / 'chain.pth'))
    teacher = toys.frozen(option, 'after', size=(8, 8))
    assert teacher.plan.parts == {'before', 'after'}
    torch.save({n: v for n, v in weights.items() if n != lost and not n.startswith('unused')}, option['checkpoint'])
    with pytest.raises(ValueError, match=rf'missing: {lost}'):
        teacher.load(torch.zeros(1))
    torch.save({n: v for n, v in weights.items() if not n.startswith('unused')}, option['checkpoint'])
    teacher.load(torch.zeros(1))
    assert teacher.receipt.matched == 5


def test_a_bare_backbone_teaches():
    """mmseg's backbones return nothing from ``train()`` and ``eval()``."""
    backbone = dict(type='mmseg.ResNetV1c', depth=18, base_channels=8, stem_channels=8, norm_cfg=toys.BN)
    backbone.update(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))  # stride 8, as the student's
    backbone.update(allow_random=True, data_preprocessor=dict(mean=[0.0] * 3, std=[255.0] * 3))  # it has none itself
    mimic = dict(type='MaskedMimic', student_tap='backbone[3]', teacher_tap='[3]')
    model = toys.distilled(student=toys.seg_net('fcn'), teacher=backbone, distillers=dict(mimic=mimic))
    network = toys.teacher_of(model).network
    assert not any(module.training for module in network.modules())
    assert toys.teacher_of(model)(torch.randn(1, 3, 64, 64))['[3]'][0].shape == (1, 64, 8, 8)


def test_runner_file_loads():
    option = toys.seg_net('fcn', 16, checkpoint=toys.teacher_file('fcn', 16, runner_file=True))
    teacher = loaded(option, 'decode_head')
    assert teacher.receipt.matched == teacher.receipt.total and teacher.receipt.ignored == 0
    assert len(teacher.classes) == toys.NUM_CLASSES and teacher.classes[0] == 'background'


def test_receipt_says_what_was_loaded():
    import hashlib
    from pathlib import Path

    file = toys.teacher_file('fcn', 16)
    receipt = loaded(toys.seg_teacher('fcn'), 'decode_head').receipt
    assert receipt.sha256 == hashlib.sha256(Path(file).read_bytes()).hexdigest()
    assert (receipt.config, receipt.file, receipt.ignored) == (toys.SEG['fcn'], Path(file).name, 0)
    assert receipt.matched == receipt.total == len(toys.build_plain(toys.seg_net('fcn')).state_dict())


def test_nothing_is_loaded_at_construction():
    """``mim test`` builds the model without the teacher's file."""
    model = toys.build(toys.model_config(teacher=toys.seg_net('fcn', checkpoint='nowhere.pth')))
    batch = toys.seg_batch()
    assert toys.teacher_of(model).network is None
    assert model.eval().test_step(batch)[0].pred_sem_seg.data.shape == (1, 64, 64)


def test_training_before_loading_is_refused():
    model = toys.build(toys.model_config()).train()
    model.distillation.started = True
    with pytest.raises(RuntimeError, match=r'model\.teacher is not loaded: call model\.init_weights'):
        toys.losses_of(model)


def test_own_pretraining_is_cleared():
    kept = without_pretrained(
        dict(
            pretrained='open-mmlab://resnet18',
            backbone=dict(type='R', init_cfg=dict(type='Pretrained', checkpoint='x'), pretrained='y'),
            necks=[dict(init_cfg=dict(type='mmengine.model.PretrainedInit')), dict(init_cfg=dict(type='Kaiming'))],
            head=dict(init_cfg=[dict(type='Pretrained', checkpoint='x'), dict(type='Normal')]),
            widths=(1, 2),
            pyramid=dict(type='PyramidVisionTransformer', init_cfg=dict(checkpoint='https://a.b/pvt.pth')),
            teacher_ckpt='https://a.b/c.pth',
        )
    )
    assert kept['pyramid'] == dict(type='PyramidVisionTransformer') and kept['teacher_ckpt'] is None
    assert kept['pretrained'] is None and kept['backbone'] == dict(type='R', pretrained=None)
    assert kept['necks'][1] == dict(init_cfg=dict(type='Kaiming')) and kept['widths'] == (1, 2)
    assert kept['necks'][0] == {} and kept['head'] == dict(init_cfg=[dict(type='Normal')])


def test_no_pretrained_weights_are_fetched_for_the_teacher(monkeypatch):
    from mmengine.model import PretrainedInit

    def refuse(*_):
        raise AssertionError('weights were asked for')

    monkeypatch.setattr(PretrainedInit, '__call__', refuse)
    option = toys.seg_net('fcn', pretrained='open-mmlab://resnet18_v1c', allow_random=True)
    toys.distilled(student=toys.seg_net('fcn'), teacher=option)
    toys.distilled(
        scope='mmdet',
        student=toys.det_net(),
        teacher=toys.det_net(allow_random=True, backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='x.pth'))),
        distillers=dict(kd=dict(type='LogitKD', student_tap='bbox_head.retina_cls', activation='sigmoid')),
    )
    with pytest.raises(AssertionError, match='weights were asked for'):
        toys.distilled(student=toys.seg_net('fcn', pretrained='open-mmlab://resnet18_v1c'))


def test_parts_that_a_distiller_calls_must_be_in_the_file(tmp_path):
    """What the taps need is strict anyhow; a plan adds children, or the whole network."""
    state = torch.load(toys.teacher_file(), weights_only=True)['state_dict']
    path = tmp_path / 'headless.pth'
    torch.save(dict(state_dict={k: v for k, v in state.items() if not k.startswith('auxiliary_head')}), path)

    def load(*required):
        plan = Traced(parts={'backbone'}).plan(required)
        teacher = FrozenTeacher(toys.seg_teacher(checkpoint=str(path)), plan)
        teacher.load(torch.zeros(1))

    load()
    load((), ('decode_head',))
    for required in [(('auxiliary_head',),), (None,), (None, ('backbone',))]:
        with pytest.raises(ValueError, match=r'auxiliary_head\.'):
            load(*required)
