"""Every config that can be named, by its place in ``configs``: the files, and what has a name without one."""

from __future__ import annotations

import functools
from pathlib import Path

from mmengine.config import Config

from mmdistill_dense.recipes.compose import methods
from mmdistill_dense.recipes.named import Named, combinations

CONFIGS = Path(__file__).parents[1] / 'configs'
FILES = sorted(path for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts)
CONTROLS = sorted(
    path
    for path in CONFIGS.glob('_base_/recipes/*.py')
    if 'runtime_pretrain' not in path.read_text(encoding='utf-8')  # a student without a head, of no use alone
)


@functools.cache
def named() -> dict[Path, Named]:
    """What is made of a recipe and method options, by the place of its file, whether it is there or not."""
    return {one.file: one for method in methods() for one in combinations(method)}


@functools.cache
def every() -> list[Path]:
    """The places of all configs."""
    return sorted({*FILES, *CONTROLS, *named()})


def read(path: Path) -> Config:
    """Return the config of a place."""
    return Config.fromfile(path) if path.is_file() else named()[path].config()


def place(name: str) -> Path:
    """Return the place of ``'<method>/<pair>[_<variant>]'``; of ``'control/<pair>'`` the recipe."""
    return CONFIGS / f'{name.replace("control/", "_base_/recipes/")}.py'


def name_of(path: Path) -> str:
    """Return the name that :func:`place` takes."""
    return str(path.relative_to(CONFIGS).with_suffix('')).replace('_base_/recipes/', 'control/')
