"""Faces of packages whose imports are written once, for type checkers, and done when a name is asked for."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def lazily(package: str, file: str) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package, which imports a name as its file does under ``if TYPE_CHECKING:``."""
    blocks = [node for node in ast.parse(Path(file).read_text(encoding='utf-8')).body if isinstance(node, ast.If)]
    found = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    modules = {alias.name: str(node.module) for node in found for alias in node.names}

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')
        value = getattr(importlib.import_module(modules[name]), name)
        return vars(sys.modules[package]).setdefault(name, value)

    return get
