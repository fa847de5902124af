"""Pictures without labels beside the labelled ones: their data set, stream, step and pseudo labels."""

from mmdistill_dense.unlabelled.pictures import UnlabeledImages
from mmdistill_dense.unlabelled.stream import UnlabelledStream

__all__ = ['UnlabeledImages', 'UnlabelledStream']
