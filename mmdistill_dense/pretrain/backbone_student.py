"""BackboneStudent: a backbone alone, trained on the views of unlabelled images."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel, ImgDataPreprocessor
from mmengine.registry import MODELS as MM_MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor

from mmdistill_dense.losses import to_device
from mmdistill_dense.registry import MODELS, kind_of
from mmdistill_dense.utils.runner_internals import Samples


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
        is_list = not isinstance(inputs, Tensor) and len(inputs) > 0
        if not (is_list and (isinstance(inputs[0], (list, tuple)) or inputs[0].ndim == 4)):  # no views
            batch = super().forward(data, training)
            around = tuple(batch['inputs'].shape[2:])
            samples = batch.get('data_samples')
            for image, sample in zip(inputs, samples if isinstance(samples, list) else (), strict=False):
                if isinstance(sample, BaseDataElement):  # padding takes no part
                    sample.set_metainfo({'img_shape': tuple(image.shape[1:]), 'batch_input_shape': around})
            return {**batch, 'inputs': self._mixed([batch['inputs']])[0]} if self.mixup and training else batch
        for sizes in ({tuple(image.shape) for image in view} for view in inputs):
            if len(sizes) > 1:
                text = f'a view has pictures of several sizes ({", ".join(map(str, sorted(sizes)[:3]))})'
                raise ValueError(f'{text}: let its pipeline in MultiView end with one size, e.g. by RandomResizedCrop.')
        views = [super(MultiViewPreprocessor, self).forward({'inputs': view}, training)['inputs'] for view in inputs]
        extras = self.cast_data({'data_samples': None, **data, 'inputs': None})
        return {**extras, 'inputs': self._mixed(views) if self.mixup and training else views}

    @staticmethod
    def _mixed(views: Sequence[Tensor]) -> list[Tensor]:
        share, order = float(torch.rand(())), torch.randperm(len(views[0]))
        return [torch.lerp(view[to_device(order, view)], view, share) for view in views]


Inputs = Tensor | Sequence[Tensor]


@MODELS.register_module()
class BackboneStudent(BaseModel):
    """Any mm backbone as a model without a task; it learns from the distillers alone.

    Checkpoints hold ``backbone.*``, so that ``init_cfg=dict(type='Pretrained', checkpoint=…, prefix='backbone.')``
    loads one into a segmentor's or detector's backbone.

    Args:
        backbone: Config of the backbone, e.g. ``dict(type='mmdet.ResNet', depth=18)``. Where its class has the options,
            ``norm_eval`` and ``zero_init_residual`` default to False here: batch norm must learn its statistics, and
            the published student has no zero-initialised residuals.
        data_preprocessor: Usually ``dict(type='mmdistill_dense.MultiViewPreprocessor', …)``.
        init_cfg: As everywhere in mmengine.
    """

    has_task = False  # no loss of its own

    def __init__(
        self, backbone: Mapping[str, Any], data_preprocessor: Mapping[str, Any] | None = None, init_cfg: Any = None
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.backbone = MM_MODELS.build(_from_scratch(backbone))
        if getattr(self.backbone, 'norm_eval', False):
            raise ValueError('model.student.backbone.norm_eval=True keeps batch statistics as they began: set False.')

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the backbone's maps of one batch ``[B, 3, H, W]``."""
        features = self.backbone(inputs)
        return tuple(features) if isinstance(features, (list, tuple)) else (features,)

    def forward(self, inputs: Inputs, data_samples: Samples | None = None, mode: str = 'tensor') -> Any:
        """Run :meth:`loss`, :meth:`predict` or, for ``mode='tensor'``, :meth:`extract_feat`."""
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        if mode == 'tensor':
            return self.extract_feat(inputs) if isinstance(inputs, Tensor) else list(map(self.extract_feat, inputs))
        raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', got {mode!r}.")

    def loss(self, inputs: Inputs, data_samples: Samples | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """Run the backbone on each view in order, for the taps; return no losses.

        The views are never joined to one batch: batch statistics are those of a view.
        """
        for view in [inputs] if isinstance(inputs, Tensor) else inputs:
            self.extract_feat(view)
        return {}

    def predict(self, inputs: Inputs, data_samples: Samples | None = None) -> Any:
        """Return the pooled features ``[B, C]`` of the last map, or a list of them for a list of views."""
        if isinstance(inputs, Tensor):
            return self.extract_feat(inputs)[-1].mean((2, 3))
        return [self.predict(view) for view in inputs]

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        if not any('loss' in name for name in losses):
            remedy = "model.teacher and, with a weight above 0, model.distillers, e.g. dict(pcd=dict(type='PCD', …))"
            raise ValueError(f'BackboneStudent has no loss of its own and no distiller gave one: set {remedy}.')
        return super().parse_losses(losses)


def _from_scratch(backbone: Mapping[str, Any]) -> dict[str, Any]:
    bases = getattr(kind_of(MM_MODELS, backbone), '__mro__', ())  # ResNetV1c passes the options of its base through
    options = {name for base in bases for name in inspect.signature(base).parameters}
    return {**{name: False for name in ('norm_eval', 'zero_init_residual') if name in options}, **backbone}
