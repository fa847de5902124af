"""Data sets: CamVid, checked folders and generated shapes that need no files.

A segmentation loads nothing of mmdet, which takes seconds and needs mmcv's compiled operations in most places.
"""

from typing import TYPE_CHECKING

from mmdistill_dense.utils.lazy import import_lazily

if TYPE_CHECKING:
    from mmdistill_dense.datasets.box_data import *
    from mmdistill_dense.datasets.folders import *
    from mmdistill_dense.datasets.shapes import *

__all__ = [
    'ADE20KDataset', 'COCOStuffDataset', 'CamVidDataset', 'CityscapesDataset', 'CocoDataset', 'LoadShapes',
    'LoadShapesDet', 'PascalVOCDataset', 'SegFolderDataset', 'ShapesDetDataset', 'ShapesSegDataset',
]  # fmt: skip
import_lazily(__name__, __file__)
