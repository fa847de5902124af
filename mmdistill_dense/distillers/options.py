"""Reading the options of distillers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdistill_dense.taps import Tap

TapOption = str | Sequence[str | tuple[str, float]]


def check_option(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Raise a ``ValueError`` that names the option, the value and the allowed values unless ``value`` is one of
    them."""
    if value not in allowed:
        raise ValueError(f'{name} must be one of {", ".join(repr(a) for a in allowed)}, got {value!r}.')


def parse_taps(option: str, taps: TapOption) -> tuple[list[Tap], list[float]]:
    """Return the taps of an option and their weights.

    Raises:
        ValueError: For an empty or malformed option; names it.
    """
    entries = [taps] if isinstance(taps, str) else list(taps)
    if not entries:
        raise ValueError(f'{option} is empty: name at least one tap.')
    pairs = [(entry, 1.0) if isinstance(entry, str) else entry for entry in entries]
    for pair in pairs:
        if not _is_weighted_tap(pair):
            raise ValueError(
                f"{option} is a tap or a list; its entries are taps or pairs ('tap', weight >= 0), got {pair!r}."
            )
    return [Tap.parse(tap) for tap, _ in pairs], [float(weight) for _, weight in pairs]


def _is_weighted_tap(pair: Any) -> bool:
    return (
        isinstance(pair, (tuple, list))
        and len(pair) == 2
        and isinstance(pair[0], str)
        and isinstance(pair[1], (int, float))
        and pair[1] >= 0
    )


def check_count(name: str, value: Any, least: int) -> None:
    """Raise a ``ValueError`` that names the option unless it is a whole number, not below ``least``."""
    if not is_count(value) or value < least:
        raise ValueError(f'{name} must be a whole number >= {least}, got {value!r}.')


def is_count(value: Any) -> bool:
    """Tell whether a value is a whole number (and no truth value)."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_map(key: str, name: str, shape: Sequence[int]) -> None:
    """Raise a ``ValueError`` that names the config key and the taps unless ``shape`` (no batch) is that of a map."""
    if len(shape) != 3:
        raise ValueError(
            f'{key}: {name} gives {tuple(shape)} (without the batch) and no map (C, H, W), whose positions the method '
            "compares; tap a backbone stage, the neck or a convolution, e.g. 'backbone[3]'."
        )
