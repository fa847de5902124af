"""Generated pictures of textured shapes with labels: no files, the same everywhere."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from mmdistill_dense.datasets.folders import mmseg_datasets
from mmdistill_dense.registry import DATASETS, TRANSFORMS

SHAPES = ('disc', 'square', 'triangle')
CORNERS = (24, 4, 3)
TEXTURES = ('striped', 'checked')
TINTS = ((60, 60, 215), (60, 190, 60), (215, 90, 60))  # BGR, of the shapes
CLASSES = ('background', *(f'{texture}_{shape}' for shape in SHAPES for texture in TEXTURES))


@dataclass(frozen=True)
class Instance:
    """The visible part of one painted object."""

    label: int  # index into ``CLASSES``, 1 or more
    box: tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels around the visible part, x2 and y2 exclusive
    mask: np.ndarray  # bool (H, W), true where the object is seen


@dataclass(frozen=True)
class Picture:
    image: np.ndarray  # uint8 (H, W, 3), BGR
    labels: np.ndarray  # uint8 (H, W), indices into ``CLASSES``
    instances: list[Instance]  # the visible objects, back to front


def paint(
    seed: int,
    index: int,
    size: tuple[int, int] = (96, 128),
    objects: tuple[int, int] = (5, 9),
    radius: tuple[float, float] = (12.0, 30.0),
    contrast: float = 80.0,
    noise: float = 8.0,
    period: tuple[float, float] = (6.0, 8.0),
    tint: float = 0.0,
) -> Picture:
    """Paint picture ``index`` of the series ``seed``: the same picture in every process, in any order.

    Args:
        seed: names the series.
        index: number of the picture in it.
        size: height and width in pixels.
        objects: fewest and most objects.
        radius: smallest and largest distance of an object's centre from its corners, in pixels.
        contrast: difference between a texture's two colours, in grey levels of 0 to 255.
        noise: standard deviation of the noise on every pixel, in grey levels.
        period: shortest and longest period of a texture, in pixels.
        tint: from 0, colours tell nothing, to 1: discs are red, squares green, triangles blue.
    """
    rng = np.random.default_rng([seed, index])
    # clouds of colour with one of the textures in places
    clouds = rng.uniform(40, 215, (3, 4, 3)).astype(np.float32)
    where = rng.uniform(-1, 1, (4, 5)).astype(np.float32)
    image = cv2.resize(clouds, size[::-1], interpolation=cv2.INTER_CUBIC)
    where = cv2.resize(where, size[::-1], interpolation=cv2.INTER_LINEAR).clip(0, 1)
    pattern = _pattern(rng, TEXTURES[int(rng.integers(len(TEXTURES)))], size, period)
    image = image + 0.5 * contrast * (pattern * where * 1.5)[..., None]
    ids = np.zeros(size, np.uint8)
    labels = [0]
    for number in range(1, int(rng.integers(objects[0], objects[1] + 1)) + 1):
        labels.append(int(rng.integers(1, len(CLASSES))))
        shape, texture = divmod(labels[number] - 1, len(TEXTURES))
        far = float(rng.uniform(*radius))
        centre = np.array([rng.uniform(0, size[1]), rng.uniform(0, size[0])])
        turns = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(CORNERS[shape]) / CORNERS[shape]
        outline = centre + far * np.stack([np.cos(turns), np.sin(turns)], 1)
        x1, y1 = np.maximum(np.floor(outline.min(0)).astype(int), 0)
        x2, y2 = np.minimum(np.ceil(outline.max(0)).astype(int) + 1, size[::-1])
        if x1 >= x2 or y1 >= y2:
            continue
        inside = np.zeros((y2 - y1, x2 - x1), np.uint8)
        cv2.fillPoly(inside, [np.round((outline - (x1, y1)) * 16).astype(np.int32)], 1, shift=4)
        pattern = _pattern(rng, TEXTURES[texture], inside.shape, period)
        base, step = (rng.uniform(*ends, 3).astype(np.float32) for ends in ((60, 195), (-1, 1)))
        base += tint * (np.array(TINTS[shape], np.float32) - base)
        colours = base + 0.5 * contrast * pattern[..., None] * (step / np.abs(step).max())
        visible = inside.astype(bool)
        image[y1:y2, x1:x2][visible] = colours[visible]
        ids[y1:y2, x1:x2][visible] = number
    image += noise * rng.standard_normal((*size, 1), np.float32)
    instances = []
    for number in range(1, len(labels)):
        mask = ids == number
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        if len(columns):  # not hidden by others
            box = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
            instances.append(Instance(labels[number], box, mask))
    return Picture(image.clip(0, 255).astype(np.uint8), np.asarray(labels, np.uint8)[ids], instances)


def _pattern(rng: np.random.Generator, texture: str, size: tuple[int, int], between: tuple[float, float]) -> np.ndarray:
    """Return a texture as -1 / +1, float32 (h, w): the two differ in their pattern, not in their mean or period."""
    angle, period = rng.uniform(0, np.pi), rng.uniform(*between)
    phases = rng.uniform(0, 2 * np.pi, 2)
    y, x = np.arange(size[0], dtype=np.float32)[:, None], np.arange(size[1], dtype=np.float32)
    scale = 2 * np.pi / period
    along = np.sin(scale * (np.cos(angle) * x + np.sin(angle) * y) + phases[0], dtype=np.float32)
    if texture == 'striped':
        return np.sign(along)
    return np.sign(along * np.sin(scale * (np.cos(angle) * y - np.sin(angle) * x) + phases[1], dtype=np.float32))


class PaintedPictures:
    """Mixin before a data set: the options of its painted pictures."""

    def __init__(self, num_images: int, seed: int = 0, painting: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if num_images < 1:
            raise ValueError(f'{type(self).__name__}: num_images must be at least 1, got {num_images}.')
        self.num_images, self.seed, self.painting = num_images, seed, dict(painting or {})
        super().__init__(**kwargs)

    def _entries(self, **fields: Any) -> list[dict]:
        common = dict(seed=self.seed, painting=self.painting, **fields)
        return [dict(img_path=f'shapes/{self.seed}/{n:06d}', index=n, **common) for n in range(self.num_images)]


@DATASETS.register_module()
class ShapesSegDataset(PaintedPictures, mmseg_datasets.BaseSegDataset):
    """Pictures of textured shapes, painted on demand by :func:`mmdistill_dense.datasets.shapes.paint`.

    Picture ``i`` depends on ``(seed, i)`` alone, not on worker, epoch or order. A pipeline begins with
    ``dict(type='mmdistill_dense.LoadShapes')`` instead of loading an image and its annotations.

    Args:
        num_images: length of the data set.
        seed: names the series; training and validation need different ones.
        painting: further options of ``paint``: ``size``, ``objects``, ``radius``, ``contrast``, ``noise``, ``period``,
            ``tint``.
        **kwargs: of ``BaseSegDataset``: ``pipeline``, ``metainfo``, ``indices`` ...
    """

    METAINFO = dict(
        classes=CLASSES,
        palette=[
            [40, 40, 40], [230, 60, 60], [250, 170, 60], [40, 140, 70], [150, 225, 90], [60, 90, 220], [120, 190, 250],
        ],
    )  # fmt: skip

    def load_data_list(self) -> list[dict]:
        return self._entries(label_map=self.label_map, reduce_zero_label=False, seg_fields=[])


@TRANSFORMS.register_module()
class LoadShapes(BaseTransform):
    """Paint ``img`` (uint8 BGR) and ``gt_seg_map`` of a ``ShapesSegDataset`` entry; image and labels in one step."""

    def transform(self, results: dict) -> dict:
        """Add ``img``, ``img_shape``, ``ori_shape`` and ``gt_seg_map``."""
        picture = paint(results['seed'], results['index'], **results['painting'])
        labels = picture.labels
        if results['label_map'] is not None:
            table = np.arange(256, dtype=np.uint8)
            table[list(results['label_map'])] = list(results['label_map'].values())
            labels = table[labels]
        results.update(img=picture.image, img_shape=labels.shape, ori_shape=labels.shape, gt_seg_map=labels)
        results['seg_fields'].append('gt_seg_map')
        return results
