"""Refuse a distiller that is written over one of another method: mmengine merges the two, and options stay."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config

from mmdistill_dense.config.inheritance import bases_of


def check_laid_over(config: Config) -> None:
    """Refuse ``distillers=dict(cwd=dict(type='LogitKD'))`` over a base whose ``cwd`` is a ``CWD``.

    The merged distiller would take over the ``loss_weight`` of the other method, for instance.
    """
    path = Path(config.filename or '')
    if path.suffix == '.py' and path.is_file():
        _check_file(path)


def _check_file(path: Path) -> None:
    written = dict(_written(path))
    for base in bases_of(path) if written else ():
        if not base.is_file():
            continue
        before = (Config.fromfile(base).get('model') or {}).get('distillers') or {}
        for name, kind in written.items():
            old = before.get(name) or {}
            if old.get('type', kind) != kind:
                kept = ', '.join(f'{key}={value!r}' for key, value in old.items() if key != 'type') or 'none'
                raise ValueError(
                    f"{path.name}: model.distillers.{name}=dict(type='{kind}') is merged with the {old['type']} of "
                    f'{base.name}, and its options would stay: {kept}. Write _delete_=True into the dict, or give it '
                    'another name.'
                )


def _written(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and type of each distiller in this file that mmengine would merge with one of a base."""
    for node in ast.parse(path.read_text(encoding='utf-8')).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(one, ast.Name) and one.id == 'model' for one in node.targets
        ):
            model = _members(node.value)
            written = _members(model.get('distillers'))
            if '_delete_' in {**model, **written}:
                continue
            for name, value in written.items():
                inside = _members(value)
                kind = inside.get('type')
                if isinstance(kind, ast.Constant) and isinstance(kind.value, str) and '_delete_' not in inside:
                    yield name, kind.value


def _members(node: ast.expr | None) -> dict[str, ast.expr]:
    """Return the members of a literal dict, written in either way."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        return {one.arg: one.value for one in node.keywords if one.arg}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {str(key.value): value for key, value in pairs if isinstance(key, ast.Constant)}
    return {}
