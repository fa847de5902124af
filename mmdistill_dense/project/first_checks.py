"""Check what a command line of ``new`` names before anything slow is imported or read."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from mmdistill_dense.project.config_files import SUITE
from mmdistill_dense.recipes.compose import methods
from mmdistill_dense.utils.literals import check_place
from mmdistill_dense.utils.messages import close_or_all, some

_NAME = re.compile(r'[^A-Za-z0-9]+')
_FIRST = 'data.py'  # of the files of a project, the one that is written first


def check_first(args: argparse.Namespace) -> Path:
    """Check the data's place, the names of the methods and the folder to write, and return this folder."""
    if not Path(args.data).expanduser().exists():
        raise FileNotFoundError(f'--data {args.data}: no such folder (looked in {Path.cwd()}).')
    check_methods(args.method)
    folder = args.out or default_folder(args.data)
    check_folder(folder)
    return folder


def check_methods(names: Sequence[str]) -> None:
    """Raise for an unknown name of ``--method``."""
    known = methods()
    for name in names:
        if name not in known:
            raise KeyError(f'--method {name}: unknown. {close_or_all(name, known)}')


def default_folder(data: str) -> Path:
    """Return the folder that is written without ``--out``: ``distil_`` and the name of the data folder."""
    return Path(f'distil_{_NAME.sub("_", Path(data).resolve().stem).strip("_").lower()}')


def check_folder(folder: Path) -> None:
    """Raise for a folder whose path no config can hold, or that holds files of the user's."""
    check_place(f'--out {folder}', str(folder.absolute()))
    if not folder.is_dir():
        return
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith('.'))
    if names and SUITE not in names and _FIRST not in names:
        raise FileExistsError(
            f'--out {folder}: it holds other files ({some(names, 3)}) and no project ({SUITE}). Give a folder that is '
            'new or empty.'
        )
