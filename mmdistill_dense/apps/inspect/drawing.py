"""Pictures for people: inputs as pictures, with labels or predictions as mmseg and mmdet draw them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

CONFIDENT = 0.3  # score above which a box is drawn


def image_of(inputs: Tensor) -> np.ndarray:
    """Return an input of a network (3, H, W), BGR of bytes or floats, as RGB (H, W, 3) uint8."""
    return np.ascontiguousarray(inputs.permute(1, 2, 0).clamp(0, 255).to(torch.uint8).numpy()[..., ::-1])


def shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """Return an image with no side longer than that many pixels."""
    scale = side / max(image.shape[:2])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image


def draw(picture: np.ndarray, sample: Any, meta: Mapping[str, Any], seg: bool, **options: Any) -> np.ndarray:
    """Return a picture (RGB) with labels or predictions as mmseg and mmdet draw them: ``draw_pred`` or ``draw_gt``."""
    if seg:  # mmseg's pixels, without the figure that its visualizer draws them into
        labels = (sample.pred_sem_seg if options.get('draw_pred', True) else sample.gt_sem_seg).data[0]
        labels = labels.cpu().numpy().astype(np.int64)  # floats where one channel tells two classes
        colours = np.array([*meta['palette'], (0, 0, 0)], np.uint16)  # black where nothing is labelled
        return ((picture + colours[np.minimum(labels, len(colours) - 1)]) >> 1).astype(np.uint8)
    visualizer = _visualizer()
    visualizer.dataset_meta = meta
    visualizer.add_datasample('', picture, sample, **options)
    return np.asarray(visualizer.get_image())


@cache
def _visualizer() -> Any:
    from mmdet.visualization import DetLocalVisualizer

    return DetLocalVisualizer()
