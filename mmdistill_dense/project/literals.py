"""Write plain values as the Python of a config, in lines of at most 120 characters."""

from __future__ import annotations

import keyword
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 120
_STEP = '    '


def assignments(values: Mapping[str, Any]) -> str:
    """Return one assignment for each name."""
    return ''.join(f'{name} = {literal(value, "", len(name) + 3)}\n' for name, value in values.items())


def literal(value: Any, indent: str = '', taken: int = 0) -> str:
    """Return a value as source: in one line if it fits, else with a line for each member.

    Args:
        value: Mappings, sequences, numbers, text, ``None``, or :class:`Source`.
        indent: The indent of the line in which the value begins.
        taken: Characters before the value in that line, behind the indent.
    """
    one = _inline(value)
    if len(indent) + taken + len(one) + 1 <= WIDTH or not isinstance(value, (Mapping, list, tuple)) or not value:
        return one
    inner = indent + _STEP
    opening, closing = _brackets(value)
    lines = [f'{inner}{name}{literal(item, inner, len(name) + 1)},\n' for name, item in _members(value)]
    return f'{opening}\n{"".join(lines)}{indent}{closing}'


class Source(str):
    """Text that is Python source, such as the name of a variable."""


def _inline(value: Any) -> str:
    if isinstance(value, Source):
        return value
    if not isinstance(value, (Mapping, list, tuple)):
        return repr(value)
    opening, closing = _brackets(value)
    inside = ', '.join(f'{name}{_inline(item)}' for name, item in _members(value))
    comma = ',' if isinstance(value, tuple) and len(value) == 1 else ''
    return f'{opening}{inside}{comma}{closing}'


def _brackets(value: Any) -> tuple[str, str]:
    if isinstance(value, Mapping):
        return ('dict(', ')') if _plain(value) else ('{', '}')
    return ('(', ')') if isinstance(value, tuple) else ('[', ']')


def _members(value: Mapping[str, Any] | Sequence[Any]) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        return [('', item) for item in value]
    if _plain(value):
        return [(f'{name}=', item) for name, item in value.items()]
    return [(f'{name!r}: ', item) for name, item in value.items()]


def _plain(value: Mapping[str, Any]) -> bool:
    return all(str(name).isidentifier() and not keyword.iskeyword(str(name)) for name in value)
