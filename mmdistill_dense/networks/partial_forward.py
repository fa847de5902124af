"""Run only those parts of a mmseg or mmdet network that the taps need."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmdistill_dense.networks.find_tap import HEAD, find_place
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.utils.protocols import Network


def run_parts(
    network: Network, taps: Sequence[Tap], inputs: Tensor, rois: bool = False, heads: Sequence[str] | None = None
) -> list[str]:
    """Run ``extract_feat``, then call each head that holds a tap on the features.

    A segmentor whose tapped ``decode_head`` needs more than features (the stage before, metadata of the pictures) runs
    its ``encode_decode`` instead, as if no picture were padded. A network without ``extract_feat``, or a tap of the
    network itself (``''``), is called whole.

    Args:
        network: A network of mmseg or mmdet, or any other.
        taps: What will be recorded.
        inputs: The preprocessed batch.
        rois: Run RoI heads on one made-up RoI, to learn shapes.
        heads: The heads, as an earlier call returned them. Default: each head with a tap that ``extract_feat`` does
            not call; hooks find out.

    Returns:
        The paths of the heads that ran on the features.

    Raises:
        ValueError: For a head that cannot run on features alone (a RoI head, a query decoder).
    """
    grid = getattr(network, 'input_grid', None)  # of a teacher that sees another size
    inputs = inputs if grid is None else grid(inputs)
    if not hasattr(network, 'extract_feat') or any(tap.path == '' for tap in taps):
        network(inputs)
        return []
    tapped = _tapped_heads(network, taps) if heads is None else heads
    whole = any(_needs_more(network, path) for path in tapped)
    outputs: Mapping[str, Any] = {}
    others = [path for path in tapped if not (whole and _in_decoder(path))]
    if heads is not None and not (whole and others):  # no hooks: nothing is left to find out
        features = _encode_decode(network, inputs, outputs) if whole else network.extract_feat(inputs)
    else:
        features, outputs = _noted(network, inputs, whole)
    if heads is None:
        heads = [path for path in tapped if path not in others or path.split('.')[0] not in outputs]
    for path in heads:
        if path in others:
            _run_head(network.get_submodule(path), features, rois)
    return list(heads)


def _noted(network: Network, inputs: Tensor, whole: bool) -> tuple[Any, dict[str, Any]]:
    """Return the features, and what each child of the network returned meanwhile."""
    outputs: dict[str, Any] = {}
    handles = [child.register_forward_hook(_note(outputs, name)) for name, child in network.named_children()]
    try:
        features = _encode_decode(network, inputs, outputs) if whole else network.extract_feat(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return features, outputs


def _encode_decode(network: Any, inputs: Tensor, outputs: Mapping[str, Any]) -> Any:
    """Run a segmentor but for its auxiliary heads; return the features, which ``outputs`` got meanwhile."""
    size = inputs.shape[2:]
    meta = dict(ori_shape=size, img_shape=size, pad_shape=size, batch_input_shape=size, padding_size=[0, 0, 0, 0])
    network.encode_decode(inputs, [meta] * len(inputs))
    return outputs.get('neck', outputs.get('backbone'))


def _needs_more(network: nn.Module, path: str) -> bool:
    """Tell whether a segmentor's head needs more than features."""
    kind: Any = type(network.get_submodule(path))
    return _in_decoder(path) and hasattr(network, 'encode_decode') and _arguments(kind) > 1


def _in_decoder(path: str) -> bool:
    return path.split('.')[0] == HEAD


@functools.cache
def _arguments(kind: type[nn.Module]) -> int:
    """Return the number of arguments that ``forward`` of a class must get."""
    _, *parameters = inspect.signature(kind.forward).parameters.values()  # the first is self
    return sum(one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD for one in parameters)


def _run_head(head: Any, features: Sequence[Tensor], rois: bool) -> None:
    roi_head = hasattr(head, '_bbox_forward')
    try:
        if rois and roi_head:
            run_roi_head(head, features, features[0].new_tensor([[0, 0, 0, 32, 32]]))
        else:
            head(features)
    except TypeError as error:
        otherwise = 'or compare RoI heads with the distiller RoIHeadKD' if roi_head else 'or a dense head'
        raise ValueError(
            f'{type(head).__name__} does not run on features alone ({error}): tap the backbone or the neck, '
            f'{otherwise}.'
        ) from error


def run_roi_head(head: Any, features: Sequence[Tensor], rois: Tensor, stage: int | None = None) -> dict[str, Tensor]:
    """Run the box branch of a mmdet RoI head on given RoIs.

    Args:
        head: A ``StandardRoIHead`` or ``CascadeRoIHead``.
        features: The levels of the neck.
        rois: (R, 5): index of the image, x1, y1, x2, y2.
        stage: Stage of a cascade; ``None`` runs all of them, and returns the last.

    Returns:
        ``cls_score`` and ``bbox_pred`` among others.
    """
    if not isinstance(head.bbox_head, nn.ModuleList):
        return head._bbox_forward(features, rois)
    for number in range(len(head.bbox_head)) if stage is None else [stage]:
        results = head._bbox_forward(number, features, rois)
    return results


def _note(outputs: dict[str, Any], name: str) -> Callable[..., None]:
    def note(_: nn.Module, args: Any, output: Any) -> None:
        outputs[name] = output

    return note


def _tapped_heads(network: nn.Module, taps: Sequence[Tap]) -> list[str]:
    """Return the children that hold taps, which are heads unless ``extract_feat`` calls them."""
    heads: list[str] = []
    for tap in taps:
        path, *rest = find_place(network, tap, 'tap').path.split('.')
        while isinstance(network.get_submodule(path), (nn.ModuleList, nn.ModuleDict)) and rest:
            path = f'{path}.{rest.pop(0)}'
        heads.append(path)
    return list(dict.fromkeys(heads))
