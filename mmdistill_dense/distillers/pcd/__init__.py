"""PCD: pixel-wise contrastive distillation."""

from mmdistill_dense.distillers.pcd.pcd import PCD

__all__ = ['PCD']
