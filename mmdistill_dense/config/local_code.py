"""The code that a config brings along: modules of no installed package, and digits that change with them."""

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from mmengine import registry as registries
from mmengine.registry import Registry

from mmdistill_dense.config.resolve import find_config, is_distill_model, read_file, teachers_of
from mmdistill_dense.config.values import listed, mappings
from mmdistill_dense.utils.version import STACK

_INSTALLED = {*sys.stdlib_module_names, *STACK, 'mmpretrain', 'mmdistill_dense', '__main__'}  # also clones of them
_FOLDERS = {'site-packages', 'dist-packages'}
_DIGITS = 16


def local_code(config: Any) -> dict[str, str]:
    """Return digits for each file of a config's local code, by the file's name as its module is imported.

    The code is the modules of ``custom_imports``, those of classes that a ``type`` names, those of network
    configs of the user's own, and the local modules that these import. Digits stay those of a process's first look.
    """
    options: dict[str, Any] = config if isinstance(config, dict) else config.to_dict()
    modules = listed((options.get('custom_imports') or {}).get('imports'))
    code = _digits([*modules, *_modules_of(options)])
    model = options.get('model') or {}
    networks = [model.get('student'), *teachers_of(model).values()] if is_distill_model(model) else []
    for network in networks:
        if path := own_config(network):
            code |= local_code(read_file(path))
    return code


def own_config(network: Any) -> Path | None:
    """Return the file of the user's own that a network option names; ``None`` for a config of a package."""
    name = network.get('cfg') if isinstance(network, Mapping) else None
    with suppress(FileNotFoundError):  # which is refused where the network is built
        return find_config(name) if isinstance(name, str) and '::' not in name else None
    return None


def code_of_dataset(dataset: Any) -> dict[str, str]:
    """Return digits as :func:`local_code` for the classes of a data set and its pipeline."""
    return _digits(_modules_of(dataset))


def changed_files(before: Mapping[str, str] | None, after: Mapping[str, str]) -> list[str]:
    """Return the names of the files that differ; none where it is not known what they were before."""
    return [] if before is None else sorted({file for file, _ in {*before.items()} ^ {*after.items()}})


def _modules_of(options: Any) -> Iterator[str]:
    """Yield the modules of all classes that options name, with their module or as they are registered."""
    spaces = registries, sys.modules.get('mmdistill_dense.registry')  # where that of distillers has no parent
    tables = [
        table for space in spaces for registry in getattr(space, '__dict__', {}).values() for table in _tables(registry)
    ]
    for kind in [option.get('type') for option in mappings(options)]:
        module, _, name = kind.rpartition('.') if isinstance(kind, str) else (getattr(kind, '__module__', ''), '', '')
        yield str(module)
        yield from (str(table[name].__module__) for table in tables if name in table)


def _tables(registry: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the classes by name of a registry, and of those below it."""
    if isinstance(registry, Registry):
        yield registry._module_dict  # what is loaded: `module_dict` of the distillers would import them all
        for child in registry.children.values():
            yield from _tables(child)


def _digits(modules: Iterable[str]) -> dict[str, str]:
    queue, specs, digits = list(modules), dict[str, ModuleSpec | None](), dict[str, str]()
    while queue:
        module = queue.pop()
        if not module or module in specs:
            continue
        queue.append(module.rpartition('.')[0])  # whose __init__.py runs too
        spec = specs[module] = _find_module(module)
        if spec is not None and spec.origin is not None and spec.origin.endswith('.py'):
            package = spec.submodule_search_locations is not None
            file = f'{module.replace(".", "/")}{"/__init__" if package else ""}.py'
            digits[file], imports = _read_module(spec.origin, module if package else module.rpartition('.')[0])
            queue += imports
    return dict(sorted(digits.items()))


def _find_module(module: str) -> ModuleSpec | None:
    """Return where a local module lies, without importing it; ``None`` for what is installed, or is no module."""
    head, *names = module.split('.')
    spec = None
    if head not in _INSTALLED:
        with suppress(ImportError, ValueError):  # a module that was put into sys.modules by hand
            spec = importlib.util.find_spec(head)
    for name in names:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(f'{spec.name}.{name}', list(spec.submodule_search_locations))
    return None if spec is None or _FOLDERS & {*Path(spec.origin or '').parts} else spec


@cache
def _read_module(path: str, package: str) -> tuple[str, list[str]]:
    """Return the digits of a file, whatever its line ends, and the modules that it may import, installed ones too."""
    text = Path(path).read_bytes().replace(b'\r\n', b'\n')
    imports = []
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):  # of another Python, which no run imports
        tree = ast.Module([], [])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split('.')[: 1 - node.level or None] if node.level else []
            source = '.'.join([*above, *filter(None, [node.module])])
            imports += [source, *(f'{source}.{alias.name}' for alias in node.names)]
    return hashlib.sha256(text).hexdigest()[:_DIGITS], imports
