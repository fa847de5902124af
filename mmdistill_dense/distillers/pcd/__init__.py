"""PCD: pixel-wise contrastive distillation."""

from typing import TYPE_CHECKING

from mmdistill_dense.utils.lazy import import_lazily

if TYPE_CHECKING:
    from mmdistill_dense.distillers.pcd.pcd import PCD

__all__ = ['PCD']
import_lazily(__name__, __file__)
