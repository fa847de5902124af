"""The frozen teacher: loaded or refused, never changed, and exactly what running it alone would give."""

import hashlib
import random
from contextlib import nullcontext
from pathlib import Path

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
    teacher = FrozenTeacher(option, Traced([Tap.parse(tap) for tap in taps], stop_after, parts))
    teacher.load(torch.zeros(1))
    return teacher


def calls_of(module):
    """A list that grows with each call of the module, and the handle."""
    calls = []
    return calls, module.register_forward_hook(lambda *_: calls.append(1))


def test_weights_of_the_teacher_never_change():
    model = toys.distilled(
        student=toys.seg_net('fcn', dropout=0.1),
        teacher=toys.seg_teacher('fcn', decode_head=dict(dropout_ratio=0.5)),
        distillers=dict(kd=dict(type='LogitKD', student_tap=['decode_head', 'auxiliary_head'])),
    )
    network = toys.teacher_of(model).network
    toys.losses_of(model)  # the first pass folds the batch norms
    before, student = toys.student_state(network), toys.student_state(model)
    modes = [(name, module.training) for name, module in network.named_modules()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for mode in (True, False, True):
        model.train(mode)
        trained = {type(module) for module in network.modules() if module.training}
        assert {*modes} == {*((name, module.training) for name, module in network.named_modules())}
        assert nn.BatchNorm2d not in trained and nn.Dropout2d not in trained and nn.Conv2d not in trained
    for seed in range(3):
        optimizer.zero_grad()
        toys.total(toys.losses_of(model, toys.seg_batch(seed=seed))).backward()
        optimizer.step()
    assert not toys.differing(network.state_dict(), before), 'batch statistics too'
    assert toys.differing(model.state_dict(), student)
    assert not any(p.requires_grad or p.grad is not None for p in network.parameters())


def test_it_is_loaded_once_and_its_maps_have_no_graph():
    model = toys.distilled(student=toys.seg_net('fcn'), teacher=toys.seg_teacher('fcn'))
    teacher, network = toys.teacher_of(model), toys.teacher_of(model).network
    model.init_weights()
    assert teacher.network is network
    (scores,) = teacher(torch.randn(1, 3, 64, 64, requires_grad=True))['decode_head.conv_seg']
    assert not scores.requires_grad and not scores.is_inference(), 'a graph of the student may hold them'


@MODELS.register_module(force=True)
class Drawing(nn.Module):
    """Multiplies by random numbers in evaluation too, as SegNeXt's head does."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.layer(x) * torch.rand(3, 1, 1) * float(np.random.rand()) * random.random()


def test_random_numbers_of_a_teacher_are_its_own():
    teacher = loaded(dict(type='mmdistill_dense.Drawing', allow_random=True), 'layer', '')
    inputs, expected = torch.ones(1, 3, 2, 2), None
    for number in range(3):
        torch.manual_seed(number)
        before = stream_states()
        actual = [teacher(inputs, seed)[''][0] for seed in (1, 2, 1)]
        assert stream_states() == before, 'no stream of the student moves'
        assert torch.equal(actual[0], actual[2]) and not torch.equal(actual[0], actual[1])
        assert expected is None or torch.equal(actual[0], expected), 'nor does the place in it matter'
        expected = actual[0]


def test_a_step_gives_the_teacher_a_seed_by_iteration(monkeypatch):
    model, seeds = toys.distilled(student=toys.seg_net('fcn'), teacher=toys.seg_teacher('fcn')), []
    monkeypatch.setattr(FrozenTeacher, '__call__', lambda _, inputs, seed, samples: seeds.append(seed) or {})
    for iteration in (0, 1, 0):
        model.distillation.state.iteration = iteration
        run_teachers(dict(model.distillers.items()), torch.ones(1, 3, 64, 64), next(model.parameters()))
    assert seeds[0] == seeds[2] != seeds[1]


@MODELS.register_module(force=True)
class Thinning(nn.Module):
    """Drops by torch's function, and by a module that no name of dropout tells; with ``always`` in evaluation too."""

    def __init__(self, always):
        super().__init__()
        self.layer, self.always = nn.Conv2d(3, 3, 1), always

    def forward(self, x):
        return nn.functional.dropout(self.layer(x), 0.5, self.training or self.always)


@pytest.mark.parametrize('always', [False, True])
def test_a_network_random_in_training_teaches_in_eval_mode(always, monkeypatch):
    texts = []
    monkeypatch.setattr('mmdistill_dense.networks.teacher.print_log', lambda text, *_: texts.append(text))
    option = dict(type='mmdistill_dense.Thinning', always=always, allow_random=True)
    teacher = FrozenTeacher(TeacherOption.parse(option), Traced([Tap.parse('')], None, None, as_trained=True))
    teacher.load(torch.zeros(1))
    inputs = torch.ones(1, 3, 9, 9)
    first, second = (teacher(inputs, seed)[''][0] for seed in (1, 2))
    assert torch.equal(first, teacher.network(inputs)) is torch.equal(first, second) is not always
    assert len(texts) == (not always) and all('draws random numbers in training' in text for text in texts)


@pytest.mark.parametrize(('inputs', 'message_part'), [
    (dict(sup=torch.ones(1, 3, 64, 64), unsup=torch.ones(1, 3, 64, 64)), 'dict of sup, unsup'),  # semi-supervised
    (['a'], 'list'), (None, 'NoneType'), ({}, 'dict'),
])  # fmt: skip
def test_inputs_that_are_no_pictures_are_refused(inputs, message_part):
    words = rf'model\.teacher takes one batch of pictures.*model\.student\.data_preprocessor gives a {message_part}'
    with pytest.raises(TypeError, match=words):
        loaded(toys.seg_teacher('fcn'), 'backbone[3]')(inputs)


def test_taps_give_what_the_network_gives():
    head = dict(type='FCNHead', num_convs=1, channels=4, num_classes=3, norm_cfg=toys.BN)
    heads = [dict(head, in_channels=width, in_index=index) for index, width in ((1, 32), (2, 64))]
    option = toys.seg_net('fcn', 16, auxiliary_head=heads, allow_random=True)
    teacher = loaded(option, 'backbone', 'decode_head:input', 'auxiliary_head.1')
    first, handle = calls_of(teacher.network.auxiliary_head[0].conv_seg)
    inputs = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = teacher.network.extract_feat(inputs)
        expected = teacher.network.auxiliary_head[1](features)
    actual = teacher(inputs)
    assert torch.equal(actual['auxiliary_head.1'][0], expected) and not first
    assert all(torch.equal(a, b) for a, b in zip(actual['backbone'], features, strict=True))
    assert torch.equal(actual['decode_head:input'][0], features[0]), 'the list of features, flattened'
    handle.remove()


def test_random_teacher_on_request_is_the_same_every_time():
    option = toys.seg_net('fcn', pretrained='is not read', allow_random=True)
    torch.manual_seed(1)
    first = loaded(option, 'backbone')
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = loaded(option, 'backbone')
    assert not toys.differing(first.network.state_dict(), second.network.state_dict())
    assert torch.equal(state, torch.get_rng_state()), 'and moves no random stream'
    assert first.receipt.sha256 is None and first.receipt.matched == 0


def test_a_missing_or_wrong_checkpoint_is_refused():
    """A student's file, another architecture's, and one with only a backbone. A head that is not tapped may have other
    classes: it takes what fits."""
    with pytest.raises(ValueError, match=r'^model\.teacher\.checkpoint is not set') as error:
        toys.distilled(teacher=toys.seg_net('fcn', 16))
    assert all(word in str(error.value) for word in ('allow_random=True', toys.SEG['fcn'], "'auto'"))
    path = str(toys.fresh_dir() / 'backbone.pth')
    torch.save(dict(state_dict=toys.build_plain(toys.seg_net('fcn', 16)).backbone.state_dict()), path)
    unfit = r'model\.teacher\.checkpoint=.*does not fit EncoderDecoder'
    for file, words in (
        (toys.teacher_file('fcn', 8), unfit), (toys.teacher_file('pspnet', 16), unfit), (path, 'missing: backbone'),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            toys.distilled(teacher=toys.seg_net('fcn', 16, checkpoint=file))
    other = toys.seg_net('fcn', 16, checkpoint=toys.teacher_file('fcn', 16), decode_head=dict(num_classes=3))
    assert loaded(other, 'backbone[3]', parts={'backbone'}).receipt.ignored == 2
    with pytest.raises(ValueError, match=r'unfit: decode_head\.conv_seg\.weight'):
        loaded(other, 'decode_head', parts={'backbone', 'decode_head'})


@MODELS.register_module(force=True)
class Chain(nn.Module):
    """A network without extract_feat: ``after`` works on what ``before`` made."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.before, self.after, self.unused = (nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, x):
        return self.unused(self.after(self.before(x * self.scale)))


@pytest.mark.parametrize('lost', ['before.weight', 'after.bias', 'scale'])
def test_what_a_tap_stands_on_must_be_in_the_file(tmp_path, lost):
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


@pytest.mark.parametrize('runner_file', [False, True])
def test_receipt_says_what_was_loaded(runner_file):
    """Also of a file that a real run wrote."""
    file = Path(toys.teacher_file('fcn', 16, runner_file=runner_file))
    teacher = loaded(toys.seg_net('fcn', 16, checkpoint=str(file)), 'decode_head')
    receipt = teacher.receipt
    assert receipt.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (receipt.config, receipt.file, receipt.ignored) == (toys.SEG['fcn'], file.name, 0)
    assert receipt.matched == receipt.total == len(toys.build_plain(toys.seg_net('fcn')).state_dict())
    assert not runner_file or teacher.classes == [*toys.CLASSES]


def test_nothing_is_loaded_at_construction():
    """``mim test`` builds the model without the teacher's file; training needs it."""
    model = toys.build(toys.model_config(teacher=toys.seg_net('fcn', checkpoint='nowhere.pth')))
    assert toys.teacher_of(model).network is None
    assert model.eval().test_step(toys.seg_batch())[0].pred_sem_seg.data.shape == (1, 64, 64)
    model.train().distillation.started = True
    with pytest.raises(RuntimeError, match=r'model\.teacher is not loaded: call model\.init_weights'):
        toys.losses_of(model)


def test_own_pretraining_is_cleared():
    without = without_pretrained(
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
    assert without['pyramid'] == dict(type='PyramidVisionTransformer') and without['teacher_ckpt'] is None
    assert without['pretrained'] is None and without['backbone'] == dict(type='R', pretrained=None)
    assert without['necks'][1] == dict(init_cfg=dict(type='Kaiming')) and without['widths'] == (1, 2)
    assert without['necks'][0] == {} and without['head'] == dict(init_cfg=[dict(type='Normal')])


def test_parts_that_a_distiller_calls_must_be_in_the_file(tmp_path):
    """What the taps need is strict anyhow; a plan adds children, or the whole network."""
    state = torch.load(toys.teacher_file(), weights_only=True)['state_dict']
    path = str(tmp_path / 'headless.pth')
    torch.save(dict(state_dict={k: v for k, v in state.items() if not k.startswith('auxiliary_head')}), path)
    for fits, *required in (
        (True,), (True, (), ('decode_head',)),
        (False, ('auxiliary_head',)), (False, None), (False, None, ('backbone',)),
    ):  # fmt: skip
        teacher = FrozenTeacher(toys.seg_teacher(checkpoint=path), Traced(parts={'backbone'}).plan(required))
        with nullcontext() if fits else pytest.raises(ValueError, match=r'auxiliary_head\.'):
            teacher.load(torch.zeros(1))
