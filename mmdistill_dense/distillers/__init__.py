"""Distillation methods, one file each."""

from mmdistill_dense.distillers.afdcd import AfDCD
from mmdistill_dense.distillers.base import Distiller, FeatureDistiller
from mmdistill_dense.distillers.logits import LogitKD
from mmdistill_dense.distillers.pcd import PCD

__all__ = ['PCD', 'AfDCD', 'Distiller', 'FeatureDistiller', 'LogitKD']
