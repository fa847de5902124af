"""A teacher before it is loaded: its resolved option, and the plan by which it runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmdistill_dense.config.resolve import ModelConfig, load_model
from mmdistill_dense.config.unknown_keys import options_of
from mmdistill_dense.networks.acceleration import Acceleration, Pair
from mmdistill_dense.networks.building import TEACHER_OPTIONS, build_network
from mmdistill_dense.networks.input_grid import InputGrid
from mmdistill_dense.networks.renormalise import completed
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.utils.protocols import Network
from mmdistill_dense.utils.random_streams import fork_rng

SINGLE = 'teacher'  # the name of the teacher where there is one only


@dataclass(frozen=True)
class TeacherOption:
    """The option ``model.teacher`` or ``model.teacher.<name>``, its network resolved.

    Attributes:
        key: The config key, for errors.
        name: The teacher's name among several.
        config: The network.
        checkpoint: A file, an address, ``'auto'`` or None.
        allow_random: Permit training without a checkpoint.
        allow_other_classes: Permit a teacher that was trained on other classes than the data set's.
        acceleration: How its forward pass is made cheaper.
        grid: The size at which it sees the pictures; None: the student's.
    """

    key: str
    name: str
    config: ModelConfig
    checkpoint: str | None = None
    allow_random: bool = False
    allow_other_classes: bool = False
    acceleration: Acceleration = field(default_factory=Acceleration)
    grid: InputGrid | None = None

    @classmethod
    def parse(cls, option: Mapping[str, Any], key: str = 'model.teacher', name: str = SINGLE) -> TeacherOption:
        """Read the option.

        Raises:
            KeyError, FileNotFoundError: As :func:`mmdistill_dense.config.resolve.load_model`.
            TypeError, ValueError: For a wrong ``accelerate``, ``scale`` or ``fit``.
        """
        network = {name: value for name, value in option.items() if name not in TEACHER_OPTIONS}
        return cls(
            key,
            name,
            load_model(network, key),
            option.get('checkpoint'),
            bool(option.get('allow_random', False)),
            bool(option.get('allow_other_classes', False)),
            Acceleration.parse(option.get('accelerate'), key),
            InputGrid.parse(option, key),
        )

    def build(self) -> Network:
        """Return a new network on the current default device, in eval mode and without pre-trained weights.

        Raises:
            ValueError: For ``fit='pad'`` without a size that pads.
        """
        with fork_rng():
            network = build_network(_accepted(self.config), pretrained=False)
        network.eval()  # not chained: mmseg's backbones return nothing from it
        if self.grid is not None:
            network.input_grid = self.grid.whole(_divisor(network, self.config), self.key)
        return network

    def preprocessor_of(self, network: nn.Module) -> Mapping[str, Any] | None:
        """Return the normalisation of the pictures: the option's, else the network's own, else None."""
        own, given = getattr(network, 'preprocessor', None), self.config.model.get('data_preprocessor')
        if given is not None:
            return completed(given, self.config.scope) if hasattr(network, 'data_preprocessor') else given
        if isinstance(own, Mapping):
            return own
        return {} if hasattr(network, 'data_preprocessor') else None  # mm* networks: raw pixels


def _accepted(config: ModelConfig) -> ModelConfig:
    """Return the config without a ``data_preprocessor`` that the class does not take: it is for us then."""
    if 'data_preprocessor' not in config.model:
        return config
    kind = config.model.get('type')
    if isinstance(kind, str):
        with MODELS.switch_scope_and_registry(config.scope) as registry:
            kind = registry.get(kind)
    known = options_of(kind) if inspect.isclass(kind) else None
    if known is None or 'data_preprocessor' in known:
        return config
    kept = {name: value for name, value in config.model.items() if name != 'data_preprocessor'}
    return replace(config, model=ConfigDict(kept))


def _divisor(network: nn.Module, config: ModelConfig) -> int:
    """Return what the sides of a network's pictures are multiples of: its patch, or what its preprocessor pads to."""
    preprocessor = config.model.get('data_preprocessor') or {}
    own = getattr(network, 'size_divisor', None)
    return int(own or preprocessor.get('size_divisor') or preprocessor.get('pad_size_divisor') or 1)


@dataclass(frozen=True)
class TeacherPlan:
    """How a teacher runs: what the distillers need of it, and how little of the network is enough for that.

    Attributes:
        taps: What is recorded.
        stop_after: The pass ends after so many recorded calls; None runs the whole network.
        parts: The children whose weights the file must hold; None means all of them.
        heads: The heads that run on the features; None lets each pass find out.
        modes: Paths of the modules that run in training mode, see :mod:`mmdistill_dense.networks.modes`.
        overwritten: The taps whose tensors a later operation writes to.
        foldable: Names of each (convolution, batch norm) that can be folded.
        renormalise: Turns the student's normalised pixels into the teacher's; None where they are the same.
    """

    taps: Sequence[Tap] = ()
    stop_after: int | None = None
    parts: Collection[str] | None = None
    heads: Sequence[str] | None = None
    modes: Sequence[str] = ()
    overwritten: Collection[str] = ()
    foldable: Sequence[Pair] = ()
    renormalise: Callable[[Tensor], Tensor] | None = None
