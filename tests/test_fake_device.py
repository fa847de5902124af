"""The stand-in for a GPU: what it counts, what it refuses, and that its numbers are real."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.fake_device import DEVICE, FakeDevice, Wait, on_cpu, on_device

X = torch.arange(12.0).view(3, 4)
WAITS = {
    'item': lambda x: x[0, 0].item(),
    'int': lambda x: int(x.sum()),
    'bool': lambda x: bool(x.any()),
    'tolist': lambda x: x.tolist(),
    'equal': lambda x: torch.equal(x, x),
    'cpu': lambda x: x.cpu(),
    'into memory': lambda x: torch.zeros(3, 4).copy_(x, non_blocking=True),
    'nonzero': lambda x: x.nonzero(),
    'masked_select': lambda x: x.masked_select(x > 3),
    'boolean index': lambda x: x[x > 3],
    'assigned to places': lambda x: x.__setitem__(x.long()[0, :2], 0.0),
    'unique': lambda x: x.unique(),
    'bincount': lambda x: x.long().flatten().bincount(),
    'repeat': lambda x: x.long()[0].repeat_interleave(x.long()[0]),
    'list': lambda x: x[..., [0, -1]],
    'array': lambda x: x[np.array([0, 1])],
    'index of the CPU': lambda x: x[torch.tensor([0, 1])],
    'place': lambda x: x[x.long()[0, 1]],
    'tensor': lambda x: torch.tensor([1.0], device=x.device),
    'new_tensor': lambda x: x.new_tensor([1.0]),
    'as_tensor': lambda x: torch.as_tensor([1.0], device=x.device),
    'to': lambda x: X.to(x.device),
    'not pinned': lambda x: X.to(x.device, non_blocking=True),
    'blocking': lambda x: X.pin_memory().to(x.device),
    'cast on the way': lambda x: X.pin_memory().to(x.device, torch.float64, non_blocking=True),
    'copy_': lambda x: x.copy_(X),
}
FREE = {
    'arithmetic': lambda x: (x @ x.mT).softmax(1),
    'number': lambda x: x * 2.0 + torch.tensor(1.0),
    'fill': lambda x: x.__setitem__(x > 3, 0.0),
    'places': lambda x: x[x.long()[0, :2]],
    'repeat': lambda x: x.long()[0].repeat_interleave(x.long()[0], output_size=6),
    'made there': lambda x: torch.full((3,), 2.0, device=x.device) + torch.arange(3, device=x.device),
    'pinned': lambda x: X.pin_memory().to(x.device, non_blocking=True),
    'fetched': lambda x: x.to('cpu', non_blocking=True),
}


@pytest.fixture
def device():
    return FakeDevice()


def waits_of(device, call):
    with device.running():
        x = on_device(X)
        device.forget()
        call(x)
    return device.waits.total()


def test_each_wait_is_counted_once_and_what_is_launched_alone_is_none(device):
    assert {name: waits_of(device, call) for name, call in WAITS.items()} == dict.fromkeys(WAITS, 1)
    assert {name: waits_of(device, call) for name, call in FREE.items()} == dict.fromkeys(FREE, 0)


def test_a_wait_tells_the_line_of_the_package_or_of_the_stack(device):
    from mmdistill_dense.losses import valuable_region

    with device.running():
        boxes = on_device(torch.rand(3, 4))
        valuable_region(boxes, boxes, [3])
        assert not device.waits
        source = compile('x.item()', '/somewhere/mmdistill_dense/losses/made_up.py', 'exec')
        exec(source, dict(x=boxes.sum()))
        exec(compile('x.item()', '/site-packages/mmdet/models/made_up.py', 'exec'), dict(x=boxes.sum()))
    ours, theirs = device.waits
    assert ours == Wait('mmdistill_dense/losses/made_up.py:1', '_local_scalar_dense') and ours.ours
    assert theirs.place == 'mmdet/models/made_up.py:1' and not theirs.ours
    assert device.ours() == device.others() == 1


def test_devices_do_not_mix(device):
    for mix in (lambda x: x + X, lambda x: torch.cat([x, X]), lambda x: X[x.long()[0, :2]]):
        with pytest.raises(RuntimeError, match='same device'), device.running():
            mix(on_device(X))


def test_memory_that_is_sent_must_stay_as_it_is(device):
    with pytest.raises(RuntimeError, match='was changed after it was sent'), device.running():
        memory = X.pin_memory()
        memory.to(DEVICE, non_blocking=True)
        memory.add_(1)


def test_what_is_fetched_is_there_behind_an_event(device):
    with device.running():
        x = on_device(X)
        early, fetched = (x.sum().to('cpu', non_blocking=True) for _ in range(2))
        event = torch.cuda.current_stream(x.device).record_event()
        x.add_(1)
        assert early.isnan()
        event.synchronize()
    assert fetched == 66 and device.events == [1]


def test_autocast_is_that_of_the_device(device):
    with device.running(), torch.autocast(DEVICE.type, torch.bfloat16):
        x, weight = on_device(X), on_device(torch.ones(2, 4))
        half = nn.functional.linear(x, weight)
        assert torch.is_autocast_enabled(DEVICE.type) and not torch.is_autocast_enabled('cpu')
        assert (half.dtype, half.softmax(1).dtype, (X @ X.mT).dtype) == (torch.bfloat16, torch.float32, torch.float32)
        with torch.autocast(DEVICE.type, enabled=False):
            assert nn.functional.linear(x, weight).dtype == torch.float32


def test_numbers_and_gradients_are_those_of_the_cpu(device):
    torch.manual_seed(0)
    here = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 2))
    expected = torch.autograd.grad(here(X).square().sum(), list(here.parameters()))
    with device.running():
        here.to(DEVICE)
        device.forget()
        here(on_device(X)).square().sum().backward()
    found = on_cpu({str(number): parameter.grad for number, parameter in enumerate(here.parameters())})
    assert all(torch.equal(found[str(number)], value) for number, value in enumerate(expected))
    assert not device.waits
