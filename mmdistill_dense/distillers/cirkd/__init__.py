"""CIRKD: cross-image relations of pixels and regions."""

from mmdistill_dense.distillers.cirkd.cirkd import CIRKD

__all__ = ['CIRKD']
