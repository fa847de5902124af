"""The distilled student, and how it is put together from teachers, distillers and taps."""

from mmdistill_dense.model.build import DistillModel

__all__ = ['DistillModel']
