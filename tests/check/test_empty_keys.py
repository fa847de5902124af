"""A config's key that is there and None means what a missing one does, in each program that reads the config."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps import training
from mmdistill_dense.apps.suite import plan
from mmdistill_dense.weights.strict_load import plain_config
from tests import toys
from tests.suite import tiny

CONFIG = """
from mmengine.hooks import CheckpointHook
from mmengine.optim import OptimWrapper
from mmengine.runner import IterBasedTrainLoop
from mmseg.datasets import PackSegInputs
from mmseg.evaluation import IoUMetric
from mmseg.models import CrossEntropyLoss, EncoderDecoder, FCNHead, ResNetV1c, SegDataPreProcessor
from torch.optim import SGD
from mmdistill_dense import DistillModel
from mmdistill_dense.datasets import LoadShapes, ShapesSegDataset
from mmdistill_dense.engine.distill_hook import DistillHook

norm = dict(type='BN')
loss = dict(type=CrossEntropyLoss)
head = dict(type=FCNHead, in_channels=64, channels=8, num_convs=1, num_classes=7, loss_decode=loss)
backbone = dict(type=ResNetV1c, depth=18, base_channels=8, stem_channels=8, norm_cfg=norm)
preprocessor = dict(type=SegDataPreProcessor, mean=[127.5] * 3, std=[60.0] * 3, size=(64, 80))
network = dict(
    type=EncoderDecoder, data_preprocessor=preprocessor, backbone=backbone, decode_head=head,
    test_cfg=dict(mode='whole'))
dataset = dict(type=ShapesSegDataset, num_images=4, pipeline=[dict(type=LoadShapes), dict(type=PackSegInputs)])
sampler = dict(type='InfiniteSampler')
loader = dict(batch_size=2, num_workers=0, sampler=sampler, dataset=dataset)
optimizer = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.01))
checkpoint = dict(type=CheckpointHook, by_epoch=False, interval=1)
hooks = dict(checkpoint=checkpoint, distill=dict(type=DistillHook))
model = dict(type=DistillModel, student=network, teacher=dict(network, checkpoint=None, allow_random=True),
             distillers=dict(kd=dict(type='LogitKD')))
"""
LAST = """
train_dataloader = loader
optim_wrapper = optimizer
default_hooks = hooks
train_cfg = dict(type=IterBasedTrainLoop, max_iters=1)
val_dataloader = dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dataset)
val_cfg = dict(type='ValLoop')
val_evaluator = dict(type=IoUMetric, iou_metrics=['mIoU'])
"""
KEYS = (
    'default_scope', 'custom_hooks', 'param_scheduler', 'visualizer', 'log_processor', 'data_preprocessor',
    'auto_scale_lr', 'load_from', 'custom_imports', 'experiment_name', 'test_dataloader', 'test_evaluator', 'test_cfg',
    'model_wrapper_cfg', 'tta_model', 'distillers', 'compile', 'activation_checkpointing', 'vis_backends',
)  # fmt: skip
MEMBERS = (
    'network.init_cfg', 'backbone.init_cfg', 'head.init_cfg', 'network.train_cfg', 'network.auxiliary_head',
    'network.neck', 'network.pretrained', 'model.unlabelled', 'model.inherit', 'loader.batch_sampler',
    'optimizer.paramwise_cfg', 'optimizer.clip_grad', 'dataset.metainfo', 'hooks.logger', 'checkpoint.save_best',
)  # fmt: skip
VALIDATION = ('val_dataloader', 'val_cfg', 'val_evaluator')
INTERNAL = re.compile('NoneType|AssertionError|AttributeError|TypeError|KeyError|type of name should|Traceback')


def write(folder: Path, *empty: str) -> Path:
    """A Python-style config in which these keys are None."""
    members = [key.split('.') for key in empty if '.' in key]
    lines = [f"{holder}['{name}'] = None\n" for holder, name in members]
    path = folder / 'python_style.py'
    path.write_text(CONFIG + ''.join(lines) + LAST + ''.join(f'{key} = None\n' for key in empty if '.' not in key))
    return path


def test_empty_keys_count_as_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Check the config in which they are empty, list its taps, and train it."""
    path = write(tmp_path, *KEYS, *VALIDATION, *MEMBERS)
    for words in (['check', str(path), '--no-weights', '--val', '0', '--no-cost'], ['taps', str(path)]):
        code, output = main(words), ''.join(capsys.readouterr())
        assert code == 0 and not INTERNAL.search(output), output
    config = Config.fromfile(path)
    config.update(work_dir=str(tmp_path / 'work'), log_level='ERROR')
    runner = Runner.from_cfg(config)
    runner.train()
    assert runner.iter == 1


EXPORTED = ('default_hooks', 'tta_model', 'model_wrapper_cfg', 'custom_imports', 'default_scope', 'distillers')


@pytest.mark.parametrize('key', EXPORTED)
def test_an_exported_config_may_have_an_empty_key(key: str) -> None:
    model = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), {})
    assert plain_config(Config({'default_scope': 'mmseg', 'model': model, key: None})).model.type == 'EncoderDecoder'


OPTIONS = {
    '--auto-scale-lr': (training._use_auto_scale_lr, 'auto_scale_lr'),
    '--amp': (training._use_amp, 'optim_wrapper'),
    '--show': (lambda config: training._use_visualization(config, True, None, 1.0), 'default_hooks'),
}


@pytest.mark.parametrize('option', OPTIONS)
def test_an_option_for_an_empty_key_is_refused(option: str) -> None:
    use, key = OPTIONS[option]
    with pytest.raises((KeyError, ValueError), match=rf'{option} .*{key}'):
        use(Config({key: None}))


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
