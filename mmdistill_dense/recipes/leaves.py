"""Which leaves there are and should be: every method on every recipe that one of its fragments fits.

A leaf is ``configs/<method>/<recipe>[_<variant>].py`` and is written, not typed, see
:mod:`mmdistill_dense.recipes.compose`. A recipe ``<pair>_<method>`` is the published schedule of that method: its leaf
bears the pair's name, and replaces the leaf on the pair's usual recipe.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mmdistill_dense.config.inheritance import bases_of
from mmdistill_dense.recipes.compose import (
    Parts,
    configs,
    fragment_for,
    fragments,
    leaf_text,
    methods,
    parts_of,
    recipes,
    sources_of,
    unknown,
)
from mmdistill_dense.recipes.targets import read_targets


class Leaf(NamedTuple):
    """A leaf and what it is made of."""

    file: Path
    method: str
    recipe: Path
    fragment: Path

    def text(self) -> str:
        """Return what stands in the file."""
        return leaf_text(self.method, self.recipe, self.fragment, self.file.parent)

    def write(self) -> None:
        """Write the file, and its folder where there is none."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(self.text(), encoding='utf-8')


def leaf_of(method: str, recipe: Path, variant: str | None = None, fragment: Path | None = None) -> Leaf | None:
    """Return the leaf of a method on a recipe of this package, or None when no fragment fits."""
    fragment = fragment or fragment_for(method, recipe, variant)
    name = parts_of(recipe).pair if owner(recipe) == method else recipe.stem
    file = configs() / method / f'{name}_{variant}.py' if variant else configs() / method / f'{name}.py'
    return Leaf(file, method, recipe, fragment) if fragment else None


def owner(recipe: Path) -> str | None:
    """Return the method whose published schedule a recipe holds, or None for a recipe of every method."""
    word = recipe.stem.removeprefix(f'{parts_of(recipe).pair}_')
    return word if word != recipe.stem and word in methods() else None


def wanted(method: str) -> Iterator[Leaf]:
    """Yield the leaves of a method, whether they are written or not: on every recipe, and the published variants."""
    own = {parts_of(recipe).pair for recipe in recipes() if owner(recipe) == method}
    mine = [recipe for recipe in recipes() if owner(recipe) in (None, method)]
    asked = [(recipe, None) for recipe in mine if owner(recipe) or recipe.stem not in own]
    for recipe, variant in [*asked, *_published_variants(method)]:
        leaf = leaf_of(method, recipe, variant)
        if leaf:
            yield leaf


def _published_variants(method: str) -> list[tuple[Path, str]]:
    file = configs() / method / 'published.yml'
    entries = read_targets(file) if file.is_file() else []
    named = {(entry.recipe, entry.variant) for entry in entries}
    return [(recipe, variant) for recipe in recipes() for name, variant in sorted(named, key=str)
            if variant and name == recipe.stem]  # fmt: skip


def by_hand(file: Path) -> bool:
    """Return whether a file in a method's folder is typed.

    That is one that changes another file of its folder, one that pre-trains without labels, or one that distils nothing
    (fine-tuning of what a method pre-trained).
    """
    bases = bases_of(file)
    pretrains = any(base.stem == 'runtime_pretrain' for base in bases)
    distils = any(base.parent.name == 'distillers' for base in bases)
    return pretrains or not distils or any(base.parent == file.resolve().parent for base in bases)


def described(file: Path) -> Leaf | None:
    """Return the leaf that a file in a method's folder should be, by its name and its bases; None for a typed one.

    Raises:
        ValueError: When name and bases belong to no leaf.
    """
    if by_hand(file):
        return None
    recipe = next((base for base in bases_of(file) if base.parent.name == 'control'), None)
    plain = leaf_of(file.parent.name, recipe) if recipe else None
    name = plain.file.stem if plain else ''
    variant = file.stem.removeprefix(name).removeprefix('_') or None
    leaf = leaf_of(file.parent.name, recipe, variant) if recipe and plain else None
    if leaf is None or leaf.file.name != file.name:
        raise ValueError(f'{file}: neither a recipe with a fitting fragment nor a change of another file here.')
    return leaf


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


def method_and_fragment(name: str) -> tuple[str, Path | None]:
    """Return a method's name and, where it was given as a fragment's file, that file.

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
    """Return a free name in ``configs/control`` for a new recipe: the pair's, with what tells it from those there."""
    taken = {recipe.stem for recipe in recipes()}
    names = [parts.pair, f'{parts.pair}_{parts.dataset}', f'{parts.pair}_{parts.dataset}_{parts.schedule}']
    return next(name for name in names if name not in taken or name == names[-1])
