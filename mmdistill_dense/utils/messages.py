"""Parts of messages that several modules share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def some(names: Iterable[object], shown: int = 4) -> str:
    """Return the first names and the number of the others: ``a, b, c, d and 3 more``."""
    listed = [str(name) for name in names]
    more = f' and {len(listed) - shown} more' if len(listed) > shown else ''
    return ', '.join(listed[:shown]) + more


def size_text(size: Iterable[int]) -> str:
    """Return height and width, or a whole shape: ``48x64``."""
    return 'x'.join(map(str, size))


def text_of(error: BaseException) -> str:
    """Return the message of an exception; ``str`` would put that of a ``KeyError`` in quotes."""
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def message_of(error: BaseException) -> str:
    """Return the message of an exception, with its type unless the message is meant for users."""
    text = text_of(error)
    spoken = isinstance(error, (ValueError, KeyError, FileNotFoundError)) and text
    return text if spoken else f'{type(error).__name__}: {text}'


def close_or_all(name: str, known: Iterable[str]) -> str:
    """Return the known names that are similar to an unknown one (``Close: a, b.``), or all of them (``Known: …``)."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=4, cutoff=0.5)
    return f'Close: {", ".join(close)}.' if close else f'Known: {", ".join(names)}.'
