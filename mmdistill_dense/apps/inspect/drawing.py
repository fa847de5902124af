"""Pictures for people: inputs as pictures, with labels or predictions as mmseg and mmdet draw them."""

from __future__ import annotations

from collections.abc import Mapping
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
    """Return a picture (RGB) with labels or predictions, as mmseg and mmdet draw them."""
    visualizer: Any
    if seg:
        from mmseg.visualization import SegLocalVisualizer

        visualizer, options = SegLocalVisualizer(alpha=0.5), {'with_labels': False, **options}
    else:
        from mmdet.visualization import DetLocalVisualizer

        visualizer = DetLocalVisualizer()
    visualizer.dataset_meta = meta
    visualizer.add_datasample('', picture, sample, **options)
    return np.asarray(visualizer.get_image())
