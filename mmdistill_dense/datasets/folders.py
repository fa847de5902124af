"""mmseg's own folder data sets, with one clear error when a folder is missing (theirs is a bare assertion for VOC)."""

from mmseg.datasets import ADE20KDataset as _ADE20KDataset
from mmseg.datasets import CityscapesDataset as _CityscapesDataset
from mmseg.datasets import COCOStuffDataset as _COCOStuffDataset
from mmseg.datasets import PascalVOCDataset as _PascalVOCDataset

from mmdistill_dense.datasets.roots import RootCheck
from mmdistill_dense.registry import DATASETS


@DATASETS.register_module()
class CityscapesDataset(RootCheck, _CityscapesDataset):
    """mmseg's Cityscapes; its folders are checked."""


@DATASETS.register_module()
class PascalVOCDataset(RootCheck, _PascalVOCDataset):
    """mmseg's PASCAL VOC 2012; its folders and its list file are checked."""


@DATASETS.register_module()
class ADE20KDataset(RootCheck, _ADE20KDataset):
    """mmseg's ADE20K; its folders are checked."""


@DATASETS.register_module()
class COCOStuffDataset(RootCheck, _COCOStuffDataset):
    """mmseg's COCO-Stuff 164k of 171 classes; its folders are checked."""
