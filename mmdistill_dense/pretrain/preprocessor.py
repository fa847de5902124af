"""MultiViewPreprocessor: several views of each image, normalised on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.model import ImgDataPreprocessor
from torch import Tensor

from mmdistill_dense.registry import MODELS


@MODELS.register_module()
class MultiViewPreprocessor(ImgDataPreprocessor):
    """mmengine's ``ImgDataPreprocessor`` for ``inputs`` that are a list over views.

    Each view may be a list of images, as ``pseudo_collate`` leaves it, or a batch; it becomes a batch of floats
    ``[B, 3, H, W]``, and views may differ in size. Inputs without views become one batch, the same as mmengine's.

    Args:
        *args: Of ``ImgDataPreprocessor``: ``mean``, ``std``, ``bgr_to_rgb`` and so on.
        size: Height and width of the views, for the trace, which takes 512 x 512 otherwise; nothing is resized.
        **kwargs: As ``args``.
    """

    def __init__(self, *args: Any, size: Sequence[int] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.size = None if size is None else tuple(size)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Return ``data`` with ``inputs`` as a list of batches, or as one batch for inputs without views."""
        inputs = data['inputs']
        if not _has_views(inputs):
            return super().forward(data, training)
        rest = {name: value for name, value in data.items() if name != 'inputs'}
        batches = [super(MultiViewPreprocessor, self).forward(dict(inputs=view), training) for view in inputs]
        others = self.cast_data({'data_samples': None, **rest})
        return {**others, 'inputs': [batch['inputs'] for batch in batches]}


def _has_views(inputs: Any) -> bool:
    if isinstance(inputs, Tensor) or not inputs:
        return False
    first = inputs[0]
    return isinstance(first, (list, tuple)) or first.ndim == 4
