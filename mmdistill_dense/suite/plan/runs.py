"""One run of a suite: what it is called, where it lies, what it waits for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmdistill_dense.utils.atomic import read_json

Choice = Mapping[str, Any]
TEACHER, CONTROL, PRETRAIN = 'teacher', 'control', 'pretrain'


@dataclass(frozen=True)
class Run:
    """One training with its test.

    Attributes:
        name: ``'teacher'``, ``'control'`` or a method's; of a pre-training ``'pretrain/<start>'``.
        kind: ``'teacher'``, ``'pretrain'``, ``'search'`` or ``'run'``.
        seed: Of the run.
        folder: Its work folder.
        after: Folders whose results it needs.
        choice: Values of a search by option; of a run whose search has not ended ``None``, without one empty.
    """

    name: str
    kind: str
    seed: int
    folder: Path
    after: tuple[Path, ...] = ()
    choice: Choice | None = field(default=None, hash=False)

    @property
    def leaf(self) -> Path:
        """The method on the recipe."""
        return self.folder / 'leaf.py'

    @property
    def title(self) -> str:
        """Name, tried values and seed, for people."""
        tried = f' {choice_name(self.choice)}' if self.kind == 'search' and self.choice else ''
        return self.name if self.kind == 'teacher' else f'{self.name}{tried} seed {self.seed}'

    @property
    def result(self) -> dict[str, Any] | None:
        """What it gave, ``None`` while it has not."""
        return read_json(self.folder / 'result.json')

    @property
    def state(self) -> dict[str, Any]:
        """How far it was when it last said so."""
        return read_json(self.folder / 'state.json') or {}


def choice_name(choice: Choice) -> str:
    """Return the folder of tried values."""
    return ','.join(f'{key.removeprefix("model.distillers.")}={value}' for key, value in choice.items()).replace(
        '/', '_'
    )
