"""Record and replace tapped tensors, with hooks that live for one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmdistill_dense.networks.find_tap import Place, find_place
from mmdistill_dense.networks.semantic_scores import ForwardHook, semantic_scores
from mmdistill_dense.networks.taps import Tap


class _LastTapReached(Exception):
    """Ends a forward pass when all taps are recorded."""


class Recorder:
    """Records the outputs (or inputs) of tapped modules, as they are at that moment, while its context is open.

    In-place operations behind a tap (``ReLU(inplace=True)``, ``out += identity``) would write into the record. The
    tensor's version counter shows them; where the trace saw one, the record is a copy. The network itself keeps the
    original tensor, because some networks rely on what their in-place operations have written.

    Args:
        network: The network; paths are resolved at each entry, because wrappers and EMA copies replace modules.
        taps: What to record.
        key: The config key to name in errors.
        stop_after: End the forward pass after this many recorded calls; :meth:`recording` then ends its context without
            an error. ``None`` runs to the end.
        overwritten: Taps whose tensors a later operation writes to.
    """

    def __init__(
        self,
        network: nn.Module,
        taps: Iterable[Tap],
        key: str,
        stop_after: int | None = None,
        overwritten: Collection[str] = (),
    ) -> None:
        self.network = network
        self.taps = list(dict.fromkeys(taps))
        self.key = key
        self.stop_after = stop_after
        self.overwritten = overwritten
        self.calls = 0
        self.tensors: dict[str, list[Tensor]] = {}
        self._versions: dict[str, list[int | None]] = {}

    @contextmanager
    def recording(self) -> Iterator[dict[str, list[Tensor]]]:
        """Hook the taps, yield the record, which grows during the pass, and always remove the hooks."""
        self.calls = 0
        self.tensors = {str(tap): [] for tap in self.taps}
        self._versions = {str(tap): [] for tap in self.taps}
        handles: list[Any] = []
        try:
            for tap in self.taps:
                handles.append(self._hook(tap, find_place(self.network, tap, self.key)))
            yield self.tensors
        except _LastTapReached:
            pass
        finally:
            for handle in reversed(handles):
                handle.remove()

    def _hook(self, tap: Tap, place: Place) -> Any:
        record = partial(self._record, tap, place)
        if place.reads_scores:
            return ForwardHook(place.module, record)
        before = tap.argument is not None  # the module may write into its input
        return (place.module.register_forward_pre_hook if before else place.module.register_forward_hook)(record)

    def check_complete(self) -> None:
        """Raise a ``ValueError`` for a tap whose module was never called, or whose record was changed later."""
        self.check_fired()
        for name in self.changed():
            raise ValueError(
                f'{self.key}={name!r}: after the module returned, an operation that the trace did not see changed '
                'this tensor in place (inplace=True, +=). Tap the output of that operation, or set inplace=False there.'
            )

    def check_fired(self) -> None:
        """Raise a ``ValueError`` for a tap whose module was never called."""
        for tap in (tap for tap in self.taps if not self.tensors.get(str(tap))):
            raise ValueError(
                f'{tap.key or self.key}={str(tap)!r} never fired in the forward pass of '
                f'{type(self.network).__name__}: the module exists but is not called as a module. Tap a module inside '
                'it.'
            )

    def changed(self) -> list[str]:
        """Return the taps with a tensor that was changed in place after it was recorded."""
        return [
            name
            for name, versions in self._versions.items()
            if any(
                then is not None and then != x._version for x, then in zip(self.tensors[name], versions, strict=True)
            )
        ]

    def _record(self, tap: Tap, place: Place, _: nn.Module, args: tuple[Any, ...], output: Any = None) -> None:
        name = str(tap)
        if place.first_call and self.tensors[name]:
            return
        if place.reads_scores:
            output = semantic_scores(place.module, output, f'{tap.key or self.key}={name!r}')
        try:
            tensors = tap.pick(args, output)
        except ValueError as error:
            raise ValueError(f'{tap.key or self.key}: {error}') from None
        self.calls += 1
        last = self.calls == self.stop_after
        if name in self.overwritten and not last:
            tensors = [tensor.clone() for tensor in tensors]
        self.tensors[name].extend(tensors)
        compiled = torch.compiler.is_compiling()  # tensors have no version counter then, nor in inference mode
        self._versions[name].extend(None if compiled or x.is_inference() else x._version for x in tensors)
        if last:
            raise _LastTapReached


@contextmanager
def replacing(network: nn.Module, tap: Tap, function: Callable[[int, Tensor], Tensor], key: str) -> Iterator[None]:
    """Replace the tapped tensors in every forward pass while the context is open.

    Args:
        network: The network.
        tap: An output; later modules get the replaced tensors.
        function: Takes a tensor's number and the tensor, and returns the new one. Tensors are numbered as
            :class:`Recorder` lists them, from the opening of the context.
        key: The config key to name in errors.

    Raises:
        ValueError: For an input tap, for class scores that are read out, and when the tapped module was not called
            before the context ended.
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
