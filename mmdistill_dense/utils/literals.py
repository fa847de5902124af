"""Write plain values as the Python of a config, in lines of at most 120 characters.

mmengine replaces ``{{ fileDirname }}``, ``{{$NAME:default}}`` and ``{{ _base_.key }}`` in a text before Python does.
Names come from strangers: a ``{{`` of theirs would become source.
"""

import keyword
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 120
BRACES = r'{\x7b'  # how `{{` is written


class Source(str):
    """Text that is Python source, such as the name of a variable."""


class Template(str):
    """Text whose ``{{ … }}`` mmengine shall replace. Nothing in it comes from a user."""


def assignments(values: Mapping[str, Any]) -> str:
    """Return one assignment for each name."""
    if wrong := [name for name in values if not _plain({name: None})]:
        raise ValueError(f'{wrong[0]!r}: no key at the top of a config can have this name; keys are Python names.')
    return ''.join(f'{name} = {literal(value, "", len(name) + 2)}\n' for name, value in values.items())


def literal(value: Any, indent: str = '', taken: int = 0) -> str:
    """Return a value as source: in one line if it fits, else with a line for each member."""
    line = _inline(value)
    if len(indent) + taken + len(line) + 1 <= WIDTH or not isinstance(value, (Mapping, list, tuple)) or not value:
        return line
    inner = f'{indent}    '
    opening, members, closing = _parts(value)
    lines = [f'{inner}{name}{literal(member, inner, len(name) + 1)},\n' for name, member in members]
    return f'{opening}\n{"".join(lines)}{indent}{closing}'


def remark(text: str) -> str:
    """Return text for a comment: one line, in which mmengine replaces nothing."""
    line = ''.join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    return re.sub('{(?={)', '{ ', line)


def check_place(option: str, path: str) -> None:
    """Raise for a path, or a part of one, that mmengine cannot put between quotes, as it does for ``fileDirname``."""
    if hits := [text for text in ("'", '"', '\\', '{{', '\n', '\r') if text in path]:
        mark = repr(hits[0])[1:-1]
        raise ValueError(f'{option}: {path} has {mark} in it, which no config can hold. Choose another place.')


def _inline(value: Any) -> str:
    if isinstance(value, Source):
        return value
    if isinstance(value, type):
        return _inline(f'{value.__module__}.{value.__qualname__}')  # mmengine's registries take the whole name
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if not isinstance(value, (Mapping, list, tuple)):
        return repr(value) if isinstance(value, Template) else repr(value).replace('{{', BRACES)
    opening, members, closing = _parts(value)
    inside = ', '.join(f'{name}{_inline(member)}' for name, member in members)
    comma = ',' if isinstance(value, tuple) and len(value) == 1 else ''
    return f'{opening}{inside}{comma}{closing}'


def _parts(value: Mapping[Any, Any] | Sequence[Any]) -> tuple[str, list[tuple[str, Any]], str]:
    """Return the brackets of a container, and between them its members, each behind its name."""
    if not isinstance(value, Mapping):
        opening, closing = ('(', ')') if isinstance(value, tuple) else ('[', ']')
        return opening, [('', member) for member in value], closing
    if _plain(value):
        return 'dict(', [(f'{name}=', member) for name, member in value.items()], ')'
    return '{', [(f'{_inline(name)}: ', member) for name, member in value.items()], '}'


def _plain(value: Mapping[Any, Any]) -> bool:
    """Tell whether all keys can be names of arguments, as they are: Python changes some letters beyond ASCII."""
    return all(
        isinstance(name, str) and name.isascii() and name.isidentifier() and not keyword.iskeyword(name)
        for name in value
    )
