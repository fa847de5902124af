"""How often a training step waits for the device; the cases of tests/distillers ask each method alone."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from mmengine.optim import OptimWrapper

from mmdistill_dense.__main__ import main
from tests import toys
from tests.fake_device import DEVICE, FakeDevice
from tests.faults.tools import content
from tests.project.folders_of_data import picture


@pytest.mark.parametrize(('iteration', 'expected'), [(0, 1), (1, 0)], ids=['measured', 'between'])
def test_balanced_distillers_wait_once_in_measured_steps_alone(iteration, expected):
    """Counted in the second step: the first may look whether all is there."""
    methods = dict(kd=dict(type='LogitKD', balance=3.0), mimic=dict(type='MaskedMimic', balance=1.0))
    model, device = toys.distilled(teacher=toys.seg_net('fcn', 16, allow_random=True), distillers=methods), FakeDevice()
    with device.running():
        wrapper = OptimWrapper(torch.optim.AdamW(model.to(DEVICE).parameters()))
        for _ in range(2):
            device.forget()
            for distiller in model.distillers.values():
                distiller.balancer.start(1200, 2)
                distiller.balancer.begin(iteration, 1.0, distiller.key)
            model.train_step(toys.seg_batch(), wrapper)
    assert device.ours() == expected, device.waits


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
    assert 'cudaStreamSynchronize' not in [event.key for event in profile.key_averages()]


@pytest.mark.parametrize('weight', [1.0, 1e39], ids=['finite', 'not finite'])
def test_the_guard_leaves_the_device_its_backward_pass(tmp_path, weight):
    model = toys.model_config(toys.seg_net('fcn'), distillers=dict(kd=dict(type='LogitKD', loss_weight=weight)))
    device, runner = FakeDevice(), toys.make_runner(tmp_path, model, iters=1, default_hooks=dict(checkpoint=None))
    stops = pytest.raises(RuntimeError, match='Iteration 1: the loss is not finite, and the step was not taken')
    with stops if weight > 1 else nullcontext(), device.running():
        runner.model.to(DEVICE)
        runner.train()
    assert bool(runner.optim_wrapper.optimizer.state) is (weight == 1), 'momentum, of a step that was taken'
    assert len(device.events) == 1 and device.events[0] > 10, 'launched behind what is waited for'
    asked = [wait for wait in device.waits if wait.place.startswith(('mmengine/logging', 'mmdistill_dense/engine'))]
    assert not asked or weight > 1
    logged = runner.message_hub.log_scalars
    assert weight > 1 or logged['train/loss'].current() > logged['train/distill.kd.loss_kd'].current() > 0


# What a whole run and the commands give on a device is what they give on the CPU


METHODS = dict(
    kd=dict(type='LogitKD'),
    pcd=dict(type='PCD', queue_size=16, num_pixels=20),
    cirkd=dict(type='CIRKD', pixel_memory=20, region_memory=4, pixel_contrast=30, region_contrast=9),
)
STUDENT = toys.seg_net('fcn', dropout=0.1)


def config(folder, iters=4, **changes):
    model = toys.model_config(STUDENT, toys.seg_teacher('fcn'), METHODS)
    return toys.run_config(folder, model, iters, train_cfg=dict(val_interval=2), **changes)


@pytest.mark.soak
def test_a_run_that_resumes_ends_with_the_same_bits(tmp_path):
    cpu_runner, device = toys.train(tmp_path / 'cpu', config(tmp_path / 'cpu')), FakeDevice()
    with device.running():
        toys.train(tmp_path / 'device', config(tmp_path / 'device', 2))
        device_runner = toys.train(tmp_path / 'device', config(tmp_path / 'device', resume=True))
    assert next(device_runner.model.parameters()).device == DEVICE
    assert not toys.differing(*(content(tmp_path / name / 'iter_4.pth') for name in ('cpu', 'device')))
    scores = {runner.message_hub.get_scalar('val/mIoU').current() for runner in (cpu_runner, device_runner)}
    assert len(scores) == 1 and min(scores) > 0


@pytest.mark.soak
def test_commands_say_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(Path('pictures/0.png'), 0)
    config('work').dump('run.py')
    meta = dict(dataset_meta=dict(classes=toys.CLASSES, palette=[[n, n, n] for n in range(toys.NUM_CLASSES)]))
    torch.save(dict(state_dict=toys.build_plain(STUDENT).state_dict(), meta=meta), 'student.pth')
    output = []
    for name in ('cpu', str(DEVICE)):
        predict = ['predict', 'run.py', 'pictures', '--checkpoint', 'student.pth', '--out', f'{name}_out']
        check = ['check', 'run.py', '--no-cost', '--json', f'{name}.json']
        with FakeDevice().running():
            torch.manual_seed(0)
            assert all(main([*words, '--device', name]) == 0 for words in (predict, check))
        actual = json.loads(Path(f'{name}.json').read_text())
        assert actual['verdict'] != 'error'
        drawn = {str(path.relative_to(f'{name}_out')): path.read_bytes() for path in Path(f'{name}_out').rglob('*.png')}
        output.append((drawn, actual))
    assert drawn and output[0] == output[1]
