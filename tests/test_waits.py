"""How often a training step waits for the device: never, but for what docs/architecture.md tells."""

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

import mmdistill_dense
from mmdistill_dense.engine.loss_guard import LossGuard
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.process import errors_only
from tests import query_nets, toys
from tests.fake_device import DEVICE, DeviceTensor, FakeDevice, on_cpu, on_device

NAN = float('nan')
SEGMENTOR, DETECTOR = 'fcn', 'retinanet'
QUEUE = dict(queue_init='random', queue_size=16)
PIXELS = dict(enqueue='pixels', keys_per_image=2, num_pixels=20)
MEMORY = dict(pixel_memory=20, region_memory=4, pixel_contrast=30, region_contrast=9)
SCORES = dict(student_tap='bbox_head.retina_cls', form='sigmoid')
# Method, option, pair; how often we wait, and how often the mm* packages do, beside the student's own.
SETUPS = [
    ('AfDCD', dict(groups=8, pool_size=1), SEGMENTOR, (0, 0)),
    ('AfDCD', dict(groups=8, pool_size=2, projector='enhanced', mask=dict(type='centre')), SEGMENTOR, (0, 0)),
    ('AT', {}, SEGMENTOR, (0, 0)),
    ('CanKD', dict(student_tap='neck'), DETECTOR, (0, 0)),
    ('CIRKD', MEMORY, SEGMENTOR, (0, 0)),
    ('CIRKD', dict(pixel_weight=0, region_weight=0), SEGMENTOR, (0, 0)),
    ('CWD', {}, SEGMENTOR, (0, 0)),
    ('CrossKD', dict(reuse_from=1), 'atss', (0, 5)),
    ('CrossKD', dict(reuse_from=1, normalise='scores'), 'atss', (0, 10)),
    ('DIST', {}, SEGMENTOR, (0, 0)),
    ('DeFeat', {}, DETECTOR, (0, 0)),
    ('FGD', {}, DETECTOR, (0, 0)),
    ('FRS', {}, DETECTOR, (0, 0)),
    ('FeatureMatch', {}, SEGMENTOR, (0, 0)),
    ('FitNet', {}, SEGMENTOR, (0, 0)),
    ('FreeKD', dict(num_tokens=2), DETECTOR, (0, 0)),
    ('HeadOutputKD', SCORES, DETECTOR, (0, 0)),
    ('IFVD', {}, SEGMENTOR, (0, 0)),
    ('LD', {}, 'gfl', (4, 0)),
    ('KDDETR', {}, 'dab', (0, 0)),
    ('LogitKD', {}, SEGMENTOR, (0, 0)),
    ('MasKD', dict(num_tokens=2), DETECTOR, (0, 0)),
    ('MGD', {}, DETECTOR, (0, 0)),
    (
        'PCD',
        dict(QUEUE, head=dict(type='mlp2', hidden=32), attention=dict(num_heads=2), center=True),
        SEGMENTOR,
        (0, 0),
    ),
    ('PCD', dict(QUEUE, student_tap='neck', **PIXELS), DETECTOR, (0, 0)),
    ('PCD', dict(queue_size=1024), SEGMENTOR, (1, 0)),
    ('PKD', dict(student_tap='neck'), DETECTOR, (0, 0)),
    ('QueryMatch', {}, SEGMENTOR, (0, 0)),
    ('QueueKL', dict(queue_size=4, queue_init='random'), DETECTOR, (0, 0)),
    ('QueueKL', dict(queue_size=4, queue_init='random', own_key=True), DETECTOR, (0, 0)),
    ('QueueKL', dict(queue_size=1024), SEGMENTOR, (1, 0)),
    ('RoIHeadKD', {}, 'faster_rcnn', (0, 4)),
    ('SKD', {}, SEGMENTOR, (0, 0)),
    ('SimReg', dict(head=dict(type='linear')), DETECTOR, (0, 0)),
    ('TokenRelations', dict(num_pixels=9, diagonal=False), DETECTOR, (0, 0)),
]


def count(kind: str, distillers: Mapping[str, Any], before: Callable[[Any], None] = lambda model: None) -> FakeDevice:
    """Return a device after the second step of a pair: forward pass and backward pass of a batch of 2, one padded.

    ``before`` gets the model before each of them.
    """
    queries, detects = kind in query_nets.CONFIGS, kind in (*toys.DET, *query_nets.CONFIGS)
    net: Any = query_nets.query_net if queries else toys.det_net if detects else toys.seg_net
    other = dict(allow_random=True, data_preprocessor=dict(mean=[100.0, 110.0, 120.0]))
    if kind == 'atss':  # one head behind both networks
        other['channels'] = 16
    options = dict(student=net(kind), teacher=net(kind, 16, **other), distillers=copy.deepcopy(dict(distillers)))
    with errors_only():
        model = toys.distilled('mmdet' if detects else 'mmseg', **options)
    for distiller in getattr(model, 'distillers', {}).values():
        if hasattr(distiller, 'load_tokens'):
            distiller.load_tokens({name: torch.randn(shape) for name, shape in distiller.token_shapes().items()})
    batch = model.data_preprocessor(_detection_batch() if detects else toys.seg_batch(), True)
    device = FakeDevice()
    with device.running(), _known_to_mm():
        model.to(DEVICE)
        inputs, samples = on_device(batch['inputs']), on_device(batch['data_samples'])
        for _ in range(2):  # the first may look whether all is there
            device.forget()
            before(model)
            toys.total(model.loss(inputs, samples)).backward()
    return device


def _detection_batch() -> dict[str, Any]:
    batch = toys.det_batch()
    batch['inputs'][0] = batch['inputs'][0][:, :40]
    batch['data_samples'][0].set_metainfo(dict(img_shape=(40, toys.SIDE)))
    batch['data_samples'][0].gt_instances.bboxes[:, 1::2].clamp_(max=40)
    return batch


@contextmanager
def _known_to_mm() -> Iterator[None]:
    """Let mmengine index by tensors of the device, and mmcv's compiled operations work on them: what these wait for is
    not known, and not counted."""
    with ExitStack() as stack:
        indexes = import_module('mmengine.structures.instance_data')
        stack.enter_context(mock.patch.object(indexes, 'IndexType', indexes.IndexType | DeviceTensor))
        for name in ('nms', 'roi_align'):
            module = import_module(f'mmcv.ops.{name}')
            stack.enter_context(mock.patch.object(module, 'ext_module', _OnValues(module.ext_module)))
        yield


class _OnValues:
    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            made = getattr(self.module, name)(*map(_value, args), **{k: _value(v) for k, v in kwargs.items()})
            return DeviceTensor(made) if isinstance(made, torch.Tensor) else made

        return run


def _value(x: Any) -> Any:
    return x.value if isinstance(x, DeviceTensor) else x


def test_methods_of_segmentation_without_labels_wait_for_nothing():
    afdcd = dict(type='AfDCD', groups=8, pool_size=1)
    taps = dict(pcd=dict(type='PCD', **QUEUE), mimic=dict(type='MaskedMimic'), afdcd=afdcd)
    scores = dict(kd=dict(type='LogitKD'), cwd=dict(type='CWD', schedule=dict(warmup=10)), dist=dict(type='DIST'))
    device = count(SEGMENTOR, {**taps, **scores})
    assert not device.ours(), device.waits


def test_methods_of_detection_wait_for_nothing_on_padded_batches_of_several_levels():
    masked = dict(maskd=dict(type='MasKD', num_tokens=2), mgd=dict(type='MGD'), fgd=dict(type='FGD'))
    pixels = dict(type='PCD', student_tap='neck', **QUEUE, **PIXELS)
    device = count(DETECTOR, dict(masked, pcd=pixels, head=dict(type='HeadOutputKD', **SCORES)))
    assert not device.ours(), device.waits


def test_ld_looks_once_where_a_mask_is():
    """Two masks; the anchors that lie inside and their numbers; its targets are those of the student's own loss."""
    device = count('gfl', dict(ld=dict(type='LD')))
    assert device.ours() == 2 + 1 + 1 and device.others() == alone('gfl').others(), device.waits


def test_queues_of_all_levels_are_read_at_once_and_full_ones_not_at_all():
    filling = count(DETECTOR, dict(pcd=dict(type='PCD', student_tap='neck', queue_size=1024)))
    assert filling.ours() == 1, filling.waits


@pytest.mark.parametrize(('iteration', 'expected'), [(0, 1), (1, 0)], ids=['measured', 'between'])
def test_balanced_distillers_wait_once_in_measured_steps_alone(iteration, expected):
    def begin(model):
        for one in model.distillers.values():
            one.balancer.start(1200, 2)
            one.balancer.begin(iteration, 1.0, one.key)

    methods = dict(kd=dict(type='LogitKD', balance=3.0), mimic=dict(type='MaskedMimic', balance=1.0))
    device = count(SEGMENTOR, methods, begin)
    assert device.ours() == expected, device.waits


def test_every_method_is_asked():
    methods = {name for name, cls in DISTILLERS.module_dict.items() if cls.__module__.startswith('mmdistill_dense.')}
    assert {method for method, *_ in SETUPS} == methods


@functools.cache
def alone(kind):
    return count(kind, {})


@pytest.mark.soak
@pytest.mark.parametrize(('method', 'option', 'kind', 'expected'), SETUPS)
def test_a_method_waits_for_what_the_page_tells(method, option, kind, expected):
    device = count(kind, dict(x=dict(type=method, **option)))
    assert (device.ours() - alone(kind).ours(), device.others() - alone(kind).others()) == expected, device.waits


def test_copies_to_and_from_the_device_go_one_way():
    """Memory that is sent must be pinned and stay as it is; what is fetched must not be read before it is there."""
    package = Path(mmdistill_dense.__file__).parent
    users = {p.relative_to(package).as_posix() for p in package.rglob('*.py') if 'non_blocking' in p.read_text('utf-8')}
    assert users == {'losses/tensors.py', 'engine/loss_guard.py'}


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_a_step_does_not_wait_for_a_gpu(monkeypatch):
    distillers = dict(kd=dict(type='LogitKD'), mimic=dict(type='MaskedMimic'))
    options = dict(student=toys.seg_net('fcn'), teacher=toys.seg_teacher('fcn'), distillers=distillers)
    model = toys.distilled(**options).cuda()
    monkeypatch.setattr('mmseg.models.decode_heads.decode_head.accuracy', lambda logits, *_, **__: logits.sum())
    batch = model.data_preprocessor(toys.seg_batch(), True)
    toys.total(model.loss(**batch)).backward()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=list(torch.profiler.supported_activities())) as profile:
        torch.cuda.set_sync_debug_mode('error')
        try:
            toys.total(model.loss(**batch)).backward()
        finally:
            torch.cuda.set_sync_debug_mode('default')
    waits = [event.key for event in profile.key_averages() if 'Synchronize' in event.key]
    assert 'cudaStreamSynchronize' not in waits


class Guarded:
    """A small network on the device, trained under a guard."""

    def __init__(self):
        torch.manual_seed(0)
        self.device, self.guard = FakeDevice(), LossGuard()
        self.model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        with self.device.running():
            self.model.to(DEVICE)
        self.device.forget()
        self.wrapper = OptimWrapper(torch.optim.SGD(self.model.parameters(), lr=0.1))
        self.before = self.weights()

    def weights(self):
        return {name: value.clone() for name, value in on_cpu(dict(self.model.named_parameters())).items()}

    def step(self, scale=1.0):
        runner = SimpleNamespace(model=self.model, optim_wrapper=self.wrapper, iter=2)
        with self.device.running():
            self.guard.before_train(runner)
            inputs = on_device(torch.randn(5, 4))
            self.wrapper.update_params(self.model(inputs).square().sum() * scale)


def test_the_look_at_the_loss_leaves_the_device_its_backward_pass():
    guarded = Guarded()
    guarded.step()
    assert not guarded.device.waits and len(guarded.device.events) == 1
    assert guarded.device.events[0] > 10, 'launched behind what is waited for'
    assert toys.differing(guarded.before, guarded.weights())


def test_a_loss_that_is_no_number_stops_before_the_step_on_a_device_too():
    guarded = Guarded()
    with pytest.raises(RuntimeError, match=r'Iteration 3: the loss is not finite, and the step was not taken'):
        guarded.step(NAN)
    assert not toys.differing(guarded.before, guarded.weights())
