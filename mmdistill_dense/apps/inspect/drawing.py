"""Pictures for people: classes, objects and differences over an image."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmengine.structures import InstanceData, PixelData
from mmengine.visualization import Visualizer
from torch import Tensor

OPACITY = 0.6  # of classes over an image
CONFIDENT = 0.3  # score above which a box is drawn
TEACHER_RIGHT, TEACHER_WRONG = (213, 94, 0), (0, 114, 178)  # distinct for colour-blind people


def image_of(inputs: Tensor) -> np.ndarray:
    """Return an input of a network (3, H, W), BGR of bytes or floats, as RGB (H, W, 3) uint8."""
    return np.ascontiguousarray(inputs.permute(1, 2, 0).clamp(0, 255).to(torch.uint8).numpy()[..., ::-1])


def shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """Return an image with no side longer than that many pixels."""
    scale = side / max(image.shape[:2])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image


def classes_at(found: PixelData, shape: Sequence[int]) -> np.ndarray:
    """Return the class of each pixel at a size (H, W)."""
    classes = found.data.squeeze(0).cpu().numpy().astype(np.float32)
    return cv2.resize(classes, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST).astype(np.int64)


def painted(image: np.ndarray, classes: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Return an image under the colours of its classes (H, W); a class without a colour is black."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: min(len(palette), 255)] = palette[:255]
    return (OPACITY * colours[classes.clip(0, 255)] + (1 - OPACITY) * image).astype(np.uint8)


def with_objects(
    image: np.ndarray, found: InstanceData, palette: np.ndarray, side: int, names: Sequence[str] | None = None
) -> np.ndarray:
    """Return an image, shrunk before thin lines are drawn, with its objects: boxes, masks, and names if given."""
    scale, image = min(1.0, side / max(image.shape[:2])), shrunk(image, side)
    if not len(found):
        return image
    size, visualizer = image.shape[1::-1], Visualizer(image=image)
    colours = [tuple(palette[label % len(palette)].tolist()) for label in found.labels.tolist()]
    masks = found.get('masks')
    if masks is not None:  # predicted ones are tensors, true ones mmdet's own
        whole = np.asarray(masks.cpu() if torch.is_tensor(masks) else masks.to_ndarray()).astype(np.uint8)
        small = [cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST) > 0 for mask in whole]
        visualizer.draw_binary_masks(np.stack(small), colors=colours, alphas=0.5)
    boxes = getattr(found.bboxes, 'tensor', found.bboxes).cpu() * scale
    boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([size[0] - 1, size[1] - 1] * 2))
    visualizer.draw_bboxes(boxes, edge_colors=colours, line_widths=2)
    if names is not None:
        visualizer.draw_texts(list(names), boxes[:, :2], font_sizes=8, colors=colours)
    return visualizer.get_image()


def differing(image: np.ndarray, differs: np.ndarray, right: np.ndarray | None = None) -> np.ndarray:
    """Return an image in grey, in colour where student and teacher differ, in another where the teacher is right."""
    canvas = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) // 2 + 64
    canvas[differs] = TEACHER_WRONG
    if right is not None:
        canvas[right] = TEACHER_RIGHT
    return canvas
