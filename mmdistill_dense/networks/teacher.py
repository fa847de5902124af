"""The frozen teacher: built, loaded strictly, never part of the student's module tree."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from mmdistill_dense.config.resolve import ModelConfig, load_model
from mmdistill_dense.networks.acceleration import Acceleration, Pair
from mmdistill_dense.networks.building import TEACHER_OPTIONS, build_network, move
from mmdistill_dense.networks.modes import in_training
from mmdistill_dense.networks.partial_forward import run_parts
from mmdistill_dense.networks.recording import Recorder
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.utils.random_streams import fork_rng, seed_everything, stream_states
from mmdistill_dense.weights.locate import local_file, sha256
from mmdistill_dense.weights.strict_load import Receipt, load_strictly, read_checkpoint, state_dict_of

if TYPE_CHECKING:
    from mmdistill_dense.networks.trace import Traced


class FrozenTeacher:
    """Runs a network up to its last tap, in eval mode and without gradient.

    It is no ``nn.Module`` on purpose: its weights are not in the student's ``state_dict`` or ``parameters``, not
    averaged by EMA, not broadcast by DDP, not re-initialised and not switched by ``train()``. The network is built and
    loaded by :meth:`load`, which the runner reaches in training only.

    ``deepcopy`` shares it. ``pickle`` leaves the network out, as :meth:`unloaded` does.

    Attributes:
        users: The ``Distillation`` of each model that runs this teacher.

    Args:
        option: ``dict(cfg=…, checkpoint=…, **overrides)``. ``checkpoint`` is a file, an address or ``'auto'``;
            ``allow_random=True`` permits to train without one; ``allow_other_classes=True`` permits a teacher that was
            trained with other classes than the data set's; ``accelerate`` holds the options of :class:`Acceleration`.
        key: The config key of this teacher, for errors: ``'model.teacher'`` or ``'model.teacher.<name>'``.

    Raises:
        KeyError, FileNotFoundError: As :func:`mmdistill_dense.config.resolve.load_model`.
        TypeError, ValueError: For a wrong ``accelerate``.
    """

    def __init__(self, option: Mapping[str, Any], key: str = 'model.teacher') -> None:
        network = {name: value for name, value in option.items() if name not in TEACHER_OPTIONS}
        self.key = key
        self.config: ModelConfig = load_model(network, key)
        self.checkpoint: str | None = option.get('checkpoint')
        self.allow_random = bool(option.get('allow_random', False))
        self.allow_other_classes = bool(option.get('allow_other_classes', False))
        self.acceleration = Acceleration.parse(option.get('accelerate'), key)
        self.network: nn.Module | None = None
        self.receipt: Receipt | None = None
        self.classes: Sequence[str] | None = None
        self.taps: list[Tap] = []
        # Set by the dry run, see follow():
        self.stop_after: int | None = None
        self.parts: set[str] | None = None  # the children that the taps need; None: all
        self.heads: Sequence[str] | None = None  # that run on the features; None: to be found out at each pass
        self.modes: Sequence[str] = ()  # modules that run as in training
        self.overwritten: Collection[str] = ()  # taps that are written to behind them
        self.foldable: Sequence[Pair] = ()
        self._answers: dict[Hashable, Any] | None = None  # of this step
        self._prepared = False
        self._draws: bool | None = None  # random numbers; None: to be found out at the first pass
        self.users: WeakSet[Any] = WeakSet()
        self.renormalise: Callable[[Tensor], Tensor] | None = None
        self.preprocessor: Mapping[str, Any] | None = self.config.model.get('data_preprocessor')

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenTeacher:
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = {**vars(self), 'network': None, '_answers': None, '_prepared': False}
        del state['users']
        return state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self.users = WeakSet()

    def unloaded(self) -> FrozenTeacher:
        """Return the same teacher without its network, which :meth:`load` reads from the file again."""
        return copy.copy(self)

    def build(self) -> Any:
        """Return a new network of this teacher on the current default device, in eval mode, its own pre-training
        cleared."""
        with fork_rng():
            network = build_network(self.config, pretrained=False)
        own = getattr(network, 'preprocessor', None)
        if isinstance(own, Mapping):  # it knows its normalisation without being told (SSLTeacher)
            self.preprocessor = own
        network.eval()  # not chained: mmseg's backbones return nothing from it
        return network

    def follow(self, traced: Traced, foldable: Sequence[Pair]) -> None:
        """Run from now on as the dry run found it enough for the taps."""
        self.stop_after, self.parts, self.heads = traced.calls, set(traced.parts), traced.heads
        self.modes, self.overwritten, self.foldable = traced.modes, traced.overwritten, foldable

    def load(self, like: Tensor) -> None:
        """Build the network and load its weights, unless it is there.

        Args:
            like: A parameter of the student, whose device and dtype the teacher takes.

        Raises:
            ValueError: Without a checkpoint (unless ``allow_random``), with one that does not fit, or with another than
                was loaded before.
            FileNotFoundError: When the checkpoint is not there.
        """
        if self.network is not None:
            return
        before = self.receipt
        if self.checkpoint is None and not self.allow_random:
            raise ValueError(
                f'{self.key}.checkpoint is not set: distilling from random weights teaches nothing. Give a file, or '
                f"'auto' for the weights published for {self.config.source or 'a zoo config'} (allow_random=True is "
                'for tests).'
            )
        # The default device may be anything while a runner builds; the weights come from files on the CPU.
        with torch.device('cpu'):
            network = self.build()
            if self.checkpoint is None:
                self._initialise(network)
            else:
                # In the student's dtype at once: a float64 file keeps its digits beside a float64 student.
                self._load_weights(move(network, dtype=like.dtype), self.checkpoint)
        if before is not None and self.receipt is not None and before.sha256 != self.receipt.sha256:
            self.receipt = before
            raise ValueError(f'{self.key}.checkpoint={self.checkpoint!r} is another file than the one loaded before.')
        network.requires_grad_(False)
        self.network = move(network, device=like.device, dtype=like.dtype)
        self._prepared = False

    def as_loaded(self) -> nn.Module:
        """Return the network with the weights of its file, which the first pass changes (:class:`Acceleration`)."""
        assert self.network is not None, 'the teacher is loaded before training'
        if not self._prepared:
            return self.network
        again = self.unloaded()
        again.load(next(self.network.parameters()))
        assert again.network is not None
        return again.network

    def unload(self) -> None:
        """Let the network go: a teacher that was only inherited from is not needed in training."""
        self.network = None

    def _initialise(self, network: Any) -> None:
        with fork_rng():
            torch.manual_seed(0)
            if hasattr(network, 'init_weights'):
                network.init_weights()
        total = len(network.state_dict())
        self.receipt = Receipt(self.config.source, None, None, 0, total, 0)

    def _load_weights(self, network: Any, checkpoint: str) -> None:
        key = f'{self.key}.checkpoint'
        path = local_file(checkpoint, self.config.source, key)
        if hasattr(network, 'load_teacher'):  # reads files of other kinds, as strictly
            matched, ignored = network.load_teacher(path, key)
            source, total = self.config.source or network.source, len(network.state_dict())
            self.receipt = Receipt(source, path.name, sha256(path), matched, total, ignored)
            return
        content = read_checkpoint(path)
        state = state_dict_of(content, path)
        matched, ignored = load_strictly(network, state, self.parts, f'{key}={checkpoint!r}')
        self.receipt = Receipt(self.config.source, path.name, sha256(path), matched, len(network.state_dict()), ignored)
        meta = content.get('meta') or {}
        data = meta.get('dataset_meta')
        self.classes = (data if isinstance(data, Mapping) else {}).get('classes') or meta.get('CLASSES')

    def require(self, parts: Collection[str] | None) -> None:
        """Let :meth:`load` insist on these children too (``None``: on the whole network)."""
        self.parts = None if parts is None or self.parts is None else self.parts | set(parts)

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Follow a device or dtype change of the student; nothing to do before :meth:`load`."""
        if self.network is not None:
            self.network._apply(fn)
            move(self.network, device=next(self.network.parameters()).device)  # its data preprocessor is to know

    def module(self, path: str) -> nn.Module:
        """Return a frozen part of the loaded network, for distillers that call it."""
        assert self.network is not None, 'the teacher is loaded before training'
        return self.network.get_submodule(path)

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Let :meth:`answer` compute the same thing once while the context, a training step, is open."""
        self._answers = {}
        try:
            yield
        finally:
            self._answers = None

    def answer(self, question: Hashable, compute: Callable[[], Any]) -> Any:
        """Return ``compute()``, what a distiller gets from parts of the frozen network; in a step once a question."""
        if self._answers is None:
            return compute()
        if question not in self._answers:
            self._answers[question] = compute()
        return self._answers[question]

    def renormalised(self, inputs: Tensor) -> Tensor:
        """Return a batch that the student's preprocessor normalised as the teacher's would have."""
        return inputs if self.renormalise is None else self.renormalise(inputs)

    def __call__(self, inputs: Tensor | Sequence[Tensor], seed: int = 0) -> dict[str, list[Tensor]]:
        """Return the recorded taps for a preprocessed batch ``(B, C, H, W)`` of the student's; for a list of views
        those of the first view, then those of the next.

        A network that draws random numbers (SegNeXt) draws them from streams of its own, which begin at ``seed``.

        Raises:
            TypeError: For other inputs.
        """
        recorded = self.begin(inputs, seed)
        self.join(recorded)
        return recorded

    @torch.no_grad()
    def begin(self, inputs: Tensor | Sequence[Tensor], seed: int = 0) -> dict[str, list[Tensor]]:
        """Return the recorded taps as a call does; on a stream of its own they are not ready before :meth:`join`."""
        views = [inputs] if isinstance(inputs, Tensor) else inputs
        if not isinstance(views, (list, tuple)) or not all(isinstance(view, Tensor) for view in views):
            raise TypeError(
                f'{self.key} takes one batch of pictures (a tensor) or a list of views (tensors), and '
                f'model.student.data_preprocessor gives {_said(inputs)}. Take as student the network that gets the '
                'pictures in the end, with an ordinary data_preprocessor: of a semi-supervised detector, set '
                "model.student to the config's model.detector."
            )
        with self._own_streams(seed), self.acceleration.beside(inputs):
            found = [self._record(view) for view in views]
            return {str(tap): [tensor for view in found for tensor in view[str(tap)]] for tap in self.taps}

    @contextmanager
    def _own_streams(self, seed: int) -> Iterator[None]:
        if self._draws is False:
            yield
            return
        with fork_rng():
            seed_everything(seed)
            before = None if self._draws else stream_states()
            yield
            self._draws = self._draws or stream_states() != before

    def join(self, recorded: Mapping[str, Sequence[Tensor]]) -> None:
        """Let the device wait for what :meth:`begin` recorded; call it before the tensors are used."""
        self.acceleration.join(recorded)

    def _record(self, inputs: Tensor) -> dict[str, list[Tensor]]:
        assert self.network is not None, 'the teacher is loaded before training'
        if not self._prepared:
            # Not before the first pass: what is inherited or fingerprinted is the network of the file.
            self.acceleration.prepare(self.network, self.taps, self.foldable)
            self._prepared = True
        recorder = Recorder(self.network, self.taps, f'{self.key} tap', self.stop_after, self.overwritten)
        as_the_student = in_training(self.network.get_submodule(path) for path in self.modes)
        with (
            as_the_student,
            self.acceleration.running(self.renormalised(inputs)) as prepared,
            recorder.recording() as tensors,
        ):
            run_parts(self.network, self.taps, prepared, heads=self.heads)
        recorder.check_complete()
        if self.acceleration.dtype is not None:
            return {name: [tensor.to(inputs.dtype) for tensor in found] for name, found in tensors.items()}
        return tensors


def _said(inputs: Any) -> str:
    return f'a dict of {", ".join(inputs)}' if isinstance(inputs, Mapping) else f'a {type(inputs).__name__}'
