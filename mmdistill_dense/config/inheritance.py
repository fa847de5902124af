"""Read what config files inherit and set, without running them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.config import Config


def bases_of(path: Path) -> list[Path]:
    """Return the files in a config's ``_base_``, evaluated as mmengine does."""
    return list(_bases_of(path, path.stat().st_mtime_ns))


@cache
def _bases_of(path: Path, modified: int) -> list[Path]:
    value: Any = []
    for node in _tree(path).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == '_base_' for t in node.targets):
            value = eval(compile(ast.Expression(node.value), str(path), 'eval'))
    names = [value] if isinstance(value, str) else value
    return [(path.parent / name.replace('{{ fileDirname }}', str(path.parent))).resolve() for name in names]


def keys_of(path: Path) -> dict[str, Any]:
    """Return the top-level keys of a config, inherited ones too; all values but ``default_scope``'s are None."""
    return _keys_of(path, path.stat().st_mtime_ns)


@cache
def _keys_of(path: Path, modified: int) -> dict[str, Any]:
    bases = bases_of(path)
    if not all(base.is_file() for base in bases):  # a base such as 'mmdet::…', which is no path
        return dict(Config.fromfile(str(path)))
    found: dict[str, Any] = {}
    for base in bases:
        found |= keys_of(base)
    for node in _tree(path).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            found[name] = ast.literal_eval(node.value) if name == 'default_scope' else None
    return found


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding='utf-8'))
