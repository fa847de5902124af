"""Inheritance: a student that starts from parts of its teacher (same neck, same head), as many detection methods do.

The tensors below a prefix, or the one of this name, are copied by name; both sides must hold the same names and shapes.
There is one exception: a bias that only the student has becomes 0, which makes the two layers equal. The copy is made
after the student's own initialisation and before a checkpoint is resumed, which overwrites it. A run that starts from
``load_from`` inherits nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmdistill_dense.guards.config import below
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.utils.messages import some


@dataclass(frozen=True)
class Inherit:
    """One entry of ``model.inherit``: a prefix in the student (``target``) and one in the teacher (``source``)."""

    target: str
    source: str
    teacher: str | None = None  # None: the only teacher


def parse_inherit(option: Sequence[Sequence[str]] | None) -> list[Inherit]:
    """Read the option ``model.inherit``."""
    entries = [] if option is None else option
    valid = isinstance(entries, (list, tuple)) and all(
        isinstance(entry, (list, tuple)) and len(entry) in (2, 3) and all(isinstance(x, str) and x for x in entry)
        for entry in entries
    )
    if not valid:
        raise TypeError(
            "model.inherit must be a list of (student prefix, teacher prefix), e.g. [('neck', 'neck')]; with several "
            f'teachers the third member names one. Got {option!r}.'
        )
    return [Inherit(*(part.rstrip('.') for part in entry)) for entry in entries]


def with_teacher_names(entries: Sequence[Inherit], teachers: Collection[str]) -> list[Inherit]:
    """Return the entries, each with the name of its teacher; an entry that names none gets the only teacher."""
    only = next(iter(teachers)) if len(teachers) == 1 else None
    named = [replace(entry, teacher=only) if entry.teacher is None else entry for entry in entries]
    for entry in named:
        if entry.teacher not in teachers:
            raise ValueError(
                f'model.inherit={(entry.target, entry.source, entry.teacher)!r}: name one of the teachers '
                f'{", ".join(teachers)} as the third member.'
            )
    return named


def copy_inherited(student: nn.Module, entries: Sequence[Inherit], teachers: Mapping[str, FrozenTeacher]) -> None:
    """Copy the entries' tensors from the loaded teachers into the student."""
    own = student.state_dict()
    for entry in entries:
        teacher = teachers[str(entry.teacher)]
        if teacher.receipt is None or teacher.receipt.file is None:
            raise ValueError(
                f'model.inherit: {teacher.key} has no weights from a file to inherit (allow_random); '
                f'give {teacher.key}.checkpoint.'
            )
        _copy(own, _below(teacher.as_loaded().state_dict(), entry.source), entry, teacher.key)


def _copy(own: Mapping[str, Tensor], given: Mapping[str, Tensor], entry: Inherit, key: str) -> None:
    held = _below(own, entry.target)
    given = {**_zero_biases(held, given), **given}
    for side, prefix, found in (('model.student', entry.target, held), (key, entry.source, given)):
        if not found:
            raise ValueError(f'model.inherit: no tensor of {side} has the prefix {prefix!r}.')
    shapes = {name: (tuple(held[name].shape), tuple(given[name].shape)) for name in held.keys() & given.keys()}
    wrong = [f'{name} {s} and {t}' for name, (s, t) in sorted(shapes.items()) if s != t]
    problems = {
        'only in the student': sorted(held.keys() - given.keys()),
        'only in the teacher': sorted(given.keys() - held.keys()),
        'with another shape (student, teacher)': wrong,
    }
    if any(problems.values()):
        lines = '; '.join(f'{title}: {some(names)}' for title, names in problems.items() if names)
        raise ValueError(
            f'model.inherit={(entry.target, entry.source)!r}: the student and {key} differ here, so nothing can be '
            f'copied. {lines}. Inherit a part that both networks share.'
        )
    with torch.no_grad():
        for name, value in held.items():
            value.copy_(given[name])
    print_log(
        f'model.inherit: {len(held)} tensors of {entry.target!r} copied from {entry.source!r} of {key}', 'current'
    )


def _zero_biases(held: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return zeros for the biases that only the student has, in layers whose weight both sides have."""
    weights = {name.removesuffix('weight') for name in held.keys() & given.keys() if name.endswith('.weight')}
    return {name: torch.zeros_like(held[name]) for name in held.keys() - given.keys()
            if name.endswith('.bias') and name.removesuffix('bias') in weights}  # fmt: skip


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    # A parameter by itself has no name below: DETR's level_embed.
    return {'the tensor itself': state[prefix]} if prefix in state else below(state, prefix)
