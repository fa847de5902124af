"""How many pictures are found, used and left out, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mmdistill_dense.utils.validate import some

Reasons = Mapping[str, Sequence[object]]  # names of what is left out, by reason


@dataclass(frozen=True)
class Count:
    noun: str  # ``'pictures'``
    total: int
    used: int
    left_out: Reasons  # a warning each
    unused: Reasons = field(default_factory=dict)  # because the user or the labels say so

    def __post_init__(self) -> None:
        skipped = sum(map(len, [*self.left_out.values(), *self.unused.values()]))
        if self.used + skipped != self.total:
            raise AssertionError(f'{self.total} {self.noun} found, {self.used} used and {skipped} left out')

    def __str__(self) -> str:
        unused = [f'{len(names)} {reason} ({some(names, 3)})' for reason, names in self.unused.items() if names]
        used = [] if self.used == self.total else [f'{self.used} used']
        return ', '.join([f'{self.total} {self.noun}', *used, *unused])

    @property
    def warnings(self) -> list[str]:
        """A warning for each reason."""
        reasons = ((reason, names) for reason, names in self.left_out.items() if names)
        return [f'WARNING: {len(names)} of {self.total} {self.noun} {reason}; they are left out ({some(names, 3)})'
                for reason, names in reasons]  # fmt: skip


def count_lines(name: str, counts: Sequence[Count]) -> list[str]:
    """Return a line of all counts, and the warnings."""
    return [f'{name}: {"; ".join(map(str, counts))}', *(line for count in counts for line in count.warnings)]
