"""Imports: a package's names are imported when first used, and a missing mm* stack is explained."""

import ast
import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def import_lazily(package: str, file: str) -> None:
    """Let a package list its names, and import each when it is asked for, as its file does for type checkers.

    ``from … import *`` stands for what a module of the package itself defines and lists.
    """
    namespace = vars(sys.modules[package])
    blocks = [node for node in _body(Path(file)) if isinstance(node, ast.If)]
    modules: dict[str, str] = {}
    for node in (node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)):
        module, names = str(node.module), [alias.name for alias in node.names]
        if names == ['*']:
            statements = _body(Path(file).with_name(f'{module.rpartition(".")[2]}.py'))
            exports = {part.name for part in statements if isinstance(part, (ast.FunctionDef, ast.ClassDef))}
            names = sorted(exports & {*namespace['__all__']})
        modules |= dict.fromkeys(names, module)

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')
        return namespace.setdefault(name, getattr(importlib.import_module(modules[name]), name))

    namespace['__getattr__'] = get
    namespace['__dir__'] = lambda: sorted({*namespace, *modules})


def _body(path: Path) -> list[ast.stmt]:
    return ast.parse(path.read_text(encoding='utf-8')).body


def require_stack() -> None:
    """Raise a ModuleNotFoundError with the commands to run when mmengine or mmcv cannot be found."""
    if missing := [name for name in ('mmengine', 'mmcv') if find_spec(name) is None]:
        raise ModuleNotFoundError(
            f'mmdistill_dense needs {" and ".join(missing)}. In its checkout run `make setup` (an environment of its '
            "own) or `pip install -e '.[onedl]'` (the maintained forks)"
        )
