"""Base class of all distillation methods: taps, weight and schedule, settings, gradient clipping, random streams."""

from __future__ import annotations

import inspect
import math
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from mmdistill_dense.config.unknown_keys import check_known, read_options
from mmdistill_dense.distillers.ground_truth import check_outputs
from mmdistill_dense.distillers.schedule import CONSTANT, Schedule
from mmdistill_dense.networks.taps import Tap, TapOption, check_auto, parse_taps
from mmdistill_dense.utils.runner_internals import Samples
from mmdistill_dense.utils.validate import NotNegative, Positive, check_types
from mmdistill_dense.utils.version import removed

if TYPE_CHECKING:
    from mmengine.runner import Runner

    from mmdistill_dense.config.resolve import ModelConfig
    from mmdistill_dense.networks.class_pairs import ClassPairs
    from mmdistill_dense.networks.teacher import FrozenTeacher

Losses = dict[str, Tensor]
Recorded = Mapping[str, list[Tensor]]
Shapes = Mapping[str, list[torch.Size]]


@dataclass
class RunState:
    """Progress of the run: one object that a model shares with its distillers, and that ``DistillHook`` updates.

    ``iteration`` is not the runner's where a run of epochs goes on with another batch size or number of processes: it
    is the place in ``max_iters`` that belongs to the epochs that are done.
    ``max_iters`` is 0 while the length of the run is unknown; schedules in fractions of it then raise. ``part`` is
    ``'unlabelled'`` while the distillers compare the step's pictures without labels, else empty. Pixels with
    ``ignored_labels`` teach the student's heads nothing.
    """

    iteration: int = 0
    max_iters: int = 0
    seed: int = 0
    rank: int = 0
    part: str = ''
    ignored_labels: frozenset[int] = frozenset()
    classes: int | None = None  # of the student's head, if its config says it


def check_losses(key: str, losses: Any) -> None:
    """Raise unless a loss is a dict of tensors by name."""
    if not isinstance(losses, Mapping):
        description = 'a tensor without a name' if isinstance(losses, Tensor) else f'{losses!r:.40}'
        raise TypeError(f"{key}: its loss returns {description}: a dict such as {{'loss_x': tensor}} is needed.")
    if wrong := [f'{name}={value!r:.40}' for name, value in losses.items() if not isinstance(value, Tensor)]:
        raise TypeError(f'{key}: its loss returns {wrong[0]}, no tensor. Where nothing is compared return 0 * x.sum().')


def _classes(kind: type[Distiller]) -> tuple[type, ...]:
    return kind.__mro__[: kind.__mro__.index(nn.Module)]


def _declared(cls: type) -> dict[str, Any]:
    """Return the options that a class itself declares, with their types; what a Distiller says of itself is none."""
    hints = inspect.get_annotations(cls).items()
    options = {name: hint for name, hint in hints if name in vars(cls) and 'ClassVar' not in str(hint)}
    return {name: hint for name, hint in options.items() if name not in vars(Distiller)}


def _signature(kind: type[Distiller]) -> inspect.Signature:
    """Return the options that a config may give: those of its constructors, and those that it and its bases declare.

    A constructor without ``**options`` hides those of its bases, to which it may give values itself.
    """
    options: dict[str, inspect.Parameter] = {}
    for cls in _classes(kind):
        constructor = vars(cls).get('__init__')
        args = list(inspect.signature(constructor).parameters.values())[1:] if constructor else []
        for arg in args:
            if arg.kind in (arg.POSITIONAL_OR_KEYWORD, arg.KEYWORD_ONLY):
                default = getattr(kind, 'student_tap', arg.default) if arg.name == 'student_tap' else arg.default
                options.setdefault(arg.name, arg.replace(default=default))
        for name, hint in _declared(cls).items():
            arg = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint)
            options.setdefault(name, arg.replace(default=getattr(kind, name)))
        if constructor and not any(arg.kind is arg.VAR_KEYWORD for arg in args):
            break
    params = (option for option in options.values() if option.name not in kind.fixed)
    return inspect.Signature(sorted(params, key=lambda option: option.kind))


class Distiller(nn.Module):
    """Base of all methods: student and teacher taps in, named weighted losses out.

    Life cycle: ``__init__`` takes options only. With ``student_tap='auto'``, :meth:`choose_taps` gets the taps that the
    networks were found to have. :meth:`bind` gets the teacher, the run's state and the shapes of the taps once, at
    model construction, and calls :meth:`setup`, which makes the parameters. In each iteration in which it
    :meth:`is_active`, the model calls :meth:`forward`, which a method implements, and then :meth:`weighted`;
    :meth:`step` does both.

    Attributes:
        needs_labels: Whether the method reads labels or what the student's head makes of them, and so cannot compare
            pictures without labels.
        no_auto: Why the method refuses ``student_tap='auto'``; empty for a method that compares any maps.
        needs_scores: Whether the method needs a teacher with class scores or boxes.
        teacher_gives: What is compared with the student's tap, in words, if it is not the teacher's tap.
        extra_student_taps: Further student taps to record, which need no gradient (RoIs).
        extra_teacher_taps: Further teacher taps to record.
        noted_methods: Methods of the student's modules whose calls in its own loss are recorded, each as its arguments
            and its result.
        teacher_parts: Children of the teacher that this distiller calls itself, which must therefore be loaded
            strictly; ``None`` is the whole network.

    A method's further options are its class attributes with a type, such as ``temperature: Positive = 4.0``: the value
    is the default, and :func:`check_types` checks what is given. ``student_tap = …`` sets the default of that option.
    A constructor of one's own may take options as well.

    Args:
        student_tap: Tap or list of taps in the student; an entry ``(tap, weight)`` weighs that tap's losses. ``'auto'``
            chooses the taps of both networks, see :func:`mmdistill_dense.networks.auto_taps.pair_taps`.
        teacher_tap: The same in the teacher. Defaults to the student's; not with ``'auto'``.
        teacher: Name of the teacher when the pair has several. Defaults to the only one.
        loss_weight: Factor on all losses of this distiller; 0 removes the distiller. Defaults to 1.
        schedule: Options of :class:`Schedule`. Defaults to a constant weight.
        clip_max_norm: Largest L2 norm of the gradients of this distiller's own parameters. Defaults to no clipping.
        **options: Those that the class declares.
    """

    needs_labels = False
    needs_scores: ClassVar[bool] = False
    fixed: ClassVar[tuple[str, ...]] = ()  # options of its bases that the method does not take
    teacher_gives: ClassVar[str] = ''
    __signature__: ClassVar[inspect.Signature]
    no_auto: ClassVar[str] = "set no_auto = '' in your class to allow student_tap='auto'"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if 'SETTINGS' in vars(cls):
            raise TypeError(f'{cls.__name__}: {removed("SETTINGS")}')
        cls.__signature__ = _signature(cls)  # what help() shows, and what a config may hold

    if not TYPE_CHECKING:  # for which the constructor says what a method takes

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            """Check the types of all options before any constructor reads them; :func:`parse_taps` checks taps."""
            check_types(cls, {name: value for name, value in kwargs.items() if not name.endswith('_tap')})
            return super().__new__(cls)

    def __init__(
        self,
        student_tap: TapOption | None = None,
        teacher_tap: TapOption | None = None,
        *,
        teacher: str | None = None,
        loss_weight: NotNegative | None = None,
        schedule: Mapping[str, Any] | None = None,
        clip_max_norm: Positive | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        kind = type(self)
        declared = dict.fromkeys(name for cls in _classes(kind) for name in _declared(cls) if name not in kind.fixed)
        check_known(kind.__name__, options, {**self.__signature__.parameters, **declared})
        for name, value in options.items():
            setattr(self, name, value)
        final = {name: getattr(self, name) for name in declared}  # also what a subclass gives, or sets as a default
        check_types(kind, {**final, 'loss_weight': loss_weight, 'clip_max_norm': clip_max_norm})
        self.settings = ''  # what this word of a config stood for
        tap: Any = getattr(kind, 'student_tap', None) if student_tap is None else student_tap
        self.auto = check_auto(tap, teacher_tap, kind.__name__, self.no_auto)
        self.student_taps, self.tap_weights = ([], []) if self.auto else parse_taps('student_tap', tap)
        self.teacher_taps = self.student_taps
        if teacher_tap is not None:
            self.teacher_taps, weights = parse_taps('teacher_tap', teacher_tap)
            if any(weight != 1 for weight in weights):
                raise ValueError(f'teacher_tap={teacher_tap!r} holds a weight; weights belong in student_tap.')
        if len(self.student_taps) != len(self.teacher_taps):
            problem = f'student_tap has {len(self.student_taps)} taps and teacher_tap {len(self.teacher_taps)}'
            raise ValueError(f'{problem}: they are compared in pairs, so give both the same number.')
        self.teacher_name = teacher
        self.teacher: FrozenTeacher | None = None
        self.extra_student_taps: list[Any] = []  # a constructor sets texts, which a model parses
        self.extra_teacher_taps: list[Any] = []
        self.noted_methods: list[str] = []
        self.teacher_parts: Collection[str] | None = ()
        self.loss_weight = 1.0 if loss_weight is None else float(loss_weight)
        self.schedule = read_options(Schedule, schedule or {}, 'schedule')
        self.clip_max_norm = clip_max_norm
        self.name = type(self).__name__.lower()
        self.state = RunState()
        self.counts: list[int] = []  # levels of each pair of taps
        self.trained: Collection[str] = ()  # its parameters when it was bound, which an optimizer gets

    def choose_taps(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Set the taps that ``student_tap='auto'`` stands for: pairs of a student's tap and a teacher's."""
        assert self.auto, 'called where the taps were left open'
        self.student_taps, self.tap_weights = parse_taps('student_tap', [student for student, _ in pairs])
        self.teacher_taps, _ = parse_taps('teacher_tap', [teacher for _, teacher in pairs])

    def bind(
        self, name: str, teacher: FrozenTeacher, state: RunState, student_shapes: Shapes, teacher_shapes: Shapes
    ) -> None:
        """Store the name in the model, the teacher and the run's state, then call :meth:`setup`."""
        self.name, self.state = name, state
        self.learn_from(teacher)
        self.setup(student_shapes, teacher_shapes)
        self.trained = frozenset(name for name, _ in self.named_parameters())

    def learn_from(self, teacher: FrozenTeacher) -> None:
        """Set the teacher; a copy of the model may have its own."""
        self.teacher, self.teacher_name = teacher, teacher.option.name

    @property
    def key(self) -> str:
        """Its place in the config, for messages."""
        return f'distillers.{self.name}'

    def check_networks(self, key: str, student: ModelConfig, teacher: ModelConfig) -> None:
        """Refuse networks that the method cannot compare, before taps are looked up; ``key`` names it in errors."""
        if self.needs_scores and self.teacher_parts == ():
            activation = getattr(self, 'activation', getattr(self, 'form', None))
            taps = zip(self.student_taps, self.teacher_taps, strict=False)
            check_outputs(key, taps, student, teacher, activation)

    def setup(self, student: Shapes, teacher: Shapes) -> None:
        """Make the parameters from the taps' traced shapes (batch 1); called once, at model construction."""

    def paired_shapes(
        self, student: Shapes, teacher: Shapes
    ) -> Iterator[tuple[float, str, list[torch.Size], list[torch.Size]]]:
        """Yield for each pair of taps its weight, its name for messages, and the traced shapes of both sides."""
        if not self.student_taps:
            raise RuntimeError(f"{self.key}.student_tap='auto': only a DistillModel chooses taps.")
        self.counts = []
        for s_tap, t_tap, weight in zip(self.student_taps, self.teacher_taps, self.tap_weights, strict=True):
            s_shapes, t_shapes = student[str(s_tap)], teacher[str(t_tap)]
            if len(s_shapes) != len(t_shapes):
                raise ValueError(
                    f'{self.key}: student tap {str(s_tap)!r} gives {len(s_shapes)} tensors and teacher tap '
                    f'{str(t_tap)!r} {len(t_shapes)}; select the same number by an index, e.g. {s_tap.path + "[:3]"!r}.'
                )
            self.counts.append(len(s_shapes))
            yield weight, f'{s_tap} -> {t_tap}', s_shapes, t_shapes

    def views(self, student: Recorded, teacher: Recorded) -> list[tuple[list[Tensor], list[Tensor]]]:
        """Return for each view of the pictures (one, but for pre-training) both sides' maps by level."""
        students, teachers = self._views(student, self.student_taps), self._views(teacher, self.teacher_taps)
        lengths = {len(view) for view in (*students, *teachers)}
        if len(students) != len(teachers) or lengths != {sum(self.counts)}:
            s_count, t_count = (sum(map(len, views)) for views in (students, teachers))
            counts = f'{s_count} student and {t_count} teacher maps were recorded'
            raise RuntimeError(f'{self.key}: {counts}, {sum(self.counts)} were seen when the model was built.')
        return list(zip(students, teachers, strict=True))

    def _views(self, recorded: Recorded, taps: Sequence[Tap]) -> list[list[Tensor]]:
        tap_tensors = [(recorded[tap.text], count) for tap, count in zip(taps, self.counts, strict=True)]
        number = max(math.ceil(len(tensors) / count) for tensors, count in tap_tensors)
        return [[x for tensors, n in tap_tensors for x in tensors[v * n : (v + 1) * n]] for v in range(number)]

    @property
    def recorded_taps(self) -> list[Tap]:
        """All student taps: those that are compared, and the further ones."""
        return [*self.student_taps, *self.extra_student_taps]

    def check_data(self, pictures: int) -> None:
        """Refuse a training set of too few pictures for the method; each run asks it at its start, and ``check``."""

    @property
    def pairs(self) -> ClassPairs | None:
        """The classes that the student shares with a teacher of others; ``None`` for one of the same classes."""
        return self.teacher.class_pairs() if self.teacher is not None and self.maps_classes else None

    @property
    def maps_classes(self) -> bool:
        """Whether the teacher has other classes, which its option ``classes`` maps."""
        return self.teacher is not None and self.teacher.option.classes is not None

    def check_classes(self, pairs: ClassPairs) -> None:
        """Refuse classes that the method cannot compare; called at the start of a run, where a teacher has others."""

    def prepare(self, runner: Runner, teacher: FrozenTeacher) -> None:
        """Do what a method needs once before training (MasKD's tokens); ``DistillHook`` calls it, also on resume."""

    def forward(self, student: Recorded, teacher: Recorded, data_samples: Samples) -> Losses:
        """Return ``{'loss_…': scalar}``, unweighted, from the recorded taps (tap → tensors in order of call).

        Scalars under names without ``loss`` go to the log as they are.
        """
        raise NotImplementedError(f'{type(self).__name__} must implement forward().')

    def weight(self) -> float:
        """Return ``loss_weight`` times the schedule's factor."""
        if self.schedule == CONSTANT:
            return self.loss_weight
        return self.loss_weight * self.schedule.factor(self.state.iteration, self.state.max_iters)

    def is_active(self) -> bool:
        """Tell whether this step computes the terms."""
        return self.weight() != 0

    def weighted(self, terms: Losses) -> Losses:
        """Return terms with their weight; of weight 0, a zero."""
        weight = self.weight()
        if weight == 0:
            return self.zero_loss()
        return {name: weight * value if 'loss' in name else value for name, value in terms.items()}

    def step(self, student: Recorded, teacher: Recorded, data_samples: Samples) -> Losses:
        """Return the weighted losses; a scheduled weight of 0 skips the work."""
        return self.weighted(self(student, teacher, data_samples) if self.is_active() else {})

    def zero_loss(self) -> Losses:
        """Return a zero that keeps the parameters in the graph: DDP expects a gradient for each of them."""
        terms = [parameter.sum() for parameter in self.parameters() if parameter.requires_grad]
        return {'loss_off': 0.0 * torch.stack(terms).sum()} if terms else {}

    def clip_gradients(self, scale: Tensor | float = 1.0) -> Tensor:
        """Clip the gradients of this distiller's own parameters to ``clip_max_norm``; return their norm before.

        ``scale`` is the loss scale of the gradients, which they keep; the limit and the returned norm are without it.
        """
        assert self.clip_max_norm is not None, 'called for distillers that clip'
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients) / scale
        nn.utils.clip_grads_with_norm_(self.parameters(), self.clip_max_norm, norm)
        return norm

    def generator(self, level: int = 0) -> torch.Generator:
        """Return a CPU generator that depends on (seed, rank, iteration, distiller name, part, level) alone."""
        stream = f'{self.state.seed}/{self.state.rank}/{self.state.iteration}/{self.name}{self.state.part}'
        return torch.Generator().manual_seed(zlib.crc32(stream.encode()) + level)

    def extra_repr(self) -> str:
        student, teacher = (
            ', '.join(str(tap) for tap in taps) or self.auto for taps in (self.student_taps, self.teacher_taps)
        )
        settings = f', settings={self.settings}' if self.settings else ''
        return f'student_tap={student!r}, teacher_tap={teacher!r}, loss_weight={self.loss_weight}{settings}'


Distiller.__signature__ = _signature(Distiller)
