"""Data sets: CamVid, checked folders and generated shapes that need no files.

A segmentation loads nothing of mmdet, which takes seconds and needs mmcv's compiled operations in most places.
"""

from typing import TYPE_CHECKING

from mmdistill_dense.utils.lazy import import_lazily

if TYPE_CHECKING:
    from mmdistill_dense.datasets.box_data import CocoDataset, LoadShapesDet, ShapesDetDataset
    from mmdistill_dense.datasets.folders import (
        ADE20KDataset,
        CamVidDataset,
        CityscapesDataset,
        COCOStuffDataset,
        PascalVOCDataset,
        SegFolderDataset,
    )
    from mmdistill_dense.datasets.shapes import LoadShapes, ShapesSegDataset

__all__ = [
    'ADE20KDataset', 'COCOStuffDataset', 'CamVidDataset', 'CityscapesDataset', 'CocoDataset', 'LoadShapes',
    'LoadShapesDet', 'PascalVOCDataset', 'SegFolderDataset', 'ShapesDetDataset', 'ShapesSegDataset',
]  # fmt: skip
import_lazily(__name__, __file__)
