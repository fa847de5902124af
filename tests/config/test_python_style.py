"""Configs of mmengine's Python style (``read_base``, classes as ``type``) on every road; text over them and back."""

from pathlib import Path

import pytest
import torch

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.recipes.compose import parts_of
from mmdistill_dense.apps.suite import configs, plan
from mmdistill_dense.apps.suite.definition import load_suite

STUDENT = """
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import CheckpointHook, IterTimerHook, LoggerHook, ParamSchedulerHook
from mmengine.optim import OptimWrapper, PolyLR
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from mmseg.datasets import PackSegInputs
from mmseg.evaluation import IoUMetric
from mmseg.models import CrossEntropyLoss, EncoderDecoder, FCNHead, ResNetV1c, SegDataPreProcessor
from torch.optim import SGD

from mmdistill_dense.datasets import LoadShapes, ShapesSegDataset

norm = dict(type='BN')
head = dict(type=FCNHead, in_channels=64, channels=16, num_convs=1, num_classes=7, norm_cfg=norm)
head.update(loss_decode=dict(type=CrossEntropyLoss))
preprocessor = dict(type=SegDataPreProcessor, mean=[127.5] * 3, std=[60.0] * 3, size=(64, 64), seg_pad_val=255)
backbone = dict(type=ResNetV1c, depth=18, base_channels=8, stem_channels=8, norm_cfg=norm)
model = dict(type=EncoderDecoder, data_preprocessor=preprocessor, backbone=backbone, decode_head=head)
model.update(train_cfg=dict(), test_cfg=dict(mode='whole'))
dataset = dict(type=ShapesSegDataset, num_images=4, pipeline=[dict(type=LoadShapes), dict(type=PackSegInputs)])
train_dataloader = dict(batch_size=2, num_workers=0, sampler=dict(type=InfiniteSampler), dataset=dataset)
val_dataloader = dict(batch_size=1, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False), dataset=dataset)
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type=IoUMetric, iou_metrics=['mIoU'])
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.01))
param_scheduler = [dict(type=PolyLR, begin=0, end=2, by_epoch=False)]
default_scope = {scope!r}
train_cfg = dict(type=IterBasedTrainLoop, max_iters=2, val_interval=2)
val_cfg, test_cfg = dict(type=ValLoop), dict(type=TestLoop)
default_hooks = dict(checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=1), logger=dict(type=LoggerHook))
default_hooks.update(timer=dict(type=IterTimerHook), param_scheduler=dict(type=ParamSchedulerHook))
randomness = dict(seed=0)
"""
CONTROL = """
from mmengine.config import read_base
from mmdistill_dense import DistillHook, DistillModel

with read_base():
    from .student import *

model = dict(type=DistillModel, student=model, teacher=dict(cfg='student.py', checkpoint=None, allow_random=True))
default_hooks.update(distill=dict(type=DistillHook))
"""
METHOD = """
from mmengine.config import read_base
from mmdistill_dense.distillers import LogitKD

with read_base():
    from .control import *

model.update(distillers=dict(kd=dict(type=LogitKD)))
"""
TEXT = """
_base_ = __import__('mmdistill_dense').base('mmdistill_dense::kd/toy_seg.py')
network = dict(_delete_=True, cfg='student.py')
model = dict(student=network, teacher=dict(network, checkpoint=None, allow_random=True))
train_cfg = dict(max_iters=1, val_interval=1)
train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(num_images=2))
del network
"""
SUITE = 'control: control.py\nmethods: {kd: {config: kd.py}, cwd: {}}\nseeds: [0]\nworkers: 0\n'


@pytest.fixture(params=['mmseg', None], ids=['with a scope', 'without'])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    files = {'student.py': STUDENT.replace('{scope!r}', repr(request.param)), 'control.py': CONTROL, 'kd.py': METHOD}
    for name, text in {**files, 'text.py': TEXT, 'suite.yaml': SUITE}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize('folder', ['mmseg'], indirect=True)
def test_a_control_of_python_style_is_a_recipe(folder: Path) -> None:
    suite = load_suite(folder / 'suite.yaml')
    assert parts_of(folder / 'control.py').task == 'seg'
    rows = {name: configs.method_config(suite, row).model.distillers for name, row in suite.methods.items()}
    assert [*rows['kd']] == ['kd'] and [*rows['cwd']] == ['cwd']
    assert {plan.config_of(suite, run).train_cfg.max_iters for run in plan.runs(suite)} == {2}


@pytest.mark.soak
@pytest.mark.parametrize('name', ['kd', 'text'])
def test_every_command_reads_them(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    last = 2 if name == 'kd' else 1
    for words in (
        ['check', f'{name}.py', '--val', '0', '--no-cost'],
        ['taps', f'{name}.py'],
        ['train', f'{name}.py', '--work-dir', 'work'],
        ['test', f'{name}.py', f'work/iter_{last}.pth', '--work-dir', 'test'],
        ['export', f'{name}.py', f'work/iter_{last}.pth', 'exported.pth'],
    ):
        assert main(words) == 0, capsys.readouterr()
    weights = torch.load('exported.pth', weights_only=False)['state_dict']
    assert 'decode_head.conv_seg.weight' in weights and Path('exported.py').is_file()
