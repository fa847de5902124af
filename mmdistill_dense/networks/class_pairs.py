"""Which classes of a teacher are which of a student that has others, and scores of both that can be compared."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from mmengine.structures import PixelData
from torch import Tensor

from mmdistill_dense.config.unknown_keys import hint
from mmdistill_dense.losses import loss_dtype, to_device
from mmdistill_dense.utils.runner_internals import IGNORED, Samples
from mmdistill_dense.utils.validate import some

AUTO = 'auto'
REST = '*'  # all teacher classes that no entry names
BACKGROUND = 'background'
_CLOSE = 0.85  # of difflib: names that may be the same are asked about, never taken


def check_form(option: Any, key: str) -> None:
    """Check that an option ``classes`` is ``'auto'``, or a dict whose values are lists of names."""
    lists = isinstance(option, Mapping) and all(
        isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names) for names in option.values()
    )
    if option != AUTO and not lists:
        form = "'auto', or a dict from the student's classes to the teacher's: {'car': ['car', 'van'], 'lift': []}"
        raise TypeError(f'{key} must be {form}; got {option!r}.')


def check_groups(key: str, pairs: ClassPairs, ranks: bool) -> None:
    """Refuse a softmax over a single group."""
    if ranks and len(pairs.groups) < 2:
        raise ValueError(
            f'{key}: one shared class cannot be compared with others ({pairs.names()[0][0]}). Give the rest of the '
            f"teacher's classes a class by {pairs.key}={{…: ['*']}}, or compare features, e.g. by type='CWD' with "
            "student_tap='auto'."
        )


def check_complete(key: str, pairs: ClassPairs) -> None:
    """Refuse classes without a partner, for methods that have no way to leave them out."""
    unpaired = [pairs.student[index] for index in pairs.unknown] or [pairs.teacher[index] for index in pairs.rest]
    if unpaired:
        problem = f'{some(unpaired)} have no partner on the other side ({pairs.key})'
        raise ValueError(f"{key} compares all classes at once, and {problem}. Use type='LogitKD'.")


def check_names(key: str, names: Sequence[str] | None, count: int | None) -> None:
    """Refuse a teacher whose head has another count of classes than is known by name; ``None`` is not known."""
    if not names:
        problem = "the checkpoint does not say the names of the teacher's classes"
    elif count not in (None, len(names)):
        problem = f'{len(names)} names of teacher classes are known ({some(names)}); its head has {count}'
    else:
        return
    raise ValueError(f'{key}.classes: {problem}: set {key}.class_names to their list, in the order of its outputs.')


@dataclass(frozen=True)
class Group:
    """Student and teacher classes that together are the same things; mostly one student class."""

    student: tuple[int, ...]
    teacher: tuple[int, ...]


@dataclass(frozen=True)
class ClassPairs:
    """The classes that a student shares with a teacher, as groups.

    What the teacher does not know pushes the student nowhere: only shared classes are compared, each side normalised
    over them. The score of a group is the log of the sum of its members' exponentials (softmax), or the largest of
    them (sigmoid).

    Source: own derivation; the KL over old classes alone is that of Li and Hoiem, Learning without Forgetting, ECCV
    2016, https://arxiv.org/abs/1606.09282.
    """

    student: tuple[str, ...]  # names of the classes
    teacher: tuple[str, ...]
    groups: tuple[Group, ...]  # in the order of their smallest student class
    key: str = 'model.teacher.classes'

    @classmethod
    def of(
        cls,
        option: str | Mapping[str, Sequence[str]],
        student: Sequence[str],
        teacher: Sequence[str],
        key: str = 'model.teacher.classes',
    ) -> ClassPairs:
        """Resolve the option ``classes`` by the names of both sides.

        Classes that it does not name are paired by equal names: without regard to case, and to ``-``, ``_`` and
        blanks. A class ``background`` of both sides that the option does not name is what no other class is: the
        student's classes without a partner belong to it, and the teacher's.

        Example:
            >>> pairs = ClassPairs.of({'person': ['person', 'rider']}, ['car', 'person', 'forklift'],
            ...                       ['person', 'rider', 'car', 'sky'])
            >>> [(group.student, group.teacher) for group in pairs.groups]
            [((0,), (2,)), ((1,), (0, 1))]
            >>> pairs.unknown, pairs.rest
            ((2,), (3,))
        """
        check_form(option, key)
        option_groups = {} if isinstance(option, str) else dict(option)
        s_index, t_index = _indices(student), _indices(teacher)
        if duplicates := [student[indices[1]] for indices in s_index.values() if len(indices) > 1]:
            raise ValueError(f'{key}: the student has two classes named {duplicates[0]!r}.')
        entries = {_find(name, student, s_index, key, 'student')[0]: names for name, names in option_groups.items()}
        if sum(REST in names for names in entries.values()) > 1:
            raise ValueError(f"{key}: only one class can take the rest of the teacher's classes, {REST!r}.")
        partners = {
            s: [t for name in names if name != REST for t in _find(name, teacher, t_index, key, 'teacher')]
            for s, names in entries.items()
        }
        shared = [side.get(BACKGROUND, [-1])[0] for side in (s_index, t_index)]
        opened = min(shared) >= 0 and shared[0] not in entries and shared[1] not in chain(*partners.values())
        for name, (s_class,) in s_index.items():
            if s_class not in entries and name in t_index and not (opened and name == BACKGROUND):
                partners[s_class] = t_index[name]
        unpaired = {*range(len(teacher))}.difference(*partners.values(), shared[1:] if opened else ())
        for s_class, names in entries.items():
            if REST in names:
                partners[s_class] = [*partners[s_class], *sorted(unpaired)]
        pairs = [(s, t) for s, group in partners.items() for t in group]
        result = cls(tuple(student), tuple(teacher), _groups(pairs), key)
        if opened:
            result = result._with_open(*shared)
        if not result.groups:
            raise ValueError(
                f'{key}: no class of the student ({some(student)}) is one of the teacher ({some(teacher)}). Name them, '
                "as in {'car': ['automobile']}, or set allow_other_classes=True to compare features alone."
            )
        return result

    def with_background(self) -> ClassPairs:
        """Return the same for scores with the background as the last one on both sides.

        It is what no other class is: student classes without a partner belong to it, and the teacher's.
        """
        wider = replace(self, student=(*self.student, BACKGROUND), teacher=(*self.teacher, BACKGROUND))
        return wider._with_open(len(self.student), len(self.teacher))

    def _with_open(self, student_class: int, teacher_class: int) -> ClassPairs:
        student = (student_class, *(index for index in self.unknown if index != student_class))
        teacher = (teacher_class, *(index for index in self.rest if index != teacher_class))
        background = Group(tuple(sorted(student)), tuple(sorted(teacher)))
        return replace(self, groups=tuple(sorted((*self.groups, background), key=lambda group: group.student)))

    @property
    def unknown(self) -> tuple[int, ...]:
        """The student's classes that the teacher does not know."""
        shared = {index for group in self.groups for index in group.student}
        return tuple(index for index in range(len(self.student)) if index not in shared)

    @property
    def rest(self) -> tuple[int, ...]:
        """The teacher's classes that no class of the student is."""
        shared = {index for group in self.groups for index in group.teacher}
        return tuple(index for index in range(len(self.teacher)) if index not in shared)

    @property
    def same(self) -> bool:
        """Whether both sides have the same classes in the same order."""
        groups = [(group.student, group.teacher) for group in self.groups]
        return groups == [((index,), (index,)) for index in range(len(self.teacher))] and not self.unknown

    def softmax(self, student: Tensor, teacher: Tensor, shift: bool = True) -> tuple[Tensor, Tensor]:
        """Return the scores (B, G, ...) of the groups from logits (B, C, ...) of both sides.

        Where classes are merged, the largest logit of each position is taken off first, which a softmax over classes
        does not see; one over positions does: without ``shift``.
        """
        scores = []
        for x, members in ((student, self._members('student')), (teacher, self._members('teacher'))):
            if shift and any(len(group) > 1 for group in members):
                x = x.to(loss_dtype(x))
                x = x - x.detach().amax(1, keepdim=True)
            scores.append(combine(x, members, 'logsumexp'))
        return scores[0], scores[1]

    def sigmoid(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores (B, G, ...) of the groups from independent binary ones (B, C, ...): the largest member."""
        return combine(student, self._members('student'), 'amax'), combine(teacher, self._members('teacher'), 'amax')

    def anchors(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same (B, A x G, ...) from maps (B, A x C, ...), whose channels are anchor x classes + class."""
        s_scores, t_scores = self.sigmoid(*self.folded(student, teacher))
        shape = len(student), -1, *student.shape[2:]
        return s_scores.reshape(shape), t_scores.reshape(shape)

    def folded(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return maps (B x A, C, ...) of both sides, an anchor as a picture, from maps (B, A x C, ...)."""
        s_classes, t_classes = len(self.student), len(self.teacher)
        return student.reshape(-1, s_classes, *student.shape[2:]), teacher.reshape(-1, t_classes, *teacher.shape[2:])

    def mass(self, logits: Tensor) -> Tensor | None:
        """Return the teacher's probability (B, ...) of shared classes; ``None`` where it has no other ones."""
        return self.summed(logits.to(loss_dtype(logits)).softmax(1)).sum(1) if self.rest else None

    def summed(self, probabilities: Tensor) -> Tensor:
        """Add the teacher's probabilities (B, C, ...) of the classes of each group; return (B, G, ...)."""
        return combine(probabilities, self._members('teacher'), 'sum')

    def _members(self, side: str) -> list[tuple[int, ...]]:
        return [getattr(group, side) for group in self.groups]

    def names(self) -> list[list[str]]:
        """Return each group in words, the student's classes and the teacher's."""
        s, t = self.student, self.teacher
        return [[', '.join(s[i] for i in g.student), ', '.join(t[i] for i in g.teacher)] for g in self.groups]

    def describe(self) -> list[str]:
        """Return what a user should know of the pairs, in sentences."""
        shared = len(self.student) - len(self.unknown)
        partners = '; '.join(f'{student} <- {teacher}' for student, teacher in self.names())
        lines = [f'{self.key}: {shared} of {len(self.student)} classes have a partner: {partners}']
        unknown, unused = [self.student[i] for i in self.unknown], [self.teacher[i] for i in self.rest]
        if unknown:
            lines.append(f'{self.key}: the teacher does not know {", ".join(unknown)}: labels alone teach them.')
            normal = {_normal(name): name for name in unused}
            for name in unknown:
                for close in difflib.get_close_matches(_normal(name), normal, 1, _CLOSE):
                    match = normal[close]
                    lines[-1] += f' {match!r} is a class of the teacher: write {name!r}: [{match!r}] if it is the same.'
        if unused:
            lines.append(f'{self.key}: {len(unused)} classes of the teacher are left out ({some(unused)})')
        return lines


def in_students_classes(samples: Samples, pairs: ClassPairs) -> Samples:
    """Give what a teacher of other classes predicts the student's labels, to be scored on the student's data.

    A pixel of a class that the student does not have is 255, a miss; boxes of such classes are left out. Of a group of
    several student classes, the background is meant, or the first.
    """
    order = [name.lower() != BACKGROUND for name in pairs.student]
    label_of = {index: min(group.student, key=order.__getitem__) for group in pairs.groups for index in group.teacher}
    by_class = torch.tensor([label_of.get(index, -1) for index in range(len(pairs.teacher))])
    sample: Any
    for sample in samples:
        if 'pred_instances' in sample:
            labels = to_device(by_class, sample.pred_instances.labels)[sample.pred_instances.labels]
            sample.pred_instances = sample.pred_instances[labels >= 0]
            sample.pred_instances.labels = labels[labels >= 0]
        else:
            labels = to_device(by_class, sample.pred_sem_seg.data)[sample.pred_sem_seg.data]
            sample.pred_sem_seg = PixelData(data=labels.masked_fill(labels < 0, IGNORED))
    return samples


def combine(x: Tensor, members: Sequence[Sequence[int]], reduce: str) -> Tensor:
    """Return (B, G, ...): of each group of channels its only one, or their ``logsumexp``, ``amax`` or ``sum``."""
    if [*members] == [(channel,) for channel in range(x.shape[1])]:
        return x
    single_classes = [group for group in members if len(group) == 1]
    merged_groups = [group for group in members if len(group) > 1]
    position = {group: number for number, group in enumerate([*single_classes, *merged_groups])}
    parts = [take_channels(x, [channel for (channel,) in single_classes])] if single_classes else []
    parts += [getattr(torch, reduce)(take_channels(x, group), 1, keepdim=True) for group in merged_groups]
    order = [position[group] for group in members]
    scores = torch.cat(parts, 1)
    return scores if order == sorted(order) else take_channels(scores, order)


def take_channels(x: Tensor, channels: Sequence[int]) -> Tensor:
    """Return some channels of (B, C, ...), without waiting for the device."""
    return x.index_select(1, to_device(torch.tensor(channels), x))


def _normal(name: str) -> str:
    return re.sub(r'[-_ ]+', ' ', unicodedata.normalize('NFKC', name).casefold()).strip()


def _indices(names: Sequence[str]) -> dict[str, list[int]]:
    indices: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        indices.setdefault(_normal(name), []).append(index)
    return indices


def _find(name: str, names: Sequence[str], indices: Mapping[str, list[int]], key: str, side: str) -> list[int]:
    if name in names:
        return [[*names].index(name)]
    if _normal(name) not in indices:
        raise ValueError(f"{key}: {name!r} is no class of the {side}'s: {some(names)}.{hint(name, names)}")
    return indices[_normal(name)]


def _groups(pairs: Iterable[tuple[int, int]]) -> tuple[Group, ...]:
    """Return the connected components of pairs (student class, teacher class)."""
    groups: list[tuple[set[int], set[int]]] = []
    for s, t in sorted(pairs):
        overlaps = [group for group in groups if s in group[0] or t in group[1]]
        groups = [group for group in groups if group not in overlaps]
        groups.append(({s}.union(*(group[0] for group in overlaps)), {t}.union(*(group[1] for group in overlaps))))
    components = (Group(tuple(sorted(student)), tuple(sorted(teacher))) for student, teacher in groups)
    return tuple(sorted(components, key=lambda group: group.student))
