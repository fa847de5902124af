"""Find and pair the maps of student and teacher, for ``student_tap='auto'``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mmdistill_dense.networks.building import copied
from mmdistill_dense.networks.modes import run_as_trained
from mmdistill_dense.networks.recording import noting, run_parts
from mmdistill_dense.networks.taps import HEAD, scoring_head
from mmdistill_dense.networks.trace import read_pass
from mmdistill_dense.utils.runner_internals import Network


@dataclass(frozen=True)
class Place:
    """A map that a tap names: its ``(C, H, W)``; the picture's side over the map's, to the nearest power of 2; and
    whether a loss on it would change the network, which it does not behind frozen layers alone."""

    tap: str
    shape: tuple[int, ...]
    stride: int
    trained: bool = True

    def __str__(self) -> str:
        return f'{self.tap} ({"x".join(map(str, self.shape))}, stride {self.stride})'


@dataclass(frozen=True)
class Found:
    """The places of a network."""

    network: str  # the name of its class
    segments: bool = False  # whether it is a segmentor, which has a ``decode_head``
    backbone: Sequence[Place] = ()  # its outputs, in order; of a foundation model, which has no such part, its ``map``
    neck: Sequence[Place] = ()
    head: Place | None = None  # the last map of a segmentation head before the dropout in front of ``conv_seg``
    notes: Sequence[str] = ()  # what was left out, and why


def discover(build: Callable[[], Network], size: tuple[int, int] | None, trains: bool = False) -> Found:
    """Run one picture through a network and return its places.

    Args:
        build: Returns the network, on the current default device; it is changed.
        size: Height and width of the training crop; ``None`` means 512 x 512.
        trains: Whether it will be trained: a student's pass has a graph, which tells the maps that training can change.
    """
    return read_pass(build, lambda network, inputs: _Pass(network, inputs, trains).found(), size, graph=trains)


def discover_student(network: Network, size: tuple[int, int] | None) -> Found:
    """Return the places of a built student, which stays as it is; see :func:`discover`."""
    return discover(lambda: copied(network), size, trains=True)


@dataclass
class _Output:
    """A tensor that a module gave: the tap that names it, the tensor, and its version at that moment."""

    tap: str
    path: str
    tensor: Tensor
    version: int


@dataclass
class _Pass:
    """One pass through a network, with the outputs of all its modules."""

    network: Network
    inputs: Tensor
    trains: bool
    outputs: list[_Output] = field(default_factory=list)
    given: dict[str, Any] = field(default_factory=dict)  # the arguments of each module
    calls: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def found(self) -> Found:
        """Run the network and return its places."""
        head = scoring_head(self.network)
        last, _ = run_as_trained(self.network, lambda: self._run(head))
        backbone = self._levels('backbone' if hasattr(self.network, 'backbone') else 'map')
        levels = [place for place, _ in backbone]
        return Found(
            type(self.network).__name__,
            hasattr(self.network, HEAD),
            levels,
            [place for place, _ in self._levels('neck')],
            self._head(head, last, [tensor for _, tensor in backbone]),
            tuple(self.notes),
        )

    def _run(self, head: str | None) -> Tensor | None:
        """Run the backbone, the neck and the head; return the head's last map."""
        for noted in (self.outputs, self.given, self.calls):
            noted.clear()
        try:
            with noting(self.network.named_modules(), self._note):
                run_parts(self.network, [], self.inputs, heads=[] if head is None else [head])
        except ValueError:  # a head that needs more than features
            if not self.calls['backbone']:
                raise
        behind = self.given.get(f'{head}.dropout') or self.given.get(f'{head}.conv_seg')
        return behind[0] if behind else None

    def _note(self, path: str, args: Any, output: Any) -> None:
        self.calls[path] += 1
        self.given[path] = args
        self.outputs += [_Output(tap, path, x, x._version) for tap, x in _members(path, output)]

    def _levels(self, part: str) -> list[tuple[Place, Tensor]]:
        """Return the maps of a part that is called once, each under the tap of its final value."""
        if self.calls[part] != 1:
            return []
        levels = []
        for output in self.outputs:
            if output.path == part and output.tensor.dim() == 4:
                final = output if output.version == output.tensor._version else self._final(output.tensor)
                if final is None:
                    self.notes.append(f'{output.tap} is changed in place later, and no module gives the final value')
                else:
                    levels.append((self._place(final), final.tensor))
        return levels

    def _head(self, head: str | None, last: Tensor | None, backbone: Sequence[Tensor]) -> Place | None:
        if not hasattr(self.network, HEAD):
            return None
        if head is None:
            self.notes.append('decode_head does not end in a plain conv_seg')
        elif last is None:
            self.notes.append(f'{head} does not run on features alone')
        elif any(last is tensor for tensor in backbone):
            self.notes.append(f'the last map of {head} is a map of the backbone')
        elif (final := self._final(last, head)) is None or last.dim() != 4:
            self.notes.append(f'no module of {head} gives its last map')
        else:
            return self._place(final)
        return None

    def _final(self, tensor: Tensor, below: str = '') -> _Output | None:
        """Return the outermost module that gives a tensor as it is at the end of the pass."""
        fitting = [
            output
            for output in self.outputs
            if output.tensor is tensor
            and output.version == tensor._version
            and (output.path.startswith(f'{below}.') if below else output.path)
            and self.calls[output.path] == 1
            and 'drop' not in type(self.network.get_submodule(output.path)).__name__.lower()
        ]
        return min(fitting, key=lambda output: output.path.count('.'), default=None)

    def _place(self, output: _Output) -> Place:
        shape = tuple(output.tensor.shape[1:])
        stride = 2 ** round(math.log2(self.inputs.shape[2] / shape[1]))
        return Place(output.tap, shape, stride, not self.trains or output.tensor.requires_grad)


def _members(path: str, output: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(output, Tensor):
        yield path, output
    elif isinstance(output, (tuple, list)):
        for index, member in enumerate(output):
            if isinstance(member, Tensor):
                yield f'{path}[{index}]', member


LEVELS = 3  # of each backbone
FINEST = 8  # stride of the finest level of a backbone that is compared


@dataclass(frozen=True)
class Pair:
    """A place of the student and the one of the teacher that it is compared with."""

    student: Place
    teacher: Place

    @property
    def obstacle(self) -> str:
        """Why the two cannot be compared; empty if they can."""
        if max(self.student.stride, self.teacher.stride) > 2 * min(self.student.stride, self.teacher.stride):
            return 'the strides differ by more than a factor of 2'
        if min(math.prod(place.shape[1:]) for place in (self.student, self.teacher)) < 2:
            return 'a map of one position'
        if not self.student.trained:
            return 'all layers before the map of the student are frozen'
        return ''


@dataclass(frozen=True)
class Chosen:
    """The pairs of taps that ``'auto'`` stands for, and what was left out, with the reason."""

    pairs: Sequence[Pair]
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        pairs = ', '.join(f'{pair.student} -> {pair.teacher}' for pair in self.pairs)
        return pairs + (f'; left out: {"; ".join(self.notes)}' if self.notes else '')


def pair_taps(student: Found, teacher: Found) -> Chosen:
    """Return the pairs to compare.

    Two networks with a neck and without a segmentation head (detectors): the levels of the necks that have the same
    stride. Otherwise the last three levels of stride 8 or more of each backbone, paired from the end (all levels count
    where they share one stride), and for two segmentors the last map of the head before ``conv_seg`` and its dropout. A
    foundation model has one level, ``map``, which the last level of the student's backbone is compared with.
    Left out are pairs whose strides differ by more than a factor of 2, with a map of one position, or with a map of the
    student that only frozen layers make.
    """
    notes = [f'student: {note}' for note in student.notes] + [f'teacher: {note}' for note in teacher.notes]
    if student.neck and teacher.neck and not (student.segments or teacher.segments):
        pairs = _of_equal_stride(student.neck, teacher.neck, notes)
    else:
        pairs = _from_the_end(_deep(student.backbone), _deep(teacher.backbone))
        if student.head and teacher.head:
            pairs.append(Pair(student.head, teacher.head))
    kept = [pair for pair in pairs if not pair.obstacle]
    notes += [f'{pair.student} -> {pair.teacher}: {pair.obstacle}' for pair in pairs if pair.obstacle]
    return Chosen(kept, tuple(notes))


def nothing_to_pair(key: str, student: Found, teacher: Found, chosen: Chosen) -> ValueError:
    """Return the error for two networks without a pair, which names the config key ``key`` and lists both sides."""
    left_out = f' Left out: {"; ".join(chosen.notes)}.' if chosen.notes else ''
    return ValueError(
        f"{key}.student_tap='auto' finds no two maps to compare. The student's are {_listed(student)}; the teacher's "
        f'are {_listed(teacher)}.{left_out} Name the taps yourself: {key}.student_tap and, where they have other names '
        'in the teacher, teacher_tap. mmdistill taps CONFIG shows what can be tapped.'
    )


def _listed(found: Found) -> str:
    places = [*found.backbone, *found.neck, *([found.head] if found.head else [])]
    return f'({found.network}) {", ".join(map(str, places)) or "none"}'


def _deep(levels: Sequence[Place]) -> Sequence[Place]:
    one_stride = len({level.stride for level in levels}) == 1
    return [level for level in levels if level.stride >= FINEST or one_stride][-LEVELS:]


def _from_the_end(student: Sequence[Place], teacher: Sequence[Place]) -> list[Pair]:
    return [Pair(*places) for places in zip(reversed(student), reversed(teacher), strict=False)][::-1]


def _of_equal_stride(student: Iterable[Place], teacher: Iterable[Place], notes: list[str]) -> list[Pair]:
    pairs, left = [], list(teacher)
    for ours in student:
        partner = next((theirs for theirs in left if theirs.stride == ours.stride), None)
        if partner is None:
            notes.append(f'student {ours}: the teacher has no level of this stride')
        else:
            left.remove(partner)
            pairs.append(Pair(ours, partner))
    notes += [f'teacher {theirs}: the student has no level of this stride' for theirs in left]
    return pairs
