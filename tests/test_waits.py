"""Where a step waits for the device: nowhere, but for what docs/architecture.md tells."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

import mmdistill_dense
from mmdistill_dense.engine.loss_guard import LossGuard
from mmdistill_dense.registry import DISTILLERS
from tests import toys, waits
from tests.fake_device import DEVICE, FakeDevice, on_cpu, on_device

NAN = float('nan')


def test_methods_of_segmentation_without_labels_wait_for_nothing():
    afdcd = dict(type='AfDCD', groups=8, pool_size=1)
    taps = dict(pcd=dict(type='PCD', **waits.QUEUE), mimic=dict(type='MaskedMimic'), afdcd=afdcd)
    scores = dict(kd=dict(type='LogitKD'), cwd=dict(type='CWD', schedule=dict(warmup=10)), dist=dict(type='DIST'))
    device = waits.count(waits.SEGMENTOR, {**taps, **scores})
    assert not device.ours(), device.waits


def test_methods_of_detection_wait_for_nothing_on_padded_batches_of_several_levels():
    masked = dict(maskd=dict(type='MasKD', num_tokens=2), mgd=dict(type='MGD'), fgd=dict(type='FGD'))
    pixels = dict(type='PCD', student_tap='neck', **waits.QUEUE, **waits.PIXELS)
    device = waits.count(waits.DETECTOR, dict(masked, pcd=pixels, head=dict(type='HeadOutputKD', **waits.SCORES)))
    assert not device.ours(), device.waits


def test_ld_looks_once_where_a_mask_is():
    """Two masks; the anchors that lie inside and their numbers; its targets are those of the student's own loss."""
    device = waits.count('gfl', dict(ld=dict(type='LD')))
    assert device.ours() == 2 + 1 + 1 and device.others() == waits._alone('gfl').others(), device.waits


def test_queues_of_all_levels_are_read_at_once_and_full_ones_not_at_all():
    filling = waits.count(waits.DETECTOR, dict(pcd=dict(type='PCD', student_tap='neck', queue_size=1024)))
    assert filling.ours() == 1, filling.waits


@pytest.mark.parametrize(('iteration', 'expected'), [(0, 1), (1, 0)], ids=['measured', 'between'])
def test_balanced_distillers_wait_once_in_measured_steps_alone(iteration, expected):
    def begin(model):
        for one in model.distillers.values():
            one.balancer.start(1200, 2)
            one.balancer.begin(iteration, 1.0, one.key)

    methods = dict(kd=dict(type='LogitKD', balance=3.0), mimic=dict(type='MaskedMimic', balance=1.0))
    device = waits.count(waits.SEGMENTOR, methods, begin)
    assert device.ours() == expected, device.waits


def test_every_method_is_in_the_table():
    methods = {name for name, cls in DISTILLERS.module_dict.items() if cls.__module__.startswith('mmdistill_dense.')}
    assert {setup.method for setup in waits.SETUPS} == methods
    assert all(f'`{name}`' in waits.on_page() for name in methods)


@pytest.mark.soak
def test_the_table_is_what_is_counted():
    assert waits.on_page() == waits.table(), 'python -m tests.waits writes it anew'


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
