"""CamVid in both layouts, on a miniature folder."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.registry import init_default_scope

from mmdistill_dense.datasets import CamVidDataset
from mmdistill_dense.registry import DATASETS

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
NAMES = ('0001TP_000030', '0001TP_000060', 'Seq05VD_f00000')


@pytest.fixture(autouse=True)
def scope() -> None:
    init_default_scope('mmseg')


def write(folder: Path, images: str, labels: str, suffix: str) -> None:
    label = np.arange(12, dtype=np.uint8).repeat(2).reshape(4, 6)
    label[0, 0] = 255
    for name in NAMES:
        for path, content in ((folder / images / f'{name}{suffix}', np.zeros((4, 6, 3), np.uint8)),
                              (folder / labels / f'{name}.png', label)):  # fmt: skip
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), content)


def build(folder: Path, **options: object) -> CamVidDataset:
    option = dict(type='mmdistill_dense.CamVidDataset', data_root=str(folder), pipeline=PIPELINE)
    return DATASETS.build(option | options)


@pytest.mark.parametrize(
    ('images', 'labels', 'suffix'),
    [('images/train', 'annotations/train', '.jpg'), ('train', 'trainannot', '.png')],
    ids=['as shared', 'SegNet repository'],
)
def test_both_layouts(tmp_path: Path, images: str, labels: str, suffix: str) -> None:
    """All pictures or those of a list, with colours, and with fewer classes."""
    write(tmp_path, images, labels, suffix)
    (tmp_path / 'few.txt').write_text(f'{NAMES[2]}\n')
    given = dict(data_prefix=dict(img_path=images, seg_map_path=labels), img_suffix=suffix)
    dataset = build(tmp_path, **given)
    assert len(dataset) == 3
    assert set(dataset[0]['data_samples'].gt_sem_seg.data.unique().tolist()) == {*range(11), 255}  # 11 is void
    listed = build(tmp_path, **given, ann_file='few.txt')
    assert [Path(item['data_samples'].img_path).stem for item in listed] == [NAMES[2]]
    meta = dataset.metainfo
    assert len(meta['classes']) == len(meta['palette']) == 11
    assert (meta['classes'][-1], meta['palette'][3]) == ('bicyclist', [128, 64, 128])
    few = build(tmp_path, **given, metainfo=dict(classes=('road', 'car')))
    assert set(few[0]['data_samples'].gt_sem_seg.data.unique().tolist()) == {0, 1, 255}
