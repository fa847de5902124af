"""Open a folder that ``new`` wrote. Errors say which file is missing or broken."""

from __future__ import annotations

import ast
from pathlib import Path

from mmengine.config import Config

from mmdistill_dense.project.config_files import SUITE
from mmdistill_dense.suite.definition.definition import Definition, load

_ALWAYS = ('data.py', 'pair.py', 'control.py')


def open_project(folder: Path) -> Definition:
    """Return the definition of a project."""
    if folder.is_file():
        raise FileNotFoundError(f'{folder}: a file. Give the folder: python -m mmdistill_dense run {folder.parent}')
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder}: no such folder (looked in {Path.cwd()}). `new` writes it, and names it.')
    if not (folder / SUITE).is_file():
        raise FileNotFoundError(
            f'{folder}: no {SUITE} in it, so `new` did not write this folder. `new` says at its end which one it wrote.'
        )
    if missing := [name for name in _ALWAYS if not (folder / name).is_file()]:
        raise FileNotFoundError(f'{folder}: {", ".join(missing)} is missing. The same `new` command writes it again.')
    for path in sorted(folder.glob('*.py')):
        _check_python(path)
    _check_control(folder)
    return load(folder / SUITE)


def _check_python(path: Path) -> None:
    try:
        ast.parse(path.read_text(encoding='utf-8'))
    except SyntaxError as error:
        raise ValueError(f'{path}: line {error.lineno} is no Python: {error.msg}.') from error


def _check_control(folder: Path) -> None:
    """Check what the first screen of `run` tells: steps and data."""
    config = Config.fromfile(folder / 'control.py')
    if 'max_iters' not in config.get('train_cfg', {}):
        raise ValueError(f'{folder / "control.py"}: train_cfg has no max_iters, the number of steps. Write it there.')
    root = config.train_dataloader.dataset.get('data_root')
    if root and not Path(root).is_dir():
        raise FileNotFoundError(
            f'{folder / "data.py"}: folder.data_root = {root!r}: no such folder. If the data were moved, a link '
            f'keeps all results: ln -s NEW_PLACE {root}. A new path in the file repeats the trainings.'
        )
