"""The file ``data.py``: pipelines, loaders and metrics of the user's data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdistill_dense.project.box_labels import BoxData
from mmdistill_dense.project.label_images import SegData
from mmdistill_dense.project.loading import Loading
from mmdistill_dense.utils.colours import distinct_colours
from mmdistill_dense.utils.literals import Source, Template, assignments, literal


def seg_file(data: SegData, loading: Loading) -> str:
    """Return the text of ``data.py`` for segmentation."""
    height, width = loading.size
    load = _load(data)
    train = [
        load,
        {'type': 'LoadAnnotations'},
        {'type': 'RandomResize', 'scale': (width, height), 'ratio_range': (0.5, 2.0), 'keep_ratio': True},
        {'type': 'RandomCrop', 'crop_size': loading.crop, 'cat_max_ratio': 0.75},
        {'type': 'RandomFlip', 'prob': 0.5},
        {'type': 'PhotoMetricDistortion'},
        {'type': 'PackSegInputs'},
    ]
    resize = [{'type': 'Resize', 'scale': (width, height), 'keep_ratio': True}] if loading.resize else []
    test = [load, *resize, {'type': 'LoadAnnotations'}, {'type': 'PackSegInputs'}]
    folder = {
        'type': 'mmdistill_dense.SegFolderDataset',
        'data_root': str(data.root),
        'metainfo': {'classes': data.classes, 'palette': distinct_colours(len(data.classes)).tolist()},
        'img_suffix': data.endings.pictures if len(data.endings.pictures) > 1 else data.endings.pictures[0],
        'seg_map_suffix': data.endings.label,
        **({'label_values': data.values} if data.values else {}),
    }
    parts: dict[str, dict[str, Any]] = {}
    for name, split in data.splits.items():
        listed = {'ann_file': Template(f'{{{{ fileDirname }}}}/{name}.txt')} if split.names else {}
        parts[name] = {'data_prefix': {'img_path': split.pictures, 'seg_map_path': split.labels}, **listed}
    about = 'the size of the crop is also that of data_preprocessor.size in pair.py'
    metric = {'type': 'IoUMetric', 'iou_metrics': ['mIoU']}
    return (
        _head(data)
        + _loaders(about, train, test, folder, parts, loading)
        + assignments({'val_evaluator': metric, 'test_evaluator': Source('val_evaluator')})
        + 'del folder\n'
    )


def box_file(data: BoxData, loading: Loading, masks: bool, predicted: bool, empty: bool = True) -> str:
    """Return the text of ``data.py`` for detection.

    ``masks`` are loaded if student or teacher learns them, and ``predicted`` if the student does. Pictures without
    boxes are trained on if ``empty``.
    """
    height, width = loading.size
    load = _load(data)
    boxes = {'type': 'LoadAnnotations', 'with_bbox': True, **({'with_mask': True} if masks else {})}
    resize = {'type': 'Resize', 'scale': (width, height), 'keep_ratio': loading.keep_ratio}
    train = [load, boxes, resize, {'type': 'RandomFlip', 'prob': 0.5}, {'type': 'PackDetInputs'}]
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    test = [load, resize, boxes, {'type': 'PackDetInputs', 'meta_keys': keys}]
    folder = {
        'type': 'mmdistill_dense.CocoDataset',
        'data_root': str(data.root),
        'metainfo': {'classes': data.classes, 'palette': distinct_colours(len(data.classes)).tolist()},
    }
    parts: dict[str, dict[str, Any]] = {}
    for name, split in data.splits.items():
        kind = {'filter_cfg': {'filter_empty_gt': not empty}} if name == 'train' else {'test_mode': True}
        parts[name] = {'ann_file': split.labels, 'data_prefix': {'img': split.pictures}, **kind}
    metrics: dict[str, Any] = {}
    for name in ('val', 'test'):
        if name in data.splits:
            file = data.splits[name].labels
            whole = file if isinstance(file, Template) else f'{data.root}/{file}'
            metric = ['bbox', 'segm'] if predicted else 'bbox'
            option = {'type': 'CocoMetric', 'ann_file': whole, 'metric': metric, 'classwise': True}
            metrics[f'{name}_evaluator'] = option
    metrics.setdefault('test_evaluator', Source('val_evaluator'))
    about = "pictures are only resized and mirrored, whatever the networks' own configs do"
    text = _loaders(about, train, test, folder, parts, loading)
    return f'{_head(data)}{text}{assignments(metrics)}del folder\n'


def _load(data: SegData | BoxData) -> dict[str, Any]:
    kind = {'color_type': 'color_ignore_orientation'} if data.stored else {}
    return {'type': 'LoadImageFromFile', **kind}


def _head(data: SegData | BoxData) -> str:
    counts = ', '.join(f'{split.count} {name}' for name, split in data.splits.items())
    size = f'{data.size[0]}x{data.size[1]}'
    return f'"""The data set: {len(data.classes)} classes, {counts} pictures, usually of {size} pixels."""\n'


def _loaders(
    about: str,
    train: list[Any],
    test: list[Any],
    folder: Mapping[str, Any],
    parts: Mapping[str, Mapping[str, Any]],
    loading: Loading,
) -> str:
    """Return the part of the file that both tasks share."""
    text = f'\n# {about}\n{assignments({"train_pipeline": train, "test_pipeline": test})}\n'
    text += assignments({'folder': folder})
    for name in ('train', 'val', 'test'):
        if name not in parts:
            text += f'{name}_dataloader = val_dataloader  # a third split would be better\n'
            continue
        kind = 'train' if name == 'train' else 'test'
        inside = {**parts[name], 'pipeline': Source(f'{kind}_pipeline')}
        lines = ''.join(f'        {key}={literal(value, "        ", len(key) + 1)},\n' for key, value in inside.items())
        sampler = "type='InfiniteSampler', shuffle=True" if name == 'train' else "type='DefaultSampler', shuffle=False"
        text += (
            f'{name}_dataloader = dict(\n    batch_size={loading.batch if name == "train" else 1},\n'
            f'    num_workers={loading.workers},\n    sampler=dict({sampler}),\n'
            f'    dataset=dict(\n        folder,\n{lines}    ),\n)\n'
        )
    return text
