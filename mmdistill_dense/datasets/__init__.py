"""Data sets: CamVid, checked folders, pictures without labels, and generated shapes that need no files."""

from mmdistill_dense.datasets.camvid import CamVidDataset
from mmdistill_dense.datasets.folders import ADE20KDataset, CityscapesDataset, PascalVOCDataset
from mmdistill_dense.datasets.shapes import LoadShapes, ShapesSegDataset
from mmdistill_dense.datasets.unlabeled import UnlabeledImages

__all__ = [
    'ADE20KDataset',
    'CamVidDataset',
    'CityscapesDataset',
    'LoadShapes',
    'PascalVOCDataset',
    'ShapesSegDataset',
    'UnlabeledImages',
]
