"""Distillation methods, one file each."""

from mmdistill_dense.distillers.afdcd import AfDCD
from mmdistill_dense.distillers.base import Distiller, FeatureDistiller
from mmdistill_dense.distillers.logits import LogitKD

__all__ = ['AfDCD', 'Distiller', 'FeatureDistiller', 'LogitKD']
