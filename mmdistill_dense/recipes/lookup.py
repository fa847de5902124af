"""Finds what ``new_config.py`` is given: stock of this package by name, or a user's own files."""

from __future__ import annotations

from pathlib import Path

from mmdistill_dense.recipes.compose import Parts, configs, fragments, owner, recipes, sources_of, unknown


def stock(kind: str, name: str) -> Path:
    """Return the file of a pair, a data set or a schedule given by its name in ``configs/_base_/<kind>`` or as a file.

    Raises:
        KeyError: For an unknown name, with close ones.
        FileNotFoundError: For a file that is not there.
    """
    if name.endswith('.py') and Path(name).is_file():
        return Path(name).resolve()
    folder = configs() / '_base_' / kind
    file = folder / f'{name.removesuffix(".py")}.py'
    if not file.is_file() and (name.endswith('.py') or '/' in name):
        raise FileNotFoundError(f'--{kind[:-1]} {name}: no such file (working folder {Path.cwd()}).')
    if not file.is_file():
        raise KeyError(unknown(kind[:-1], name, {path.stem for path in folder.glob('[!_]*.py')}))
    return file


def method_and_options(name: str) -> tuple[str, Path | None]:
    """Return a method's name and, where it was given as a file of method options, that file.

    Raises:
        KeyError: For an unknown method, with close ones.
    """
    if name.endswith('.py') and Path(name).is_file():
        return Path(name).stem.split('_')[0], Path(name).resolve()
    fragments(name)
    return name, None


def recipe_of(pair: Path, dataset: Path | None, schedule: Path | None, method: str) -> Path | None:
    """Return the recipe of this package on a pair, a data set and a schedule, or None.

    What is None is left open; then the method's own recipe comes first, then the pair's usual one.
    """
    given = {'pair': pair, 'dataset': dataset, 'schedule': schedule}
    files = {kind: file.resolve() for kind, file in given.items() if file}
    rows = [
        recipe
        for recipe in recipes()
        if owner(recipe) in (None, method) and files.items() <= sources_of(recipe).items()
    ]
    rows.sort(key=lambda recipe: (owner(recipe) != method, recipe.stem != pair.stem, recipe.stem))
    return rows[0] if rows else None


def recipe_name(parts: Parts) -> str:
    """Return a free name in ``configs/_base_/recipes`` for a new one: the pair's, and what tells it apart."""
    taken = {recipe.stem for recipe in recipes()}
    names = [parts.pair, f'{parts.pair}_{parts.dataset}', f'{parts.pair}_{parts.dataset}_{parts.schedule}']
    return next(name for name in names if name not in taken or name == names[-1])
