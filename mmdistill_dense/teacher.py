"""The frozen teacher: built, loaded strictly, never part of the student's module tree."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmdistill_dense.acceleration import Acceleration, Pair
from mmdistill_dense.checkpoint import Receipt, load_strictly, read_checkpoint, state_dict_of
from mmdistill_dense.engine.seeding import fork_rng
from mmdistill_dense.forward import run_parts
from mmdistill_dense.modes import in_training
from mmdistill_dense.recording import Recorder
from mmdistill_dense.taps import Tap
from mmdistill_dense.typos import explained
from mmdistill_dense.weight_files import local_file, sha256
from mmdistill_dense.zoo import ModelConfig, load_model

if TYPE_CHECKING:
    from mmdistill_dense.dryrun import Traced

OPTIONS = ('checkpoint', 'allow_random', 'allow_other_classes', 'accelerate')


class FrozenTeacher:
    """Runs a network up to its last tap, in eval mode and without gradient.

    It is no ``nn.Module`` on purpose: its weights are not in the student's ``state_dict`` or ``parameters``, not
    averaged by EMA, not broadcast by DDP, not re-initialised and not switched by ``train()``. ``deepcopy`` shares it.
    The network is built and loaded by :meth:`load`, which the runner reaches in training only.

    Args:
        option: ``dict(cfg=…, checkpoint=…, **overrides)``. ``checkpoint`` is a file, an address or ``'auto'``;
            ``allow_random=True`` permits to train without one; ``allow_other_classes=True`` permits a teacher that was
            trained with other classes than the data set's; ``accelerate`` holds the options of :class:`Acceleration`.
        key: The config key of this teacher, for errors: ``'model.teacher'`` or ``'model.teacher.<name>'``.

    Raises:
        KeyError, FileNotFoundError: As :func:`mmdistill_dense.zoo.load_model`.
        TypeError, ValueError: For a wrong ``accelerate``.
    """

    def __init__(self, option: Mapping[str, Any], key: str = 'model.teacher') -> None:
        network = {name: value for name, value in option.items() if name not in OPTIONS}
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
        self.renormalise: Callable[[Tensor], Tensor] | None = None
        self.preprocessor: Mapping[str, Any] | None = self.config.model.get('data_preprocessor')

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenTeacher:
        return self

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
        """Build the network and load its weights, once.

        Args:
            like: A parameter of the student, whose device and dtype the teacher takes.

        Raises:
            ValueError: Without a checkpoint (unless ``allow_random``), or with one that does not fit.
            FileNotFoundError: When the checkpoint is not there.
        """
        if self.network is not None:
            return
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
                self._load_weights(network.to(dtype=like.dtype), self.checkpoint)
        network.requires_grad_(False)
        self.network = network.to(device=like.device, dtype=like.dtype)

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

    def __call__(self, inputs: Tensor | Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """Return the recorded taps for a preprocessed batch ``(B, C, H, W)`` of the student's; for a list of views
        those of the first view, then those of the next."""
        recorded = self.begin(inputs)
        self.join(recorded)
        return recorded

    @torch.no_grad()
    def begin(self, inputs: Tensor | Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """Return the recorded taps as a call does; on a stream of its own they are not ready before :meth:`join`."""
        with self.acceleration.beside(inputs):
            if isinstance(inputs, Tensor):
                return self._record(inputs)
            views = [self._record(view) for view in inputs]
            return {str(tap): [tensor for view in views for tensor in view[str(tap)]] for tap in self.taps}

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


def build_network(config: ModelConfig, pretrained: bool = True) -> Any:
    """Build a network in its own scope; ``pretrained=False`` clears what would load backbone weights."""
    model = config.model.to_dict() if hasattr(config.model, 'to_dict') else dict(config.model)
    if config.scope is not None:
        model['_scope_'] = config.scope
    # mm* constructors read their options as attributes.
    try:
        return MODELS.build(ConfigDict(model if pretrained else without_pretrained(model)))
    except TypeError as error:
        raise TypeError(explained(error, model, ('student', 'teacher', 'distillers', 'inherit', *OPTIONS))) from error


def without_pretrained(model: Any) -> Any:
    """Return a copy of a model config in which nothing fetches pre-trained weights."""
    if isinstance(model, Mapping):
        kept = {}
        for name, value in model.items():
            if name == 'pretrained':
                value = None
            elif name == 'init_cfg' and isinstance(value, (list, tuple)):
                value = [member for member in value if not _fetches(member)]
            elif name == 'init_cfg' and _fetches(value):
                continue
            kept[name] = without_pretrained(value)
        return kept
    if isinstance(model, (list, tuple)):
        return type(model)(without_pretrained(member) for member in model)
    return model


def _fetches(init_cfg: Any) -> bool:
    return isinstance(init_cfg, Mapping) and 'Pretrained' in str(init_cfg.get('type'))


def renormaliser(
    student: Mapping[str, Any] | None, teacher: Mapping[str, Any] | None
) -> Callable[[Tensor], Tensor] | None:
    """Return the map from the student's normalised pixels to the teacher's, or ``None`` when they are the same.

    Both arguments are data preprocessor configs (``mean``, ``std``, ``bgr_to_rgb``, ``rgb_to_bgr``). Pixels that the
    student's preprocessor padded with 0 become what the teacher's would make of the student's mean colour.
    """
    mean_s, std_s, flip_s = _normalisation(student)
    mean_t, std_t, flip_t = _normalisation(teacher)
    flip = flip_s != flip_t
    if flip:
        mean_t, std_t = mean_t[::-1], std_t[::-1]
    if not flip and mean_s == mean_t and std_s == std_t:
        return None
    scale = [s / t for s, t in zip(std_s, std_t, strict=True)]
    shift = [(s - t) / d for s, t, d in zip(mean_s, mean_t, std_t, strict=True)]
    constants = torch.tensor([scale, shift], dtype=torch.float64).view(2, 1, -1, 1, 1)
    moved = cache(constants.to)  # once: to copy them waits for the device

    def renormalise(inputs: Tensor) -> Tensor:
        factor, summand = moved(inputs.device, inputs.dtype)
        outputs = inputs * factor + summand
        return outputs.flip(1) if flip else outputs

    return renormalise


def _normalisation(preprocessor: Mapping[str, Any] | None) -> tuple[list[float], list[float], bool]:
    options = preprocessor or {}
    mean = [float(value) for value in options.get('mean') or [0.0] * 3]
    std = [float(value) for value in options.get('std') or [1.0] * 3]
    return mean, std, bool(options.get('bgr_to_rgb') or options.get('rgb_to_bgr'))
