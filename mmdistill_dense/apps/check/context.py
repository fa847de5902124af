"""The config under check, and the facts known about it."""

from dataclasses import dataclass, field
from typing import Any

from mmdistill_dense.apps.inspect.gradients import Term
from mmdistill_dense.guards.findings import RunFacts
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.weights.strict_load import Receipt

Size = tuple[int, int]


@dataclass(frozen=True)
class Options:
    """How a config is checked."""

    # load the teachers and the weights that the student starts from; without, all are random, and losses mean nothing
    weights: bool = True
    device: str = 'cpu'  # ``'cpu'`` or ``'cuda'``
    batch: int | None = None  # pictures of the step. ``None``: the config's for one process.
    size: Size | None = None  # height and width of generated pictures, in place of the data set's
    val: int = 4  # number of validation pictures that the teacher is tested on; 0 skips the test
    processes: int = 1  # number of processes that will train together, for the batch size
    command: bool = True  # whether a user gave the command ``check``, so that advice may name its options
    teachers: bool = True  # load the teachers too; without, they are random

    @property
    def whole(self) -> bool:
        """Whether all weights are those of a training, so that losses mean something."""
        return self.weights and self.teachers


@dataclass
class TeacherFacts:
    """One teacher; ``metric_note`` says why ``metric``, its scores by name, is empty."""

    key: str
    network: str
    parameters: int
    receipt: Receipt | None = None
    metric: dict[str, float] = field(default_factory=dict)
    metric_pictures: int = 0
    metric_note: str = ''

    def describe(self) -> str:
        """Return the file, its hash and the numbers of tensors; empty without a file."""
        return self.receipt.describe(8) if self.receipt and self.receipt.file else ''


@dataclass
class StudentFacts:
    """The student: numbers of parameters, ``auxiliary`` heads apart, and a line for each file it ``starts`` from."""

    network: str
    parameters: int
    trained: int
    distillers: int
    auxiliary: int = 0
    starts: list[str] = field(default_factory=list)


@dataclass
class TapRow:
    """A pair of compared tensors."""

    distiller: str
    student_tap: str
    student_shape: list[int]
    teacher_tap: str
    teacher_shape: list[int]


@dataclass
class CheckContext(RunFacts):
    """A config under check. Facts that are not known yet, or do not apply, are ``None`` or empty."""

    options: Options  # how it is checked
    length: int | None = None  # of the training set, with what wrappers repeat; ``None`` if it was not read
    pictures: int | None = None  # of it, each once
    validation: Any = None  # the set of validation
    tested: dict[str, Any] | None = None  # one of its pictures, after its pipeline
    student: StudentFacts | None = None
    teachers: list[TeacherFacts] = field(default_factory=list)
    started: tuple[int, int] | None = None  # of ``load_from``: how many tensors fit, and how many the student has
    untaught: list[str] = field(default_factory=list)  # distillers whose tokens are random here
    iteration: int = 0  # iteration of the run at which the losses are computed
    taps: list[TapRow] = field(default_factory=list)
    terms: list[Term] = field(default_factory=list)
    unlabelled: dict[str, int] = field(default_factory=dict)  # numbers of pictures without labels

    def __post_init__(self) -> None:
        self.processes, self.has_weights = self.options.processes, bool(self.config.get('load_from'))
        self.generated = self.options.size is not None
        self.processes_advice = 'Give --processes N if N processes will train together.'

    @property
    def batch_size(self) -> int:
        return self.options.batch or (self.config.get('train_dataloader') or {}).get('batch_size', 2)

    @property
    def settings(self) -> dict[str, str]:
        """What the ``settings`` of distillers stand for, by name; without those that have none."""
        return {name: distiller.settings for name, distiller in self.distillers.items() if distiller.settings}

    @property
    def frozen(self) -> dict[str, FrozenTeacher]:
        distillation = getattr(self.model, 'distillation', None)
        return distillation.teachers if distillation else {}
