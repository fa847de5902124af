"""One run of a suite: its name, its folder, and the runs that it waits for."""

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
        name: ``'teacher'``, ``'control'``, ``'pretrain/<start>'`` or the name of a row.
        kind: ``'teacher'``, ``'pretrain'``, ``'search'`` or ``'run'``.
        seed: The seed of the run.
        folder: The work folder.
        after: The folders of the runs whose results it needs.
        choice: The searched values by option; empty without a search, ``None`` until the search has ended.
    """

    name: str
    kind: str
    seed: int
    folder: Path
    after: tuple[Path, ...] = ()
    choice: Choice | None = field(default=None, hash=False)

    @property
    def method_file(self) -> Path:
        """The config of the method on the recipe, without the settings of this run."""
        return self.folder / 'method.py'

    @property
    def title(self) -> str:
        """Name, searched values and seed, for messages."""
        tried = f' {choice_name(self.choice)}' if self.kind == 'search' and self.choice else ''
        return self.name if self.kind == 'teacher' else f'{self.name}{tried} seed {self.seed}'

    @property
    def result(self) -> dict[str, Any] | None:
        """The result of the finished run, else ``None``."""
        return read_json(self.folder / 'result.json')

    @property
    def state(self) -> dict[str, Any]:
        """The last report of the running training; empty before the first one."""
        return read_json(self.folder / 'state.json') or {}


def choice_name(choice: Choice) -> str:
    """Return the folder name of searched values."""
    return ','.join(f'{key.removeprefix("model.distillers.")}={value}' for key, value in choice.items()).replace(
        '/', '_'
    )
