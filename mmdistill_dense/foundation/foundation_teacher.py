"""FoundationTeacher and VisionTransformer: a vision foundation model as the teacher and as a backbone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmdistill_dense.foundation.libraries import LibraryTeacher
from mmdistill_dense.foundation.models import architecture
from mmdistill_dense.foundation.vit import ViT
from mmdistill_dense.foundation.vit_file import load_vit
from mmdistill_dense.registry import MODELS
from mmdistill_dense.weights.strict_load import local_file, read_checkpoint


@MODELS.register_module()
class VisionTransformer(ViT):
    """The network of :class:`FoundationTeacher` as a backbone: it returns a tuple of maps (B, D, h, w).

    With ``frozen``, a small head learns on the maps of a published network: docs/foundation_head.md. Without, it is a
    student, or ``SSLTeacher.backbone``, with MoCo v3's projection head behind it.

    Args:
        model: As of :class:`FoundationTeacher`.
        out_blocks: The blocks whose maps it returns, each as often as it is named; -1 is the last.
        norm: Apply the final norm to the maps.
        stride: Pixels of a cell; pictures are resized so that a patch covers as many. Defaults to the patch.
        checkpoint: File of its weights, as of :class:`FoundationTeacher`. Defaults to None: they are drawn.
        frozen: Train nothing in it, and keep no activations. Defaults to False.
        ignore: As of :class:`FoundationTeacher`.
        init_cfg: For mmengine, which passes it; weights are named in ``checkpoint``.

    Raises:
        ValueError: For an unknown model, a block that is not there, an ``init_cfg``; in the first training step, for a
            frozen network whose weights are still those drawn.
    """

    def __init__(
        self,
        model: str | Mapping[str, Any],
        out_blocks: Sequence[int] = (-1,),
        norm: bool = True,
        stride: int | None = None,
        checkpoint: str | None = None,
        frozen: bool = False,
        ignore: Collection[str] = (),
        init_cfg: None = None,
    ) -> None:
        super().__init__(architecture(model), norm)
        if init_cfg:
            raise ValueError(
                'VisionTransformer takes no init_cfg: name the file in checkpoint. The names of the original code, '
                'timm and transformers are read.'
            )
        self.stride = self.shape.patch if stride is None else stride
        self.checkpoint, self.frozen, self.ignore = checkpoint, frozen, tuple(ignore)
        self.trains = True
        self._drawn: Tensor | None = None
        if frozen:
            self.requires_grad_(False)
            self.train()
        depth = self.shape.depth
        if not out_blocks or not all(-depth <= block < depth for block in out_blocks):
            raise ValueError(
                f'out_blocks must hold blocks of 0 to {depth - 1}, or -1 for the last, got {out_blocks!r}.'
            )
        self.out_blocks = [block % depth for block in out_blocks]

    def init_weights(self) -> None:
        """Load ``checkpoint``, strictly; draw random weights without one."""
        if self.checkpoint is None:
            super().init_weights()
            self._drawn = self.cls_token.detach().clone() if self.frozen else None
            return
        path = local_file(self.checkpoint, None, 'backbone.checkpoint')
        _load(self, path, self.ignore, f'backbone.checkpoint={self.checkpoint!r}')

    def train(self, mode: bool = True) -> VisionTransformer:
        """Set the mode; a frozen network stays in evaluation."""
        self.trains = mode
        return super().train(mode and not self.frozen)

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Return the maps of normalised pictures (B, 3, H, W)."""
        if not self.frozen:
            return tuple(self.maps_of(pictures, self.out_blocks))
        if self.trains and self._drawn is not None:
            self._check_loaded(self._drawn)
        with torch.no_grad():
            return tuple(self.maps_of(pictures, self.out_blocks))

    def _check_loaded(self, drawn: Tensor) -> None:
        token, self._drawn = self.cls_token, None
        if not token.is_meta and torch.equal(token, drawn.to(token)):
            raise ValueError(
                f'backbone ({self.shape.name}) is frozen and has random weights, so no head can learn on it: set '
                'backbone.checkpoint to the file of its weights, or load_from to a checkpoint of the whole network.'
            )


@MODELS.register_module()
class FoundationTeacher(ViT):
    """DINO, MoCo v3, MAE, DINOv2 or DINOv3; taps ``map``, ``maps.<block>`` and ``cls``, see :class:`ViT`.

    Use it as ``teacher=dict(type='mmdistill_dense.FoundationTeacher', model='dinov2_vits14', checkpoint=FILE)``. The
    file may have the names of the original code, of timm or of transformers.

    It has no ``extract_feat`` on purpose: :func:`run_parts` would take its modules for heads.

    Args:
        model: A name of :data:`~mmdistill_dense.foundation.models.MODELS_BY_NAME`, or a description,
            ``dict(family='dinov2', patch=14, dim=384, depth=12, heads=6)``. It is no part of the file, because the
            shapes must be known before a file is read. ``'timm::NAME'`` and ``'transformers::FOLDER'`` make a
            :class:`LibraryTeacher`.
        norm: Apply the final norm to the maps.
        ignore: Prefixes of entries in the file that are to be ignored.
        data_preprocessor: Normalisation of the pictures, as ``dict(mean=…, std=…, bgr_to_rgb=…)``. Defaults to the
            model's own.

    Raises:
        ValueError: For an unknown model or a wrong description.
        TypeError: For ``ignore`` that is no list.
    """

    features_alone = True

    def __new__(cls, model: Any = None, **options: Any) -> Any:
        """Return a :class:`LibraryTeacher` for ``'timm::…'`` and ``'transformers::…'``."""
        if isinstance(model, str) and '::' in model:
            return LibraryTeacher(model, **options)
        return super().__new__(cls)

    def __init__(
        self,
        model: str | Mapping[str, Any],
        norm: bool = True,
        ignore: Collection[str] = (),
        data_preprocessor: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(architecture(model), norm)
        if isinstance(ignore, str):
            raise TypeError(f'ignore is a list of prefixes, got {ignore!r}.')
        self.ignore = tuple(ignore)
        self.preprocessor = data_preprocessor or self.shape.preprocessor
        self.size_divisor = self.shape.patch
        self.tap_hint = (
            f'A {type(self).__name__} is tapped at map, maps.0 … maps.{self.shape.depth - 1} and cls. It has no class '
            'scores and no boxes, so methods that compare those cannot learn from it. '
        )
        self.source = self.shape.name  # for the receipt; after loading, with the scheme of names

    def load_teacher(self, path: str | Path, key: str = 'model.teacher.checkpoint') -> tuple[int, int]:
        """Load a file, strictly; return the number of tensors loaded and of entries ignored."""
        ignored, self.source = _load(self, path, self.ignore, f'{key}={str(path)!r}')
        return len(self.state_dict()), ignored


def _load(network: ViT, path: str | Path, ignore: Collection[str], where: str) -> tuple[int, str]:
    ignored, source = load_vit(network, read_checkpoint(path), ignore, where)
    print_log(f'{where}: {source}, {len(network.state_dict())} tensors loaded, {ignored} ignored', 'current')
    return ignored, source
