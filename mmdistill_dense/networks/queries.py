"""Detectors with queries: the call of their decoder is kept for a step, and answered again for other queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmdistill_dense.utils.runner_internals import Samples

DECODER = 'forward_decoder'  # of mmdet's detectors with queries; as a tap, what this method gets
QUERIES = ('query', 'query_pos', 'reference_points')  # those of its arguments that are queries


class Replay(list[Tensor]):
    """The queries of one call of a network's decoder, (B, M, ...) each, which answers others on the same pictures.

    Attributes:
        names: What the queries are called.
    """

    def __init__(self, network: nn.Module, kept: Mapping[str, Any]) -> None:
        self.network, self.kept = network, kept
        self.names = tuple(name for name in QUERIES if isinstance(kept.get(name), Tensor))
        super().__init__(kept[name] for name in self.names)

    def answer(self, queries: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the class logits (L, B, M, K) and boxes (L, B, M, 4) of all layers, for queries in this order."""
        given = {**self.kept, **dict(zip(self.names, queries, strict=True))}
        if 'dn_mask' in given:  # of a DINO in training, whose own call has denoising queries in front
            given['dn_mask'] = None
        network: Any = self.network
        return network.bbox_head.forward(**_of_head(network.forward_decoder(**given)))


def run_queries(network: Any, inputs: Tensor, samples: Samples | None) -> None:
    """Run a detector with queries to the end of its head, on the metadata of the samples."""
    kept = network.forward_transformer(network.extract_feat(inputs), metainfo_only(samples, inputs))
    network.bbox_head(**_of_head(kept))


def _of_head(kept: Mapping[str, Any]) -> dict[str, Any]:
    return {name: kept[name] for name in ('hidden_states', 'references') if name in kept}


class DecoderHook:
    """Calls a function with the :class:`Replay` of each call of a network's decoder, until it is removed."""

    def __init__(self, network: nn.Module, function: Callable[[nn.Module, tuple[Any, ...], Replay], None]) -> None:
        self.network = network
        decode: Any = getattr(network, DECODER)

        def noted(**kwargs: Any) -> Any:
            function(network, (), Replay(network, kwargs))
            return decode(**kwargs)

        vars(network)[DECODER] = noted

    def remove(self) -> None:
        """Call the network's own method again."""
        del vars(self.network)[DECODER]


def metainfo_only(samples: Samples | None, inputs: Tensor) -> list[Any]:
    """Return samples of the pictures without labels; without samples, those of whole pictures."""
    from mmengine.structures import BaseDataElement

    if samples:
        return [BaseDataElement(metainfo=sample.metainfo) for sample in samples]
    size = tuple(inputs.shape[2:])
    meta = dict(ori_shape=size, img_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0))
    return [BaseDataElement(metainfo=meta) for _ in inputs]
