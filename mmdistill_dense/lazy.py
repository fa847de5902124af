"""Faces of packages whose imports are written once, for type checkers, and done when a name is asked for."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path
from typing import Any


def import_lazily(package: str, file: str) -> None:
    """Let a package list its names, and import each when it is asked for, as its file does for type checkers."""
    blocks = [node for node in ast.parse(Path(file).read_text(encoding='utf-8')).body if isinstance(node, ast.If)]
    found = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    modules = {alias.name: str(node.module) for node in found for alias in node.names}

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')
        return namespace.setdefault(name, getattr(importlib.import_module(modules[name]), name))

    namespace = vars(sys.modules[package])
    namespace['__getattr__'] = get
    namespace['__dir__'] = lambda: sorted({*namespace, *modules})
