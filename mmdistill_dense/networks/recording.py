"""Record and replace tapped tensors in one forward pass that runs only what the taps need."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from mmdistill_dense.networks.taps import (
    DECODER,
    HEAD,
    DecoderHook,
    ForwardHook,
    MethodHook,
    Place,
    Replay,
    Tap,
    find_place,
    run_queries,
    semantic_scores,
)
from mmdistill_dense.utils.runner_internals import Network, Samples

_FEATURES = ('backbone', 'neck')


def run_parts(
    network: Network,
    taps: Sequence[Tap],
    inputs: Tensor,
    rois: bool = False,
    heads: Sequence[str] | None = None,
    samples: Samples | None = None,
) -> list[str]:
    """Run ``extract_feat``, then call each head that holds a tap on the features.

    A segmentor whose tapped ``decode_head`` needs more than features (the stage before, metadata of the pictures) runs
    its ``encode_decode`` instead, as if no picture were padded. A detector with queries and a tap behind its neck runs
    whole, on the metadata of the ``samples``. A network without ``extract_feat``, or a tap of the network itself
    (``''``), is called whole.

    Args:
        network: A network of mmseg or mmdet, or any other.
        taps: What will be recorded.
        inputs: The preprocessed batch.
        rois: Run RoI heads on one made-up RoI, to learn shapes.
        heads: The heads that run on the features, as an earlier call returned them. Default: each head with a tap that
            ``extract_feat`` does not call; hooks find out.
        samples: Those of the batch. Default: made up, as if no picture were padded.
    """
    grid = getattr(network, 'input_grid', None)  # of a teacher that sees another size
    inputs = inputs if grid is None else grid(inputs)
    if not hasattr(network, 'extract_feat') or any(tap.path == '' for tap in taps):
        network(inputs)
        return []
    if hasattr(network, DECODER) and any(tap.path.split('.')[0] not in _FEATURES for tap in taps):
        run_queries(network, inputs, samples)
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
            _run_head(network.get_submodule(path), features, rois, any('.mask_' in tap.path for tap in taps))
    return list(heads)


def _noted(network: Network, inputs: Tensor, whole: bool) -> tuple[Any, dict[str, Any]]:
    """Return the features, and what each child of the network returned meanwhile."""
    outputs: dict[str, Any] = {}
    with noting(network.named_children(), lambda name, _, output: outputs.update({name: output})):
        features = _encode_decode(network, inputs, outputs) if whole else network.extract_feat(inputs)
    return features, outputs


@contextmanager
def noting(modules: Iterable[tuple[str, nn.Module]], note: Callable[[str, Any, Any], None]) -> Iterator[None]:
    """Call ``note(path, args, output)`` after each call of the named modules while the context is open."""
    handles = [
        module.register_forward_hook(lambda _, args, output, path=path: note(path, args, output))
        for path, module in modules
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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


def _run_head(head: Any, features: Sequence[Tensor], rois: bool, masks: bool) -> None:
    roi_head = hasattr(head, '_bbox_forward')
    try:
        if rois and roi_head:
            one = features[0].new_tensor([[0, 0, 0, 32, 32]])
            run_roi_head(head, features, one)
            if masks:
                run_mask_head(head, features, one)
        else:
            head(features)
    except TypeError as error:
        otherwise = 'or compare RoI heads with the distiller RoIHeadKD' if roi_head else 'or a dense head'
        raise ValueError(
            f'{type(head).__name__} does not run on features alone ({error}): tap the backbone or the neck, '
            f'{otherwise}.'
        ) from error


def run_roi_head(head: Any, features: Sequence[Tensor], rois: Tensor, stage: int | None = None) -> dict[str, Tensor]:
    """Return ``cls_score`` and ``bbox_pred`` (among others) of a mmdet RoI head for the levels of the neck.

    ``rois`` are (R, 5): index of the image, x1, y1, x2, y2. Of a cascade one stage runs, or all, and the last
    counts.
    """
    if not isinstance(head.bbox_head, nn.ModuleList):
        return head._bbox_forward(features, rois)
    for number in range(len(head.bbox_head)) if stage is None else [stage]:
        results = head._bbox_forward(number, features, rois)
    return results


def run_mask_head(head: Any, features: Sequence[Tensor], rois: Tensor, stage: int = 0) -> Tensor:
    """Return the mask logits (R, K, h, w) of a RoI head of mmdet. Of a cascade, one stage runs."""
    several = isinstance(head.mask_head, nn.ModuleList)
    results = head._mask_forward(stage, features, rois) if several else head._mask_forward(features, rois)
    return results['mask_preds']


def _tapped_heads(network: nn.Module, taps: Sequence[Tap]) -> list[str]:
    """Return the children that hold taps, which are heads unless ``extract_feat`` calls them."""
    heads: list[str] = []
    for tap in taps:
        path, *rest = find_place(network, tap, 'tap').path.split('.')
        while isinstance(network.get_submodule(path), (nn.ModuleList, nn.ModuleDict)) and rest:
            path = f'{path}.{rest.pop(0)}'
        heads.append(path)
    return list(dict.fromkeys(heads))


class _LastTapReached(Exception):
    """Ends a forward pass when all taps are recorded."""


class Recorder:
    """Records the outputs (or inputs) of tapped modules, as they are at that moment, while its context is open.

    In-place operations behind a tap (``ReLU(inplace=True)``, ``out += identity``) would write into the record, so the
    record is a copy, but for the call that ends the pass. The network itself keeps the original tensor, because some
    networks rely on what their in-place operations have written.

    Args:
        network: The network. A path is resolved once, and again if wrappers or copies have replaced its module.
        taps: What to record.
        key: The config key to name in errors.
        stop_after: End the forward pass after this many recorded calls; :meth:`recording` then ends its context without
            an error. ``None`` runs to the end.
        copies: Without copies, gradients of all that the network computes from a tap can be taken at the record.
        methods: Methods of modules, e.g. ``bbox_head.get_targets``: ``(args, result)`` of each call are recorded.
    """

    def __init__(
        self,
        network: nn.Module,
        taps: Iterable[Tap],
        key: str,
        stop_after: int | None = None,
        copies: bool = True,
        methods: Iterable[str] = (),
    ) -> None:
        self.network = network
        self.taps = list({tap.text: tap for tap in taps}.values())
        self.key = key
        self.stop_after = stop_after
        self.copies = copies
        self.methods = sorted({*methods})
        self.calls = 0
        self.tensors: dict[str, list[Any]] = {}
        self._places: dict[str, Place] = {}

    @contextmanager
    def recording(self) -> Iterator[dict[str, list[Any]]]:
        """Hook the taps, yield the record, which grows during the pass, and always remove the hooks."""
        self.calls = 0
        self.tensors = {text: [] for text in (*(tap.text for tap in self.taps), *self.methods)}
        handles: list[Any] = []
        try:
            for tap in self.taps:
                place = self._places.get(tap.text)
                if place is None or not _holds(self.network, place):
                    place = self._places[tap.text] = find_place(self.network, tap, self.key)
                handles.append(self._hook(tap, place))
            for path in self.methods:
                owner, _, name = path.rpartition('.')
                handles.append(MethodHook(self.network.get_submodule(owner), name, self.tensors[path].append))
            yield self.tensors
        except _LastTapReached:
            pass
        finally:
            for handle in reversed(handles):
                handle.remove()

    def _hook(self, tap: Tap, place: Place) -> Any:
        record = partial(self._record, tap, place)
        if place.replays:
            return DecoderHook(self.network, record)
        if place.reads_scores:
            return ForwardHook(place.module, record)
        before = tap.argument is not None  # the module may write into its input
        return (place.module.register_forward_pre_hook if before else place.module.register_forward_hook)(record)

    def check_complete(self) -> None:
        """Raise a ``ValueError`` for a tap never called; forget the record."""
        self.check_fired()
        self.tensors = {}

    def check_fired(self) -> None:
        """Raise a ``ValueError`` for a tap whose module was never called."""
        for tap in (tap for tap in self.taps if not self.tensors.get(tap.text)):
            raise ValueError(
                f'{tap.key or self.key}={str(tap)!r} never fired in the forward pass of '
                f'{type(self.network).__name__}: the module exists but is not called as a module. Tap a module inside '
                'it.'
            )

    def _record(self, tap: Tap, place: Place, _: nn.Module, args: tuple[Any, ...], output: Any = None) -> None:
        name = tap.text
        if place.first_call and self.tensors[name]:
            return
        if place.reads_scores:
            output = semantic_scores(place.module, output, f'{tap.key or self.key}={name!r}')
        try:
            tensors = output if place.replays else tap.pick(args, output)
        except ValueError as error:
            raise ValueError(f'{tap.key or self.key}: {error}') from None
        self.calls += 1
        last = self.calls == self.stop_after
        if isinstance(tensors, Replay):
            self.tensors[name] = tensors
        else:
            self.tensors[name].extend([tensor.clone() for tensor in tensors] if self.copies and not last else tensors)
        if last:
            raise _LastTapReached


def _holds(network: nn.Module, place: Place) -> bool:
    """Tell whether a place of an earlier pass is still in the network."""
    try:
        return network.get_submodule(place.path) is place.module
    except AttributeError:
        return False


@contextmanager
def replacing(network: nn.Module, tap: Tap, function: Callable[[int, Tensor], Tensor], key: str) -> Iterator[None]:
    """Replace the tapped outputs for later modules in every forward pass while the context is open.

    ``function`` takes the number of a tensor, as :class:`Recorder` lists them in this context, and the tensor.
    """
    if tap.argument is not None:
        raise ValueError(f'{key}={tap.text!r}: an input cannot be replaced; tap the output of the module before it.')
    place = find_place(network, tap, key)
    if place.reads_scores:
        raise ValueError(
            f'{key}={tap.text!r}: {type(place.module).__name__} makes its class scores out of several outputs, so they '
            'cannot be replaced; tap a map inside it, or the backbone.'
        )
    seen = 0

    def replace(tensor: Tensor) -> Tensor:
        nonlocal seen
        seen += 1
        return function(seen - 1, tensor)

    handle = place.module.register_forward_hook(lambda _, args, output: tap.put(output, replace))
    try:
        yield
    finally:
        handle.remove()
    if not seen:
        raise ValueError(f'{key}={tap.text!r} never fired in the forward pass of {type(network).__name__}.')
