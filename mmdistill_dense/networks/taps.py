"""Taps: names of tensors inside a network."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

_SYNTAX = re.compile(
    r'(?P<path>[A-Za-z_0-9.]*)'
    r'(?:\[(?P<index>-?[0-9]{1,9}|(?:-?[0-9]{1,9})?:(?:-?[0-9]{1,9})?)\])?'
    r'(?P<input>:input(?:\[(?P<argument>[0-9]{1,9})\])?)?'
)


TapOption = str | Sequence[str | tuple[str, float]]
AUTO = 'auto'  # a student_tap: choose the taps of both networks
AUTO_LAST = 'auto[-1]'  # the last of these alone


@dataclass(frozen=True)
class Tap:
    """A place in a network: ``path[index]:input[k]``.

    ``path`` is a dotted module path (``''`` is the network itself); ``index`` (integer or slice) picks from a tuple
    output, and ``[-1]`` also takes an output that is one tensor; ``:input`` takes the module's first positional
    argument instead of its output, ``:input[k]`` the k-th. Class tokens beside maps are left out. ``key`` is the config
    key that named the tap, for errors.

    Examples: ``'backbone[-1]'``, ``'neck'``, ``'neck[:3]'``, ``'decode_head.conv_seg:input'``.
    """

    path: str
    index: int | slice | None = None
    argument: int | None = None
    text: str = ''
    key: str = field(default='', compare=False)

    @classmethod
    def parse(cls, text: str) -> Tap:
        """Parse a tap.

        Raises:
            ValueError: When the text does not have the form above.
        """
        match = _SYNTAX.fullmatch(text) if isinstance(text, str) else None
        if match is None or '..' in text or match['path'].startswith('.') or match['path'].endswith('.'):
            shown = repr(text) if len(repr(text)) < 200 else f'{repr(text)[:200]}…'
            raise ValueError(
                f"{shown} is not a tap: write 'module.path', 'module.path[i]', 'module.path[a:b]', "
                "'module.path:input' or 'module.path:input[k]'. In a list: 'auxiliary_head.0.conv_seg'."
            )
        return cls(
            match['path'], _parse_index(match['index']), int(match['argument'] or 0) if match['input'] else None, text
        )

    def __str__(self) -> str:
        return self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def pick(self, args: tuple[Any, ...], output: Any) -> list[Tensor]:
        """Return the tapped tensors of one call of the module, tuples flattened.

        Raises:
            ValueError: When the index or argument does not exist, or holds no tensor, and for a dict.
        """
        value = output
        if self.argument is not None:
            if self.argument >= len(args):
                raise ValueError(f'tap {self.text!r}: the module was called with {len(args)} positional arguments.')
            value = args[self.argument]
        if isinstance(value, Mapping):
            raise ValueError(
                f'tap {self.text!r}: this is a dict ({", ".join(map(str, value))}), whose entries cannot be tapped: '
                'tap the modules that make them.'
            )
        if self.index is not None:
            value = self._pick_index(value)
        tensors = _maps_alone(_flatten(value))
        if not tensors:
            raise ValueError(f'tap {self.text!r}: found a {type(value).__name__} without any tensor.')
        return tensors

    def put(self, output: Any, replace: Callable[[Tensor], Tensor]) -> Any:
        """Return the output of one call of the module with the tapped tensors replaced and the rest unchanged."""
        chosen = {id(tensor) for tensor in self.pick((), output)}
        return _map_tensors(output, lambda tensor: replace(tensor) if id(tensor) in chosen else tensor)

    def _pick_index(self, value: Any) -> Any:
        if isinstance(value, Tensor) and self.index == -1:
            return value
        if not isinstance(value, (tuple, list)):
            raise ValueError(
                f'tap {self.text!r} has an index, but the module gives a {type(value).__name__}, not a tuple: write '
                f'{self.path!r}.'
            )
        try:
            return value[self.index]  # type: ignore[index]
        except IndexError:
            raise ValueError(
                f'tap {self.text!r}: the output has {len(value)} entries; {self.path}[{len(value) - 1}] or '
                f'{self.path}[-1] is the last.'
            ) from None


def _parse_index(text: str | None) -> int | slice | None:
    if text is None:
        return None
    if ':' not in text:
        return int(text)
    begin, end = (int(part) if part else None for part in text.split(':'))
    return slice(begin, end)


def _flatten(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in _flatten(item)]
    return []


def _maps_alone(tensors: list[Tensor]) -> list[Tensor]:
    """Leave out the class tokens (B, C) that some backbones return beside their maps."""
    maps = [tensor for tensor in tensors if tensor.dim() == 4]
    return maps if maps and all(tensor.dim() in (2, 4) for tensor in tensors) else tensors


def _map_tensors(value: Any, replace: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return replace(value)
    if isinstance(value, (tuple, list)):
        return _as(value, (_map_tensors(item, replace) for item in value))
    return value


def _as(sequence: Any, items: Iterable[Any]) -> Any:
    return list(items) if isinstance(sequence, list) else tuple(items)


def parse_taps(option: str, taps: TapOption) -> tuple[list[Tap], list[float]]:
    """Return the taps of an option and their weights.

    Raises:
        ValueError: For an empty or malformed option; names it.
    """
    entries: list[Any] = list(taps) if isinstance(taps, (list, tuple)) else [taps]
    if not entries:
        raise ValueError(f'{option} is empty: name at least one tap.')
    pairs = [(entry, 1.0) if isinstance(entry, str) else entry for entry in entries]
    for pair in pairs:
        if not _is_weighted_tap(pair):
            raise ValueError(
                f"{option} must be a tap or a list of taps and pairs ('tap', weight >= 0), got the entry {pair!r}."
            )
    return [Tap.parse(tap) for tap, _ in pairs], [float(weight) for _, weight in pairs]


def check_auto(student: TapOption, teacher: TapOption | None, method: str, refusal: str) -> str:
    """Return the option ``student_tap`` if it is ``'auto'`` or ``'auto[-1]'``, else an empty text.

    Args:
        student: ``student_tap``.
        teacher: ``teacher_tap``.
        method: The class of the distiller.
        refusal: Why the method refuses ``'auto'``; empty if it does not.

    Raises:
        ValueError: For ``'auto'`` beside other taps or as ``teacher_tap``, and for a method that refuses it.
    """
    listed = student if isinstance(student, (list, tuple)) else []
    entries = [one[0] if isinstance(one, (tuple, list)) and one else one for one in listed]
    auto = student if isinstance(student, str) and student in (AUTO, AUTO_LAST) else ''
    if AUTO in entries or AUTO_LAST in entries:
        raise ValueError(f"student_tap={student!r}: 'auto' stands alone, without other taps and weights.")
    if auto and refusal:
        raise ValueError(f'{method} refuses student_tap={auto!r}: {refusal}.')
    if auto and teacher is not None:
        raise ValueError(
            f'student_tap={auto!r} chooses the taps of the teacher too, but teacher_tap={teacher!r} is given. Leave '
            "teacher_tap out, or name the student's taps as well, e.g. student_tap=['backbone[2]', 'backbone[3]']."
        )
    if teacher in (AUTO, AUTO_LAST):
        raise ValueError(
            f"teacher_tap={teacher!r} with student_tap={student!r}: write student_tap='auto', which chooses the taps "
            "of both networks, or name the teacher's taps."
        )
    return auto


def _is_weighted_tap(pair: Any) -> bool:
    return (
        isinstance(pair, (tuple, list))
        and len(pair) == 2
        and isinstance(pair[0], str)
        and isinstance(pair[1], (int, float))
        and pair[1] >= 0
    )
