"""Generated detection data: boxes and instance masks of the same painted pictures, no files."""

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.datasets import BaseDetDataset
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks, encode_mask_results

from mmdistill_dense.datasets.shapes import CLASSES, PaintedPictures, Picture, ShapesSegDataset, paint
from mmdistill_dense.registry import DATASETS, TRANSFORMS

SIZE = (96, 128)  # the default of `paint`


@DATASETS.register_module()
class ShapesDetDataset(PaintedPictures, BaseDetDataset):
    """Pictures of textured shapes with a box and a mask for every visible object, painted on demand.

    Picture ``i`` is the one of ``ShapesSegDataset`` under the same seed and painting. A pipeline begins with
    ``dict(type='mmdistill_dense.LoadShapesDet')``; a test pipeline that packs ``instances`` among its ``meta_keys``
    lets ``CocoMetric`` score boxes and masks without an annotation file.

    Args:
        num_images: length of the data set.
        seed: names the series; training and validation need different ones.
        painting: further options of ``paint``: ``size``, ``objects``, ``radius``, ``contrast``, ``noise``, ``period``.
        **kwargs: of ``BaseDetDataset``: ``pipeline``, ``metainfo``, ``indices`` ... Objects of classes that
            ``metainfo['classes']`` leaves out are painted, but not annotated.

    Raises:
        ValueError: ``num_images`` below 1, or a class that the painter does not know.
    """

    METAINFO = dict(classes=CLASSES[1:], palette=[tuple(c) for c in ShapesSegDataset.METAINFO['palette'][1:]])

    def load_data_list(self) -> list[dict]:
        """List the pictures; nothing is painted yet."""
        chosen = self.metainfo['classes']
        unknown = set(chosen) - set(CLASSES[1:])
        if unknown:
            raise ValueError(f'ShapesDetDataset: metainfo.classes has {sorted(unknown)}; known: {CLASSES[1:]}.')
        height, width = self.painting.get('size', SIZE)
        common = dict(height=height, width=width, seed=self.seed, painting=self.painting)
        labels = {CLASSES.index(name): label for label, name in enumerate(chosen)}
        return [
            dict(img_path=f'shapes/{self.seed}/{index:06d}', img_id=index, index=index, labels=labels, **common)
            for index in range(self.num_images)
        ]

    def get_cat_ids(self, idx: int) -> list[int]:
        """Paint a picture and return the label of each of its objects, for samplers that balance classes."""
        return [label for label, _ in _chosen(self.get_data_info(idx))[1]]


@TRANSFORMS.register_module()
class LoadShapesDet(BaseTransform):
    """Paint a ``ShapesDetDataset`` entry: image, boxes, labels and masks in one step.

    Args:
        with_mask: also give the instance masks, in ``gt_masks`` and in ``instances``.
    """

    def __init__(self, with_mask: bool = False) -> None:
        self.with_mask = with_mask

    def transform(self, results: dict) -> dict:
        """Add ``img`` and its shapes, ``gt_bboxes`` with labels and flags, ``instances`` and, if asked for, masks."""
        picture, chosen = _chosen(results)
        labels = [label for label, _ in chosen]
        boxes = [list(map(float, instance.box)) for _, instance in chosen]
        results.update(
            img=picture.image,
            img_shape=picture.labels.shape,
            ori_shape=picture.labels.shape,
            gt_bboxes=HorizontalBoxes(torch.tensor(boxes).reshape(-1, 4)),
            gt_bboxes_labels=np.asarray(labels, np.int64),
            gt_ignore_flags=np.zeros(len(labels), bool),
            instances=[
                dict(bbox=box, bbox_label=label, ignore_flag=0) for box, label in zip(boxes, labels, strict=True)
            ],
        )
        if self.with_mask:
            masks = [instance.mask for _, instance in chosen]
            results['gt_masks'] = BitmapMasks(masks, *picture.labels.shape)
            for instance, mask in zip(results['instances'], encode_mask_results(masks), strict=True):
                instance['mask'] = mask
        return results


def _chosen(entry: dict) -> tuple[Picture, list]:
    """Paint the picture of an entry; return it with (label, instance) for each object of the chosen classes."""
    picture = paint(entry['seed'], entry['index'], **entry['painting'])
    labels = entry['labels']
    return picture, [(labels[one.label], one) for one in picture.instances if one.label in labels]
