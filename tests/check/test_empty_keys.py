"""A config's key that is there and None means what a missing one does, in each program that reads the config."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.suite import plan
from mmdistill_dense.weights.strict_load import plain_config
from tests import toys
from tests.config.python_style import STUDENT
from tests.suite import tiny

MODEL = """
from mmdistill_dense import DistillHook, DistillModel

network, checkpoint = model, default_hooks['checkpoint']
teacher = dict(network, checkpoint=None, allow_random=True)
model = dict(type=DistillModel, student=network, teacher=teacher, distillers=dict(kd=dict(type='LogitKD')))
default_hooks.update(distill=dict(type=DistillHook))
"""
KEYS = (
    'default_scope', 'custom_hooks', 'param_scheduler', 'visualizer', 'log_processor', 'data_preprocessor',
    'auto_scale_lr', 'load_from', 'custom_imports', 'experiment_name', 'test_dataloader', 'test_evaluator', 'test_cfg',
    'model_wrapper_cfg', 'tta_model', 'distillers', 'compile', 'activation_checkpointing', 'vis_backends',
)  # fmt: skip
MEMBERS = (
    'network.init_cfg', 'backbone.init_cfg', 'head.init_cfg', 'network.train_cfg', 'network.auxiliary_head',
    'network.neck', 'network.pretrained', 'model.unlabelled', 'model.inherit', 'train_dataloader.batch_sampler',
    'optim_wrapper.paramwise_cfg', 'optim_wrapper.clip_grad', 'dataset.metainfo', 'default_hooks.logger',
    'checkpoint.save_best',
)  # fmt: skip
VALIDATION = ('val_dataloader', 'val_cfg', 'val_evaluator')
INTERNAL = re.compile('NoneType|AssertionError|AttributeError|TypeError|KeyError|type of name should|Traceback')


def write(folder: Path, *empty: str) -> Path:
    """A Python-style config in which these keys are None."""
    members = [key.split('.') for key in empty if '.' in key]
    lines = [f"{holder}['{name}'] = None\n" for holder, name in members]
    lines += [f'{key} = None\n' for key in empty if '.' not in key]
    path = folder / 'python_style.py'
    path.write_text(STUDENT.replace('{scope!r}', 'None') + MODEL + ''.join(lines))
    return path


def test_empty_keys_count_as_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Check the config in which they are empty, list its taps, and train it."""
    path = write(tmp_path, *KEYS, *VALIDATION, *MEMBERS)
    for words in (['check', str(path), '--no-weights', '--val', '0'], ['taps', str(path)]):
        code, output = main(words), ''.join(capsys.readouterr())
        assert code == 0 and not INTERNAL.search(output), output
    config = Config.fromfile(path)
    config.update(work_dir=str(tmp_path / 'work'), log_level='ERROR')
    runner = Runner.from_cfg(config)
    runner.train()
    assert runner.iter == 2


EXPORTED = ('default_hooks', 'tta_model', 'model_wrapper_cfg', 'custom_imports', 'default_scope', 'distillers')


@pytest.mark.parametrize('key', EXPORTED)
def test_an_exported_config_may_have_an_empty_key(key: str) -> None:
    model = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), {})
    assert plain_config(Config({'default_scope': 'mmseg', 'model': model, key: None})).model.type == 'EncoderDecoder'


@pytest.mark.parametrize('value', [None, {'checkpoint': None}, {}])
def test_a_suite_without_a_checkpoint_hook_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: object
) -> None:
    monkeypatch.chdir(tmp_path)
    base = tiny.of_two().control
    set_hooks = 'default_hooks = None' if value is None else f'default_hooks = dict(_delete_=True, **{value})'
    Path('recipe.py').write_text(f"_base_ = ['{base}']\n{set_hooks}\n")
    definition = tiny.of_two(control='recipe.py', methods={'kd': {}})
    with pytest.raises(ValueError, match=r'default_hooks\.checkpoint is not set'):
        plan.config_of(definition, plan.runs(definition)[-1])
