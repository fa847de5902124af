"""Data as their sites give them, and a config of each task on them: two steps, a resume and a test, by mim alone."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset

SIZE = 160, 128  # height and width of a picture


def picture(path: Path, values: range | None = None, seed: int = 0) -> None:
    """A picture, or a label image of stripes of these values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)
    if values:
        drawn = np.resize(np.repeat(np.array(values, np.uint8), 4), SIZE)
    assert cv2.imwrite(str(path), drawn)


def cityscapes(root: Path) -> None:
    """leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip."""
    for split, city, count in (('train', 'aachen', 4), ('val', 'frankfurt', 2)):
        for number in range(count):
            name = f'{split}/{city}/{city}_00000{number}_000019'
            picture(root / f'leftImg8bit/{name}_leftImg8bit.png', seed=number)
            for kind in ('labelIds', 'instanceIds'):
                picture(root / f'gtFine/{name}_gtFine_{kind}.png', range(34))
            (root / f'gtFine/{name}_gtFine_polygons.json').write_text('{}')


def coco(root: Path) -> None:
    """train2017.zip, val2017.zip and annotations_trainval2017.zip."""
    numbers = [*range(1, 12), *range(13, 26), 27, 28, *range(31, 45), *range(46, 66), 67, 70, *range(72, 83),
               *range(84, 91)]  # fmt: skip
    classes = zip(numbers, CocoDataset.METAINFO['classes'], strict=True)
    categories = [dict(id=number, name=name, supercategory='thing') for number, name in classes]
    (root / 'annotations').mkdir(parents=True)
    for split, count in (('train', 4), ('val', 2)):
        images = [dict(id=n, file_name=f'{n:012}.jpg', height=SIZE[0], width=SIZE[1]) for n in range(1, count + 1)]
        boxes = [
            dict(id=n, image_id=n, category_id=numbers[n], bbox=[20, 30, 60, 70], area=4200, iscrowd=0,
                 segmentation=[[20, 30, 80, 30, 80, 100, 20, 100]])
            for n in range(1, count + 1)
        ]  # fmt: skip
        for image in images:
            picture(root / f'{split}2017/{image["file_name"]}')
        content = dict(images=images, annotations=boxes, categories=categories)
        (root / f'annotations/instances_{split}2017.json').write_text(json.dumps(content))


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
