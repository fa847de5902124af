"""Pair the places of student and teacher, for ``student_tap='auto'``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mmdistill_dense.networks.discover import Found, Place

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
        'in the teacher, teacher_tap. tools/list_taps.py CONFIG shows what can be tapped.'
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
