"""Small data sets on disk, as users have them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.project.faults import content

SIZE = (48, 64)


def counts(data: Any) -> dict[str, int]:
    """How many pictures a part has."""
    return {part: split.count for part, split in data.splits.items()}


def stems(data: Any) -> dict[str, set[str]]:
    """What the pictures of a part are called."""
    return {part: {Path(name).stem for name in split.names} for part, split in data.splits.items()}


def picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(path)


def label(path: Path, values: Sequence[int] = (0, 1, 2), seed: int = 0) -> None:
    """A label image that holds each of the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = np.random.default_rng(seed).choice(list(values), SIZE)
    drawn[0, : len(values)] = values
    Image.fromarray(drawn.astype(np.uint8)).save(path)


def seg_folder(root: Path, values: Sequence[int] = (0, 1, 2), splits: Sequence[str] = ('train', 'val')) -> Path:
    """``images/SPLIT/0.jpg`` with ``labels/SPLIT/0.png``, 4 pictures for training and 2 for each other split."""
    for split in splits:
        for number in range(4 if split == 'train' else 2):
            picture(root / f'images/{split}/{number}.jpg', 1000 * len(split) + number)
            label(root / f'labels/{split}/{number}.png', values, number)
    return root


def label_file(names: Sequence[str], categories: Sequence[str], masks: bool = False) -> dict:
    """Two boxes of every category in each picture."""
    images = [
        {'id': number, 'file_name': name, 'height': SIZE[0], 'width': SIZE[1]} for number, name in enumerate(names)
    ]
    boxes = []
    for image in images:
        for category in range(len(categories)):
            for x in (2, 30):
                box = [x, 4 + 10 * category, 20, 18]
                corners = [x, box[1], x + 20, box[1], x + 20, box[1] + 18, x, box[1] + 18]
                numbers = {'id': len(boxes) + 1, 'image_id': image['id'], 'category_id': category + 1}
                outline = {'segmentation': [corners]} if masks else {}
                boxes.append({**numbers, 'bbox': box, 'area': 360, 'iscrowd': 0, **outline})
    kinds = [{'id': number + 1, 'name': name} for number, name in enumerate(categories)]
    return {'images': images, 'annotations': boxes, 'categories': kinds}


def labelled(root: Path, names: Sequence[str]) -> dict:
    """Pictures of these names, and the content of a label file of one category for them."""
    for name in names:
        picture(root / name)
    return label_file(names, ['cell'])


def changed(root: Path, do: Callable[[dict[str, Any]], Any], splits: Sequence[str] = ('train', 'val')) -> Path:
    """Change the label files of :func:`box_folder`; what ``do`` returns does not count."""
    for split in splits:
        content(f'annotations/instances_{split}.json', do)(root)
    return root


def box_folder(root: Path, categories: Sequence[str] = ('red', 'white'), masks: bool = False) -> Path:
    """``train/0.jpg`` with ``annotations/instances_train.json``, and the same for val."""
    for split, count in (('train', 4), ('val', 2)):
        names = [f'{number}.jpg' for number in range(count)]
        for name in names:
            picture(root / split / name, 1000 * len(split) + int(name[0]))
        file = root / f'annotations/instances_{split}.json'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(label_file(names, categories, masks)))
    return root
