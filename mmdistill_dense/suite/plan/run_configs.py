"""The configs in a run's folder: ``method.py``, the method on the recipe, and ``run.py``, the whole run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdistill_dense.recipes import compose
from mmdistill_dense.suite.definition.definition import Definition, Method
from mmdistill_dense.suite.plan.configs import distillers_of
from mmdistill_dense.suite.plan.plan import start_of
from mmdistill_dense.suite.plan.runs import PRETRAIN, Run
from mmdistill_dense.utils.atomic import write_text
from mmdistill_dense.utils.literals import assignments


def write_configs(definition: Definition, run: Run, config: Config) -> None:
    """Write both. ``run.py`` adds seed, folder, teacher and the suite's options; ``mim train`` takes it as well."""
    start = start_of(definition, run.name)
    if run.kind == 'teacher' and definition.teacher is not None:
        text = inheriting(definition.teacher.config, run.folder)
    elif run.kind == PRETRAIN and start is not None and start.config is not None:
        text = inheriting(start.config, run.folder)
    else:
        text = method_text(definition, definition.methods.get(run.name), run.folder)
    write_text(run.method_file, text)
    write_text(run.folder / 'run.py', run_text(Config.fromfile(run.method_file), config))


def method_text(definition: Definition, method: Method | None, folder: Path) -> str:
    """Return the config of a row for a folder: the shipped method on the recipe, the user's config, or the control."""
    if method is not None and method.options_file is not None:
        assert method.method is not None, 'it is a shipped method'
        written = distillers_of(definition, method)[0].to_dict() if method.settings else None
        return compose.config_text(method.method, definition.control, method.options_file, folder, written)
    base = definition.control if method is None or method.config is None else method.config
    return inheriting(base, folder)


def inheriting(base: Path, folder: Path) -> str:
    """Return the text of a config that only inherits another one."""
    return f'_base_ = [{compose.reference(base, folder)}]\n'


def run_text(inherited: Config, config: Config) -> str:
    """Return the text of ``run.py``: the config of a run, as changes of the inherited ``method.py`` beside it."""
    changed = _changes(inherited.to_dict(), config.to_dict())
    changed.pop('distillers', None)
    return f"_base_ = ['./method.py']\n{assignments(changed)}"


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The keys to merge over ``old``, by mmengine's rules, to get ``new``."""
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
