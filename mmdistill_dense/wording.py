"""Parts of messages that several modules share."""

from __future__ import annotations

from collections.abc import Iterable


def some(names: Iterable[object], shown: int = 4) -> str:
    """Return the first names and how many more there are: ``a, b, c, d and 3 more``."""
    listed = [str(name) for name in names]
    more = f' and {len(listed) - shown} more' if len(listed) > shown else ''
    return ', '.join(listed[:shown]) + more
