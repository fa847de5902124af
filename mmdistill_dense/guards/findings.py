"""The facts of a run that rules are asked about, and what they find."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mmengine.config import Config
from mmengine.registry import LOOPS, Registry
from mmengine.runner import EpochBasedTrainLoop

from mmdistill_dense.config.resolve import is_distill_model
from mmdistill_dense.config.values import type_name
from mmdistill_dense.registry import kind_of

ERROR, WARNING, NOTE = 'error', 'warning', 'note'


@dataclass(frozen=True)
class Finding:
    """One thing that a rule found."""

    # ``'error'`` (training would fail or be worthless), ``'warning'`` (it would run, probably not as meant), ``'note'``
    level: str
    message: str  # what was found, with the config keys
    advice: str = ''  # what to do, if the message does not say it
    check: str = ''  # name of the rule; empty until it was asked


Findings = Iterator[Finding]
error, warning, note = (partial(Finding, level) for level in (ERROR, WARNING, NOTE))


def worst(findings: Iterable[Finding]) -> str:
    """Return the level of the most severe finding, ``'ok'`` if there are only notes."""
    levels = {finding.level for finding in findings}
    return next((level for level in (ERROR, WARNING) if level in levels), 'ok')


@dataclass
class RunFacts:
    """What is known about a run; facts that are not known yet, or do not apply, are ``None`` or empty."""

    config: Config  # as it was read
    network: Any = field(default=None, kw_only=True)  # the student's model config
    processes: int = field(default=1, kw_only=True)  # how many train together
    processes_advice: str = field(default='', kw_only=True)  # how to say another number
    splits: Sequence[str] = field(default=('train', 'val', 'test'), kw_only=True)  # whose data the run reads
    has_weights: bool = field(default=False, kw_only=True)  # whether the run starts or resumes from a file
    data_classes: Sequence[str] | None = field(default=None, kw_only=True)  # class names of the training set
    panoptic: bool = field(default=False, kw_only=True)  # whether these are things and stuff, of several heads
    scored_classes: Mapping[str, Sequence[str]] = field(default_factory=dict, kw_only=True)  # of other loaders
    batch: Mapping[str, Any] | None = field(default=None, kw_only=True)  # as the training loader gives it
    # of the inputs as the student sees them; several views are a list
    batch_shape: list[list[int]] = field(default_factory=list, kw_only=True)
    generated: bool = field(default=False, kw_only=True)  # whether the batch is made up, of another size than the run's
    model: Any = field(default=None, kw_only=True)  # the built student

    @property
    def distills(self) -> bool:
        """Whether its model is a ``DistillModel``."""
        return is_distill_model(self.config.get('model'))

    @property
    def key(self) -> str:
        """The config key of the student's network."""
        return 'model.student' if self.distills else 'model'

    @property
    def counts_epochs(self) -> bool:
        """Whether the run counts epochs; a loop of another class than mmengine's is asked by its bases."""
        loop = self.config.get('train_cfg') or {}
        if 'type' not in loop:
            return bool(loop.get('by_epoch'))
        cls = class_in(LOOPS, loop)
        return issubclass(cls, EpochBasedTrainLoop) if cls else type_name(loop) == 'EpochBasedTrainLoop'

    @property
    def loop_length(self) -> int | None:
        """``max_epochs`` or ``max_iters``; ``None`` if the config trains nothing."""
        return (self.config.get('train_cfg') or {}).get('max_epochs' if self.counts_epochs else 'max_iters')

    def schedulers(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield key and options of each scheduler; none for several optimizers, which have lists by name."""
        options = self.config.get('param_scheduler') or []
        if isinstance(options, Mapping):
            options = [options] if 'type' in options else []
        yield from ((f'param_scheduler.{index}', scheduler) for index, scheduler in enumerate(options))

    @property
    def distillers(self) -> Mapping[str, Any]:
        """The distillers of the built model by name."""
        return dict(getattr(self.model, 'distillers', None) or {})


def class_in(registry: Registry, option: Any) -> type | None:
    """Return the class that an option's ``type`` stands for; ``None`` for an unknown one and for a function."""
    kind = kind_of(registry, option)
    return kind if isinstance(kind, type) else None
