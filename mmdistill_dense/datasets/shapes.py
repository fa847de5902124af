"""Generated segmentation data: no files, the same pictures everywhere."""

from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.datasets import BaseSegDataset

from mmdistill_dense.datasets.painter import CLASSES, paint
from mmdistill_dense.registry import DATASETS, TRANSFORMS


class PaintedPictures:
    """Mixin before a data set: the options of its painted pictures."""

    def __init__(self, num_images: int, seed: int = 0, painting: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if num_images < 1:
            raise ValueError(f'{type(self).__name__}: num_images must be at least 1, got {num_images}.')
        self.num_images = num_images
        self.seed = seed
        self.painting = dict(painting or {})
        super().__init__(**kwargs)


@DATASETS.register_module()
class ShapesSegDataset(PaintedPictures, BaseSegDataset):
    """Pictures of textured shapes, painted on demand by :func:`mmdistill_dense.datasets.painter.paint`.

    Picture ``i`` depends on ``(seed, i)`` alone, not on worker, epoch or order. A pipeline begins with
    ``dict(type='mmdistill_dense.LoadShapes')`` instead of loading an image and its annotations.

    Args:
        num_images: length of the data set.
        seed: names the series; training and validation need different ones.
        painting: further options of ``paint``: ``size``, ``objects``, ``radius``, ``contrast``, ``noise``, ``period``.
        **kwargs: of ``BaseSegDataset``: ``pipeline``, ``metainfo``, ``indices`` ...

    Raises:
        ValueError: ``num_images`` below 1.
    """

    METAINFO = dict(
        classes=CLASSES,
        palette=[
            [40, 40, 40], [230, 60, 60], [250, 170, 60], [40, 140, 70], [150, 225, 90], [60, 90, 220], [120, 190, 250],
        ],
    )  # fmt: skip

    def load_data_list(self) -> list[dict]:
        """List the pictures; nothing is painted yet."""
        common = dict(seed=self.seed, painting=self.painting, label_map=self.label_map, reduce_zero_label=False)
        return [
            dict(img_path=f'shapes/{self.seed}/{index:06d}', index=index, seg_fields=[], **common)
            for index in range(self.num_images)
        ]


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
