"""What is known of a teacher before it is loaded: its option, resolved, and the plan by which it runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mmdistill_dense.config.resolve import ModelConfig, load_model
from mmdistill_dense.networks.acceleration import Acceleration, Pair
from mmdistill_dense.networks.building import TEACHER_OPTIONS, build_network
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.utils.random_streams import fork_rng

SINGLE = 'teacher'  # the name of a teacher that stands alone


@dataclass(frozen=True)
class TeacherOption:
    """What ``model.teacher`` or ``model.teacher.<name>`` says, its network resolved.

    Attributes:
        key: The config key, for errors.
        name: Among several teachers.
        config: The network.
        checkpoint: A file, an address, ``'auto'`` or None.
        allow_random: Train without a checkpoint.
        allow_other_classes: Take a teacher that was trained with other classes than the data set's.
        acceleration: How its forward pass is made cheaper.
    """

    key: str
    name: str
    config: ModelConfig
    checkpoint: str | None = None
    allow_random: bool = False
    allow_other_classes: bool = False
    acceleration: Acceleration = field(default_factory=Acceleration)

    @classmethod
    def parse(cls, option: Mapping[str, Any], key: str = 'model.teacher', name: str = SINGLE) -> TeacherOption:
        """Read the option.

        Raises:
            KeyError, FileNotFoundError: As :func:`mmdistill_dense.config.resolve.load_model`.
            TypeError, ValueError: For a wrong ``accelerate``.
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
        )

    def build(self) -> Any:
        """Return a new network on the current default device, in eval mode, its own pre-training cleared."""
        with fork_rng():
            network = build_network(self.config, pretrained=False)
        network.eval()  # not chained: mmseg's backbones return nothing from it
        return network


@dataclass(frozen=True)
class TeacherPlan:
    """How a teacher runs: what distillers ask of it, and what the trace found to be enough for that.

    Attributes:
        taps: The places that are recorded.
        stop_after: The pass ends behind so many recorded calls; None: at its end.
        parts: The children whose weights the file must hold; None: all of them.
        heads: The heads that run on the features; None: to be found out at each pass.
        modes: Paths of the modules that run as in training, see :mod:`mmdistill_dense.networks.modes`.
        overwritten: The taps that are written to behind them.
        foldable: The norms that fold into the convolution before them.
        renormalise: Turns the student's normalised pixels into the teacher's; None: they are the same.
    """

    taps: Sequence[Tap] = ()
    stop_after: int | None = None
    parts: Collection[str] | None = None
    heads: Sequence[str] | None = None
    modes: Sequence[str] = ()
    overwritten: Collection[str] = ()
    foldable: Sequence[Pair] = ()
    renormalise: Callable[[Tensor], Tensor] | None = None
