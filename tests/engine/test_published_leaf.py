"""A published leaf at full width through ``mim train``, on a miniature folder in the Cityscapes layout."""

import os
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.networks.building import build_network
from mmdistill_dense.weights.strict_load import read_checkpoint
from tests.engine.processes import ROOT, environment, run

LEAF = ROOT / 'configs/afdcd/deeplabv3_r101_to_r18_cityscapes.py'
TEACHER = 'mmseg::deeplabv3/deeplabv3_r101-d8_4xb2-80k_cityscapes-512x1024.py'
STUDENT = 'mmseg::deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024.py'
CROP = '(64,128)'


def write_cityscapes(root: Path) -> None:
    """Two training and one validation image of noise, 256 x 512, where mmseg's Cityscapes looks for them."""
    rng = np.random.default_rng(0)
    for split, count in (('train', 2), ('val', 1)):
        for index in range(count):
            name = f'aachen/aachen_{index:06d}_000019'
            image = root / f'cityscapes/leftImg8bit/{split}/{name}_leftImg8bit.png'
            label = root / f'cityscapes/gtFine/{split}/{name}_gtFine_labelTrainIds.png'
            for path, shape, high in ((image, (256, 512, 3), 256), (label, (256, 512), 19)):
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), rng.integers(0, high, shape, dtype=np.uint8))


@pytest.mark.soak
def test_the_cityscapes_leaf_trains_two_iterations_at_full_width(tmp_path: Path) -> None:
    write_cityscapes(tmp_path / 'data')
    teacher = build_network(load_model(dict(cfg=TEACHER), 'teacher'), pretrained=False)
    assert sum(parameter.numel() for parameter in teacher.parameters()) == 87_105_158
    torch.save(dict(state_dict=teacher.state_dict()), tmp_path / 'r101.pth')
    loaders = [
        f'{name}_dataloader.{key}' for name in ('train', 'val') for key in ('num_workers=0', 'persistent_workers=False')
    ]
    options = [
        f'model.teacher.checkpoint={tmp_path / "r101.pth"}',
        'model.student.pretrained=None',
        f'model.student.data_preprocessor.size={CROP}',
        f'train_dataloader.dataset.pipeline.3.crop_size={CROP}',
        'train_cfg.max_iters=2',
        'train_cfg.val_interval=2',
        'default_hooks.logger.interval=1',
        'default_hooks.checkpoint.save_best=None',
        *loaders,
    ]
    mim = Path(sys.executable).with_name('mim')
    command = [mim, 'train', 'mmseg', LEAF, '--work-dir', tmp_path / 'run', '--cfg-options', *options]
    log = run(command, tmp_path, environment(MMDISTILL_DATA=str(tmp_path / 'data')))

    steps = re.findall(
        r'Iter\(train\) \[(\d)/2\].*loss_kd: (\S+).*loss_fd: (\S+).*loss_ctr: (\S+).*afdcd.share: (\S+)', log
    )
    assert [step[0] for step in steps] == ['1', '2']
    assert all(float(value) > 0 for step in steps for value in step[1:])
    assert re.search(r'mIoU: [\d.]+', log)
    checkpoint = read_checkpoint(tmp_path / 'run/iter_2.pth')
    student = build_network(load_model(dict(cfg=STUDENT), 'student'), pretrained=False)
    student.load_state_dict(checkpoint['state_dict'], strict=True)
    assert sum(parameter.numel() for parameter in student.parameters()) == 13_986_374  # spec section 8: 13.99 M
    adapters = sum(value.numel() for value in checkpoint['distillers'].values())
    assert adapters == (512 + 1) * 2048 + 2 * (9 * 2048 + 1) * 2048  # spec section 9: 76.55 M
    os.remove(tmp_path / 'run/iter_2.pth')  # 0.7 GB
