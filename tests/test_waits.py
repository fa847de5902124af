"""How often a training step waits for the device: never, but for the exceptions here."""

import copy
import functools
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper

from mmdistill_dense.__main__ import main
from mmdistill_dense.utils.process import errors_only
from tests import query_nets, toys
from tests.distillers.ways import DENSE, REGIONS, SEG
from tests.fake_device import DEVICE, FakeDevice, Wait, on_device
from tests.faults.tools import content
from tests.project.folders_of_data import picture

SEGMENTOR, DETECTOR = 'fcn', 'retinanet'
QUEUE = dict(queue_init='random', queue_size=16)
SCORES = dict(student_tap='bbox_head.retina_cls', form='sigmoid')
PIXELS = dict(enqueue='pixels', keys_per_image=2, num_pixels=20)
# Of all methods together, and of what they lack: how often we wait, and how often the mm* packages do, beside the
# student's own.
SETUPS = [
    (SEGMENTOR, SEG, (0, 0)),
    ('gfl', DENSE, (4, 0)),
    ('faster_rcnn', REGIONS, (0, 4)),
    ('gfl', dict(x=dict(type='LD')), (4, 0)),  # two masks; the anchors that lie inside and their numbers
    ('atss', dict(x=dict(type='CrossKD', reuse_from=1)), (0, 5)),
    ('atss', dict(x=dict(type='CrossKD', reuse_from=1, normalise='scores')), (0, 10)),
    ('dab', dict(x=dict(type='KDDETR')), (0, 0)),
    (SEGMENTOR, dict(x=dict(type='CWD', schedule=dict(warmup=10))), (0, 0)),
    (SEGMENTOR, dict(x=dict(type='PCD', queue_size=1024)), (1, 0)),
    (DETECTOR, dict(x=dict(type='PCD', student_tap='neck', **QUEUE, **PIXELS)), (0, 0)),
    (DETECTOR, dict(x=dict(type='HeadOutputKD', **SCORES)), (0, 0)),
    (DETECTOR, dict(x=dict(type='PCD', student_tap='neck', queue_size=1024)), (1, 0)),  # of all levels at once
    (SEGMENTOR, dict(x=dict(type='QueueKL', queue_size=1024)), (1, 0)),
    (DETECTOR, dict(x=dict(type='QueueKL', queue_size=4, queue_init='random', own_key=True)), (0, 0)),
]


def count(kind, distillers):
    """A device after the second training step of a pair with a batch of 2, one padded."""
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
    device, batch = FakeDevice(), toys.det_batch() if detects else toys.seg_batch()
    if detects:
        batch['inputs'][0] = batch['inputs'][0][:, :40]
        batch['data_samples'][0].set_metainfo(dict(img_shape=(40, toys.SIDE)))
        batch['data_samples'][0].gt_instances.bboxes[:, 1::2].clamp_(max=40)
    with device.running():
        wrapper = OptimWrapper(torch.optim.AdamW(model.to(DEVICE).parameters()))
        for _ in range(2):  # the first may look whether all is there
            device.forget()
            model.train_step(copy.deepcopy(batch), wrapper)
    return device


@functools.cache
def alone(kind):
    return count(kind, {})


@pytest.mark.sample(2)
@pytest.mark.parametrize(('kind', 'methods', 'expected'), [
    pytest.param(*row, marks=[] if len(row[1]) == 1 and row[0] in ('gfl', DETECTOR) else pytest.mark.soak)
    for row in SETUPS
])  # fmt: skip
def test_a_method_waits_for_what_the_page_tells(kind, methods, expected):
    device, control = count(kind, methods), alone(kind)
    assert (device.ours() - control.ours(), device.others() - control.others()) == expected, device.waits


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


@pytest.mark.sample(1)
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
        check = ['check', 'run.py', '--json', f'{name}.json']
        with FakeDevice().running():
            torch.manual_seed(0)
            assert all(main([*words, '--device', name]) == 0 for words in (predict, check))
        actual = json.loads(Path(f'{name}.json').read_text())
        assert actual['verdict'] != 'error'
        drawn = {str(path.relative_to(f'{name}_out')): path.read_bytes() for path in Path(f'{name}_out').rglob('*.png')}
        output.append((drawn, actual))
    assert drawn and output[0] == output[1]


# The stand-in for a GPU: what it counts, and what it refuses


X = torch.arange(12.0).view(3, 4)
WAITS = {
    'item': lambda x: x[0, 0].item(),
    'tolist': lambda x: x.tolist(),
    'cpu': lambda x: x.cpu(),
    'into memory': lambda x: torch.zeros(3, 4).copy_(x, non_blocking=True),
    'boolean index': lambda x: x[x > 3],
    'assigned to places': lambda x: x.__setitem__(x.long()[0, :2], 0.0),
    'repeat': lambda x: x.long()[0].repeat_interleave(x.long()[0]),
    'list': lambda x: x[..., [0, -1]],
    'index of the CPU': lambda x: x[torch.tensor([0, 1])],
    'tensor': lambda x: torch.tensor([1.0], device=x.device),
    'new_tensor': lambda x: x.new_tensor([1.0]),
    'to': lambda x: X.to(x.device),
    'not pinned': lambda x: X.to(x.device, non_blocking=True),
    'blocking': lambda x: X.pin_memory().to(x.device),
    'cast on the way': lambda x: X.pin_memory().to(x.device, torch.float64, non_blocking=True),
    'copy_': lambda x: x.copy_(X),
}
FREE = {
    'arithmetic': lambda x: (x @ x.mT).softmax(1) * 2.0 + torch.tensor(1.0),
    'fill': lambda x: x.__setitem__(x > 3, 0.0),
    'places': lambda x: x[x.long()[0, :2]],
    'repeat': lambda x: x.long()[0].repeat_interleave(x.long()[0], output_size=6),
    'made there': lambda x: torch.full((3,), 2.0, device=x.device) + torch.arange(3, device=x.device),
    'pinned': lambda x: X.pin_memory().to(x.device, non_blocking=True),
    'fetched': lambda x: x.to('cpu', non_blocking=True),
}


def test_each_wait_is_counted_once():
    device = FakeDevice()
    with device.running():
        for number, calls in ((1, WAITS), (0, FREE)):
            for name, call in calls.items():
                x = on_device(X)
                device.forget()
                call(x)
                assert device.waits.total() == number, name
        device.forget()
        for file in ('/somewhere/mmdistill_dense/losses/made_up.py', '/site-packages/mmdet/models/made_up.py'):
            exec(compile('x.sum().item()', file, 'exec'), dict(x=on_device(X)))
    own_waits, other_waits = device.waits
    assert own_waits == Wait('mmdistill_dense/losses/made_up.py:1', '_local_scalar_dense')
    assert other_waits.place == 'mmdet/models/made_up.py:1' and device.ours() == device.others() == 1


def test_devices_do_not_mix():
    device = FakeDevice()
    with device.running():
        x = on_device(X)
        for mix in (lambda: x + X, lambda: torch.cat([x, X]), lambda: X[x.long()[0, :2]]):
            with pytest.raises(RuntimeError, match='same device'):
                mix()
        fetched = x.sum().to('cpu', non_blocking=True)
        event = torch.cuda.current_stream(x.device).record_event()
        x.add_(1)
        assert fetched.isnan()
        event.synchronize()
    assert fetched == 66 and device.events == [1]
    with pytest.raises(RuntimeError, match='was changed after it was sent'), device.running():
        memory = X.pin_memory()
        memory.to(DEVICE, non_blocking=True)
        memory.add_(1)
