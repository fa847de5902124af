"""Configs of a folder of boxes as ``new`` writes them, and the score of predictions that are the labels."""

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import METRICS

from mmdistill_dense.apps.project.box_labels import BoxData, find_box_data
from mmdistill_dense.apps.project.config_files import box_file
from mmdistill_dense.apps.project.zoo_schedule import Loading
from mmdistill_dense.registry import DATASETS


def written(root: Path, out: Path) -> tuple[BoxData, Config]:
    """Write ``data.py`` and the label files of a folder, and read it."""
    data = find_box_data(root)
    out.mkdir(exist_ok=True)
    (out / 'data.py').write_text(
        box_file(data, Loading(data.size, data.size, data.size, True, True, 2, 0, ''), False, False)
    )
    for split in data.splits.values():
        if split.content:
            (out / Path(split.labels).name).write_text(split.content)
    return data, Config.fromfile(out / 'data.py')


def perfect_score(config: Config) -> float:
    """Return the mAP of predictions that are the labels which the data set itself gives."""
    return perfect_scores(config)['coco/bbox_mAP']


def perfect_scores(config: Config, name: str = 'val') -> dict[str, float]:
    """Return all scores of these predictions."""
    data: Any = DATASETS.build(config[f'{name}_dataloader'].dataset)
    metric: Any = METRICS.build(config[f'{name}_evaluator'])
    metric.dataset_meta = data.metainfo
    for index in range(len(data)):
        info = data.get_data_info(index)
        boxes = [one for one in info['instances'] if not one['ignore_flag']]
        predicted = dict(
            bboxes=torch.tensor([one['bbox'] for one in boxes], dtype=torch.float).reshape(-1, 4),
            labels=torch.tensor([one['bbox_label'] for one in boxes], dtype=torch.long),
            scores=torch.ones(len(boxes)),
        )
        sample = dict(img_id=info['img_id'], ori_shape=(info['height'], info['width']), pred_instances=predicted)
        metric.process({}, [sample])
    return metric.evaluate(len(data))
