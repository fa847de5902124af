"""Find trainings in work folders and suites."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdistill_dense.config.resolve import is_distill_model, teachers_of
from mmdistill_dense.engine.resume_file import latest_checkpoint
from mmdistill_dense.report.log_starts import config_file, starts_of
from mmdistill_dense.suite.plan.runs import CONTROL
from mmdistill_dense.utils.atomic import read_json
from mmdistill_dense.utils.literals import BRACES

_PATTERNS = ('seed*', '*/seed*', 'runs/*/seed*')
_SEED = re.compile(r'seed\d+')  # the folder of one seed of a method


@dataclass(frozen=True)
class TrainedRun:
    """One training. Its name is that of the method's folder. ``suite`` is the suite's folder."""

    folder: Path
    name: str
    suite: Path | None = None

    @property
    def home(self) -> Path:
        """The folder of the method: the one above ``seed<k>``, else the run's own."""
        return self.folder.parent if _SEED.fullmatch(self.folder.name) else self.folder

    @cached_property
    def config(self) -> Config:
        """The whole config that the runner wrote."""
        text = _config_file(self.folder).read_text(encoding='utf-8')
        # mmengine writes plain values, and takes a `{{` in a name for a template when it reads them again
        return Config.fromstring(text.replace('{{', BRACES), '.py')

    @property
    def model(self) -> Mapping[str, Any]:
        """The model's config."""
        return self.config.get('model') or {}

    @property
    def distillers(self) -> dict[str, Any]:
        """The options of the distillers by name; none for a control."""
        return dict(self.model.get('distillers') or {}) if is_distill_model(self.model) else {}

    @property
    def alone(self) -> bool:
        """Whether it is a control: by its name in a suite, elsewhere if it takes nothing from a teacher."""
        if self.suite is not None:
            return self.name == CONTROL
        return not self.distillers and not self.model.get('inherit')

    @property
    def seed(self) -> int | None:
        """The seed of the run; ``None`` if it was drawn."""
        return (self.config.get('randomness') or {}).get('seed')

    @property
    def title(self) -> str:
        """Name and seed."""
        return self.name if self.seed is None else f'{self.name}, seed {self.seed}'

    @cached_property
    def result(self) -> dict[str, Any] | None:
        """The result that a suite wrote; ``None`` elsewhere."""
        return read_json(self.folder / 'result.json')

    @property
    def checkpoint(self) -> Path | None:
        """The complete checkpoint that was written last; the one with the largest number if that is not known."""
        pointer = self.folder / 'last_checkpoint'
        # an earlier training in the folder may have left files with larger numbers
        named = self.folder / Path(pointer.read_text(encoding='utf-8').strip()).name if pointer.is_file() else None
        return named if named is not None and zipfile.is_zipfile(named) else latest_checkpoint(self.folder)

    @property
    def teachers(self) -> dict[str, Any]:
        """The options of the teachers by their key under ``model``."""
        return teachers_of(self.model) if is_distill_model(self.model) else {}


def find_runs(folder: str | Path) -> list[TrainedRun]:
    """Return the run in a folder, or the runs of a suite below it, ordered by seed."""
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f'{str(folder)!r}: no such work dir (working folder {Path.cwd()})')
    root = root.resolve()
    if is_run(root):
        return [_run(root)]
    for pattern in _PATTERNS:
        found = seeds_in(root, pattern)
        if found:
            return found
    raise ValueError(
        f'{str(folder)!r} is no work dir: it has neither <timestamp>/vis_data/config.py nor seed<k>, nor a suite\'s '
        'runs/<name>/seed<k>. Give the folder that `tools/train.py --work-dir` wrote to.'
    )  # fmt: skip


def _run(folder: Path) -> TrainedRun:
    home = TrainedRun(folder, folder.name).home
    in_suite = home != folder and home.parent.name == 'runs'
    return TrainedRun(folder, home.name, home.parent.parent if in_suite else None)


def seeds_in(root: Path, pattern: str) -> list[TrainedRun]:
    """Return the runs below a folder whose own folders are called ``seed<k>``, in the order of the numbers."""
    found = sorted(
        root.glob(pattern),
        key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r'(\d+)', str(path))],
    )
    return [_run(path) for path in found if _SEED.fullmatch(path.name) and is_run(path)]


def is_run(folder: Path) -> bool:
    """Tell whether a runner wrote to a folder."""
    return any(folder.glob('*/vis_data/config.py'))


def _config_file(folder: Path) -> Path:
    """Return the config of the newest start with a log. A test in the same folder writes a config, too."""
    files = [file for start in starts_of(folder) if (file := config_file(start)).is_file()]
    logged = [file for file in files if (log := file.with_name('scalars.json')).is_file() and log.stat().st_size]
    return (logged or files)[-1]
