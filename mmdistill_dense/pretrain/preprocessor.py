"""MultiViewPreprocessor: several views of each image, normalised on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import ImgDataPreprocessor
from torch import Tensor

from mmdistill_dense.losses import to_device
from mmdistill_dense.registry import MODELS


@MODELS.register_module()
class MultiViewPreprocessor(ImgDataPreprocessor):
    """mmengine's ``ImgDataPreprocessor`` for ``inputs`` that are a list over views.

    Each view may be a list of images, as ``pseudo_collate`` leaves it, or a batch; it becomes a batch of floats
    ``[B, 3, H, W]``, and views may differ in size. Inputs without views become one batch, the same as mmengine's.

    Args:
        *args: Of ``ImgDataPreprocessor``: ``mean``, ``std``, ``bgr_to_rgb`` and so on.
        size: Height and width of the views, for the trace, which takes 512 x 512 otherwise; nothing is resized.
        mixup: In training, replace each picture by ``l * picture + (1 - l) * another of the batch``, with one ``l``,
            uniform in (0, 1), and one order of the others in each step, for all views. Student and teacher both get the
            mixed pictures. Numbers come from torch's stream, which ``DistillHook`` seeds for each iteration and
            process. Defaults to False.
        **kwargs: As ``args``.
    """

    def __init__(self, *args: Any, size: Sequence[int] | None = None, mixup: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.size = None if size is None else tuple(size)
        self.mixup = mixup

    def forward(self, data: dict, training: bool = False) -> dict:
        """Return ``data`` with ``inputs`` as a list of batches, or as one batch for inputs without views."""
        inputs = data['inputs']
        if not _has_views(inputs):
            batch = super().forward(data, training)
            return {**batch, 'inputs': self._mixed([batch['inputs']])[0]} if self.mixup and training else batch
        rest = {name: value for name, value in data.items() if name != 'inputs'}
        batches = [super(MultiViewPreprocessor, self).forward(dict(inputs=view), training) for view in inputs]
        others = self.cast_data({'data_samples': None, **rest})
        views = [batch['inputs'] for batch in batches]
        return {**others, 'inputs': self._mixed(views) if self.mixup and training else views}

    @staticmethod
    def _mixed(views: Sequence[Tensor]) -> list[Tensor]:
        share, order = float(torch.rand(())), torch.randperm(len(views[0]))
        return [torch.lerp(view[to_device(order, view)], view, share) for view in views]


def _has_views(inputs: Any) -> bool:
    if isinstance(inputs, Tensor) or not inputs:
        return False
    first = inputs[0]
    return isinstance(first, (list, tuple)) or first.ndim == 4
