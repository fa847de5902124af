"""What a reader found: how much of it is used, and how much is left out and why. The numbers add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmdistill_dense.utils.validate import some


@dataclass(frozen=True)
class Count:
    what: str  # ``'pictures'``
    found: int
    used: int
    left_out: Mapping[str, Sequence[object]]  # by reason

    def __post_init__(self) -> None:
        left = sum(map(len, self.left_out.values()))
        if self.used + left != self.found:
            raise AssertionError(f'{self.found} {self.what} found, {self.used} used and {left} left out')

    def __str__(self) -> str:
        return f'{self.found} {self.what}' + ('' if self.used == self.found else f', {self.used} used')

    @property
    def left(self) -> list[str]:
        """A warning for each reason."""
        left = ((reason, names) for reason, names in self.left_out.items() if names)
        return [f'WARNING: {len(names)} {self.what} left out: {reason} ({some(names, 3)})' for reason, names in left]
