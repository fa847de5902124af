"""Distillation methods, one file each."""

from mmdistill_dense.distillers.afdcd import AfDCD
from mmdistill_dense.distillers.base import Distiller, FeatureDistiller
from mmdistill_dense.distillers.dist import DIST
from mmdistill_dense.distillers.heads import HeadOutputKD
from mmdistill_dense.distillers.logits import LogitKD
from mmdistill_dense.distillers.maskd import MasKD
from mmdistill_dense.distillers.pcd import PCD
from mmdistill_dense.distillers.roi_heads import RoIHeadKD

__all__ = ['DIST', 'PCD', 'AfDCD', 'Distiller', 'FeatureDistiller', 'HeadOutputKD', 'LogitKD', 'MasKD', 'RoIHeadKD']
