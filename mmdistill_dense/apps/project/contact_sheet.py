"""What was read from the data, as a training reads it: a picture of pictures with their labels, and counts."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

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
    options = {name: config[f'{name}_dataloader'].dataset for name in ('train', 'val', 'test')}
    if options['test'] == options['val']:
        del options['test']
    with quiet():
        init_default_scope(config.default_scope)
        seg = config.default_scope == 'mmseg'
        parts = {name: _read(option) for name, option in options.items()}
        write_picture(sheet(parts['train'])[..., ::-1], folder / SHEET)
        counted = {name: counts(dataset, seg) for name, dataset in parts.items()}
    classes = parts['train'].metainfo['classes']
    yield f'labels   {folder / SHEET}: {min(SHOWN, len(parts["train"]))} pictures with their labels; look at them'
    unit = 'pixels' if seg else 'boxes'
    width = max(len(name) for name in (*classes, 'class'))
    yield '         ' + f'{"class":<{width}}' + ''.join(f'{f"{name}: pictures, {unit}":>26}' for name in counted)
    for number, name in enumerate(classes[:_MAX_CLASSES]):
        line = f'         {name:<{width}}'
        for rows in counted.values():
            amount = rows[:, number].sum()
            share = f'{amount / max(1, rows.sum()):.1%}' if seg else amount
            line += f'{np.count_nonzero(rows[:, number])}, {share}'.rjust(26)
        yield line
    if len(classes) > _MAX_CLASSES:
        yield f'         and {len(classes) - _MAX_CLASSES} more classes'
    for name, rows in counted.items():
        if len(rows) < len(parts[name]):
            yield f'         counted in {len(rows)} of {len(parts[name])} pictures for {name}'
    showing = np.count_nonzero(counted['train'], axis=0)
    few = [f'{name} ({count})' for name, count in zip(classes, showing, strict=True) if count < FEW]
    if few and len(counted['train']) == len(parts['train']):
        yield f'         WARNING: fewer than {FEW} pictures for training show: {", ".join(few[:12])}'


def _read(option: Any) -> Any:
    """Return a data set that reads pictures and labels as a training does, and changes neither."""
    steps = [step for step in option.pipeline if step['type'].startswith(('Load', 'Pack'))]
    packing = {**steps[-1], 'meta_keys': ('img_path', 'ori_shape', 'img_shape')}
    return DATASETS.build({**option, 'pipeline': [*steps[:-1], packing]})


def counts(dataset: Any, seg: bool) -> np.ndarray:
    """Count the pixels of some label images, or the boxes of all pictures, by class: (pictures, classes)."""
    classes, rows = len(dataset.metainfo['classes']), list[np.ndarray]()
    for index in evenly_spaced(len(dataset), COUNTED if seg else len(dataset)):
        if seg:
            labels = dataset[index]['data_samples'].gt_sem_seg.data.numpy()
        else:
            boxes = dataset.get_data_info(index)['instances']
            labels = np.array([box['bbox_label'] for box in boxes if not box['ignore_flag']], int)
        rows.append(np.bincount(labels[labels < classes], minlength=classes))
    return np.stack(rows)


def sheet(dataset: Any) -> np.ndarray:
    """Return some pictures with their labels side by side, (height, width, 3), RGB."""
    meta, indices, step = dataset.metainfo, evenly_spaced(len(dataset), SHOWN), SIDE + 4
    columns = min(COLUMNS, len(indices))
    canvas = Image.new('RGB', (columns * step, -(-len(indices) // columns) * step), 'white')
    for number, sample in enumerate(dataset[index] for index in indices):
        picture = Image.fromarray(draw(image_of(sample['inputs']), sample['data_samples'], meta, 'gt'))
        size = [max(1, round(side * SIDE / max(picture.size))) for side in picture.size]
        corner = (number % columns * step + 2, number // columns * step + 2)
        canvas.paste(picture.resize(size, Image.Resampling.BOX), corner)  # its mean, or the nearest pixel
    has_names = 'gt_instances' in sample['data_samples']  # beside its boxes
    return np.asarray(canvas) if has_names else np.concatenate([canvas, legend(meta, canvas.width)])


def legend(meta: Mapping[str, Any], width: int) -> np.ndarray:
    """Return a strip that names the colour of each class, (height, width, 3), RGB."""
    entries, columns = [*zip(meta['classes'], meta['palette'], strict=True), ('no label', (0, 0, 0))], width // 160
    strip = np.full((-(-len(entries) // columns) * 24, width, 3), 255, np.uint8)
    for number, (name, colour) in enumerate(entries):
        entry = strip[number // columns * 24 :, number % columns * 160 :][:24, :156]
        entry[4:20, 4:24] = colour
        write_on(entry, shown_name(name, number), 14, 28, 3)
    return strip
