"""Choose some members of a long row, evenly spaced."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar('T')


def evenly_spaced(length: int, count: int) -> list[int]:
    """Return the indices of at most ``count`` members of a data set, from its first to its last."""
    return np.linspace(0, length - 1, min(count, length)).round().astype(int).tolist()


def evenly(items: Sequence[T], count: int) -> list[T]:
    """Return at most ``count`` members, evenly spaced."""
    return [items[index] for index in evenly_spaced(len(items), count)]
