"""What was read from the data, as a training reads it: a picture of pictures with their labels, and counts."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from mmdistill_dense.apps.inspect.drawing import draw, image_of, shown_name, write_on, write_picture
from mmdistill_dense.utils.process import quiet
from mmdistill_dense.utils.sampling import evenly_spaced

SHEET = 'labels.png'
SHOWN, COLUMNS, SIDE = 16, 4, 320  # pictures, pictures in a row, pixels of the longer side
COUNTED = 200  # label images of each part whose pixels are counted
FEW = 5  # pictures of a class in training, below which a warning tells it
_MAX_CLASSES = 40  # classes


def write_sheet(folder: Path) -> Iterator[str]:
    """Write :data:`SHEET` into a project's folder, and yield lines about its data."""
    config = Config.fromfile(folder / 'control.py')
    parts = {name: config[f'{name}_dataloader'].dataset for name in ('train', 'val', 'test')}
    parts = {name: cfg for number, (name, cfg) in enumerate(parts.items()) if cfg not in list(parts.values())[:number]}
    with quiet():
        init_default_scope(config.default_scope)
        seg = config.default_scope == 'mmseg'
        built = {name: _read(cfg) for name, cfg in parts.items()}
        write_picture(sheet(built['train'])[..., ::-1], folder / SHEET)
        counted = {name: counts(dataset, seg) for name, dataset in built.items()}
    classes, train = built['train'].metainfo['classes'], counted['train']
    yield f'labels   {folder / SHEET}: {min(SHOWN, len(built["train"]))} pictures with their labels; look at them'
    unit = 'pixels' if seg else 'boxes'
    width = max(len(name) for name in (*classes, 'class'))
    yield '         ' + f'{"class":<{width}}' + ''.join(f'{f"{name}: pictures, {unit}":>26}' for name in counted)
    for number, name in enumerate(classes[:_MAX_CLASSES]):
        line = f'         {name:<{width}}'
        for count in counted.values():
            amount = count['amount'][number]
            share = f'{amount / max(1, count["amount"].sum()):.1%}' if seg else amount
            line += f'{count["pictures"][number]}, {share}'.rjust(26)
        yield line
    if len(classes) > _MAX_CLASSES:
        yield f'         and {len(classes) - _MAX_CLASSES} more classes'
    for name, count in counted.items():
        if count['looked'] < len(built[name]):
            yield f'         counted in {count["looked"]} of {len(built[name])} pictures for {name}'
    few = [f'{name} ({count})' for name, count in zip(classes, train['pictures'], strict=True) if count < FEW]
    if few and train['looked'] == len(built['train']):
        yield f'         WARNING: fewer than {FEW} pictures for training show: {", ".join(few[:12])}'


def _read(option: Any) -> Any:
    """Return a data set that reads pictures and labels as a training does, and changes neither."""
    steps = [step for step in option.pipeline if step['type'].startswith(('Load', 'Pack'))]
    packing = {**steps[-1], 'meta_keys': ('img_path', 'ori_shape', 'img_shape')}
    return DATASETS.build({**option, 'pipeline': [*steps[:-1], packing]})


def counts(dataset: Any, seg: bool) -> dict[str, Any]:
    """Count the pixels of each class in some label images, or all boxes, and the pictures that show the class."""
    classes = len(dataset.metainfo['classes'])
    indices = evenly_spaced(len(dataset), COUNTED if seg else len(dataset))
    amount, pictures = np.zeros(classes, int), np.zeros(classes, int)
    for index in indices:
        if seg:
            labels = dataset[index]['data_samples'].gt_sem_seg.data.numpy()
            labels = labels[labels < classes].ravel()
        else:
            boxes = dataset.get_data_info(index)['instances']
            labels = np.array([box['bbox_label'] for box in boxes if not box['ignore_flag']], int)
        class_counts = np.bincount(labels, minlength=classes)
        amount += class_counts
        pictures += class_counts > 0
    return {'amount': amount, 'pictures': pictures, 'looked': len(indices)}


def sheet(dataset: Any) -> np.ndarray:
    """Return some pictures with their labels side by side, (height, width, 3), RGB."""
    meta, indices = dataset.metainfo, evenly_spaced(len(dataset), SHOWN)
    rows = -(-len(indices) // COLUMNS)
    canvas = np.full((rows, min(COLUMNS, len(indices)), SIDE + 4, SIDE + 4, 3), 255, np.uint8)
    for number, item in enumerate(dataset[index] for index in indices):
        picture = draw(image_of(item['inputs']), item['data_samples'], meta, 'gt')
        scale = SIDE / max(picture.shape[:2])
        size = [max(1, round(side * scale)) for side in picture.shape[1::-1]]
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
        canvas[number // COLUMNS, number % COLUMNS, 2 : 2 + size[1], 2 : 2 + size[0]] = small
    pictures = canvas.transpose(0, 2, 1, 3, 4).reshape(rows * (SIDE + 4), -1, 3)
    has_names = 'gt_instances' in item['data_samples']  # beside its boxes
    return pictures if has_names else np.concatenate([pictures, legend(meta, pictures.shape[1])])


def legend(meta: Mapping[str, Any], width: int) -> np.ndarray:
    """Return a strip that names the colour of each class, (height, width, 3), RGB."""
    entries, columns = [*zip(meta['classes'], meta['palette'], strict=True), ('no label', (0, 0, 0))], width // 160
    strip = np.full((-(-len(entries) // columns) * 24, width, 3), 255, np.uint8)
    for number, (name, colour) in enumerate(entries):
        entry = strip[number // columns * 24 :, number % columns * 160 :][:24, :156]
        entry[4:20, 4:24] = colour
        write_on(entry, shown_name(name, number), 14, 28, 3)
    return strip
