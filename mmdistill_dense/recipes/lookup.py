"""Find the files that ``new_config.py`` is given: files of this package by name, or a user's own."""

from __future__ import annotations

from pathlib import Path

from mmdistill_dense.recipes.compose import Parts, configs, option_files, owners, recipes, sources_of, unknown


def base_file(kind: str, name: str) -> Path:
    """Return the file of a pair, data set or schedule, given by its name in ``configs/_base_/<kind>`` or as a file."""
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
    """Return a method's name and, if it was given as a file of method options, that file."""
    if name.endswith('.py') and Path(name).is_file():
        return Path(name).stem.split('_')[0], Path(name).resolve()
    option_files(name)
    return name, None


def recipe_of(pair: Path, dataset: Path | None, schedule: Path | None, method: str) -> Path | None:
    """Return this package's recipe for a pair, a data set and a schedule, or None.

    An argument of None matches any. The method's own recipe comes first, then the one named like the pair.
    """
    given = {'pair': pair, 'dataset': dataset, 'schedule': schedule}
    files = {kind: file.resolve() for kind, file in given.items() if file}
    rows = [
        recipe
        for recipe in recipes()
        if (not owners(recipe) or method in owners(recipe)) and files.items() <= sources_of(recipe).items()
    ]
    rows.sort(key=lambda recipe: (method not in owners(recipe), recipe.stem != pair.stem, recipe.stem))
    return rows[0] if rows else None


def recipe_name(parts: Parts) -> str:
    """Return a free name for a new recipe: the pair's, with data set and schedule added where it is taken."""
    taken = {recipe.stem for recipe in recipes()}
    names = [parts.pair, f'{parts.pair}_{parts.dataset}', f'{parts.pair}_{parts.dataset}_{parts.schedule}']
    return next(name for name in names if name not in taken or name == names[-1])
