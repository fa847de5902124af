"""``DistillModel``: an ordinary student of its own class that learns from a teacher in training."""

import copy
import random
import re
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from mmdistill_dense.config.resolve import normalised_anew, student_option, without_effect
from mmdistill_dense.distillers import FeatureDistiller
from mmdistill_dense.model.distill_model import shares
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.reproducible import stream_states
from mmdistill_dense.weights.strict_load import plain_config
from tests import toys
from tests.docs_blocks import blocks

KD = dict(type='LogitKD')
MIMIC = dict(type='MaskedMimic')
BOTH = dict(kd=KD, mimic=MIMIC)


def fcn(**options):
    options = dict(student=toys.seg_net('fcn'), teacher=toys.seg_teacher('fcn'), distillers=BOTH) | options
    return toys.distilled(**options)


def test_it_is_of_the_students_class():
    from mmdet.models import RetinaNet
    from mmseg.models import EncoderDecoder

    first, second = fcn(), toys.distilled(student=toys.seg_net('pspnet'))
    assert isinstance(first, EncoderDecoder) and type(first).__name__ == 'DistilledEncoderDecoder'
    assert type(first) is type(second), 'one class per student class'
    assert type(first).__module__ == 'mmdistill_dense.model.distill_model'
    mimic = dict(mimic=dict(MIMIC, student_tap='neck'))
    detector = toys.build(toys.model_config(toys.det_net(), toys.det_teacher(), mimic), scope='mmdet')
    assert isinstance(detector, RetinaNet) and type(detector).__name__ == 'DistilledRetinaNet'


def test_keys_are_the_vanilla_ones():
    """Also inside of a container: EMA and TTA hold the model as ``module``."""
    model, vanilla = fcn(), toys.build_plain(toys.seg_net('fcn'), seed=4)
    assert list(model.state_dict()) == list(vanilla.state_dict())
    assert len(list(model.distillers.parameters())) == 4
    container = nn.ModuleDict(dict(module=model))
    assert not any('distillers' in name for name in container.state_dict())
    container.load_state_dict(container.state_dict(), strict=True)
    result = model.load_state_dict(vanilla.state_dict(), strict=True)
    assert not result.missing_keys and not result.unexpected_keys
    assert not toys.differing(model.state_dict(), vanilla.state_dict())
    toys.build_plain(toys.seg_net('fcn')).load_state_dict(model.state_dict(), strict=True)
    state = {name: value for name, value in model.state_dict().items() if name != 'decode_head.conv_seg.bias'}
    with pytest.raises(RuntimeError, match=r'Missing key.*decode_head\.conv_seg\.bias'):
        model.load_state_dict(state, strict=True)
    with pytest.raises(RuntimeError, match='Unexpected key.*other'):
        model.load_state_dict(dict(model.state_dict(), other=torch.zeros(1)), strict=True)


def test_predictions_are_the_vanilla_ones_also_with_augmentation():
    model, vanilla = fcn(), toys.build_plain(toys.seg_net('fcn'))
    vanilla.load_state_dict(model.state_dict())
    batch = toys.seg_batch()
    with torch.no_grad():
        answers, expected_predictions = (m.eval().test_step(copy.deepcopy(batch)) for m in (model, vanilla))
        assert torch.equal(answers[1].seg_logits.data, expected_predictions[1].seg_logits.data)
        inputs = torch.randn(1, 3, 64, 64)
        assert torch.equal(model(inputs), vanilla(inputs))
    leaf = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), BOTH)
    tta = ROOT_MODELS.build(dict(type='mmseg.SegTTAModel', module=leaf)).eval()
    views = [toys.seg_batch(1, seed=seed) for seed in (0, 1)]
    for view in views:
        view['data_samples'][0].set_metainfo(dict(flip=False))
    with torch.no_grad():
        (result,) = tta.test_step({name: [view[name] for view in views] for name in ('inputs', 'data_samples')})
    assert result.pred_sem_seg.data.shape == (1, 64, 64)


def test_student_keys_are_merged():
    option = toys.model_config(
        toys.seg_net('fcn', decode_head=dict(channels=12)), decode_head=dict(channels=24), train_cfg=dict(a=1)
    )
    model = toys.build(option)
    assert model.decode_head.channels == 24 and model.train_cfg == dict(a=1)
    student = student_option(option)
    assert student['decode_head']['channels'] == 24 and student['cfg'] == toys.SEG['fcn']
    assert not {'student', 'teacher', 'distillers', 'type'} & set(student)
    assert option['student']['decode_head']['channels'] == 12, 'the option is left as it was'
    (message,) = without_effect(option)
    key = 'decode_head.channels'
    assert message == f'model.student.{key}=12 has no effect: model.{key}=24 stands beside it and counts.'
    assert not without_effect(dict(option, decode_head=dict(num_convs=1)))
    base = dict(cfg='mmseg::segmenter/segmenter_vit-s_mask_8xb1-160k_ade20k-512x512.py')
    preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[127.5, 127.5, 127.5], size=(64, 64))
    (message,) = normalised_anew(base, dict(data_preprocessor=preprocessor))
    assert 'mean=[123.675, 116.28, 103.53] in place of [127.5, 127.5, 127.5]' in message and 'std' not in message
    for same in (dict(size=(64, 64)), dict(mean=(127.5, 127.5, 127.5))):
        assert not normalised_anew(base, dict(data_preprocessor=same))
    assert not normalised_anew(dict(type='X'), dict(data_preprocessor=preprocessor))


OWN = """
_base_ = ['./my_student.py']
model = dict(
    type='mmdistill_dense.DistillModel',
    student=dict(type='EncoderDecoder'),
    teacher=dict(cfg='{{ fileDirname }}/my_teacher.py', checkpoint='{{ fileDirname }}/t.pth'),
    distillers=dict(kd=dict(type='LogitKD')))
default_hooks = dict(distill=dict(type='mmdistill_dense.DistillHook'))
"""


def test_own_config_becomes_a_distilled_one(tmp_path):
    """The form for people with their own config (DESIGN, section 1), in a folder of their own."""
    from mmseg.apis import init_model

    toys.run_config('x', toys.seg_net('fcn', dropout=0.1), iters=1).dump(tmp_path / 'my_student.py')
    toys.run_config('x', toys.seg_net('fcn', 16)).dump(tmp_path / 'my_teacher.py')
    shutil.copy(toys.teacher_file('fcn'), tmp_path / 't.pth')
    (tmp_path / 'mine.py').write_text(OWN)
    vanilla = toys.build_plain(toys.seg_net('fcn'), seed=9)
    torch.save(dict(state_dict=vanilla.state_dict(), meta=dict(dataset_meta=dict(classes=('a',)))), tmp_path / 's.pth')
    model = init_model(str(tmp_path / 'mine.py'), str(tmp_path / 's.pth'), device='cpu')
    assert not toys.differing(model.state_dict(), vanilla.state_dict()) and model.dataset_meta['classes'] == ('a',)
    assert type(model).__name__ == 'DistilledEncoderDecoder'
    assert 'distill.kd.loss_kd' in toys.losses_of(toys.ready(model))
    assert toys.teacher_of(model).receipt.config == str(tmp_path / 'my_teacher.py')


NEW_STUDENT = """
from mmseg.models import EncoderDecoder, FCNHead, ResNetV1c, SegDataPreProcessor

default_scope = 'mmseg'
model = dict(
    type=EncoderDecoder,
    data_preprocessor=dict(type=SegDataPreProcessor, size=(64, 64), seg_pad_val=255),
    backbone=dict(type=ResNetV1c, depth=18, base_channels=8, stem_channels=8, norm_cfg=dict(type='BN')),
    decode_head=dict(type=FCNHead, in_channels=64, channels=16, num_classes=7, norm_cfg=dict(type='BN')))
"""
NEW = """
from mmengine.config import read_base
from mmseg.models import EncoderDecoder

from mmdistill_dense.distillers import LogitKD
from mmdistill_dense import DistillModel

with read_base():
    from .new_student import *

model.update(
    type=DistillModel,
    student=dict(type=EncoderDecoder),
    teacher=dict(cfg='{0}/new_student.py', checkpoint='{0}/t.pth'),
    distillers=dict(kd=dict(type=LogitKD)))
"""


def test_own_config_in_the_new_style(tmp_path):
    """A student written with ``read_base`` and classes as types; its distilled config in the same style."""
    (tmp_path / 'new_student.py').write_text(NEW_STUDENT)
    (tmp_path / 'new.py').write_text(NEW.format(tmp_path))
    config = Config.fromfile(tmp_path / 'new.py')
    model = ROOT_MODELS.build(config.model)
    assert type(model).__name__ == 'DistilledEncoderDecoder' and type(model.backbone).__name__ == 'ResNetV1c'
    torch.save(model.state_dict(), tmp_path / 't.pth')
    assert toys.losses_of(toys.ready(model))['distill.kd.loss_kd'].item() >= 0
    plain_config(config).dump(tmp_path / 'plain.py')
    vanilla = ROOT_MODELS.build(Config.fromfile(tmp_path / 'plain.py').model)
    assert type(vanilla).__name__ == 'EncoderDecoder'
    vanilla.load_state_dict(model.state_dict(), strict=True)


def test_control_is_the_plain_network():
    plain = type(toys.build_plain(toys.seg_net('fcn')))
    unread = dict(cfg='nowhere.py', checkpoint='nowhere.pth')
    off = dict(kd=dict(KD, balance=None, loss_weight=0), other=dict(type='Unknown', loss_weight=0.0))
    for distillers in ({}, off):
        for more in ({}, dict(unlabelled=dict(data_root='more'))):
            model = toys.build(toys.model_config(toys.seg_net('fcn'), unread, distillers, **more))
            assert type(model) is plain and not hasattr(model, 'distillation')
    without = dict(type='mmdistill_dense.DistillModel', student=toys.seg_net('fcn'))
    assert type(toys.build(without)) is plain
    some = dict(_delete_=True, kd=KD, mimic=dict(MIMIC, loss_weight=0))  # the word deletes what the base lacks
    assert list(fcn(distillers=some).distillers) == ['kd']


def test_construction_moves_no_random_stream():
    """The trace, the teacher and the distillers' parameters are made beside the streams."""
    weights, streams = [], []
    for distillers in ({}, BOTH):
        random.seed(3)
        np.random.seed(3)
        model = toys.build(toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), distillers), seed=3)
        built = {f'built.{name}': value for name, value in toys.student_state(model).items()}
        model.init_weights()
        weights.append({**toys.student_state(model), **built})
        streams.append(stream_states())
    assert not toys.differing(*weights) and streams[0] == streams[1]


def test_first_weights_of_distillers_hang_on_the_seed():
    """mmengine writes the names in a config in the order of the alphabet."""

    def built(seed, distillers=BOTH):
        pair = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), distillers)
        return toys.student_state(toys.build(pair, seed=seed).distillers)

    alone = built(3)
    assert not toys.differing(alone, built(3)) and toys.differing(alone, built(4))
    three = dict(fit=dict(type='FitNet', student_tap='backbone[1]'), **BOTH)
    both = built(3, three)
    assert not toys.differing(both, built(3, dict(reversed(three.items()))))
    assert not toys.differing(alone, {name: both[name] for name in alone})


def test_a_scheduled_weight_of_zero_is_the_control_bit_for_bit(tmp_path):
    """With a constant 0 there is no distillation at all, as above."""
    ended = dict(kd=dict(KD, schedule=dict(stop_at=0)), mimic=dict(MIMIC, schedule=dict(stop_at=0), clip_max_norm=1.0))
    states = []
    for name, distillers in (('control', {}), ('zero', ended), ('one', dict(kd=KD))):
        model = toys.model_config(toys.seg_net('fcn', dropout=0.1), toys.seg_teacher('fcn'), distillers)
        states.append(toys.student_state(toys.train(tmp_path / name, model).model))
    assert not toys.differing(*states[:2]) and toys.differing(states[0], states[2])


def test_loss_names_and_shares():
    model = fcn(distillers=dict(kd=dict(KD, loss_weight=3.0), mimic=MIMIC))
    losses = toys.losses_of(model)
    names = {name for name in losses if name.startswith('distill.')}
    assert names == {'distill.kd.loss_kd', 'distill.kd.share', 'distill.mimic.loss_mimic', 'distill.mimic.share'}
    assert {name for name in losses if name not in names} == {
        'decode.loss_ce', 'decode.acc_seg', 'aux.loss_ce', 'aux.acc_seg',
    }  # fmt: skip
    total, log = model.parse_losses(losses)
    torch.testing.assert_close(total, toys.total(losses))
    for name, loss in (('kd', 'loss_kd'), ('mimic', 'loss_mimic')):
        expected = (losses[f'distill.{name}.{loss}'] / total).item()
        assert losses[f'distill.{name}.share'].item() == pytest.approx(expected, rel=1e-5)
        assert 0 < log[f'distill.{name}.share'] < 1
    assert not losses['distill.kd.share'].requires_grad


@pytest.mark.sample(1)
@pytest.mark.parametrize(('backbone', 'tap', 'other'), [
    (dict(with_cp=True), 'backbone.layer2.0.conv1', 'backbone[3]'),
    (dict(with_cp=True), 'backbone.layer2.0.relu', 'backbone[3]'),
    (dict(frozen_stages=1), 'backbone[0]', 'backbone[1]'),
])  # fmt: skip
def test_taps_without_a_gradient_are_refused(backbone, tap, other):
    def step(tap):
        student = toys.seg_net('fcn', backbone=backbone)
        toys.losses_of(fcn(student=student, distillers=dict(m=dict(MIMIC, student_tap=tap))))

    with pytest.raises(ValueError) as error:
        step(tap)
    for word in (f"student_tap='{tap}' has no gradient", 'with_cp=True', 'backbone[3]', 'frozen_stages'):
        assert word in str(error.value)
    step(other)


def test_activation_checkpointing_of_the_runner(tmp_path):
    model = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), BOTH)
    states = []
    for name, changes in (('a', {}), ('b', dict(activation_checkpointing=['backbone.layer4', 'backbone.layer2']))):
        states.append(toys.student_state(toys.train(tmp_path / name, model, iters=2, **changes).model))
    weights = [{n: v for n, v in s.items() if n.endswith('conv1.weight')} for s in states]
    for name in weights[0]:
        torch.testing.assert_close(weights[1][name], weights[0][name], msg=name)


@pytest.mark.parametrize(('name', 'frozen', 'words'), [
    ('backbone', -1, "'backbone' sees the pictures.* no gradient.*with_cp=True"),
    ('backbone.layer2', 1, "'backbone.layer2' sees the pictures, or frozen layers"),
    ('student.backbone.layer4', -1, "'student.backbone.layer4' is no module of the student.* 'backbone.layer4'"),
])  # fmt: skip
def test_taps_without_a_gradient_in_recomputation_are_refused(tmp_path, name, frozen, words):
    student = toys.seg_net('fcn', backbone=dict(frozen_stages=frozen))
    model = toys.model_config(student, toys.seg_teacher('fcn'), dict(kd=dict(type='LogitKD')))
    with pytest.raises(ValueError, match=f'activation_checkpointing: {words}'):
        toys.train(tmp_path, model, iters=1, activation_checkpointing=name if frozen < 0 else [name])


def test_sync_bn_of_the_zoo_configs_runs_in_one_cpu_process():
    """The runner reverts the student's layers after construction; the teacher keeps its own, in eval mode."""
    norm = dict(norm_cfg=dict(type='SyncBN', requires_grad=True))
    synchronised = dict(backbone=norm, decode_head=norm, auxiliary_head=norm)
    model = fcn(student=toys.seg_net('fcn', **synchronised), teacher=toys.seg_teacher('fcn', **synchronised))
    model = revert_sync_batchnorm(model)
    toys.losses_of(model)
    kinds = [{type(m).__name__ for m in n.modules()} for n in (model, toys.teacher_of(model).network)]
    assert 'SyncBatchNorm' not in kinds[0] and 'SyncBatchNorm' in kinds[1]
    assert list(model.state_dict()) == list(toys.build_plain(toys.seg_net('fcn')).state_dict())


@pytest.mark.parametrize(('options', 'kind', 'words'), [
    (dict(distillers=dict(kd=dict(type='LogitKDD'))), KeyError, ['model.distillers.kd.type', 'LogitKD']),
    (dict(distillers=dict(kd=dict(temperature=2))), KeyError, ['model.distillers.kd.type=None']),
    (dict(distillers=dict(my_loss=KD)), ValueError, ['model.distillers.my_loss', '"loss"']),
    (dict(distillers={'a.b': KD}), ValueError, ['model.distillers.a.b', 'dot']),
    (dict(distillers=dict(kd=dict(KD, student_tap='decode_head.loss_decode'))), ValueError, ['never fired']),
    (dict(distillers=dict(kd=dict(KD, teacher='b'))), ValueError, ["kd.teacher='b'", 'one unnamed teacher']),
    (dict(distillers=[KD]), TypeError, ['model.distillers must be a dict of dicts by name']),
    (dict(distillers=dict(kd=None)), TypeError, ['model.distillers must be a dict of dicts by name']),
    (dict(distillers=dict(t=dict(type=nn.Identity))), TypeError, ['distillers.t: ', 'makes a Identity, no Distiller']),
    (dict(teacher=dict(checkpoint='t.pth')), KeyError, ['model.teacher: give cfg=']),
    (dict(teacher={}), ValueError, ['model.teacher is not set', 'kd']),
    (dict(student=dict(width=3)), KeyError, ['model.student: give cfg=', "['width']"]),
    (dict(student=dict(cfg='nowhere.py')), FileNotFoundError, ["model.student.cfg='nowhere.py'"]),
    (dict(teacher=dict(cfg='mmseg::fcn/x.py')), FileNotFoundError, ["model.teacher.cfg='mmseg::fcn/x.py'"]),
    (dict(teacher=dict(a=toys.seg_net('fcn'), b=toys.seg_net('fcn'))), ValueError,
     ['model.distillers.kd.teacher=None', 'the teachers a, b']),
    (dict(distillers=dict(kd=dict(KD, teacher_tap='decode_head.conv'))), KeyError,
     ["teacher_tap='decode_head.conv'", 'Close names: decode_head.conv_seg']),
])  # fmt: skip
def test_errors_name_the_config_key(options, kind, words):
    with pytest.raises(kind) as error:
        toys.build(toys.model_config(**dict(dict(student=toys.seg_net('fcn')), **options)))
    assert all(word in str(error.value) for word in words), error.value


def test_distillers_can_build_parts_of_the_students_package():
    @DISTILLERS.register_module(force=True)
    class UsesNeck(toys.MaskedMimic):
        def __init__(self, **kwargs):
            super().__init__('backbone[3]', **kwargs)
            self.early = ROOT_MODELS.build(dict(type='FeatureRelayHead', in_channels=4, out_conv_channels=8))

        def build_level(self, level):
            return ROOT_MODELS.build(dict(type='ChannelMapper', in_channels=[level.teacher[0]], out_channels=4))

    distillers = dict(neck=dict(type='UsesNeck'))
    config = toys.model_config(toys.det_net(), toys.det_teacher(), distillers, data_preprocessor=dict(bgr_to_rgb=True))
    assert type(toys.build(config, scope='mmseg').distillers['neck'].parts[0]).__name__ == 'ChannelMapper'


def test_a_students_own_init_cfg_leaves_the_distillers_alone():
    """mmengine applies a network's init_cfg to every module below it."""

    def initialised(distillers):
        student = toys.seg_net('fcn', init_cfg=dict(type='Kaiming', layer='Conv2d'))
        model = toys.build(toys.model_config(student, distillers=distillers))
        before = toys.student_state(getattr(model, 'distillers', nn.Module()))
        torch.manual_seed(1)
        model.init_weights()
        return model, before

    model, before = initialised(dict(mimic=MIMIC))
    assert before and not toys.differing(model.distillers.state_dict(), before)
    assert not toys.differing(model.state_dict(), initialised({})[0].state_dict())


@DISTILLERS.register_module()
class Talkative(FeatureDistiller):
    """Says more than its loss, looks at a tap without gradient and calls a part of the teacher."""

    further = 'backbone.stem'

    def __init__(self, **kwargs):
        super().__init__('backbone[3]', **kwargs)
        self.extra_student_taps = ['backbone.stem:input']
        self.extra_teacher_taps = self.further
        self.teacher_parts = ('auxiliary_head',)

    def loss(self, student, teacher, level):
        return student.square().mean()

    def forward(self, student, teacher, data_samples):
        (image,) = student['backbone.stem:input']
        assert not image.requires_grad and image.shape[1] == 3 and teacher['backbone.stem'][0].shape[1] > 3
        weight = self.teacher.module('auxiliary_head').conv_seg.weight
        return {**super().forward(student, teacher, data_samples), 'weight': weight.abs().sum()}


def test_context_parts_of_a_loss():
    """Numbers that are no loss are logged as they are, and no part of the sum. Of nothing, a share is 0."""
    model = toys.distilled(teacher=toys.seg_teacher(), distillers=dict(t=dict(type='Talkative', loss_weight=0.5)))
    assert 'auxiliary_head' in toys.teacher_of(model).plan.parts
    losses = toys.losses_of(model)
    weight = toys.teacher_of(model).network.auxiliary_head.conv_seg.weight.abs().sum()
    assert losses['distill.t.weight'] == weight
    total, tensors = model.parse_losses(losses)
    log = {name: value.item() for name, value in tensors.items()}
    assert total.item() == pytest.approx(sum(value for name, value in log.items() if 'loss' in name and name != 'loss'))
    assert log['distill.t.share'] == pytest.approx(log['distill.t.loss_talkative'] / total.item())
    assert shares({}, {'pcd': {'loss_pcd': torch.zeros(())}})['distill.pcd.share'] == 0


@pytest.mark.sample(5)
@pytest.mark.parametrize(('where', 'returned', 'kind', 'message'), [
    ('forward', lambda x: {'loss_x': x.detach().square().mean()}, ValueError, 'its loss has no gradient'),
    ('forward', lambda x: {'energy': x.mean()}, ValueError, 'its loss returns energy; .* must hold "loss"'),
    ('forward', lambda x: {}, ValueError, 'its loss returns nothing'),
    ('forward', lambda x: {'loss_x': 0.0}, TypeError, r'its loss returns loss_x=0\.0, no tensor'),
    ('forward', lambda x: {'loss_x': x.mean(), 'seen': 3}, TypeError, 'its loss returns seen=3, no tensor'),
    ('forward', lambda x: {'loss_x': x.mean((1, 2, 3))}, ValueError, r'its loss returns loss_x of shape \(2,\)'),
    ('forward', lambda x: x.mean(), TypeError, r"its loss returns a tensor without a name: .*{'loss_x': tensor}"),
    ('forward', lambda x: None, TypeError, 'its loss returns None: a dict'),
    ('loss', lambda x: None, TypeError, 'its loss returns None'),
    ('loss', lambda x: {'loss_x': None}, TypeError, 'its loss returns loss_x=None, no tensor'),
    ('late', lambda x: {'loss_x': x.mean()}, RuntimeError, 'its parameter scale was made after the optimizer'),
    ('forward', lambda x: {'loss_x': torch.zeros(())}, None, ''),  # a queue that is still empty
])  # fmt: skip
def test_terms_that_teach_nothing_are_refused(where, returned, kind, message, monkeypatch):
    model = toys.distilled(teacher=toys.seg_teacher(), distillers=dict(t=dict(type='Talkative')))

    def changed(self, student, *_):
        if where == 'late':
            self.scale = nn.Parameter(torch.ones(()))
        return returned(student[self.student_taps[0].text][0] if where == 'forward' else student)

    monkeypatch.setattr(Talkative, 'forward' if where == 'forward' else 'loss', changed)
    with pytest.raises(kind, match=rf'^model\.distillers\.t: {message}') if kind else nullcontext():
        toys.losses_of(model)


def test_balance_has_left():
    assert fcn(distillers=dict(kd=dict(KD, balance=None, loss_weight=3.0))).distillers['kd'].loss_weight == 3.0
    message = '^model.distillers.kd: balance has left: set loss_weight; the log of a run with balance holds the number'
    for option in (2.0, 'auto', dict(ratio=1.0), 0):
        with pytest.raises(TypeError, match=message):
            fcn(distillers=dict(kd=dict(KD, balance=option)))


def test_a_further_tap_that_is_none_is_named(monkeypatch):
    monkeypatch.setattr(Talkative, 'further', ['a..b'])
    with pytest.raises(ValueError, match=r"^model\.distillers\.t: 'a\.\.b' is not a tap"):
        toys.build(toys.model_config(teacher=toys.seg_teacher(), distillers=dict(t=dict(type='Talkative'))))


HOOK = "default_hooks = dict(distill=dict(type='mmdistill_dense.DistillHook'))"


def test_a_loop_of_ones_own_trains_as_the_page_says(capsys):
    """A missing hook names what such a loop calls; with that, schedules follow its steps. It reads no more pictures."""
    (code,) = (block.text for block in blocks('python') if block.file == 'my_loop.py')
    names: dict = {}
    exec(code, names)
    falls = dict(kd=dict(KD, schedule=dict(ramp_down=(0, 1.0))))
    model = toys.build(toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), falls))
    batch = toys.seg_batch()
    model.init_weights()
    with pytest.raises(RuntimeError) as error:
        model.train()(**model.data_preprocessor(batch, True), mode='loss')
    for word in ('without DistillHook', HOOK, 'a loop of your own calls model.distillation.start(max_iters='):
        assert word in str(error.value)
    names['train'](model, [batch] * 4, torch.optim.SGD(model.parameters(), 1e-9), 4)
    losses = [re.search(r"'distill.kd.loss_kd': ([\d.e-]+)", line)[1] for line in capsys.readouterr().out.splitlines()]
    first, *rest = map(float, losses)
    assert rest == pytest.approx([first * share for share in (0.75, 0.5, 0.25)], rel=1e-2)
    more = dict(data_root='more')
    model = toys.build(toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), dict(kd=KD), unlabelled=more))
    with pytest.raises(ValueError, match='model.unlabelled needs DistillHook, and so a runner: leave it out in a loop'):
        model.distillation.start(max_iters=4)


@toys.MODELS.register_module()
class LossInForward(BaseModel):
    """A network as in mmengine's tutorial."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body = nn.Conv2d(3, 4, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        outputs = self.body(inputs)
        return dict(loss_own=outputs.mean()) if mode == 'loss' else outputs


def test_a_student_whose_forward_computes_the_loss_is_refused():
    """Its forward would never reach the distillers."""
    network = dict(type='mmdistill_dense.LossInForward', data_preprocessor=dict(type='ImgDataPreprocessor'))
    fit = dict(type='FitNet', student_tap='body')
    option = toys.model_config(network, dict(network, allow_random=True), dict(fit=fit))
    with pytest.raises(ValueError, match=r'model\.student: LossInForward needs a method loss\(inputs, data_samples\)'):
        toys.build(option)
