"""The config under check, the facts known about it, and the findings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmengine.config import Config, ConfigDict

from mmdistill_dense.distillers.base import Distiller
from mmdistill_dense.model.distill_model import distillers_of
from mmdistill_dense.networks.teacher import FrozenTeacher

if TYPE_CHECKING:
    from mmdistill_dense.apps.check.tap_watch import Adapter, TapRow
    from mmdistill_dense.apps.inspect.gradients import Term


ERROR, WARNING, NOTE = 'error', 'warning', 'note'
LEVELS = (ERROR, WARNING, NOTE)


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes:
        level: ``'error'`` (training would fail or be worthless), ``'warning'`` (it would run, probably not as meant) or
            ``'note'``.
        check: Name of the check.
        message: What was found, with the config keys.
        advice: What to do, if the message does not say it.
    """

    level: str
    check: str
    message: str
    advice: str = ''


Findings = Iterator[Finding]


def worst(findings: Iterable[Finding]) -> str:
    """Return the level of the most severe finding, ``'ok'`` if there are only notes."""
    levels = {finding.level for finding in findings}
    return next((level for level in (ERROR, WARNING) if level in levels), 'ok')


def exit_code(findings: Iterable[Finding], strict: bool = False) -> int:
    """Return 2 for an error, 1 for warnings if ``strict``, else 0."""
    level = worst(findings)
    return 2 if level == ERROR else int(strict and level == WARNING)


def type_of(option: Any) -> str:
    """Return the class name of an option, or of its ``type``, without scope and module: ``'DistillHook'``."""
    kind = option.get('type') if isinstance(option, Mapping) else option
    return getattr(kind, '__name__', str(kind)).rsplit('.', 1)[-1]


def counts_epochs(config: Config) -> bool:
    """Return whether ``train_cfg`` is a loop of epochs."""
    loop = config.get('train_cfg') or {}
    return type_of(loop) == 'EpochBasedTrainLoop' if 'type' in loop else bool(loop.get('by_epoch'))


def loop_length(config: Config) -> int | None:
    """Return ``max_epochs`` or ``max_iters``, ``None`` if the config trains nothing."""
    return (config.get('train_cfg') or {}).get('max_epochs' if counts_epochs(config) else 'max_iters')


def schedulers(config: Config) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield key and options of each scheduler; none for several optimizers, which have lists by name."""
    found = config.get('param_scheduler') or []
    if isinstance(found, Mapping):
        found = [found] if 'type' in found else []
    for place, one in enumerate(found):
        yield f'param_scheduler.{place}', one


Size = tuple[int, int]


@dataclass(frozen=True)
class Options:
    """How a config is checked.

    Attributes:
        weights: Load the teachers and the weights that the student starts from. Without, all are random and the losses
            mean nothing.
        device: ``'cpu'`` or ``'cuda'``.
        batch: Pictures of the step. ``None``: the config's for one process.
        size: Height and width of generated pictures, in place of the data set's.
        val: Number of validation pictures that the teacher is tested on; 0 skips the test.
        cost: Measure time and memory of a step, with and without distillation.
        processes: Number of processes that will train together, for the batch size.
        command: Whether a user gave the command ``check``, so that advice may name its options.
    """

    weights: bool = True
    device: str = 'cpu'
    batch: int | None = None
    size: Size | None = None
    val: int = 4
    cost: bool = True
    processes: int = 1
    command: bool = True


@dataclass
class TeacherFacts:
    """One teacher: its ``key`` in the config, class and size of the network, the receipt of its file, its metric.

    ``metric`` holds scalars by name; if it is empty, ``metric_note`` says why.
    """

    key: str
    network: str
    parameters: int
    receipt: dict[str, Any] | None = None
    classes: list[str] | None = None
    renormalised: bool = False
    metric: dict[str, float] = field(default_factory=dict)
    metric_pictures: int = 0
    metric_note: str = ''


@dataclass
class InitialWeights:
    """A file that a part of the student starts from.

    Attributes:
        part: Its name; empty for the whole student.
        file: The file, or the address or name that stands for it.
        fitting: How many tensors of the part it has; ``None`` if it is no local file.
        total: How many the part has.
    """

    part: str
    file: str
    fitting: int | None = None
    total: int | None = None

    def told(self, between: str) -> str:
        """Return part and file, and the numbers of tensors after ``between``."""
        counts = '' if self.total is None else f'{between}{self.fitting} of {self.total} tensors'
        return f'{self.part or "all"} from {self.file}{counts}'


@dataclass
class StudentFacts:
    """The student: parameters in all and ``trained``, those of the backbone, and those that distillers add.

    ``auxiliary`` are parameters of heads that only train, which the others leave out. ``starts`` are the files that it
    starts from; without any its weights are drawn.
    """

    network: str
    parameters: int
    trained: int
    backbone: int
    backbone_trained: int
    distillers: int
    auxiliary: int = 0
    starts: list[InitialWeights] = field(default_factory=list)


@dataclass
class Confidence:
    """How sure a teacher is, from 0 to 1: the mean over pixels, or over the best boxes of each picture.

    ``classes`` are the shares of the predicted classes on pictures without labels.
    """

    key: str
    labelled: float
    unlabelled: float
    classes: Mapping[int, float]


@dataclass
class UnlabelledFacts:
    """What was found out about the pictures without labels.

    Attributes:
        pictures: Their number.
        labelled: How many labelled ones were taken out.
        left_out: Steps of the labelled pipeline that do not work without labels.
        step: Pictures of a step.
        alike: Pairs that look the same: a picture, and one of validation or test.
        confidence: Of each teacher that is loaded whole and predicts classes.
        pseudo: The part of the pixels, or of a detector's pictures, that the teacher labels; ``None`` if it was not
            asked to.
    """

    pictures: int
    labelled: int
    left_out: Sequence[str]
    step: int
    alike: list[tuple[str, str]] = field(default_factory=list)
    confidence: list[Confidence] = field(default_factory=list)
    pseudo: float | None = None


@dataclass
class Subject:
    """A config under check. Facts that are not known yet, or do not apply, are ``None`` or empty.

    Attributes:
        config: As it was read.
        options: How it is checked.
        network: The student's resolved model config.
        data_classes: Class names of the training set.
        pictures: Length of the training set; ``None`` if it was not read.
        data_problem: Why the training set was not read.
        validation_problem: Why a picture of the validation set cannot be read.
        tested: A picture of the validation set, after its pipeline.
        batch: A batch as the loader gives it.
        batch_shape: Of the inputs as the student sees them; several views are a list.
        model: The built model.
        started: Of ``load_from``: how many tensors fit, and how many the student has.
        untaught: How the step differs from training, by distiller, e.g. tokens that are not learned yet.
        iteration: Iteration of the run at which the losses are computed.
        gaps: See :func:`~mmdistill_dense.apps.check.tap_watch.pair_gaps`.
        idle: Distillers that compare nothing in the first step of a run, where their queues are empty.
        flat: Teacher taps that are the same at all positions.
        unlabelled: See :class:`UnlabelledFacts`.
        asked: Pictures without and with labels on which the teachers are asked.
        cost: As :func:`mmdistill_dense.apps.check.facts.measure_cost`.
    """

    config: Config
    options: Options
    network: ConfigDict = None
    data_classes: Sequence[str] | None = None
    pictures: int | None = None
    data_problem: str = ''
    validation_problem: str = ''
    tested: dict[str, Any] | None = None
    batch: Mapping[str, Any] | None = None
    batch_shape: list[list[int]] = field(default_factory=list)
    model: Any = None
    student: StudentFacts | None = None
    teachers: list[TeacherFacts] = field(default_factory=list)
    started: tuple[int, int] | None = None
    untaught: dict[str, str] = field(default_factory=dict)
    iteration: int = 0
    taps: list[TapRow] = field(default_factory=list)
    adapters: list[Adapter] = field(default_factory=list)
    gaps: dict[str, float] = field(default_factory=dict)
    idle: list[str] = field(default_factory=list)
    flat: list[str] = field(default_factory=list)
    terms: list[Term] = field(default_factory=list)
    unlabelled: UnlabelledFacts | None = None
    asked: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None
    cost: dict[str, Any] = field(default_factory=dict)

    @property
    def batch_size(self) -> int:
        """Pictures of the step."""
        return self.options.batch or (self.config.get('train_dataloader') or {}).get('batch_size', 2)

    @property
    def distillers(self) -> dict[str, Distiller]:
        """The model's distillers by name."""
        return distillers_of(self.model)

    @property
    def settings(self) -> dict[str, str]:
        """What the ``settings`` of distillers stand for, by name; without those that have none."""
        return {name: str(one.settings) for name, one in self.distillers.items() if one.settings}

    @property
    def frozen(self) -> dict[str, FrozenTeacher]:
        """The model's teachers by name."""
        distillation = getattr(self.model, 'distillation', None)
        return distillation.teachers if distillation else {}
