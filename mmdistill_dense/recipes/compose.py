"""Puts leaves together from recipes and fragments, and says which fragment of a method fits which recipe.

A *recipe* (``configs/control/*.py``) is the student alone: pair, data set, schedule and runtime. A *fragment*
(``configs/_base_/distillers/<method>[_<words>].py``) is one method with its constants. A *leaf* is a recipe plus a
fragment, so that a method differs from its control in nothing but its distillers.

A fragment fits a recipe when its words, after the method, are a subsequence of the words of the pair's name, where the
task (``seg``, ``det``) may stand at the end. The most words win; the task counts less than any other word. For a
pair of several teachers, ``…_and_…``, the distillers must say which: only fragments with the word ``and`` fit it, and
they fit no other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mmdistill_dense.config.inheritance import bases_of, keys_of
from mmdistill_dense.config.resolve import package_root
from mmdistill_dense.utils.messages import close_or_all

TASKS = {'mmseg': 'seg', 'mmdet': 'det'}
# What a part of a recipe is told by: a key that it, or a file it inherits, sets.
_KEYS = {'pair': 'model', 'dataset': 'train_dataloader', 'schedule': 'optim_wrapper', 'runtime': 'default_scope'}
_LINE = 120


class Parts(NamedTuple):
    """Names of what a recipe is made of, without ``.py``; ``task`` is ``'seg'`` or ``'det'``."""

    pair: str
    dataset: str
    schedule: str
    runtime: str
    task: str


def configs() -> Path:
    """Return the folder of this package's configs: of the checkout, or of the installed wheel."""
    return package_root('mmdistill_dense') / 'configs'


def methods() -> list[str]:
    """Return the names of all methods: the first words of the fragments."""
    return sorted({path.stem.split('_')[0] for path in fragments()})


def fragments(method: str | None = None) -> list[Path]:
    """Return the fragments, of one method or of all; files that begin with ``_`` are parts of others.

    Raises:
        KeyError: For a method without a fragment.
    """
    files = sorted((configs() / '_base_' / 'distillers').glob('[!_]*.py'))
    if method is None:
        return files
    found = [path for path in files if path.stem.split('_')[0] == method]
    if not found:
        raise KeyError(unknown('method', method, {path.stem.split('_')[0] for path in files}))
    return found


def recipes() -> list[Path]:
    """Return the recipes: every file of ``configs/control`` that names a pair itself.

    A control that inherits another one belongs to a leaf that does so too, and stands for no recipe.
    """
    return [path for path in sorted((configs() / 'control').glob('*.py')) if len(bases_of(path)) > 1]


def recipe_file(recipe: Path | str) -> Path:
    """Return the file of a recipe given as a file or as its name in ``configs/control``.

    Raises:
        KeyError: For an unknown name, with close ones.
    """
    path = Path(recipe)
    if path.suffix == '.py' and path.is_file():
        return path.resolve()
    file = configs() / 'control' / f'{path.stem if path.suffix == ".py" else path.name}.py'
    if not file.is_file():
        raise KeyError(unknown('recipe', str(recipe), {path.stem for path in recipes()}))
    return file


def parts_of(recipe: Path | str) -> Parts:
    """Return the names of pair, data set, schedule, runtime and task of a recipe.

    Raises:
        KeyError: For an unknown recipe.
        ValueError: For a file that is not made of a pair, a data set, a schedule and a runtime.
    """
    path = recipe_file(recipe)
    return _parts_of(path, path.stat().st_mtime_ns)


@cache
def _parts_of(path: Path, modified: int) -> Parts:
    found = {kind: file.stem for kind, file in sources_of(path).items()}
    missing = [kind for kind in Parts._fields[:-1] if kind not in found]
    scope = str(keys_of(path).get('default_scope'))
    if missing or scope not in TASKS:
        lack = ', '.join(missing) or "default_scope='mmseg' or 'mmdet'"
        raise ValueError(
            f'{path}: no recipe, it has no {lack}. Needed: a pair (model), a data set (train_dataloader), a schedule '
            '(optim_wrapper) and a runtime (default_scope).'
        )
    return Parts(**found, task=TASKS[scope])


def sources_of(recipe: Path) -> dict[str, Path]:
    """Return the file of each part of a recipe, told by what the files set; a part that is missing is left out.

    They are the files in its ``_base_`` (of a recipe that inherits one other, in that one's), or the file itself.
    """
    found: dict[str, Path] = {}
    for file in [*_stock(recipe), recipe]:
        for kind, key in _KEYS.items():
            if key in keys_of(file):
                found.setdefault(kind, file)
    return found


def fragment_for(method: str, recipe: Path | str, variant: str | None = None) -> Path | None:
    """Return the fragment of a method that fits a recipe best, or None.

    Args:
        method: One of :func:`methods`.
        recipe: A recipe's file, or its name in ``configs/control``.
        variant: Further words at the end of the fragment's name, e.g. ``'enhanced'``; such a fragment is taken only so.

    Raises:
        KeyError: For an unknown method or recipe.
        ValueError: When two fragments fit equally well.
    """
    return fitting(method, parts_of(recipe), variant)


def fitting(method: str, parts: Parts, variant: str | None = None) -> Path | None:
    """Return the fragment that fits a recipe of these parts best, see :func:`fragment_for`."""
    tail = variant.split('_') if variant else []
    fits: dict[tuple[int, int], list[Path]] = {}
    for path in fragments(method):
        words = path.stem.split('_')[1:]
        rank = _rank(words[: len(words) - len(tail)], parts) if words[len(words) - len(tail) :] == tail else None
        if rank is not None:
            fits.setdefault(rank, []).append(path)
    best = fits[max(fits)] if fits else []
    if len(best) > 1:
        names = ' and '.join(path.name for path in best)
        raise ValueError(f'{names} fit {parts.pair} equally well; a fragment needs one word more to be taken.')
    return best[0] if best else None


def _rank(words: Sequence[str], parts: Parts) -> tuple[int, int] | None:
    names = [*parts.pair.split('_'), parts.task]
    rest = iter(names)
    if ('and' in words) != ('and' in names) or not all(word in rest for word in words):  # consumes: a subsequence
        return None
    tasks = sum(word in TASKS.values() for word in words)
    return len(words) - tasks, tasks


def leaf_text(method: str, recipe: Path | str, fragment: Path | str, folder: Path) -> str:
    """Return the text of the leaf: the recipe, with the distillers of the fragment.

    Args:
        method: Names the folder of the run, ``work_dirs/<method>/<name of the leaf>``.
        recipe: A recipe's file, or its name in ``configs/control``.
        fragment: The fragment's file.
        folder: Where the leaf will lie: the bases are written relative to it, but those of this package by name where
            the folder is not inside its configs.
    """
    bases = [reference(recipe_file(recipe), folder), reference(Path(fragment), folder)]
    return (
        f'{_assignment("_base_", bases)}'
        'model = dict(distillers=_base_.distillers)\n'
        f"work_dir = 'work_dirs/{method}/{{{{ fileBasenameNoExtension }}}}'\n"
    )


def recipe_text(pair: Path, dataset: Path, schedule: Path, runtime: Path, folder: Path) -> str:
    """Return the text of a recipe in ``folder``, see :func:`leaf_text`."""
    bases = [reference(path, folder) for path in (pair, dataset, schedule, runtime)]
    return (
        f"{_assignment('_base_', bases, broken=True)}work_dir = 'work_dirs/control/{{{{ fileBasenameNoExtension }}}}'\n"
    )


def reference(path: Path, folder: Path) -> str:
    """Return the expression by which a config in ``folder`` names another one in its ``_base_``."""
    path, folder, root = path.resolve(), folder.resolve(), configs().resolve()
    if path.is_relative_to(root) and not folder.is_relative_to(root):
        name = f'mmdistill_dense::{path.relative_to(root).as_posix()}'
        return f"__import__('mmdistill_dense').base('{name}')"
    relative = Path(os.path.relpath(path, folder)).as_posix()
    return f"'{relative if relative.startswith('.') else f'./{relative}'}'"


def _assignment(name: str, items: Sequence[str], *, broken: bool = False) -> str:
    line = f'{name} = [{", ".join(items)}]\n'
    if len(line) <= _LINE + 1 and not broken:
        return line
    return f'{name} = [\n' + ''.join(f'    {item},\n' for item in items) + ']\n'


def _stock(path: Path) -> list[Path]:
    """The bases of a recipe; of one that inherits one other, those of that one."""
    bases = [base for base in bases_of(path) if base.is_file()]
    return _stock(bases[0]) if len(bases) == 1 and bases_of(bases[0]) else bases


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for a name that does not exist: close ones, or all."""
    return f'{kind} {name!r}: unknown. {close_or_all(name, known)}'
