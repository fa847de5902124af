"""Read and replace generated parts of hand-written files. Each is between two comments on their own lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

RESULTS = 'results'  # the table of the README
_MARKER = re.compile(r'^<!-- (end of )?(suite:[\w.+-]+|results)(?: (\w+=[^>\n]*))? -->[ \t]*$', re.MULTILINE)


def suite_marker(stem: str) -> str:
    """Return the name of a suite's part."""
    return f'suite:{stem}'


def read(text: str, file: Path) -> dict[str, str]:
    """Return the text between the markers, by name, in the order of the file.

    Raises:
        ValueError: For a part that is not closed, is closed without being open, or occurs twice. Names the line.
    """
    return {name: text[start:end].strip('\n') for name, start, end in _places(text, file)}


def suites(text: str, file: Path) -> dict[str, str]:
    """Return the parts of suites by the stem of their definition."""
    prefix = suite_marker('')
    return {name.removeprefix(prefix): body for name, body in read(text, file).items() if name.startswith(prefix)}


def options(text: str, name: str) -> dict[str, list[str]]:
    """Return the options in the first marker of a name: ``<!-- results rows=kd,cwd -->`` gives ``rows: [kd, cwd]``."""
    found = next((found for found in _MARKER.finditer(text) if not found[1] and found[2] == name), None)
    words = ((found and found[3]) or '').split()
    return {key: value.split(',') for key, _, value in (word.partition('=') for word in words)}


def replaced(text: str, name: str, body: str, file: Path) -> str:
    """Replace the part between the markers of a name.

    Raises:
        KeyError: If the text has no such markers. Shows them.
        ValueError: As :func:`read`.
    """
    for found, start, end in _places(text, file):
        if found == name:
            return text[:start] + _between(body) + text[end:]
    raise KeyError(f'{file}: no part {name}; put these lines where it belongs: {_begin(name)} and {_end(name)}')


def appended(text: str, name: str, body: str) -> str:
    """Return a text with a new part at its end."""
    before = f'{text.rstrip()}\n\n' if text.strip() else ''
    return f'{before}{_begin(name)}{_between(body)}{_end(name)}\n'


def _begin(name: str) -> str:
    return f'<!-- {name} -->'


def _end(name: str) -> str:
    return f'<!-- end of {name} -->'


def _between(body: str) -> str:
    return f'\n{body.strip()}\n' if body.strip() else '\n'


def _places(text: str, file: Path) -> Iterator[tuple[str, int, int]]:
    """Yield the name, the end of the first marker and the start of the second."""
    seen: set[str] = set()
    open_: tuple[str, int] | None = None
    for found in _MARKER.finditer(text):
        closes, name = found[1] is not None, found[2]
        where = f'{file}, line {text.count(chr(10), 0, found.start()) + 1}: {found[0].strip()}'
        if open_ is not None and (not closes or name != open_[0]):
            raise ValueError(f'{where} comes before the missing {_end(open_[0])}')
        if open_ is None and (closes or name in seen):
            raise ValueError(f'{where} ' + (f'has no {_begin(name)} before it' if closes else 'occurs twice'))
        if closes and open_ is not None:
            yield name, open_[1], found.start()
            open_ = None
        else:
            seen.add(name)
            open_ = (name, found.end())
    if open_ is not None:
        raise ValueError(f'{file}: {_begin(open_[0])} is not closed; put {_end(open_[0])} on a line behind it')
