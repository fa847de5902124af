"""What ``new`` writes of a data set: its config with the lists and label files, and drawn label images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import METRICS
from PIL import Image

from mmdistill_dense.apps.project.box_labels import BoxData, find_box_data
from mmdistill_dense.apps.project.config_files import box_file, seg_file
from mmdistill_dense.apps.project.label_images import SegData, find_seg_data
from mmdistill_dense.apps.project.training_plan import Loading
from mmdistill_dense.registry import DATASETS

READ: dict[str, Callable[[Path], Any]] = {'seg': find_seg_data, 'det': find_box_data}


def write_config(data: SegData | BoxData, folder: Path) -> Config:
    """Write ``data.py`` with what it reads, for pictures of their usual size, and return it."""
    boxes = isinstance(data, BoxData)
    loading = Loading(data.size, data.size, data.size, boxes, True, 2, 0, '')
    folder.mkdir(exist_ok=True)
    (folder / 'data.py').write_text(box_file(data, loading, False, False) if boxes else seg_file(data, loading))
    for part, split in data.splits.items():
        if split.content:
            (folder / Path(split.labels).name).write_text(split.content)
        elif not boxes:
            (folder / f'{part}.txt').write_text('\n'.join(split.names))
    return Config.fromfile(folder / 'data.py')


def label_images(data: SegData, part: str, folder: Path) -> dict[str, np.ndarray]:
    """The label image of each picture of a part, as a training reads it."""
    split = data.splits[part]
    if data.drawing:
        data.drawing.write(folder)
        labels = Path(split.labels.replace('{{ fileDirname }}', str(folder)))
        files = {Path(name).name: labels / f'{name}.png' for name in split.names}
    else:
        files = {image.stem: label for image, label in data.pairs[part]}
    return {name: np.asarray(Image.open(file)) for name, file in files.items()}


def perfect_scores(config: Config) -> dict[str, float]:
    """Return the scores of predictions that are the labels which the data set itself gives."""
    data: Any = DATASETS.build(config.val_dataloader.dataset)
    metric: Any = METRICS.build(config.val_evaluator)
    metric.dataset_meta = data.metainfo
    for index in range(len(data)):
        info = data.get_data_info(index)
        boxes = [box for box in info['instances'] if not box['ignore_flag']]
        predicted = dict(
            bboxes=torch.tensor([box['bbox'] for box in boxes], dtype=torch.float).reshape(-1, 4),
            labels=torch.tensor([box['bbox_label'] for box in boxes], dtype=torch.long),
            scores=torch.ones(len(boxes)),
        )
        sample = dict(img_id=info['img_id'], ori_shape=(info['height'], info['width']), pred_instances=predicted)
        metric.process({}, [sample])
    return metric.evaluate(len(data))
