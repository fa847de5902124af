"""Find and pair the maps of student and teacher, for ``student_tap='auto'``."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from mmdistill_dense.networks.recording import run_parts
from mmdistill_dense.networks.taps import HEAD, scoring_head
from mmdistill_dense.networks.trace import Output, Pass, read_pass
from mmdistill_dense.utils.runner_internals import Network


@dataclass(frozen=True)
class MapCandidate:
    """A map that a tap names: its ``(C, H, W)``; the picture's side over the map's, to the nearest power of 2; and
    whether a loss on it would change the network, which it does not behind frozen layers alone."""

    tap: str
    shape: tuple[int, ...]
    stride: int
    trained: bool = True

    def __str__(self) -> str:
        return f'{self.tap} ({"x".join(map(str, self.shape))}, stride {self.stride})'


@dataclass(frozen=True)
class DiscoveredTaps:
    """The places of a network."""

    network: str  # the name of its class
    segments: bool = False  # whether it is a segmentor, which has a ``decode_head``
    backbone: Sequence[MapCandidate] = ()  # its outputs, the one that a head reads last; of a foundation model ``map``
    kind: str = ''  # the class of the backbone
    branches: bool = False  # whether the backbone's outputs are no stages one behind the other, but of several branches
    neck: Sequence[MapCandidate] = ()
    head: MapCandidate | None = None  # the last map of a segmentation head before the dropout in front of ``conv_seg``
    notes: Sequence[str] = ()  # what was left out, and why


def discover(build: Callable[[], Network], size: tuple[int, int] | None, trains: bool = False) -> DiscoveredTaps:
    """Run one picture, of the size of the training crop, through a network that ``build`` makes; return its places.

    ``trains`` asks which maps training can change.
    """
    return read_pass(build, lambda passed: _Reader(passed, trains).read(), size, graph=True)


@dataclass
class _Reader:
    passed: Pass
    trains: bool
    notes: list[str] = field(default_factory=list)

    def read(self) -> DiscoveredTaps:
        network, head = self.passed.network, scoring_head(self.passed.network)
        self.passed.run(lambda: self._run(head))
        backbone = self._levels('backbone' if hasattr(network, 'backbone') else 'map')
        aux = self._for_training_alone(head, backbone)
        index = getattr(network.get_submodule(head or ''), 'in_index', -1)
        if any(aux):
            backbone = [output for _, output in sorted(zip(aux, backbone, strict=True), key=lambda pair: not pair[0])]
        elif isinstance(index, int) and not getattr(network, 'neck', None) and -len(backbone) <= index < len(backbone):
            backbone.append(backbone.pop(index))  # BiSeNet gives the map that joins its branches first
        stages = [self._place(output) for output in backbone]
        steps = {stage.stride > deeper.stride for stage, deeper in pairwise(stages) if stage.stride != deeper.stride}
        return DiscoveredTaps(
            type(network).__name__,
            hasattr(network, HEAD),
            stages,
            type(getattr(network, 'backbone', network)).__name__,
            len(steps) > 1 or any(aux),
            [self._place(output) for output in self._levels('neck')],
            self._head(head, backbone),
            tuple(self.notes),
        )

    def _run(self, head: str | None) -> None:
        try:
            run_parts(self.passed.network, [], self.passed.inputs, heads=[] if head is None else [head])
        except ValueError:  # a head that needs more than features
            if 'backbone' not in self.passed.calls:
                raise

    def _levels(self, part: str) -> list[Output]:
        """Return the maps of a part that is called once, each under the tap of its final value."""
        levels = []
        for output in self.passed.outputs if len(self.passed.calls.get(part, ())) == 1 else ():
            if output.path == part and output.tensor.dim() == 4:
                final = output if output.version == output.tensor._version else self._final(output.tensor)
                if final is None:
                    self.notes.append(f'{output.tap} is changed in place later, and no module gives the final value')
                else:
                    levels.append(final)
        return levels

    def _for_training_alone(self, head: str | None, backbone: Sequence[Output]) -> list[bool]:
        """Return the backbone outputs that only auxiliary losses use: PIDNet has two."""
        _, scores = (self.passed.calls.get(f'{head}.conv_seg') or [((), None)])[-1]
        maps = [output.tensor for output in backbone]
        if scores is None or not scores.requires_grad or not all(tensor.requires_grad for tensor in maps):
            return [False] * len(maps)
        return [gradient is None for gradient in torch.autograd.grad(scores.sum(), maps, allow_unused=True)]

    def _head(self, head: str | None, backbone: Sequence[Output]) -> MapCandidate | None:
        """Return the head's last map, which its dropout or ``conv_seg`` gets."""
        calls = self.passed.calls
        behind, _ = (calls.get(f'{head}.dropout') or calls.get(f'{head}.conv_seg') or [((), None)])[-1]
        if not hasattr(self.passed.network, HEAD):
            return None
        if head is None:
            self.notes.append('decode_head does not end in a plain conv_seg')
        elif not behind:
            self.notes.append(f'{head} does not run on features alone')
        elif any(behind[0] is output.tensor for output in backbone):
            self.notes.append(f'the last map of {head} is a map of the backbone')
        elif (final := self._final(behind[0], head)) is None or behind[0].dim() != 4:
            self.notes.append(f'no module of {head} gives its last map')
        else:
            return self._place(final)
        return None

    def _final(self, tensor: Tensor, below: str = '') -> Output | None:
        """Return the outermost module that gives a tensor as it is at the end of the pass."""
        fitting = [
            output
            for output in self.passed.outputs
            if output.tensor is tensor
            and output.version == tensor._version
            and (output.path.startswith(f'{below}.') if below else output.path)
            and len(self.passed.calls[output.path]) == 1
            and 'drop' not in type(self.passed.network.get_submodule(output.path)).__name__.lower()
        ]
        return min(fitting, key=lambda output: output.path.count('.'), default=None)

    def _place(self, output: Output) -> MapCandidate:
        shape = tuple(output.tensor.shape[1:])
        stride = 2 ** round(math.log2(self.passed.inputs.shape[2] / shape[1]))
        return MapCandidate(output.tap, shape, stride, not self.trains or output.tensor.requires_grad)


LEVELS = 3  # of each backbone
FINEST = 8  # stride of the finest level of a backbone that is compared


@dataclass(frozen=True)
class Pair:
    """A place of the student and the one of the teacher that it is compared with."""

    student: MapCandidate
    teacher: MapCandidate

    @property
    def obstacle(self) -> str:
        """Why the two cannot be compared; empty if they can."""
        if max(self.student.stride, self.teacher.stride) > 2 * min(self.student.stride, self.teacher.stride):
            return 'the strides differ by more than a factor of 2'
        if min(math.prod(candidate.shape[1:]) for candidate in (self.student, self.teacher)) < 2:
            return 'a map of one position'
        if not self.student.trained:
            return 'all layers before the map of the student are frozen'
        return ''


@dataclass(frozen=True)
class TapPairs:
    """The pairs of taps that ``'auto'`` stands for, and what was left out, with the reason."""

    pairs: Sequence[Pair]
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        pairs = ', '.join(f'{pair.student} -> {pair.teacher}' for pair in self.pairs)
        return pairs + (f'; left out: {"; ".join(self.notes)}' if self.notes else '')


def pair_taps(student: DiscoveredTaps, teacher: DiscoveredTaps) -> TapPairs:
    """Return the pairs to compare.

    Two networks with a neck and without a segmentation head (detectors): the levels of the necks that have the same
    stride. Otherwise the last three levels of stride 8 or more of each backbone, paired from the end (all levels count
    where they share one stride), and for two segmentors the last map of the head before ``conv_seg`` and its dropout. A
    foundation model has one level, ``map``, which the last level of the student's backbone is compared with. A backbone
    with branches (PIDNet, DDRNet, BiSeNet, STDC) is compared branch by branch with one of its class, where each has the
    same task. With any other it is compared at the map that the head reads, in which the branches have come together:
    of the others none is a stage, and some are there for a loss of training alone.
    Left out are pairs whose strides differ by more than a factor of 2, with a map of one position, or with a map of the
    student that only frozen layers make.
    """
    notes = [f'student: {note}' for note in student.notes] + [f'teacher: {note}' for note in teacher.notes]
    if student.neck and teacher.neck and not (student.segments or teacher.segments):
        pairs = _of_equal_stride(student.neck, teacher.neck, notes)
    else:
        alike = student.kind == teacher.kind
        sides = [side.backbone[-1:] if side.branches and not alike else side.backbone for side in (student, teacher)]
        pairs = [Pair(*levels) for levels in zip(*(reversed(_last_levels(side)) for side in sides), strict=False)][::-1]
        for name, side, levels in zip(('student', 'teacher'), (student, teacher), sides, strict=True):
            if len(levels) < len(side.backbone):
                names = ', '.join(candidate.tap for candidate in side.backbone[:-1])
                notes.append(f'{name} {names}: branches of {side.kind}, which another backbone has not')
        if student.head and teacher.head:
            pairs.append(Pair(student.head, teacher.head))
    compared = [pair for pair in pairs if not pair.obstacle]
    notes += [f'{pair.student} -> {pair.teacher}: {pair.obstacle}' for pair in pairs if pair.obstacle]
    return TapPairs(compared, tuple(notes))


def nothing_to_pair(key: str, student: DiscoveredTaps, teacher: DiscoveredTaps, chosen: TapPairs) -> ValueError:
    """Return the error for two networks without a pair, which names the config key ``key`` and lists both sides."""
    left_out = f' Left out: {"; ".join(chosen.notes)}.' if chosen.notes else ''
    return ValueError(
        f"{key}.student_tap='auto' finds no two maps to compare. The student's are {_summary(student)}; the teacher's "
        f'are {_summary(teacher)}.{left_out} Name the taps yourself: {key}.student_tap and, where they have '
        'other names in the teacher, teacher_tap. mmdistill taps CONFIG shows what can be tapped.'
    )


def _summary(network: DiscoveredTaps) -> str:
    maps = [*network.backbone, *network.neck, *([network.head] if network.head else [])]
    return f'({network.network}) {", ".join(map(str, maps)) or "none"}'


def _last_levels(levels: Sequence[MapCandidate]) -> Sequence[MapCandidate]:
    one_stride = len({level.stride for level in levels}) == 1
    return [level for level in levels if level.stride >= FINEST or one_stride][-LEVELS:]


def _of_equal_stride(student: Iterable[MapCandidate], teacher: Iterable[MapCandidate], notes: list[str]) -> list[Pair]:
    pairs, unpaired = [], list(teacher)
    for level in student:
        partner = next((candidate for candidate in unpaired if candidate.stride == level.stride), None)
        if partner is None:
            notes.append(f'student {level}: the teacher has no level of this stride')
        else:
            unpaired.remove(partner)
            pairs.append(Pair(level, partner))
    notes += [f'teacher {candidate}: the student has no level of this stride' for candidate in unpaired]
    return pairs


Found, Chosen = DiscoveredTaps, TapPairs  # their names until 0.3
