"""Data sets: CamVid, checked folders and generated shapes that need no files."""

import contextlib
import io
from importlib.util import find_spec

# mmseg and mmdet print a line for each part of theirs that is not installed
with contextlib.redirect_stdout(io.StringIO()):
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
        'ADE20KDataset',
        'COCOStuffDataset',
        'CamVidDataset',
        'CityscapesDataset',
        'LoadShapes',
        'PascalVOCDataset',
        'SegFolderDataset',
        'ShapesSegDataset',
    ]

    # mmdet cannot be imported everywhere without mmcv's compiled operations, which segmentation does without
    if find_spec('mmdet') is not None and find_spec('mmcv._ext') is not None:
        from mmdistill_dense.datasets.box_data import CocoDataset, LoadShapesDet, ShapesDetDataset

        __all__ += ['CocoDataset', 'LoadShapesDet', 'ShapesDetDataset']
