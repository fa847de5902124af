"""Run only those parts of a mmseg or mmdet network that the taps need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.utils.protocols import Network


def run_parts(
    network: Network, taps: Sequence[Tap], inputs: Tensor, rois: bool = False, heads: Sequence[str] | None = None
) -> list[str]:
    """Run ``extract_feat``, then call each head that holds a tap on the features.

    A network without ``extract_feat``, or a tap of the network itself (``''``), is called whole.

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
    if heads is None:
        features, heads = _features_and_heads(network, taps, inputs)
    else:
        features = network.extract_feat(inputs)
    for path in heads:
        _run_head(network.get_submodule(path), features, rois)
    return list(heads)


def _features_and_heads(network: Network, taps: Sequence[Tap], inputs: Tensor) -> tuple[Sequence[Tensor], list[str]]:
    called: set[str] = set()
    handles = [child.register_forward_hook(_note(called, name)) for name, child in network.named_children()]
    try:
        features = network.extract_feat(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return features, _tapped_heads(network, taps, called)


def _run_head(head: Any, features: Sequence[Tensor], rois: bool) -> None:
    try:
        if rois and hasattr(head, '_bbox_forward'):
            run_roi_head(head, features, features[0].new_tensor([[0, 0, 0, 32, 32]]))
        else:
            head(features)
    except TypeError as error:
        raise ValueError(
            f'{type(head).__name__} does not run on features alone ({error}); tap the backbone or the neck, or a dense '
            'head, or compare RoI heads with the distiller RoIHeadKD.'
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


def _note(called: set[str], name: str) -> Callable[..., None]:
    def note(*_: Any) -> None:
        called.add(name)

    return note


def _tapped_heads(network: nn.Module, taps: Sequence[Tap], called: set[str]) -> list[str]:
    heads: list[str] = []
    for tap in taps:
        path, *rest = tap.path.split('.')
        if path in called:
            continue
        while isinstance(network.get_submodule(path), (nn.ModuleList, nn.ModuleDict)) and rest:
            path = f'{path}.{rest.pop(0)}'
        heads.append(path)
    return list(dict.fromkeys(heads))
