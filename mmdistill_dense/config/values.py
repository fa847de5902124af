"""Plain values of configs: laid flat, and without classes of mmengine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any


def mappings(value: Any) -> Iterator[Any]:
    """Yield every mapping in a value, an outer one before those that it holds by then."""
    if isinstance(value, Mapping):
        yield value
        value = list(value.values())
    for member in value if isinstance(value, (list, tuple)) else ():
        yield from mappings(member)


def flat(value: Any, place: str = '') -> dict[str, Any]:
    """Return the values of nested mappings by dotted key; of lists only those that hold mappings are laid flat."""
    if isinstance(value, Mapping):  # an empty one counts as none
        parts = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
        parts = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {place: list(value) if isinstance(value, tuple) else value}
    found: dict[str, Any] = {}
    for key, item in parts:
        found |= flat(item, f'{place}.{key}' if place else key)
    return found


def listed(option: Any) -> list[Any]:
    """Return the members of an option that may be one or several, none if it is not set."""
    return list(option) if isinstance(option, (list, tuple)) else [option] if option else []


def plain(value: Any, written: Callable[[str], str] = str) -> Any:
    """Return dicts, lists, numbers and texts as JSON takes them; each text as ``written`` gives it, a class by name."""
    if isinstance(value, Mapping):
        return {str(key): plain(item, written) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, written) for item in value]
    if isinstance(value, str):
        return written(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if hasattr(value, 'tolist'):  # an array
        return value.tolist()
    return getattr(value, '__qualname__', type(value).__qualname__)
