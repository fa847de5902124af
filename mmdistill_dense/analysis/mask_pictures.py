"""Pictures of receptive tokens: where on an image the mask of each token lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.visualization import Visualizer
from torch.nn.functional import interpolate

from mmdistill_dense.distillers import MasKD
from mmdistill_dense.model.distill_model import Distilled
from mmdistill_dense.registry import DATASETS

MASK_PANEL = 200  # least width of one image in a picture, in pixels
HEAD = 22  # height of a line of text above it
OPACITY = 0.6


@dataclass
class MaskRow:
    """The masks of one level over one image.

    Attributes:
        title: names the level.
        image: uint8 (H, W, 3), RGB.
        masks: float (T, H, W) in 0..1, enlarged to the image.
        weights: the weight of each mask.
    """

    title: str
    image: np.ndarray
    masks: np.ndarray
    weights: list[float]


def draw_masks(model: Distilled, distiller: MasKD, dataset: Any, out: Path, images: int = 4) -> list[Path]:
    """Write a picture per image of every token's mask over it: a column per token, a row per level.

    With a single level, all images are the rows of one picture. Red is a mask of 1, blue of 0, on the same scale
    everywhere; above each panel stand the mean of the mask over the image and its weight p.

    Args:
        model: A distilled model with its teacher loaded, see :func:`mmdistill_dense.distillers.maskd.ready_distiller`.
        distiller: Its ``MasKD``, with tokens.
        dataset: Config of the data set to show, or the data set.
        out: Folder for the pictures.
        images: Number of images, from the first.

    Returns:
        The files written.
    """
    if images < 1:
        raise ValueError(f'images must be at least 1, got {images}.')
    dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
    rows = [mask_rows(model, distiller, dataset[index]) for index in range(min(images, len(dataset)))]
    single = len(distiller.levels) == 1
    groups = [('masks', [one for group in rows for one in group])] if single else []
    groups = groups or [(f'masks_{index:03d}', group) for index, group in enumerate(rows)]
    out.mkdir(parents=True, exist_ok=True)
    files = [out / f'{name}.png' for name, _ in groups]
    for path, (_, group) in zip(files, groups, strict=True):
        cv2.imwrite(str(path), draw_grid(group)[..., ::-1])
    return files


@torch.no_grad()
def mask_rows(model: Distilled, distiller: MasKD, item: dict[str, Any]) -> list[MaskRow]:
    """Return the masks of every level for one item of a data set."""
    batch = model.data_preprocessor(dict(inputs=[item['inputs']], data_samples=[item['data_samples']]), False)
    inputs = batch['inputs']
    assert distiller.teacher is not None, 'a distiller inside a model has a teacher'
    recorded = distiller.teacher(inputs)
    maps = [tensor for tap in distiller.teacher_taps for tensor in recorded[str(tap)]]
    image = item['inputs'].numpy().transpose(1, 2, 0)[..., ::-1]  # loaders give BGR
    height, width = image.shape[:2]
    rows = []
    for level, masks, weights in zip(
        distiller.levels, distiller.masks(maps), distiller.mask_weights(maps), strict=True
    ):
        large = interpolate(masks.float(), inputs.shape[-2:], mode='bilinear', align_corners=False)
        rows.append(MaskRow(level.name, image, large[0, :, :height, :width].cpu().numpy(), weights[0].tolist()))
    return rows


def draw_grid(rows: Sequence[MaskRow]) -> np.ndarray:
    """Draw rows of masks, the image itself first, with mmengine's visualizer; return uint8 (H, W, 3), RGB."""
    lines = [_line(row) for row in rows]
    width = max(line.shape[1] for line, _ in lines)
    canvas = np.full((sum(line.shape[0] for line, _ in lines), width, 3), 255, np.uint8)
    texts, places, top = [], [], 0
    for line, titles in lines:
        canvas[top : top + line.shape[0], : line.shape[1]] = line
        step = line.shape[1] // len(titles)
        texts += titles
        places += [[column * step + 3, top + 3] for column in range(len(titles))]
        top += line.shape[0]
    visualizer = Visualizer(image=canvas)
    visualizer.draw_texts(texts, np.asarray(places), font_sizes=9, colors='black')
    return visualizer.get_image()


def overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return an image (H, W, 3) under a mask (H, W) of 0 (blue) to 1 (red), uint8."""
    heat = cv2.applyColorMap((mask.clip(0, 1) * 255).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]
    return (OPACITY * heat + (1 - OPACITY) * image).astype(np.uint8)


def enlarged(panel: np.ndarray, scale: int) -> np.ndarray:
    """Enlarge an image by a whole number and frame it, with room for a title above."""
    size = (panel.shape[1] * scale, panel.shape[0] * scale)
    large = cv2.resize(np.ascontiguousarray(panel), size, interpolation=cv2.INTER_LINEAR)
    return cv2.copyMakeBorder(large, HEAD, 4, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255))


def _line(row: MaskRow) -> tuple[np.ndarray, list[str]]:
    """Return a row of panels with room for a title above each, and the titles."""
    panels = [row.image, *(overlay(row.image, mask) for mask in row.masks)]
    scale = max(1, -(-MASK_PANEL // row.image.shape[1]))
    weights = zip(row.masks, row.weights, strict=True)
    titles = [f'token {i}: {mask.mean():.2f}, p {weight:.2f}' for i, (mask, weight) in enumerate(weights)]
    return np.concatenate([enlarged(panel, scale) for panel in panels], 1), [row.title, *titles]
