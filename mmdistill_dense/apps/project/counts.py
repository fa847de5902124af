"""What a reader found: how much of it is used, and how much is left out and why. The numbers add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mmdistill_dense.utils.validate import some

Reasons = Mapping[str, Sequence[object]]  # names of what is left out, by reason


@dataclass(frozen=True)
class Count:
    what: str  # ``'pictures'``
    found: int
    used: int
    left_out: Reasons  # a warning each
    unused: Reasons = field(default_factory=dict)  # because the user or the labels say so

    def __post_init__(self) -> None:
        left = sum(map(len, [*self.left_out.values(), *self.unused.values()]))
        if self.used + left != self.found:
            raise AssertionError(f'{self.found} {self.what} found, {self.used} used and {left} left out')

    def __str__(self) -> str:
        unused = [f'{len(own)} {reason} ({some(own, 3)})' for reason, own in self.unused.items() if own]
        used = [] if self.used == self.found else [f'{self.used} used']
        return ', '.join([f'{self.found} {self.what}', *used, *unused])

    @property
    def left(self) -> list[str]:
        """A warning for each reason."""
        left = ((reason, names) for reason, names in self.left_out.items() if names)
        return [f'WARNING: {len(names)} of {self.found} {self.what} {reason}; they are left out ({some(names, 3)})'
                for reason, names in left]  # fmt: skip


def table(name: str, counts: Sequence[Count]) -> list[str]:
    """Return a line of all counts, and the warnings."""
    return [f'{name}: {"; ".join(map(str, counts))}', *(line for count in counts for line in count.left)]
