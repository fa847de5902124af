"""The configs that stand in a run's folder: ``leaf.py``, and ``run.py``, which ``mim train`` takes as well."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdistill_dense.recipes import compose
from mmdistill_dense.suite.definition.definition import Definition, Method
from mmdistill_dense.suite.plan.plan import start_of
from mmdistill_dense.suite.plan.runs import PRETRAIN, Run
from mmdistill_dense.utils.atomic import write_text


def write_configs(definition: Definition, run: Run, config: Config) -> None:
    """Write both: the method on the recipe, and that with seed, folder, teacher and the suite's options."""
    start = start_of(definition, run.name)
    if run.kind == 'teacher' and definition.teacher is not None:
        text = inheriting(definition.teacher.config, run.folder)
    elif run.kind == PRETRAIN and start is not None and start.config is not None:
        text = inheriting(start.config, run.folder)
    else:
        text = leaf_text(definition, definition.methods.get(run.name), run.folder)
    write_text(run.leaf, text)
    write_text(run.folder / 'run.py', run_text(Config.fromfile(run.leaf), config))


def leaf_text(definition: Definition, method: Method | None, folder: Path) -> str:
    """Return a method's leaf for a folder: as the config writer makes it, or inheriting the user's own; without a
    method the control's."""
    if method is not None and method.fragment is not None:
        assert method.method is not None, 'a fragment has one'
        return compose.leaf_text(method.method, definition.control, method.fragment, folder)
    base = definition.control if method is None or method.config is None else method.config
    return inheriting(base, folder)


def inheriting(base: Path, folder: Path) -> str:
    """Return the text of a config that inherits another one and changes nothing."""
    return f'_base_ = [{compose.reference(base, folder)}]\n'


def run_text(leaf: Config, config: Config) -> str:
    """Return the text of the config that turns a leaf beside it, ``leaf.py``, into the one of a run.

    Args:
        leaf: The leaf.
        config: What the run is.
    """
    changed = _changes(leaf.to_dict(), config.to_dict())
    lines = [f'{key} = {value!r}\n' for key, value in changed.items() if key != 'distillers']
    return "_base_ = ['./leaf.py']\n" + ''.join(lines)


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What merging over ``old`` as mmengine does gives ``new``."""
    found: dict[str, Any] = {}
    for key, value in new.items():
        if key in old and isinstance(value, Mapping):
            replaces = not isinstance(old[key], Mapping) or set(old[key]) - set(value)
            inner = {'_delete_': True, **value} if replaces else _changes(old[key], value)
            if inner:
                found[key] = inner
        elif key not in old or value != old[key]:
            found[key] = value
    return found
