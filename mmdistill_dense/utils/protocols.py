"""Types for the objects of mmengine, mmseg and mmdet that we use; these packages ship no types.

They serve annotations only: no object is made from them, and none is checked against them at runtime. A runner is
annotated with mmengine's own ``Runner``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn


class Sample(Protocol):
    """One picture of a batch: mmseg's ``SegDataSample`` or mmdet's ``DetDataSample``.

    A field that the data set or the network did not fill is missing: ask with ``in`` first.

    Attributes:
        metainfo: Facts of the picture, e.g. ``img_path``, ``img_shape``, ``pad_shape``.
        gt_sem_seg: Labels; ``.data`` is (1, H, W).
        gt_instances: Annotated objects; ``.bboxes`` is (R, 4), ``.labels`` is (R,).
        pred_sem_seg: Predicted labels, as ``gt_sem_seg``.
        pred_instances: Predicted objects, as ``gt_instances``, with ``.scores`` (R,).
    """

    @property
    def metainfo(self) -> Mapping[str, Any]: ...
    @property
    def gt_sem_seg(self) -> Any: ...
    @property
    def gt_instances(self) -> Any: ...
    @property
    def pred_sem_seg(self) -> Any: ...
    @property
    def pred_instances(self) -> Any: ...
    def __contains__(self, field: str) -> bool: ...
    def get(self, field: str, default: Any = None) -> Any: ...


Samples = Sequence[Sample]


class Network(nn.Module):
    """A network of mmseg or mmdet: mmengine's ``BaseModel``.

    Attributes:
        data_preprocessor: Turns what a data loader gives into a batch: ``(data, training) -> dict(inputs=…,
            data_samples=…)``.
        input_grid: Of a teacher with the option ``scale`` or ``fit``: resizes its pictures.
    """

    data_preprocessor: Callable[..., dict[str, Any]]
    input_grid: Any

    def init_weights(self) -> None:
        """Initialise by ``init_cfg``."""

    def extract_feat(self, inputs: Tensor) -> Sequence[Tensor]:
        """Return the maps of the backbone, or of the neck where there is one."""
        raise NotImplementedError

    def loss(self, inputs: Tensor, data_samples: Samples, **kwargs: Any) -> dict[str, Any]:
        """Return the losses of a training batch by name."""
        raise NotImplementedError

    def parse_losses(self, losses: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the losses, and what is logged."""
        raise NotImplementedError

    def train_step(self, data: Mapping[str, Any], optim_wrapper: Any) -> dict[str, Tensor]:
        """Preprocess, compute the losses, update the weights; return what is logged."""
        raise NotImplementedError

    def test_step(self, data: Mapping[str, Any]) -> Samples:
        """Preprocess and predict; return the samples with predictions."""
        raise NotImplementedError
