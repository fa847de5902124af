"""Data as their sites give them, and a config of each task on them: two steps, a resume and a test, by mim alone."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.public_data import cityscapes, coco

ROOT = Path(__file__).parents[2]
CONFIGS = ('afdcd/deeplabv3_r101_to_r18_cityscapes', 'maskd/retinanet_r101_to_r50_coco')


def mim(*words: str | Path) -> str:
    """What mim's program prints; it must end well."""
    command = [Path(sys.executable).with_name('mim'), *words]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': str(ROOT)}
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def smaller(config: str) -> Iterator[str]:
    """Options that shrink a run, as a user tries one."""
    yield from ('model.student.pretrained=False', 'model.teacher.checkpoint=None', 'model.teacher.allow_random=True')
    yield 'default_hooks.logger.interval=1'
    for loader in ('train', 'val', 'test'):
        yield from (f'{loader}_dataloader.num_workers=0', f'{loader}_dataloader.persistent_workers=False')
    if config.endswith('coco'):
        yield 'model.distillers.maskd.learn.max_iters=2'
        yield 'train_dataloader.dataset.pipeline.2.scale=(160,128)'
        yield from (f'{loader}_dataloader.dataset.pipeline.1.scale=(160,128)' for loader in ('val', 'test'))
    else:
        yield 'train_dataloader.dataset.pipeline.3.crop_size=(128,128)'
        yield from ('model.student.data_preprocessor.size=(128,128)', 'train_cfg.val_interval=2')
        yield 'default_hooks.checkpoint.interval=2'


@pytest.mark.soak
@pytest.mark.parametrize('config', CONFIGS)
def test_a_published_run_resumes(config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cityscapes(tmp_path / 'data/cityscapes')
    coco(tmp_path / 'data/coco')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('MMDISTILL_DATA', str(tmp_path / 'data'))
    detects = config.endswith('coco')
    package, file = ('mmdetection' if detects else 'mmseg'), ROOT / f'configs/{config}.py'
    options = [*smaller(config)]
    length, first, second = ('max_epochs', 1, 2) if detects else ('max_iters', 2, 4)
    message = mim('train', package, file, '--cfg-options', *options, f'train_cfg.{length}={first}')
    score = 'results of the whole dataset is empty' if detects else 'mIoU'  # a detector begins without a box
    assert 'distill.' in message and score in message
    mim('train', package, file, '--resume', '--cfg-options', *options, f'train_cfg.{length}={second}')
    saved = tmp_path / f'work_dirs/{config}/{"epoch" if detects else "iter"}_{second}.pth'
    message = mim('test', package, file, '--checkpoint', saved, '--cfg-options', *options)
    assert score in message
