"""The student as the model that is trained, and how teachers, distillers and taps are put together."""

from mmdistill_dense.model.distill_model import DistillModel

__all__ = ['DistillModel']
