"""The toy leaf of pre-training, shortened, as a run: it learns, resumes to the same bits, scales its learning rate."""

import copy
import functools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope

from tests import toys
from tests.pretrain.runs import content

LEAF = Path(__file__).parents[2] / 'configs/pcd/toy_pretrain.py'
BATCH, IMAGES = 4, 20  # 5 iterations an epoch


@functools.cache
def teacher_file() -> str:
    """A random teacher in a segmentor's file, as the demo leaves one."""
    init_default_scope('mmseg')
    torch.manual_seed(1)
    backbone = MODELS.build(Config.fromfile(LEAF).model.teacher.backbone)
    backbone.init_weights()
    state = {f'backbone.{name}': value for name, value in backbone.state_dict().items()}
    path = toys.fresh_dir() / 'teacher.pth'
    torch.save({'state_dict': {**state, 'decode_head.conv_seg.weight': torch.zeros(7, 4, 1, 1)}}, path)
    return str(path)


def config(work_dir: Path, epochs: int = 2, workers: int = 0, **changes: Any) -> Config:
    cfg = copy.deepcopy(Config.fromfile(LEAF)._cfg_dict.to_dict())
    cfg['model']['teacher']['checkpoint'] = teacher_file()
    for name in ('distillers', 'custom_imports', 'visualizer', 'vis_backends'):
        cfg.pop(name)
    cfg['train_dataloader'].update(batch_size=BATCH, num_workers=workers)
    cfg['train_dataloader']['dataset'].update(num_images=IMAGES)
    cfg['model']['distillers']['pcd'].update(queue_size=13, monitor_interval=2)
    cfg['param_scheduler'] = cfg['param_scheduler'][1:]
    cfg['default_hooks']['checkpoint'] = dict(type='CheckpointHook', interval=1)
    options = dict(
        work_dir=str(work_dir), log_level='ERROR', train_cfg=dict(max_epochs=epochs), randomness=dict(seed=3)
    )
    return Config(toys.merged(toys.merged(cfg, options), changes))


class Losses(Hook):
    """Notes the loss and the learning rate of every iteration."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.rates: list[float] = []

    def before_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        self.rates.append(runner.optim_wrapper.get_lr()['lr'][0])

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.values.append(outputs['distill.pcd.loss_pcd'].item())


def train(cfg: Config) -> Losses:
    notes = Losses()
    runner = toys.make_runner(cfg.work_dir, cfg)
    runner.register_hook(notes)
    runner.train()
    return notes


@functools.cache
def uninterrupted() -> tuple[Path, Losses]:
    folder = toys.fresh_dir()
    return folder, train(config(folder))


def test_resumed_pretraining_is_equal_bit_for_bit(tmp_path: Path) -> None:
    folder, whole = uninterrupted()
    notes = train(config(tmp_path, resume=True, load_from=str(folder / 'epoch_1.pth')))
    expected = content(folder / 'epoch_2.pth')
    assert not toys.differing(content(tmp_path / 'epoch_2.pth'), expected)
    assert notes.values == whole.values[IMAGES // BATCH :]
    assert toys.differing(content(folder / 'epoch_1.pth'), expected)


def test_learning_rate_follows_the_batch() -> None:
    _, notes = uninterrupted()
    assert notes.rates[0] == pytest.approx(3e-3 * BATCH / 32)


@pytest.mark.soak
def test_a_folder_with_damaged_files_is_trained_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(10):
        cv2.imwrite(str(tmp_path / f'{index}.jpg'), rng.integers(0, 256, (70, 90, 3)).astype(np.uint8))
    (tmp_path / 'broken.jpg').write_bytes(b'no picture')
    cfg = config(tmp_path / 'run', epochs=1, workers=2)
    pipeline = cfg.train_dataloader.dataset.pipeline
    cfg.train_dataloader.dataset = dict(
        type='mmdistill_dense.UnlabeledImages',
        data_root=str(tmp_path),
        check=False,
        pipeline=[dict(type='LoadImageFromFile'), *pipeline[1:]],
    )
    assert len(train(cfg).values) == 11 // BATCH
    cfg.train_dataloader.update(drop_last=False, batch_size=100)  # as the leaf for a folder of one's own has it
    assert len(train(cfg).values) == 1, 'one batch of what there is'
    cfg.train_dataloader.batch_size = 10
    assert np.isfinite(train(cfg).values).all(), 'the last batch is one picture'
