"""What a whole run and the commands give on a device is what they give on the CPU."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.utils import scandir

from mmdistill_dense.__main__ import main
from tests import toys
from tests.fake_device import DEVICE, FakeDevice
from tests.faults.tools import content
from tests.project.folders_of_data import picture

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
    here, device = toys.train(tmp_path / 'cpu', config(tmp_path / 'cpu')), FakeDevice()
    with device.running():
        toys.train(tmp_path / 'device', config(tmp_path / 'device', 2))
        there = toys.train(tmp_path / 'device', config(tmp_path / 'device', resume=True))
    assert next(there.model.parameters()).device == DEVICE
    assert not toys.differing(*(content(tmp_path / name / 'iter_4.pth') for name in ('cpu', 'device')))
    scores = {one.message_hub.get_scalar('val/mIoU').current() for one in (here, there)}
    assert len(scores) == 1 and min(scores) > 0


@pytest.mark.soak
def test_commands_say_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(Path('pictures/0.png'), 0)
    config('work').dump('run.py')
    meta = dict(dataset_meta=dict(classes=toys.CLASSES, palette=[[n, n, n] for n in range(toys.NUM_CLASSES)]))
    torch.save(dict(state_dict=toys.build_plain(STUDENT).state_dict(), meta=meta), 'student.pth')
    said = {}
    for name in ('cpu', str(DEVICE)):
        with FakeDevice().running():
            torch.manual_seed(0)
            predict = ['predict', 'run.py', 'pictures', '--checkpoint', 'student.pth', '--out', f'{name}_out']
            assert (
                main([*predict, '--device', name])
                == main(['check', 'run.py', '--no-cost', '--json', f'{name}.json', '--device', name])
                == 0
            )
        found = json.loads(Path(f'{name}.json').read_text())
        assert found['options'].pop('device') == name and found['verdict'] != 'error'
        drawn = {
            file: Path(f'{name}_out', file).read_bytes() for file in scandir(f'{name}_out', '.png', recursive=True)
        }
        said[name] = drawn, found
    assert drawn and said['cpu'] == said[str(DEVICE)]
