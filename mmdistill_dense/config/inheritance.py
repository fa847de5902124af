"""Read what config files inherit and set, without running them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdistill_dense.utils.literals import Source


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


def written(text: Any) -> dict[str, Any]:
    """Return the values in the text of a config without running it, an expression as its :class:`Source`.

    It is a dict without entries if the text is no config.
    """
    try:
        lines = ast.parse(text).body
    except (SyntaxError, TypeError, ValueError):
        return {}
    pairs = [(line.targets[0], line.value) for line in lines if isinstance(line, ast.Assign)]
    return {name.id: _value(value) for name, value in pairs if isinstance(name, ast.Name)}


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        # dict({'a.b': 1}) is for names that are no identifiers; what dict(_base_.model) holds is not in this text
        given = [found for mapping in node.args if isinstance(found := _value(mapping), dict)]
        return {name: value for mapping in given for name, value in mapping.items()} | {
            str(word.arg): _value(word.value) for word in node.keywords
        }
    if isinstance(node, ast.Dict):
        return {_value(name): _value(value) for name, value in zip(node.keys, node.values, strict=True) if name}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(member) for member in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return Source(ast.unparse(node))
