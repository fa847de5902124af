"""Look through the wrappers of a data set's config, which repeat, balance, mix or join others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def chain(option: Any) -> list[Mapping[str, Any]]:
    """Return the data set that reads files, then what wraps it, from the inside out; of joined ones, the first."""
    if isinstance(option, (list, tuple)):
        return chain(option[0]) if option else []
    if not isinstance(option, Mapping):
        return []
    return [*chain(option.get('dataset') or option.get('datasets')), option]


def layers(option: Any, key: str = '') -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield key and options of all data sets of a loader, from the inside out."""
    if isinstance(option, (list, tuple)):
        for place, one in enumerate(option):
            yield from layers(one, f'{key}.{place}')
    elif isinstance(option, Mapping):
        for name in ('dataset', 'datasets'):
            yield from layers(option.get(name), f'{key}.{name}')
        yield key, option


def members(option: Any, key: str = '') -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield key and options of those that read files."""
    return ((place, one) for place, one in layers(option, key) if not {'dataset', 'datasets'} & set(one))
