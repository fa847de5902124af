"""What distillers read from the ground truth of a segmentation batch, and the number of classes of a teacher's head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from mmdistill_dense.teacher import FrozenTeacher


def semantic_labels(data_samples: Any, size: Sequence[int], key: str) -> Tensor:
    """Return the class of each position of a map, by the nearest pixel.

    Args:
        data_samples: mmseg's, each with ``gt_sem_seg`` of the (padded) image's size.
        size: Height and width of the map.
        key: The distiller's config key, for the error.

    Returns:
        (B, H, W) int64; ignored pixels keep their label, usually 255.

    Raises:
        ValueError: When the samples hold no segmentation.
    """
    if not data_samples or any('gt_sem_seg' not in sample for sample in data_samples):
        raise ValueError(
            f'{key} compares classes and needs label maps (gt_sem_seg), which the batch does not hold: it works for '
            "segmentation data whose pipeline has LoadAnnotations; choose another method, e.g. type='CWD', elsewhere."
        )
    labels = torch.stack([sample.gt_sem_seg.data for sample in data_samples])
    return F.interpolate(labels.float(), tuple(size), mode='nearest')[:, 0].long()


def classes_of_head(frozen: FrozenTeacher | None, path: str) -> int | None:
    """Return the length of a teacher head's class scores (with background where it is one of them), if it is known.

    Args:
        frozen: The teacher, or ``None``.
        path: A module inside the head, e.g. ``'decode_head.conv_seg'``.
    """
    model = {} if frozen is None else frozen.config.model
    head = model.get(path.split('.')[0])
    if not isinstance(head, Mapping) or 'num_classes' not in head:
        return None
    # as mmdet's heads read it, whatever the loss itself takes for granted
    background = 'loss_cls' in head and not head['loss_cls'].get('use_sigmoid', False)
    return int(head['num_classes']) + background
