"""Data sets in the layout of their sites: Cityscapes and COCO, a few small pictures."""

import json
from pathlib import Path

import cv2
import numpy as np

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


def coco(root: Path, pictures: int = 4) -> None:
    """train2017.zip, val2017.zip and annotations_trainval2017.zip."""
    from mmdet.datasets import CocoDataset

    numbers = [*range(1, 12), *range(13, 26), 27, 28, *range(31, 45), *range(46, 66), 67, 70, *range(72, 83),
               *range(84, 91)]  # fmt: skip
    classes = zip(numbers, CocoDataset.METAINFO['classes'], strict=True)
    categories = [dict(id=number, name=name, supercategory='thing') for number, name in classes]
    (root / 'annotations').mkdir(parents=True)
    for split, count in (('train', pictures), ('val', 2)):
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
