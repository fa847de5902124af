"""Configs of mmengine's Python style (``read_base``, classes as ``type``) on every road; text over them and back."""

from pathlib import Path

import pytest
import torch

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.recipes.compose import parts_of
from mmdistill_dense.apps.suite import configs, plan
from mmdistill_dense.apps.suite.definition import load_suite
from tests.config.python_style import STUDENT

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
        ['check', f'{name}.py', '--val', '0'],
        ['taps', f'{name}.py'],
        ['train', f'{name}.py', '--work-dir', 'work'],
        ['test', f'{name}.py', f'work/iter_{last}.pth', '--work-dir', 'test'],
        ['export', f'{name}.py', f'work/iter_{last}.pth', 'exported.pth'],
    ):
        assert main(words) == 0, capsys.readouterr()
    weights = torch.load('exported.pth', weights_only=False)['state_dict']
    assert 'decode_head.conv_seg.weight' in weights and Path('exported.py').is_file()
