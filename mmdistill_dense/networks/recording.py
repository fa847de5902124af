"""Record and replace tapped tensors in one forward pass that runs only what the taps need."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmdistill_dense.networks.taps import DECODER, Tap, TapSite, head_of, resolve_tap, semantic_scores
from mmdistill_dense.utils.runner_internals import Samples

_FEATURES = ('backbone', 'neck')
_QUERIES = ('query', 'query_pos', 'reference_points')  # the arguments of a decoder that are queries


def run_parts(network: nn.Module, taps: Sequence[Tap], inputs: Tensor, **options: Any) -> list[str]:
    """Run a :class:`TappedPass` with these options once."""
    return TappedPass(network, taps, **options)(inputs)


class TappedPass:
    """Runs ``extract_feat`` on a preprocessed batch, then each head that holds a tap; returns the heads' paths.

    A segmentor whose tapped ``decode_head`` needs more than features runs its ``encode_decode`` instead, as if no
    picture were padded. A detector with queries and a tap behind its neck runs whole, on the metadata of the
    ``samples``, by default as if no picture were padded. A network without ``extract_feat``, or a tap of the network
    itself (``''``), is called whole. ``rois`` runs RoI heads on one made-up RoI, to learn shapes. ``heads`` are those
    that an earlier call returned; without, hooks find out which ``extract_feat`` does not call.
    """

    def __init__(
        self, network: Any, taps: Sequence[Tap], rois: bool = False, heads: Sequence[str] | None = None
    ) -> None:
        self.network, self.rois = network, rois
        self.masks = any('.mask_' in tap.path for tap in taps)
        self.calls_network = not hasattr(network, 'extract_feat') or any(tap.path == '' for tap in taps)
        self.decodes = hasattr(network, DECODER) and any(tap.path.split('.')[0] not in _FEATURES for tap in taps)
        paths = heads if heads is not None else [resolve_tap(network, tap, 'tap').path for tap in taps]
        tapped = {head.path: head for head in (head_of(network, path) for path in paths)}
        self.paths = list(tapped)
        self.encodes = hasattr(network, 'encode_decode') and any(head.needs_more for head in tapped.values())
        self.feature_heads = {path for path, head in tapped.items() if not (self.encodes and head.in_decoder)}
        self.asks = heads is None or (self.encodes and bool(self.feature_heads))  # else nothing is left to find out

    def __call__(self, inputs: Tensor, samples: Samples | None = None) -> list[str]:
        network, outputs = self.network, dict[str, Any]()
        grid = getattr(network, 'input_grid', None)  # of a teacher that sees another size
        inputs = inputs if grid is None else grid(inputs)
        if self.calls_network:
            network(inputs)
            return []
        if self.decodes:
            metas = [sample.metainfo for sample in samples] if samples else _unpadded(inputs)  # no labels
            elements = [BaseDataElement(metainfo=meta) for meta in metas]
            network.bbox_head(**_of_head(network.forward_transformer(network.extract_feat(inputs), elements)))
            return []
        children = network.named_children() if self.asks else ()
        with noting(children, lambda name, _, output: outputs.update({name: output})):
            if self.encodes:
                network.encode_decode(inputs, _unpadded(inputs))
                features = outputs.get('neck', outputs.get('backbone'))
            else:
                features = network.extract_feat(inputs)
        heads = [path for path in self.paths if path.split('.')[0] not in outputs or path not in self.feature_heads]
        for path in [path for path in heads if path in self.feature_heads]:
            _run_head(network.get_submodule(path), features, self.rois, self.masks)
        return heads


@contextmanager
def noting(
    modules: Iterable[tuple[str, nn.Module]],
    note: Callable[[str, Any, Any], None],
    begin: Callable[[str], None] = lambda path: None,
) -> Iterator[None]:
    """Call ``begin(path)`` before and ``note(path, args, output)`` after each call of the named modules inside."""
    with ExitStack() as hooks:
        for path, module in modules:
            handle = module.register_forward_hook(lambda _, args, output, path=path: note(path, args, output))
            hooks.enter_context(handle)
            hooks.enter_context(module.register_forward_pre_hook(lambda *_, path=path: begin(path)))
        yield


def _run_head(head: Any, features: Any, rois: bool, masks: bool) -> None:
    roi_head = hasattr(head, '_bbox_forward')
    try:
        if rois and roi_head:
            roi = features[0].new_tensor([[0, 0, 0, 32, 32]])
            run_roi_head(head, features, roi)
            if masks:
                run_mask_head(head, features, roi)
        else:
            head(features)
    except TypeError as error:
        otherwise = 'or compare RoI heads with the distiller RoIHeadKD' if roi_head else 'or a dense head'
        problem = f'{type(head).__name__} does not run on features alone ({error})'
        raise ValueError(f'{problem}: tap the backbone or the neck, {otherwise}.') from error


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
    is_cascade = isinstance(head.mask_head, nn.ModuleList)
    results = head._mask_forward(stage, features, rois) if is_cascade else head._mask_forward(features, rois)
    return results['mask_preds']


class Replay(list[Tensor]):
    """The queries of one call of a network's decoder, (B, M, ...) each, which answers others on the same pictures."""

    def __init__(self, network: nn.Module, arguments: Mapping[str, Any]) -> None:
        self.network, self.arguments = network, arguments
        self.names = tuple(name for name in _QUERIES if isinstance(arguments.get(name), Tensor))  # of the queries
        super().__init__(arguments[name] for name in self.names)

    def answer(self, queries: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the class logits (L, B, M, K) and boxes (L, B, M, 4) of all layers, for queries in this order."""
        arguments = {**self.arguments, **dict(zip(self.names, queries, strict=True))}
        if 'dn_mask' in arguments:  # of a DINO in training, whose own call has denoising queries in front
            arguments['dn_mask'] = None
        network: Any = self.network
        return network.bbox_head.forward(**_of_head(network.forward_decoder(**arguments)))


def _of_head(outputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: outputs[name] for name in ('hidden_states', 'references') if name in outputs}


def _unpadded(inputs: Tensor) -> list[dict[str, Any]]:
    shapes = dict.fromkeys(('ori_shape', 'img_shape', 'pad_shape', 'batch_input_shape'), tuple(inputs.shape[2:]))
    return [dict(shapes, padding_size=[0] * 4, scale_factor=(1.0, 1.0))] * len(inputs)


class _LastTapReached(Exception):
    """Ends a forward pass when all taps are recorded."""


@dataclass(eq=False, repr=False)
class Recorder:
    """Records the outputs (or inputs) of tapped modules, as they are at that moment, while its context is open.

    In-place operations behind a tap (``ReLU(inplace=True)``, ``out += identity``) would write into the record, so the
    record is a copy, but for the call that ends the pass. The network itself keeps the original tensor, because some
    networks rely on what their in-place operations have written.

    A path is resolved once, and again if wrappers or copies have replaced its module. ``stop_after`` so many recorded
    calls the pass ends, and :meth:`recording` its context, without an error. Without ``copies``, gradients of all that
    the network computes from a tap can be taken at the record. Of ``methods`` of modules, e.g.
    ``bbox_head.get_targets``, ``(args, result)`` of each call are recorded. ``key`` is named in errors.
    """

    network: nn.Module
    taps: Iterable[Tap]
    key: str
    stop_after: int | None = None
    copies: bool = True
    methods: Iterable[str] = ()
    calls: int = field(default=0, init=False)
    tensors: dict[str, list[Any]] = field(default_factory=dict, init=False)
    graded: bool = field(default=False, init=False)  # whether gradients are taken where the recording began
    _sites: dict[str, TapSite] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.taps = list({tap.text: tap for tap in self.taps}.values())
        self.methods = sorted({*self.methods})

    @contextmanager
    def recording(self) -> Iterator[dict[str, list[Any]]]:
        """Hook the taps, yield the record, which grows during the pass, and always remove the hooks."""
        self.calls, self.graded = 0, torch.is_grad_enabled()
        self.tensors = {text: [] for text in (*(tap.text for tap in self.taps), *self.methods)}
        removals: list[Callable[[], None]] = []
        try:
            for tap in self.taps:
                site = self._sites.get(tap.text)
                if site is None or not _holds(self.network, site):
                    site = self._sites[tap.text] = resolve_tap(self.network, tap, self.key)
                removals.append(self._hook(tap, site))
            for path in self.methods:
                owner, _, name = path.rpartition('.')
                note = partial(lambda noted, *call: noted.append(call), self.tensors[path])
                removals.append(_hook_method(self.network.get_submodule(owner), name, after=note))
            yield self.tensors
        except _LastTapReached as reached:
            reached.__traceback__ = None  # from Python 3.12 on, its frames and their maps would wait for the collector
        finally:
            for remove in reversed(removals):
                remove()

    def _hook(self, tap: Tap, site: TapSite) -> Callable[[], None]:
        """Hook a tap, and return what removes the hook."""
        record = partial(self._record, tap, site)
        if site.replays:
            return _hook_method(self.network, DECODER, before=lambda kwargs: record((), Replay(self.network, kwargs)))
        if site.reads_scores:  # mmseg's segmentors call head.forward directly, so hooks of torch do not fire
            return _hook_method(site.module, 'forward', after=record)
        if tap.argument is not None:  # before its module runs, which may write into its input
            return site.module.register_forward_pre_hook(lambda _, args: record(args)).remove
        return site.module.register_forward_hook(lambda _, args, output: record(args, output)).remove

    def check_complete(self) -> None:
        """Raise a ``ValueError`` for a tap whose module was never called; forget the record."""
        for tap in self.taps:
            if not self.tensors.get(tap.text):
                place = f'the forward pass of {type(self.network).__name__}'
                problem = f'{tap.key or self.key}={str(tap)!r} never fired in {place}'
                raise ValueError(f'{problem}: it exists but is not called as a module: tap a module inside it.')
        self.tensors = {}

    def _record(self, tap: Tap, site: TapSite, args: tuple[Any, ...], output: Any = None) -> None:
        name = tap.text
        if site.first_call and self.tensors[name]:
            return
        if self.graded and not torch.is_grad_enabled() and name.startswith('roi_head.'):
            return  # samplers of hard examples ask the head before they choose
        if site.reads_scores:
            output = semantic_scores(site.module, output, f'{tap.key or self.key}={name!r}')
        try:
            tensors = output if site.replays else tap.pick(args, output)
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


def _hook_method(
    module: nn.Module,
    name: str,
    before: Callable[[Mapping[str, Any]], None] = lambda kwargs: None,
    after: Callable[[tuple[Any, ...], Any], None] = lambda args, result: None,
) -> Callable[[], None]:
    """Call functions around each call of a module's method, and return what ends that; the last one goes first."""
    original, method = vars(module).get(name), getattr(module, name)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        before(kwargs)
        result = method(*args, **kwargs)
        after(args, result)
        return result

    def remove() -> None:
        if original is None:
            del vars(module)[name]
        else:
            vars(module)[name] = original

    vars(module)[name] = wrapper
    return remove


def _holds(network: nn.Module, site: TapSite) -> bool:
    """Tell whether a site of an earlier pass is still in the network."""
    with suppress(AttributeError):
        return network.get_submodule(site.path) is site.module
    return False


@contextmanager
def replacing(network: nn.Module, tap: Tap, function: Callable[[int, Tensor], Tensor], key: str) -> Iterator[None]:
    """Replace the tapped outputs for later modules in every forward pass while the context is open.

    ``function`` takes the number of a tensor, as :class:`Recorder` lists them in this context, and the tensor.
    """
    if tap.argument is not None:
        raise ValueError(f'{key}={tap.text!r}: an input cannot be replaced; tap the output of the module before it.')
    site = resolve_tap(network, tap, key)
    if site.reads_scores:
        problem = f'{type(site.module).__name__} makes its class scores out of several outputs, which none can replace'
        raise ValueError(f'{key}={tap.text!r}: {problem}; tap a map inside it, or the backbone.')
    numbers = count()
    with site.module.register_forward_hook(
        lambda _, args, output: tap.put(output, lambda tensor: function(next(numbers), tensor))
    ):
        yield
    if not next(numbers):
        raise ValueError(f'{key}={tap.text!r} never fired in the forward pass of {type(network).__name__}.')
