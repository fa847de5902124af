"""The part of a network that is exported: a segmentor up to its logits, a detector up to its dense head."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from torch import Tensor, nn


class Graph(nn.Module):
    """A network from the normalised image ``(B, 3, H, W)`` to a flat tuple of tensors.

    Args:
        model: A segmentor or detector in eval mode.
    """

    task: str
    note: str  # what is left to do with the outputs
    threshold: float | None = None  # of the sigmoid of a segmentor's single channel

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model.eval().requires_grad_(False)

    def named(self, image: Tensor) -> dict[str, Tensor]:
        """Return the outputs by name."""
        raise NotImplementedError

    def answer_by(self, run: Callable[[Tensor], list[Tensor]], names: Sequence[str]) -> None:
        """Let the network predict from the outputs of a written graph with these names, from now on."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs in the order of their names."""
        return tuple(self.named(image).values())


class SegmentorGraph(Graph):
    """``logits`` (B, classes, H, W) as mmseg's whole-picture inference has them, at the size of the image."""

    task = 'segmentation'
    note = (
        'logits (B, classes, H, W) of the whole picture; the label is the argmax over axis 1, or, for one channel, '
        'whether its sigmoid is above threshold'
    )

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        heads: Any = getattr(model, 'decode_head', None)
        head = heads[-1] if isinstance(heads, nn.ModuleList) else heads
        self.threshold = getattr(head, 'threshold', None) if getattr(head, 'out_channels', None) == 1 else None

    def named(self, image: Tensor) -> dict[str, Tensor]:
        """Return ``logits``."""
        # The pictures of a batch have one size; a list of as many members would fix their number in the graph.
        return {'logits': self.model.encode_decode(image, [{'img_shape': tuple(image.shape[2:])}])}

    def answer_by(self, run: Callable[[Tensor], list[Tensor]], names: Sequence[str]) -> None:
        """Replace ``encode_decode``, which whole-picture and sliding inference call."""
        self.model.encode_decode = lambda image, metas: run(image)[0]


class DetectorGraph(Graph):
    """The outputs of a dense head by level, under mmdet's names for them: ``cls_scores_0``, ``bbox_preds_0`` and so on.

    Of a two-stage detector the head is the RPN's and the features for its RoI heads come first
    (``features_0``, …). Decoding, suppression and RoI heads are not in the graph.
    """

    task = 'detection'
    note = (
        'raw outputs of the dense head, finest level first; decoding, non-maximum suppression and RoI heads are left '
        'out: mmdet computes them from these (bbox_head.predict_by_feat), MMDeploy exports them'
    )

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        bases = {kind.__name__ for kind in type(model).__mro__}
        self.two_stage = 'TwoStageDetector' in bases
        head: Any = getattr(model, 'rpn_head' if self.two_stage else 'bbox_head', None)
        # Learned proposals (Sparse R-CNN, QueryInst) have no loss of their own, and nothing that is dense.
        if not hasattr(head, 'loss_by_feat') or not bases & {'SingleStageDetector', 'TwoStageDetector'}:
            raise _unknown(model)
        # The losses of mmdet's dense heads take what the head returns, under these names.
        self.names = list(inspect.signature(head.loss_by_feat).parameters)

    def named(self, image: Tensor) -> dict[str, Tensor]:
        """Return the outputs of the head, after the features of a two-stage detector."""
        features = self.model.extract_feat(image)
        head = self.model.rpn_head if self.two_stage else self.model.bbox_head
        found = {f'features_{level}': tensor for level, tensor in enumerate(features) if self.two_stage}
        outputs = head(features)
        if not all(isinstance(levels, (list, tuple)) for levels in outputs):
            raise _unknown(self.model)
        for name, levels in zip(self.names, outputs, strict=False):
            found.update({f'{name}_{level}': tensor for level, tensor in enumerate(levels)})
        return found

    def answer_by(self, run: Callable[[Tensor], list[Tensor]], names: Sequence[str]) -> None:
        """Replace backbone, neck and dense head."""
        if self.two_stage:
            raise ValueError(
                f'the graph of a {type(self.model).__name__} ends before its RoI heads, so it has no score of its own; '
                'segmentors and single-stage detectors can be evaluated.'
            )

        def head(image: Tensor) -> tuple[list[Tensor], ...]:
            named = zip(names, run(image), strict=True)
            return tuple([x for _, x in some] for _, some in groupby(named, lambda one: one[0].rpartition('_')[0]))

        self.model.extract_feat = lambda image: image
        self.model.bbox_head.forward = head


def graph_of(model: nn.Module) -> Graph:
    """Return the graph of a network."""
    return SegmentorGraph(model) if hasattr(model, 'encode_decode') else DetectorGraph(model)


def _unknown(model: nn.Module) -> ValueError:
    return ValueError(
        f'a {type(model).__name__} cannot be exported as a graph; segmentors with encode_decode, single-stage '
        'detectors and two-stage detectors up to their RPN can. Export it as pth or safetensors, or use MMDeploy.'
    )
